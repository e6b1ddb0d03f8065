"""Run records: what a training run was, what it measured, and where it ran; one line of JSON each.

A record is never changed and never overwritten. Files are only appended to, one whole line at a time under a lock, so
that several processes may write to one file and a kill loses nothing but the run in progress.
"""

import fcntl
import hashlib
import json
import os
import platform
import subprocess
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch

from .model import small_init_std
from .paths import project_root

#: Version of the record's layout; a change of meaning raises it.
SCHEMA = 1

#: Final accuracy at the scored positions from which a run counts as solved.
SOLVED_AT = 0.8

#: Settings that say where a run was computed or what it was asked on the way, not what it is: they are recorded, but do
#: not tell runs apart.
_NOT_IDENTIFYING = ("device", "engine", "probes")


@dataclass(frozen=True)
class Evaluation:
    """One line of a run's trace.

    Args:
        step: training steps done.
        accuracy: share of the validation set's scored positions that are right; None if the loss is not finite.
        loss: mean cross-entropy at the scored positions of the validation set, in nats; None likewise.
        train_loss: mean training loss since the line before, over all positions, in nats; None likewise.
        seconds: wall time since the run began.
        probes: what else was asked of the model, by name, see `orthonar.probes.probe`; None if nothing was.
    """

    step: int
    accuracy: float | None
    loss: float | None
    train_loss: float | None
    seconds: float
    probes: dict[str, float] | None = None

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"step {self.step:5d}: the loss is not finite ({self.seconds:.0f} s)"
        losses = f"loss {self.loss:.3f}, training loss {self.train_loss:.3f}"
        return f"step {self.step:5d}: accuracy {100 * self.accuracy:5.1f} %, {losses} ({self.seconds:.0f} s)"


@dataclass(frozen=True)
class RunRecord:
    """All that is known about one run.

    Args:
        settings: every setting of the run, resolved, as plain data.
        trace: its evaluations, in order.
        outcome: "solved" (final accuracy at least 0.8), "plateau" (less) or "diverged" (a loss was not finite).
        wall_seconds: duration of training and evaluation, set-up excluded.
        device: name of the device that it ran on.
        versions: Python, torch, numpy and orthonar.
        revision: source revision of the code, with "+changes" if tracked code differed from it; None if unknown.
        started: UTC time, ISO 8601.
        schema: version of this layout.
    """

    settings: dict
    trace: list[Evaluation]
    outcome: str
    wall_seconds: float
    device: str
    versions: dict[str, str]
    revision: str | None
    started: str
    schema: int = field(default=SCHEMA)

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the last evaluation, None where the run diverged."""
        return self.trace[-1].accuracy if self.trace else None

    @property
    def escape_step(self) -> int | None:
        """Step of the first evaluation with an accuracy of at least 0.8, step 1 excluded; None without one."""
        reached = (e.step for e in self.trace if e.step > 1 and e.accuracy is not None and e.accuracy >= SOLVED_AT)
        return next(reached, None)

    @property
    def identity(self) -> str:
        """What tells this run from others, see `identity`."""
        return identity(self.settings)

    def to_json(self) -> str:
        """One line of JSON, without the line end."""
        return json.dumps(asdict(self), allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """The record of a line; ValueError if it is damaged or of a newer layout."""
        try:
            content = json.loads(line)
            if content["schema"] > SCHEMA:
                raise ValueError(f"schema {content['schema']} is newer than {SCHEMA}")
            trace = [Evaluation(**e) for e in content.pop("trace")]
            return cls(trace=trace, **content)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a run record: {error!r}") from None

    def save(self, path: str | os.PathLike) -> None:
        """Append the record to a file, made with its folder if need be; what is there stays."""
        append_line(Path(path), self.to_json())


def _implied(settings: dict) -> dict:
    """Settings that older records do not have, with the value that was theirs."""
    return {
        "precision": "float32",
        "write": {"name": "AdditiveWrite"},
        "frozen_keys": False,
        "qk_lr_factor": 1.0,
        "probes": False,
        # Before it was a setting, the embedding was drawn as small as the layer's projections.
        "embedding_std": small_init_std(settings["embedding_dim"]),
    }


def complete_settings(settings: dict) -> dict:
    """A record's settings, with what older ones do not have at the value that was theirs.

    Args:
        settings: as they stand in a record.
    """
    return _implied(settings) | settings


def telling_settings(settings: dict) -> dict:
    """The settings that tell runs apart: not where it was computed, nor what older records do not have but imply."""
    implied = _implied(settings)
    return {
        name: value
        for name, value in settings.items()
        if name not in _NOT_IDENTIFYING and not (name in implied and value == implied[name])
    }


def identity(settings: dict) -> str:
    """A short hash of the settings that tell runs apart."""
    return hashlib.sha256(json.dumps(telling_settings(settings), sort_keys=True).encode()).hexdigest()[:16]


def append_line(path: Path, line: str, unless: Callable[[], bool] | None = None) -> bool:
    """Append one line to a file so that no other line can suffer, whoever else writes and whenever this is killed.

    Args:
        path: the file, made with its folder if need be.
        line: the line, without its end.
        unless: asked while nobody else can write; if true, nothing is added.

    Returns:
        Whether the line was added.
    """
    if "\n" in line:
        raise ValueError("line: a record is a single line")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:  # unbuffered: a line is a single write
        fcntl.flock(file, fcntl.LOCK_EX)
        if unless is not None and unless():
            return False
        # A line that a kill cut short is left as it is, to be reported; the next one starts on its own.
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")
        os.fsync(file.fileno())
    return True


class Damage(NamedTuple):
    """A line that is no record."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}; skipped"


