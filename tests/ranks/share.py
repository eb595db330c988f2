"""What the ranks of tests/ranks/test_ranks.py do: argv says what, and where to write it."""

import json
import os
import sys
import time
from pathlib import Path

from dreambooth import parallel

what, folder = sys.argv[1], Path(sys.argv[2])
parallel.connect()
if what == "share":
    said = {
        "first": parallel.first(os.getpid),
        "own": os.getpid(),
        "split": parallel.split(lambda item: [item * item, parallel.rank()], range(5)),
        "united": parallel.united({f"of {parallel.rank()}": parallel.rank()}),
    }
    try:
        parallel.first(lambda: 1 / 0)
    except ZeroDivisionError as error:
        said["error"] = str(error)
    (folder / f"{parallel.rank()}.json").write_text(json.dumps(said))
    parallel.disconnect()
elif parallel.rank() == 1:
    os._exit(7)
else:
    parallel.first(lambda: None)
    time.sleep(600)
