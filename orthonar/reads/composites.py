"""Reads made of other reads: blends, and one read's result with another's gradients.

What is put together are numerators, in the frame of m_t, before the division by max(|n_t . q_t|, exp(-m_t)) + 1e-6,
and in the same way what the parts have for n_t . q_t there: almost always the same, and then the same for the whole.
"""

from abc import abstractmethod
from collections.abc import Callable

from torch import Tensor

from ..engine.by_hand import HandWritten
from ..engine.chunk import Chunk, Reading
from ..settings import number, settings, variant
from .base import LeafRead, RawRead, Read
from .newton_schulz import NewtonSchulzRead


class CompositeRead(Read):
    """A read whose result is put together from those of its parts."""

    @property
    @abstractmethod
    def parts(self) -> tuple[Read, ...]:
        """The reads whose results are needed."""

    @property
    def leaves(self) -> tuple[LeafRead, ...]:
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    def evaluate(self, reading: Callable[[LeafRead], Reading]) -> Reading:
        parts = (part.evaluate(reading) for part in self.parts)
        return Reading(*(self.combine(*results) for results in zip(*parts)))

    @abstractmethod
    def combine(self, *results: Tensor) -> Tensor:
        """This read's numerator from its parts', in the order of `parts`, or in the same way its n . q from theirs."""


@settings
class BlendRead(CompositeRead):
    """alpha * one + (1 - alpha) * other, a mixture of two reads' numerators over the divisor that they share.

    Each part keeps its own scale: an orthogonalized read's singular values lie in [0, 1], while a raw read has the
    scale of C exp(-m), so that alpha is no share of the result's size. `NewtonSchulzRead(steps=0)` in the place of
    `RawRead()` blends two reads of the same scale. With alpha 0 or 1 the other part is not computed, and the result is
    the one part's to the last bit. Annealing alpha from 1 to 0 removes the orthogonalization in the course of training
    (Aquino-Michaels 2026, arXiv 2607.19390).

    Args:
        alpha: weight of the first read, 0 to 1.
        one: the first read.
        other: the second read.
    """

    alpha: float = number(0.5, least=0, most=1)
    one: Read = variant(NewtonSchulzRead, Read)
    other: Read = variant(RawRead, Read)

    @property
    def parts(self) -> tuple[Read, ...]:
        if self.alpha in (0, 1):
            return (self.one,) if self.alpha else (self.other,)
        return self.one, self.other

    def combine(self, *results: Tensor) -> Tensor:
        if len(results) == 1:
            return results[0]
        one, other = results
        return self.alpha * one + (1 - self.alpha) * other


@settings
class StraightThroughRead(CompositeRead):
    """The result of one read with the gradients of another, in queries, keys, values and gates.

    The straight-through estimator of Bengio et al. 2013 (arXiv 1308.3432) with a read in the place of the identity. The
    default reads orthogonalized and learns raw; the two exchanged, it reads raw and learns orthogonalized.

    Args:
        forward: the read whose result is returned.
        backward: the read whose gradients flow back.
    """

    forward: Read = variant(NewtonSchulzRead, Read)
    backward: Read = variant(RawRead, Read)

    @property
    def parts(self) -> tuple[Read, ...]:
        return self.forward, self.backward

    def combine(self, *results: Tensor) -> Tensor:
        value, other = results
        # Detached, or the backward pass would run through the first read too, with zeros.
        return _WithGradientsOf.of(value.detach(), other)


@settings
class MatrixStraightThroughRead(LeafRead):
    """One read's matrix with another's gradients: C_read = backward(C) + stop(forward(C) - backward(C)).

    The straight-through estimator of Bengio et al. 2013 (arXiv 1308.3432) on the matrix that is read, as the follow-up
    has it (Aquino-Michaels 2026, arXiv 2607.19390): h = C_read^T q over the divisor, so that keys, values and gates
    get their gradients through the backward read's matrix, while the query gets its own from the value that is read.
    (`StraightThroughRead` gives the query the backward read's too.) The default is the follow-up's "forward"; the two
    exchanged, its "backward".

    Args:
        forward: the read whose matrix is read; a leaf that wants no keys kept.
        backward: the read through whose matrix gradients flow back to the memory; likewise.
    """

    forward: LeafRead = variant(NewtonSchulzRead, Read)
    backward: LeafRead = variant(RawRead, Read)

    def __post_init__(self):
        super().__post_init__()
        for name in ("forward", "backward"):
            read = getattr(self, name)
            if not isinstance(read, LeafRead) or read.keys is not None:
                raise ValueError(f"{name} must be a read with a matrix that is a function of C alone, not {read!r}")

    def check(self) -> None:
        self.forward.check()
        self.backward.check()

    @property
    def needs_precision(self) -> bool:  # type: ignore[override]  # its parts', not its class's
        return self.forward.needs_precision or self.backward.needs_precision

    @property
    def waits_for_host(self) -> bool:  # type: ignore[override]
        return self.forward.waits_for_host or self.backward.waits_for_host

    @property
    def traceable(self) -> bool:  # type: ignore[override]
        return self.forward.traceable and self.backward.traceable

    def matrix(self, memory: Tensor) -> Tensor:
        """The forward read's matrix, (..., DH, DH), with the gradients of the backward read's."""
        return _WithGradientsOf.of(self.forward.matrix(memory.detach()), self.backward.matrix(memory))

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """C_read^T q for memories (..., DH, DH) and queries (..., DH)."""
        return _WithGradientsOfBoth.of(
            self.forward.vector(memory.detach(), q), self.backward.vector(memory, q.detach())
        )

    def read_chunk(self, chunk: Chunk) -> Reading:
        value = self.forward.read_chunk(chunk.without_gradients_of_the_memory()).numerator
        other = self.backward.read_chunk(chunk.without_gradients_of_the_queries()).numerator
        return Reading(_WithGradientsOfBoth.of(value, other), chunk.raw.n_dot_q)


class _WithGradientsOf(HandWritten):
    """The first as it is, with all gradients to the second."""

    operator = "with_gradients_of(Tensor value, Tensor other) -> Tensor"

    @staticmethod
    def forward(value, other):
        return value.clone()

    @staticmethod
    def saved(args, outputs):
        return outputs, ()

    @staticmethod
    def outputs_like(value, other):
        return value

    @staticmethod
    def gradients_like(tensors, other):
        return 2 * tuple(tensors)

    @staticmethod
    def gradients(tensors, other, needs, grad):
        return None, grad.clone()


class _WithGradientsOfBoth(_WithGradientsOf):
    """The first as it is, with the same gradients to both: their sum, less the second's value."""

    operator = "with_gradients_of_both(Tensor value, Tensor other) -> Tensor"

    @staticmethod
    def gradients(tensors, other, needs, grad):
        return grad.clone(), grad.clone()
