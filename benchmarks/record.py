"""A benchmark's record: what every one of them says of the machine and the source, and how it is kept."""

import json
import os
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from orthonar.study.jsonl import append_line
from orthonar.training.environment import device_name, revision, versions


def begin(device: str = "cpu") -> dict[str, Any]:
    """A record of what can be said before anything is measured, and of the source before its files can change.

    Args:
        device: what is measured on.

    Returns:
        started, device_name, load_before (of the machine, over the last minute), versions and revision.
    """
    return {
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),  # two may begin in one second
        "device_name": device_name(torch.device(device)),
        "load_before": round(os.getloadavg()[0], 2),
        "versions": versions(),
        "revision": revision(),
    }


def keep(record: dict[str, Any], path: Path) -> None:
    """Append a record as one line of JSON and say so; where that fails, keep it in a file elsewhere and exit with 1."""
    line = json.dumps(record, allow_nan=False, sort_keys=True)
    try:
        append_line(path, line)
    except OSError as error:
        kept = Path(tempfile.mkdtemp(prefix="orthonar-"), path.name)
        append_line(kept, line)
        sys.exit(f"not appended to {path} ({error.strerror or error}), but in {kept}")
    print(f"appended to {path}")
