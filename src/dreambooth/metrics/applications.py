"""Did an application succeed: does an image show what was asked for, and still the subject?"""

from collections.abc import Mapping

from dreambooth.runs.files import Score

KEPT = 0.5  # from this identity on, an image shows the subject
OUTCOMES = {  # column -> the protocol of its mean
    "asked": "share that is clean and shows everything the prompt asks for but its class, oracle",
    "kept": f"share that shows the subject: identity >= {KEPT}, oracle",
    "both": "share that shows both what the prompt asks for and the subject, oracle",
}


def outcome_of(row: Mapping[str, Score]) -> dict[str, float]:
    """Whether an image shows what its prompt asks for, the subject, and both: 1 or 0 each.

    `row`: the oracle's scores of the image. {} without them; a prompt that asks for nothing but
    the subject has `kept` only.
    """
    right = [v for k, v in row.items() if k.endswith("_right") and k != "class_right"]
    asked = [bool(value) for value in right if isinstance(value, int | float)]
    identity = row.get("identity")
    outcome = {"asked": float(all(asked))} if asked else {}
    if isinstance(identity, int | float):
        outcome["kept"] = float(identity >= KEPT)
    if len(outcome) == 2:
        outcome["both"] = outcome["asked"] * outcome["kept"]
    return outcome
