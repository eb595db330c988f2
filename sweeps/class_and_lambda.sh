#!/usr/bin/env bash
# The paper's tables 3 (prior preservation) and 4 (class noun): ten subjects that were not used for any choice, one of each
# class, with two training seeds each (120 runs).
#
# What it costs: 2.8 hours on one CPU core (60 to 90 seconds a run), 7 GB of disk.
# What the paper found (Imagen): without the prior term the class prompt shows the subject more often (PRES 0.664 against
# 0.493); DINO 0.744 with the correct noun, 0.454 with a wrong one, 0.303 with none.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,cat,rabbit,bird,fish,car,boat,clock,backpack,teapot \
    prior.lambda=0,1 class=none,wrong,correct drawing.num_class_images=16 -- "$@"