def read_records(path: str | os.PathLike, damaged: list[Damage] | None = None) -> list[RunRecord]:
    """The run records of one file, in order; arguments as of `read_lines`."""
    return read_lines(path, RunRecord.from_json, damaged)


def read_lines(path: str | os.PathLike, parse: Callable[[str], Any], damaged: list[Damage] | None = None) -> list:
    """What the lines of one file say, in order; damaged lines are skipped, never silently.

    Args:
        path: the file; none is as good as an empty one.
        parse: makes a record of a line; a ValueError says that it is none.
        damaged: takes the lines that are no records; None warns of each instead.
    """
    records = []
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return records
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1):
        try:
            records.append(parse(line.decode()))
        except ValueError as error:  # UnicodeDecodeError is one
            damage = Damage(str(path), number, str(error))
            if damaged is None:
                warnings.warn(str(damage), stacklevel=3)
            else:
                damaged.append(damage)
    return records


class RunStore:
    """The run records of one folder: every file of it that ends in .jsonl.

    A run is found by its settings, whichever file holds it and whatever device it ran on. Reading never fails on a
    damaged line; `damaged` lists what was skipped in the last reading.

    Args:
        folder: where the files lie; made when the first record is added.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.damaged: list[Damage] = []

    def records(self) -> list[RunRecord]:
        """All records, in the order of file names and lines; of two with the same settings the first alone."""
        self.damaged = []
        found: dict[str, RunRecord] = {}
        for path in sorted(self.folder.glob("*.jsonl")):
            for record in read_records(path, self.damaged):
                found.setdefault(record.identity, record)
        return list(found.values())

    def add(self, record: RunRecord, name: str) -> bool:
        """Append a record to the file of this name (without .jsonl), unless that file has the run already.

        Returns:
            Whether it was added.
        """
        path = self.folder / f"{name}.jsonl"
        return append_line(path, record.to_json(), unless=lambda: record.identity in _identities(path))


def _identities(path: Path) -> set[str]:
    return {record.identity for record in read_records(path, damaged=[])}


def run_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row a run: all its settings, then what came out of it and where.

    The read is in `read` (its class) and read.NAME (its settings), those of a read's parts in read.PART.NAME; the write
    likewise. Beside the settings stand accuracy (final, 0 to 1,
    NaN where it diverged), escape_step (NaN where 80 % was not reached), solved, outcome, wall_seconds, device_name,
    torch (its version), revision, started and identity.
    """
    rows = []
    for r in records:
        settings = {}
        for name, value in complete_settings(r.settings).items():
            settings |= _columns(name, value) if isinstance(value, dict) else {name: value}
        where = (r.device, r.versions.get("torch"), r.revision, r.started, r.identity)
        outcome = (r.accuracy, r.escape_step, r.outcome == "solved", r.outcome, r.wall_seconds, *where)
        rows.append(settings | dict(zip(_OUTCOME, outcome, strict=True)))
    columns = None if rows else ["read", *_OUTCOME]
    return pd.DataFrame(rows, columns=columns).astype({"accuracy": float, "escape_step": float, "solved": bool})


def _columns(prefix: str, variant: dict) -> dict:
    """A read's or write's settings as columns."""
    columns = {}
    for name, value in variant.items():
        column = prefix if name == "name" else f"{prefix}.{name}"
        columns |= _columns(column, value) if isinstance(value, dict) else {column: value}
    return columns


_OUTCOME = (
    "accuracy", "escape_step", "solved", "outcome", "wall_seconds",
    "device_name", "torch", "revision", "started", "identity",
)  # fmt: skip


def trace_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row an evaluation: the run's identity, step, accuracy, loss, train_loss, seconds, and a column a probe."""
    rows = []
    for r in records:
        for e in r.trace:
            row = {"identity": r.identity, **asdict(e)}
            rows.append(row | (row.pop("probes") or {}))
    columns = ["identity", *(f.name for f in fields(Evaluation) if f.name != "probes")]
    return pd.DataFrame(rows, columns=None if rows else columns)


def versions() -> dict[str, str]:
    """Versions of what a run's numbers depend on."""
    from . import __version__

    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "orthonar": __version__,
    }


def device_name(device: torch.device) -> str:
    """A device as a reader would name it: the GPU's or the processor's model."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"{_processor()}, {threads} thread{'s'[: threads > 1]}"
    return str(device)


@lru_cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "CPU"


@lru_cache
def revision() -> str | None:
    """Commit of the checkout that this package runs from, or None outside one."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(project_root()), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout

    if not (project_root() / "orthonar" / "records.py").samefile(__file__):
        return None
    try:
        commit = git("rev-parse", "HEAD").strip()
        return commit + ("+changes" if git("status", "--porcelain", "--", "orthonar").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None
