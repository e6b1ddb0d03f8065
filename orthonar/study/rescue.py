"""A second place for what cannot be written where it belongs, and the way back from there."""

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..training.record import RunRecord
from .jsonl import Damage
from .records import RunStore, read_records
from .weights import save_weights, weights_path


def _places() -> list[Path]:
    """Where a fallback may lie: among temporary files, else in memory, else at home; the first may be full as well."""
    try:
        first = [Path(tempfile.gettempdir())]
    except OSError:
        first = []
    return [*first, Path("/dev/shm"), Path.home()]


class Fallback:
    """A folder of records and weights that is made, under a name of its own, when something is first saved there.

    Where it fills up another one is made.
    """

    def __init__(self):
        self._store: RunStore | None = None

    def save(self, record: RunRecord, name: str, weights: bytes | None = None) -> Path:
        """Save a record, and its run's weights if they are given.

        Args:
            record: the record.
            name: the file, without .jsonl, that it belongs into.
            weights: what `orthonar.study.weights.packed` made.

        Returns:
            The file that it is in, for `adopt`.

        Raises:
            OSError: it cannot be written anywhere.
        """
        problem: OSError | None = None
        if self._store is not None:
            try:
                return _save(self._store, record, name, weights)
            except OSError as error:
                problem = error
        for place in _places():
            try:
                store = RunStore(tempfile.mkdtemp(prefix="orthonar-", dir=place))
                path = _save(store, record, name, weights)
            except OSError as error:
                problem = problem or error
            else:
                self._store = store
                return path
        raise problem or OSError("no folder for temporary files")


def _save(store: RunStore, record: RunRecord, name: str, weights: bytes | None) -> Path:
    store.add(record, name)  # first, since it is small and says more
    if weights is not None:
        save_weights(store, record, weights)
    return store.path(name)


@dataclass(frozen=True)
class Adopted:
    """What became of a file's lines.

    Args:
        added: records that were added.
        known: records of runs that were recorded already.
        weights: runs whose weights were added.
        damaged: lines that are no records.
    """

    added: int
    known: int
    weights: int
    damaged: list[Damage]


def adopt(file: str | os.PathLike, store: RunStore, name: str | None = None) -> Adopted:
    """Add the records of a file to a store, and the weights that lie beside it; what the store has already is left out.

    Args:
        file: the file, which is only read.
        store: where the records belong.
        name: the file in the store, without .jsonl; None for the same name, not hidden.

    Raises:
        OSError: the file cannot be read, or something cannot be written; what was added by then stays.
        ValueError: the name is none of a file of the store; nothing is written.
    """
    file = Path(file)
    damaged: list[Damage] = []
    if not file.is_file():
        raise OSError(f"there is no file {file}")
    records = read_records(file, damaged)
    name = name or file.stem.lstrip(".")
    store.path(name)  # an impossible one is told before anything is written
    for damage in damaged:
        if not damage.line:
            raise OSError(f"{file} cannot be read ({damage.reason})")
    added = weights = 0
    for record in records:
        kept = weights_path(file.parent, record)
        with store.alone():  # weights and record are of one training
            if kept.is_file():
                weights += save_weights(store, record, kept.read_bytes())
            added += store.add(record, name)
    return Adopted(added, len(records) - added, weights, damaged)
