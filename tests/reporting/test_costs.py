from types import SimpleNamespace

from dreambooth.reporting.costs import costs


def trial(**provenance):
    return SimpleNamespace(provenance=provenance)


def test_times_are_summed_over_runs_and_memory_is_the_most():
    found = costs(
        [
            trial(seconds={"train": 7000, "prior_images": 20.5}, peak_memory_bytes=1.5e9),
            trial(seconds={"train": 200}, peak_memory_bytes=2.25e9),
            trial(),
        ]
    )
    assert found == [
        (
            "time of all runs",
            "2.01 h (train 2.00 h, prior images 20.5 s); energy was not measured",
        ),
        ("peak memory of a run", "2.25 GB at most"),
    ]


def test_of_runs_that_say_nothing_nothing_is_said():
    assert costs([trial(), trial()]) == []
