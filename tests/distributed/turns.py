"""Runs of src/train.py by the same two ranks, in turn: a small run takes less than its imports.

`python turns.py '[[CODE, [WORD, ...]], ...]'`: each has to end with its exit code.
"""

import json
import runpy
import sys

from dreambooth.distributed import preemption, ranks
from dreambooth.launch import outcome
from dreambooth.launch.processes import QUIET

if ranks.num_ranks() == 1:
    ranks.run_ranks([[sys.executable, *sys.argv]] * 2)
    sys.exit()
outcome.disconnect = lambda: None  # once, at the end
for expected, words in json.loads(sys.argv[1]):
    sys.argv = ["src/train.py", *words, *(QUIET if ranks.rank() else ())]
    code = None
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code
    if (code or 0) != expected:
        sys.exit(f"rank {ranks.rank()} ended with {code}: {words}")
    preemption.stop_requested.clear()
ranks.disconnect()
