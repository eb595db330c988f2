#!/usr/bin/env bash
# The paper's figure on super-resolution: off, as pretrained, and fine-tuned at the levels 1e-3 and 1e-5.
#
# What it costs: 4 runs of about 2 minutes each on 2 CPU cores. More levels: sr.noise_level=0.3,0.1,1e-2,1e-3,1e-4,1e-5
# in place of sr=...; more subjects: subject=biscuit,olive,comet,breeze,tick seed=0,1.
# What the paper found (Imagen, pictures only): as pretrained it invents patterns, fine-tuned at 1e-3 it blurs, at 1e-5 it
# keeps the subject's detail.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m sr=off,frozen,noise_1e-3,noise_1e-5 "$@"
