#!/usr/bin/env bash
# How soon the subject is learned with no, a wrong and the correct class noun: score curves of ten subjects that were not
# used for any choice, two training seeds each, with the prior term (60 runs). benchmarks/curves.py reads them.
#
# What it costs: not measured as a whole. Runs with half as many images took about 170 seconds on 2 CPU cores, two at a time.
# What the paper found (table 4, Imagen): DINO 0.744 with the correct noun, 0.454 with a wrong one, 0.303 with none.
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m class=none,wrong,correct seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,cat,rabbit,bird,fish,car,boat,clock,backpack,teapot \
    callbacks=score_curves callbacks.score_curves.every_n_steps=25 -- "$@"
