#!/usr/bin/env bash
# A search for the learning rate and the number of steps with the best identity, by Optuna.
#
# What it takes: `pip install -e '.[optuna]'` (needs a network).
# What it costs: 20 runs of half a minute to 3 minutes each on 2 CPU cores. Two at a time: launcher.jobs=2
# hydra.sweeper.n_jobs=2; on a cluster: launcher=slurm hydra.sweeper.n_jobs=4. The best values are in the sweep's
# optimization_results.yaml. Identity alone rewards overfitting: look at drift and diversity in sweep.csv too.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m hydra/sweeper=optuna hydra.sweeper.direction=maximize hydra.sweeper.n_trials=20 \
    hydra.sweeper.n_jobs=1 hydra.sweeper.max_failure_rate=1 hydra.sweeper.sampler.seed=0 objective=identity \
    'method.module.learning_rate=tag(log, interval(1e-4, 2e-3))' 'method.max_steps=range(100, 801, step=100)' -- "$@"
