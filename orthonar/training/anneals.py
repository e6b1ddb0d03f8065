"""Taking a read down in the course of training, until a stock mLSTM is left.

The weight alpha of the run's own read, beside 1 - alpha of the raw one, falls from 1 to 0: `orthonar.BlendRead` at
every step. At 1 and at 0 only one of the two is computed. It is the follow-up's anneal (Aquino-Michaels 2026, arXiv
2607.19390): what the orthogonalized read is needed for is training, not recall.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from ..model import ModelConfig, SequenceModel
from ..reads.base import RawRead, Read
from ..reads.composites import BlendRead
from ..settings import Settings, integer, number, settings
from .record import Evaluation, first_reaching


class Anneal(Settings, ABC):
    """When the run's own read is taken down."""

    @abstractmethod
    def weight(self, step: int, escaped_at: int | None) -> float:
        """alpha of the training step that follows `step` others, or of an evaluation after them; 0 to 1.

        Args:
            step: steps done.
            escaped_at: what `escape` found; None if nothing yet.
        """

    def escape(self, trace: Sequence[Evaluation]) -> int | None:
        """The step at which a run escaped, if the anneal waits for that; None if it does not, or the run has not.

        Args:
            trace: the run's evaluations so far.
        """
        return None

    def last_step(self, steps: int, escaped_at: int | None) -> int:
        """The step that a run ends at.

        Args:
            steps: of the run's budget.
            escaped_at: what `escape` found.
        """
        return steps


@settings
class NoAnneal(Anneal):
    """Never: the read stays as it is."""

    kind = "none"

    def weight(self, step: int, escaped_at: int | None) -> float:
        return 1.0


@settings
class FixedAnneal(Anneal):
    """Over a window of steps, whatever the run does: alpha falls in a line from 1 to 0.

    The defaults are the follow-up's.

    Args:
        anneal_from: the last step at alpha 1.
        anneal_to: the first step at alpha 0.

    Raises:
        ValueError: the window ends before it begins.
    """

    kind = "fixed"

    anneal_from: int = integer(1400, least=0)
    anneal_to: int = integer(2000, least=1)

    def __post_init__(self):
        super().__post_init__()
        if self.anneal_to <= self.anneal_from:
            raise ValueError(f"anneal_to must be more than anneal_from, {self.anneal_from}, not {self.anneal_to}")

    def weight(self, step: int, escaped_at: int | None) -> float:
        return _line(step - self.anneal_from, self.anneal_to - self.anneal_from)


@settings
class GatedAnneal(Anneal):
    """From the run's escape on: alpha falls in a line from 1 to 0, and the budget is extended until it has.

    The defaults are the follow-up's.

    Args:
        anneal_at: accuracy of an evaluation, 0 to 1, that counts as an escape.
        dwell: steps from that evaluation to the begin of the fall.
        ramp: steps of the fall.
    """

    kind = "gated"

    anneal_at: float = number(0.8, above=0, most=1)
    dwell: int = integer(200, least=0)
    ramp: int = integer(500, least=1)

    def weight(self, step: int, escaped_at: int | None) -> float:
        return 1.0 if escaped_at is None else _line(step - escaped_at - self.dwell, self.ramp)

    def escape(self, trace: Sequence[Evaluation]) -> int | None:
        return first_reaching(trace, self.anneal_at)

    def last_step(self, steps: int, escaped_at: int | None) -> int:
        return steps if escaped_at is None else max(steps, escaped_at + self.dwell + self.ramp)


def _line(done: int, length: int) -> float:
    return 1 - min(max(done / length, 0.0), 1.0)


def annealed(read: Read, weight: float) -> Read:
    """What a model reads with when so much of its own read is left.

    Args:
        read: its own.
        weight: alpha, 0 to 1.
    """
    return read if weight == 1 else RawRead() if weight == 0 else BlendRead(weight, read, RawRead())


def set_read(model: SequenceModel, read: Read) -> None:
    """Let a model, with an mLSTM layer, read in another way from now on; its parameters stay as they are."""
    if model.config.mixer.read != read:
        model.config = replace(model.config, read=read)
        model.layer.mixer = model.layer.mlstm_cell.mixer = model.config.mixer


def final_model(model: ModelConfig, anneal: Anneal, trace: Sequence[Evaluation]) -> ModelConfig:
    """The settings of the model that a run ended with.

    Args:
        model: of the model that it began with.
        anneal: the run's.
        trace: its evaluations.
    """
    weight = anneal.weight(trace[-1].step, anneal.escape(trace))
    return model if weight == 1 else replace(model, read=annealed(model.mixer.read, weight))
