#!/usr/bin/env bash
# Ways to keep the class: images of it that the pretrained model drew (the paper's), the frozen model's output under the
# class prompt or under the empty one, and nothing. Ten subjects that nothing was chosen on, two seeds each (80 runs).
#
# What it costs: not measured as a whole; a run takes 55 to 70 seconds on one CPU core.
# What the paper found: with prior images PRES 0.493, without 0.664. It has no other way.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m prior=on,output,blank,off seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,cat,rabbit,bird,fish,car,boat,clock,backpack,teapot drawing.num_class_images=16 -- "$@"
