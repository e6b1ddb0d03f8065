"""The run records of a folder, and tables of them. A record is never changed and never overwritten."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from ..paths import results_dir
from ..training.record import OUTCOME_COLUMNS, Evaluation, RunRecord, complete_settings
from .jsonl import Damage, append_line, check_writable, files_in, folder_lock, read_lines


def read_records(path: str | os.PathLike, damaged: list[Damage] | None = None) -> list[RunRecord]:
    """The run records of one file, in order.

    Args:
        path: the file.
        damaged: takes what was skipped, lines that are no records; None warns of each instead.
    """
    return read_lines(path, RunRecord.from_json, damaged)


class RunStore:
    """The run records of one folder: every file of it that ends in .jsonl.

    A run is found by its settings, whichever file holds it and whatever device it ran on. Reading never fails on a
    damaged line or an unreadable file; `damaged` lists what was skipped in the last reading, and with it records of
    runs that an earlier line has with other results.

    Args:
        folder: where the files lie; made when the first record is added.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)
        self.damaged: list[Damage] = []
        self._lock = folder_lock(self.folder)

    def path(self, name: str) -> Path:
        """The file that a preset's records go to.

        Args:
            name: its name without .jsonl.

        Raises:
            ValueError: it is no name of a file of this folder that is read again.
        """
        if not name or name.startswith(".") or name != os.path.basename(name) or "\\" in name:
            raise ValueError(f"name must be that of a file in the folder, not hidden and without folders, not {name!r}")
        return self.folder / f"{name}.jsonl"

    def records(self) -> list[RunRecord]:
        """All records, in the order of file names and lines; of two with the same settings the first alone.

        Raises:
            OSError: the folder itself cannot be read.
        """
        if not self.folder.is_dir() and self.folder == results_dir():
            warnings.warn(
                f"no records: there is no folder {self.folder}; the recorded runs lie in results/ of the project's "
                "source, copy that here or let ORTHONAR_HOME name the folder that it lies in",
                stacklevel=2,
            )
        damaged: list[Damage] = []
        found: dict[str, tuple[RunRecord, str]] = {}

        def take(line: str) -> None:
            record = RunRecord.from_json(line)
            first, file = found.setdefault(record.identity, (record, path.name))
            if first is not record and first.to_json() != record.to_json():
                raise ValueError(f"run {record.identity} is in {file} already, with other results")

        for path in files_in(self.folder):
            read_lines(path, take, damaged)
        self.damaged = damaged
        return [record for record, _ in found.values()]

    def check_writable(self, name: str) -> None:
        """Try whether records can be added to a file.

        Args:
            name: its name without .jsonl.

        Raises:
            OSError: they cannot; it says in one sentence why.
        """
        check_writable(self.path(name))

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """While this holds nobody else adds a record, to whichever file: what is not recorded stays so. May be nested.

        Raises:
            OSError: the folder cannot be written, or another process holds it for too long.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock:
            yield

    def add(self, record: RunRecord, name: str) -> bool:
        """Append a record to a file, unless any file has the run already.

        Args:
            record: what to add.
            name: the file's name without .jsonl.

        Returns:
            Whether it was added.

        Raises:
            OSError: it cannot be written; nothing of it is left in the file.
            ValueError: it is no valid record, and would be skipped when it is read, or the name is none.
        """
        line = record.to_json()
        RunRecord.from_json(line)
        with self.alone():
            return self.find(record.identity) is None and append_line(self.path(name), line)

    def find(self, identity: str) -> RunRecord | None:
        """The record of a run, as `records` has it; None if it is not recorded.

        Args:
            identity: see `orthonar.training.record.identity`.
        """
        every = (record for path in files_in(self.folder) for record in read_records(path, damaged=[]))
        return next((record for record in every if record.identity == identity), None)


def run_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per run: all its settings, then what came out of it and where.

    Args:
        records: run records.

    Returns:
        A table. The read is in `read` (its class) and read.NAME (its settings), those of a
        read's parts in read.PART.NAME; the write likewise. Beside the settings stand accuracy (final, 0 to 1, NaN where
        it diverged), escape_step (NaN where 80 % was not reached), solved, outcome, wall_seconds, device_name, torch
        (its version), revision, started and identity.
    """
    rows = []
    for r in records:
        settings: dict[str, Any] = {}
        for name, value in complete_settings(r.settings).items():
            settings |= _columns(name, value) if isinstance(value, dict) else {name: value}
        where = (r.device, r.versions.get("torch"), r.revision, r.started, r.identity)
        outcome = (r.accuracy, r.escape_step, r.outcome == "solved", r.outcome, r.wall_seconds, *where)
        rows.append(settings | dict(zip(OUTCOME_COLUMNS, outcome, strict=True)))
    columns = None if rows else ["read", *OUTCOME_COLUMNS]
    return pd.DataFrame(rows, columns=columns).astype({"accuracy": float, "escape_step": float, "solved": bool})


def _columns(prefix: str, variant: dict) -> dict:
    """A read's or write's settings as columns."""
    columns: dict[str, Any] = {}
    for name, value in variant.items():
        column = prefix if name == "name" else f"{prefix}.{name}"
        columns |= _columns(column, value) if isinstance(value, dict) else {column: value}
    return columns


def trace_table(records: Iterable[RunRecord]) -> pd.DataFrame:
    """One row per evaluation.

    Args:
        records: run records.

    Returns:
        A table: the run's identity, step, accuracy (0 to 1), loss, train_loss, seconds, and a column for each probe.
    """
    rows = []
    for r in records:
        identity = r.identity
        for e in r.trace:
            row = {"identity": identity, **vars(e)}
            rows.append(row | (row.pop("probes") or {}))
    columns = ["identity", *(f.name for f in fields(Evaluation) if f.name != "probes")]
    return pd.DataFrame(rows, columns=None if rows else columns)
