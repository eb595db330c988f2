"""What the ranks of test_ranks.py do: argv says what, and where to write it."""

import json
import os
import sys
import time
from pathlib import Path

from dreambooth.distributed import ranks

what, folder = sys.argv[1], Path(sys.argv[2])
ranks.connect()
if what == "share":
    said = {
        "first": ranks.on_rank_zero(os.getpid),
        "own": os.getpid(),
        "split": ranks.map_over_ranks(lambda item: [item * item, ranks.rank()], range(5)),
        "united": ranks.merge_over_ranks({f"of {ranks.rank()}": ranks.rank()}),
    }
    try:
        ranks.on_rank_zero(lambda: 1 / 0)
    except ZeroDivisionError as error:
        said["error"] = str(error)
    (folder / f"{ranks.rank()}.json").write_text(json.dumps(said))
    ranks.disconnect()
elif ranks.rank() == 1:
    os._exit(7)
else:
    ranks.on_rank_zero(lambda: None)
    time.sleep(600)
