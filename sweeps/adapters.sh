#!/usr/bin/env bash
# Full fine-tuning against adapters, on five subjects that were not used for any choice, two seeds each (60 runs).
#
# What it costs: on one CPU core 1.2 hours; 70 to 85 seconds a run.
# What others found: peft's comparison of adapters on one subject, with one seed and no intervals, ranks them by
# differences as small as 0.011 in DINOv2 (docs/results.md computes what such a comparison can resolve).
set -euo pipefail
cd "$(dirname "$0")/.."
python src/train.py -m adapter=none,lora,dora,oft,loha,hra seed=0,1 subject=miniature subject.seed=701 \
    subject.class_noun=dog,bird,car,clock,teapot drawing.num_class_images=16 -- "$@"
