"""Reads W&B's offline files back: records in LevelDB's log format, each a protocol buffer."""

import json
import struct
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BLOCK = 32768
FILE_HEADER, HEADER = 7, 7  # ":W&B", magic, version; crc, length, type


@dataclass
class Offline:
    """One W&B run, as `wandb sync` would upload it."""

    group: str = ""
    name: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    history: dict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    summary: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)  # of its artifacts: images of tables
    exit_code: int | None = None  # None: never finished


def read_offline(folder: Path) -> Offline:
    """The only W&B run in a run folder."""
    (path,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    for _ in range(100):  # W&B's own process may still be writing, a moment after `finish`
        found = _read(path)
        if found.exit_code is not None:
            break
        time.sleep(0.1)
    return found


def _read(path: Path) -> Offline:
    from wandb.proto.wandb_internal_pb2 import Record

    found = Offline()
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.group, found.name = record.run.run_group, record.run.display_name
            found.config |= {u.key: json.loads(u.value_json) for u in record.run.config.update}
        elif kind == "config":
            found.config |= {u.key: json.loads(u.value_json) for u in record.config.update}
        elif kind == "history":
            for item in record.history.item:
                key = item.key or "/".join(item.nested_key)
                found.history[key].append(json.loads(item.value_json))
        elif kind == "summary":
            for item in record.summary.update:
                found.summary[item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
        elif kind == "artifact":
            for entry in record.artifact.manifest.contents:
                found.files[entry.path] = Path(entry.local_path)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def records(log: bytes) -> Iterator[bytes]:
    """LevelDB: blocks of 32 KiB, records cut into FULL (1) or FIRST, MIDDLE, LAST (2-4)."""
    assert log[:4] == b":W&B", "not a W&B log"
    place, parts = FILE_HEADER, b""
    while place + HEADER <= len(log):
        if BLOCK - place % BLOCK < HEADER:  # the rest of a block is padding
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", log, place)
        place += HEADER
        parts += log[place : place + length]
        place += length
        if kind in (1, 4):
            yield parts
            parts = b""
