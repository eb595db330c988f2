"""Reading and writing the files of a run: JSON, CSV rows and metrics.

Files are written atomically. A missing or damaged file raises a ValueError of one sentence.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dreambooth.runs.files import Score, write_atomically


@dataclass(frozen=True)
class Metric:
    """A measured number, which is never reported without its count and its protocol."""

    value: float
    count: int  # the images, or pairs of images, that were averaged
    protocol: str  # how it was measured, in enough detail to repeat it
    ci95: tuple[float, float] | None = None  # low, high


def write_metrics(path: Path, metrics: Mapping[str, Metric]) -> None:
    """Write metrics as JSON. NaN and infinity, which JSON lacks, are written as null."""
    content = {
        name: {
            "value": float(metric.value) if math.isfinite(metric.value) else None,
            "ci95": metric.ci95 and [float(bound) for bound in metric.ci95],
            "count": int(metric.count),
            "protocol": metric.protocol,
        }
        for name, metric in metrics.items()
    }
    write_json(path, content)


def read_metrics(path: Path) -> dict[str, Metric]:
    """Read what `write_metrics` wrote; null is read as NaN."""
    try:
        return {
            name: Metric(
                value=math.nan if entry["value"] is None else float(entry["value"]),
                count=int(entry["count"]),
                protocol=entry["protocol"],
                ci95=entry["ci95"] and (float(entry["ci95"][0]), float(entry["ci95"][1])),
            )
            for name, entry in read_json(path).items()
        }
    except (KeyError, TypeError, IndexError) as error:
        raise damaged(path, error) from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(path, f"{text}\n".encode())


def read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_read(path))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise damaged(path, error) from error
    if not isinstance(content, dict):
        raise damaged(path, "it is not a JSON object")
    return content


def read_rows(path: Path) -> list[dict[str, Score]]:
    """Read rows written by `csv_of`. Every number becomes a float, every empty cell None."""
    text = io.StringIO(_read(path).decode())
    try:
        rows = list(csv.DictReader(text, quoting=csv.QUOTE_NONNUMERIC, strict=True))
    except (ValueError, csv.Error) as error:
        raise damaged(path, error) from error
    if any(None in row or None in row.values() for row in rows):
        raise damaged(path, "a row is cut short")
    return [{k: None if v == "" else v for k, v in row.items()} for row in rows]


def damaged(path: Path, why: object) -> ValueError:
    """The error to raise for a damaged file."""
    return ValueError(f"{path} is damaged ({why})")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"the run in {path.parent} is damaged: {path.name} is missing") from error
