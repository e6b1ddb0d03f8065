"""How a sweep keeps a finished run: its weights, then its record; what cannot be written there is written elsewhere."""

from collections.abc import Callable
from pathlib import Path

from ..training.record import RunRecord
from .records import RunStore
from .rescue import Fallback
from .weights import save_weights, weights_path


class Recorder:
    """Keeps finished runs in a store, whatever becomes of its disk.

    Args:
        store: where they belong.
        name: the file there, without .jsonl, that records go to.
        say: takes lines of text about what could not be kept there.
        rescued: takes, by run, the file outside the store that its record or its weights are in; None if the record was
            printed, since it could not be written anywhere.
    """

    def __init__(self, store: RunStore, name: str, say: Callable[[str], None], rescued: dict[str, Path | None]):
        self.store, self.name, self.say, self.rescued = store, name, say, rescued
        #: Why the store takes no more records; None while it does.
        self.obstacle: str | None = None
        self._fallback = Fallback()

    def keep(self, record: RunRecord, weights: bytes | None, run: str) -> bool:
        """Keep a run.

        Args:
            record: its record.
            weights: what `orthonar.study.weights.packed` made; None if they are not kept.
            run: the run in a few words.

        Returns:
            Whether its record was added to the store, which it is not if the run is recorded there.

        Raises:
            ValueError: the record is none that the store can take.
        """
        try:
            with self.store.alone():  # weights and record are of one training
                if weights is not None:
                    try:  # before the record: a run that is recorded is never trained again
                        save_weights(self.store, record, weights)
                    except OSError as error:
                        self._rescue(record, weights, run, f"weights not kept ({error.strerror or error})")
                elif self.store.find(record.identity) is None:
                    left = weights_path(self.store.folder, record)
                    if left.exists():  # of a training that ended before it was recorded
                        left.unlink()
                return self.store.add(record, self.name)
        except OSError as error:
            reason = error.strerror or str(error)
            self._rescue(record, weights, run, f"not recorded ({reason})")
            self.obstacle = f"{self.store.path(self.name)} cannot be written ({reason})"
            return False
        except ValueError as error:  # it could be written nowhere: what is known of the run is at least told
            self.say(f"not recorded ({error}): {run}; its record: {record!r}")
            raise

    def _rescue(self, record: RunRecord, weights: bytes | None, run: str, what: str) -> None:
        try:
            path = self._fallback.save(record, self.name, weights)
        except OSError as error:
            self.say(f"{what}, nor anywhere else ({error.strerror or error}): {run}; its record:")
            self.say(record.to_json())
            self.rescued.setdefault(record.identity, None)
            return
        self.rescued[record.identity] = path
        self.say(f"{what}, but in {path}: {run}")
