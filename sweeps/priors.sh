#!/usr/bin/env bash
# Prior terms: images of the class that the pretrained model generated (the paper's), the frozen model's output with the
# class prompt or with the empty one, and none. Ten subjects that were not used for any choice, two seeds each (80 runs).
#
# What it costs: on one CPU core about 90 seconds a run without prior images, beside other work.
# What the paper found: with prior images PRES 0.493, without 0.664. It has no other prior terms.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m prior=on,output,blank,off seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,cat,rabbit,bird,fish,car,boat,clock,backpack,teapot drawing.num_class_images=16 -- "$@"
