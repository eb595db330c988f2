#!/usr/bin/env bash
# The paper's figure on super-resolution: off, as pretrained, and fine-tuned at noise levels from 0.3 to 1e-5.
#
# Each subject's base stage is fine-tuned once (`stage=base`) and used by all other cells (`stage=sr run=DIR`).
# The environment variable SUBJECTS chooses other class nouns, such as SUBJECTS="dog cat".
# What it costs: about 12 minutes (an estimate) for each subject and seed on 2 CPU cores. Four cells of one subject took
# 8 min 33 s before the miniature was redrawn: `python src/train.py -m sr=off,frozen,noise_1e-3,noise_1e-5`
# What the paper found (Imagen, images only): as pretrained it invents patterns, fine-tuned at 1e-3 it blurs, at 1e-5 it
# keeps the subject's detail. What the miniature shows is in docs/results.md.
set -euo pipefail
cd "$(dirname "$0")/.."
sweeps=()
for noun in ${SUBJECTS:-rabbit bird boat backpack teapot}; do
    for seed in 0 1; do
        folder=runs/super_resolution/$noun-$seed
        common=(subject=miniature "subject.class_noun=$noun" subject.seed=601 "seed=$seed"
            drawing.images_per_prompt=1 drawing.num_class_images=8)
        python src/train.py stage=base sr=frozen "${common[@]}" "hydra.run.dir=$folder/frozen" -- "$@"
        python src/train.py stage=sr "run=$folder/frozen" sr=off "${common[@]}" \
            "hydra.run.dir=$folder/off" -- "$@"
        for level in 0.3 0.1 1e-2 1e-3 1e-4 1e-5; do
            python src/train.py stage=sr "run=$folder/frozen" "sr.noise_level=$level" "${common[@]}" \
                "hydra.run.dir=$folder/$level" -- "$@"
        done
        sweeps+=("$folder")
    done
done
python src/report.py "sweep=[$(IFS=,; echo "${sweeps[*]}")]" name=super_resolution
