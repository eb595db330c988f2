"""Fine-tune a text-to-image model on a subject, generate images of it, and score them.

python src/train.py                                                  one run on the miniature
python src/train.py -m prior.lambda=0,1 class=none,wrong,correct     six runs and their table
python src/train.py run=DIR                                          resume an unfinished run
"""

import signal

if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # while starting, Ctrl-C prints no traceback

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from dreambooth.launch.hydra_messages import one_sentence


@one_sentence
@hydra.main(version_base="1.3", config_path="../conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    from dreambooth.distributed.preemption import exit_code_of_stop
    from dreambooth.launch.outcome import report_errors
    from dreambooth.launch.processes import objective, run_by_ranks
    from dreambooth.launch.start import start_run
    from dreambooth.runs.provenance import timed

    with report_errors():
        if not run_by_ranks(cfg):
            with start_run(cfg) as run:
                from dreambooth.assemble import assemble  # here, because it is slow to import

                experiment = assemble(run)
                for step in (experiment.train, experiment.draw, experiment.score):
                    with timed(run, step.__name__):
                        step()
    with report_errors():
        if exit_code_of_stop() is not None:
            return None
        return objective(Path(HydraConfig.get().runtime.output_dir), cfg.objective)


if __name__ == "__main__":
    main()
