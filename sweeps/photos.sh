#!/usr/bin/env bash
# The paper's table 5: from one photo of the subject to five, on ten subjects that were not used for any choice, two seeds
# each (100 runs).
#
# What it costs: not measured as a whole; a run takes about 70 seconds on one CPU core.
# What the paper found (DINO with 1 to 5 photos): a backpack 0.494, 0.515, 0.596, 0.604, 0.597; a dog 0.798, 0.851, 0.871,
# 0.876, 0.864.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m subject.num_photos=1,2,3,4,5 seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,cat,rabbit,bird,fish,car,boat,clock,backpack,teapot drawing.num_class_images=16 -- "$@"
