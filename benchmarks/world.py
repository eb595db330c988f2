"""Measures how many scenes one core draws per second. The target is at least 300.

python benchmarks/world.py [num_scenes]
"""

import sys
import time

import cv2

from dreambooth.miniature.drawing import draw
from dreambooth.miniature.scenes import nth_scene


def main(num_scenes: int = 2000) -> None:
    cv2.setNumThreads(1)
    wall, cpu = time.perf_counter(), time.process_time()
    for i in range(num_scenes):
        draw(nth_scene(i, 0))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{num_scenes / cpu:.0f} scenes/s of CPU time, {num_scenes / wall:.0f}/s of wall time")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
