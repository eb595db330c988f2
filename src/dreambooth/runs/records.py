"""What the files of a run hold, written whole, and read or refused: JSON, rows of CSV, metrics.

A missing or damaged file is a ValueError of one sentence.
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
    """One number; nothing is reported without its protocol and its count."""

    value: float
    count: int  # images, or pairs of images, that it is a mean over
    protocol: str  # enough words to measure it again
    ci95: tuple[float, float] | None = None  # low, high


def write_metrics(path: Path, metrics: Mapping[str, Metric]) -> None:
    """As JSON, which lacks NaN and infinity: they are written as null and read as NaN."""
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
        raise damaged(path, "no JSON object")
    return content


def read_rows(path: Path) -> list[dict[str, Score]]:
    """Rows as `csv_of` writes them, but with every number a float; None where there is no value."""
    text = io.StringIO(_read(path).decode())
    try:
        rows = list(csv.DictReader(text, quoting=csv.QUOTE_NONNUMERIC, strict=True))
    except (ValueError, csv.Error) as error:
        raise damaged(path, error) from error
    if any(None in row or None in row.values() for row in rows):
        raise damaged(path, "a row is cut short")
    return [{k: None if v == "" else v for k, v in row.items()} for row in rows]


def damaged(path: Path, why: object) -> ValueError:
    return ValueError(f"{path} is damaged ({why})")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise ValueError(f"the run in {path.parent} is damaged: {path.name} is missing") from error
