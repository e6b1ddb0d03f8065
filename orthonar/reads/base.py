"""What it means to read the memory: a map from the memory matrix C and a query q to a vector.

A read is a small frozen object, one of two kinds. A *leaf* says which matrix it puts in the place of C; that is the
plain form, every test's oracle, and all that a leaf must say. A leaf may also know how to read one memory with one
query faster than that (one token at a time), and how to read chunks of a sequence without forming C: a filter,
y = g(X^T X) X^T q with X = C / max(||C||_F, eps), does so by the Chebyshev coefficients of g. A *composite* says how
the results of other reads are put together, in every form of the cell alike.

This file holds the kinds and the raw read, the files beside it one kind of read each. A class that derives from one of
these is a read: nothing has to be registered.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from ..engine.chunk import Chunk, Reading
from ..engine.chunk_filter import transpose_matvec
from ..settings import Settings, described, settings


class Read(Settings, ABC):
    """How the memory is read: what the cell, the model and the run records take for a read."""

    @property
    @abstractmethod
    def leaves(self) -> tuple["LeafRead", ...]:
        """The leaves whose results this read needs."""

    @abstractmethod
    def evaluate(self, reading: Callable[["LeafRead"], Reading]) -> Reading:
        """This read's result, put together from its leaves'.

        Args:
            reading: gives the result of any of its `leaves`: numerators (..., DH) and n . q (...).

        Returns:
            The same of this read.
        """

    @property
    def keys(self) -> str | None:
        """What is to be kept of the keys beside C, so that the memory is [C, K].

        None for nothing; "gated" for K_t = sum_u w_tu k_u k_u^T, the keys written in the place of values under the
        gates that C has; "ungated" for K_t = sum_{u <= t} k^_u k^_u^T with k^ = k / max(||k||, 1e-6), whatever the
        gates.

        Raises:
            ValueError: the parts of this read want different things.
        """
        kinds = {leaf.keys for leaf in self.leaves} - {None}
        if len(kinds) > 1:
            raise ValueError(f"read must keep keys in one way, not gated for one part and ungated for another: {self}")
        return kinds.pop() if kinds else None

    @property
    def precise(self) -> bool:
        """Whether the chunkwise form is to keep the memory in float64, whatever the dtype of its arguments."""
        return any(leaf.needs_precision for leaf in self.leaves)


class LeafRead(Read):
    """A read that is not made of others: `matrix` is all that a subclass must give, any function of the memory."""

    #: What it wants kept of the keys, see `Read.keys`.
    keys: ClassVar[str | None] = None
    #: Whether it divides by what is left of the memory where writes cancel, and so must know that to the last digit.
    needs_precision: ClassVar[bool] = True
    #: Whether it looks at what it computes on the way, iterates until that is good enough, say: on a GPU the host must
    #: wait for it, and no CUDA graph can be captured.
    waits_for_host: ClassVar[bool] = False
    #: Whether `torch.compile` can trace `read_chunk` and `vector`; else it calls the cell between two graphs.
    traceable: ClassVar[bool] = False

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if cls.keys not in (None, "gated", "ungated"):
            raise TypeError(f"{cls.__name__}.keys must be None, 'gated' or 'ungated', not {cls.keys!r}")
        if "normaliser_state" in vars(cls) and "read_chunk" not in vars(cls):
            made: Any = cls
            made.read_chunk = LeafRead.read_chunk  # an inherited one knows of n alone

    @property
    def leaves(self) -> tuple["LeafRead", ...]:
        return (self,)

    def evaluate(self, reading: Callable[["LeafRead"], Reading]) -> Reading:
        return reading(self)

    @abstractmethod
    def matrix(self, memory: Tensor) -> Tensor:
        """The matrix in the place of C, by the definition: the oracle of all other forms.

        Args:
            memory: C, (..., DH, DH), or [C, K], (..., DH, 2 DH), for reads that want keys; in float64 where chunks are
                read by it, whatever the dtype of the queries.

        Returns:
            (..., DH, DH), of the memory's dtype.
        """

    def normaliser_state(self, memory: Tensor, n_state: Tensor) -> Tensor:
        """The vector in the place of n; n itself for almost every read.

        Args:
            memory: as of `matrix`.
            n_state: n, (..., DH).

        Returns:
            (..., DH).
        """
        return n_state

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """`matrix`^T q, the fast way.

        Args:
            memory: as of `matrix`.
            q: queries, (..., DH); leading axes broadcast, (..., 1, DH, DH) with (..., S, DH) for S queries of each.

        Returns:
            (..., DH).
        """
        return transpose_matvec(self._checked_matrix(memory), q)

    def _checked_matrix(self, memory: Tensor) -> Tensor:
        """`matrix`, with an error in the place of a result of another size where a subclass gives another."""
        matrix, size = self.matrix(memory), memory.shape[-2]
        if not isinstance(matrix, Tensor):
            raise ValueError(f"read: the matrix of {self} must be a tensor, not {type(matrix).__name__}")
        if tuple(matrix.shape[-2:]) != (size, size) or matrix.dtype != memory.dtype:
            wanted, got = f"(..., {size}, {size}), {memory.dtype}", f"{tuple(matrix.shape)}, {matrix.dtype}"
            raise ValueError(f"read: the matrix of {self} must be {wanted}, not {got}")
        return matrix

    def read_plainly(self, memory: Tensor, n_state: Tensor, q: Tensor) -> Reading:
        """The reading by `matrix`: the plain form.

        Args:
            memory: the cell's, (..., DH, DH) or (..., DH, 2 DH), with keys whether this read wants them or not.
            n_state: n, (..., DH).
            q: queries, (..., DH).

        Returns:
            The numerator (..., DH), and n . q (...), which the cell's divisor is made of.
        """
        memory = self.memory_part(memory)
        n_read = self.normaliser_state(memory, n_state)
        return Reading(transpose_matvec(self._checked_matrix(memory), q), (n_read * q).sum(-1))

    def read_token(self, memory: Tensor, n_state: Tensor, q: Tensor) -> Reading:
        """The reading of one memory by one query, by `vector`; arguments and result as of `read_plainly`."""
        memory = self.memory_part(memory)
        return Reading(self.vector(memory, q), (self.normaliser_state(memory, n_state) * q).sum(-1))

    def read_chunk(self, chunk: Chunk) -> Reading:
        """The reading of every position of chunks; here by forming every memory, in float64.

        A subclass that knows a faster way overrides this.

        Args:
            chunk: N chunks of L positions: queries, keys and values (N, L, D), the gates, the states before them.

        Returns:
            The numerators (N, L, D), in the queries' dtype, and n . q (N, L).
        """
        numerator, n_dot_q = chunk.read_by_matrices(self.read_plainly)
        return Reading(numerator.to(chunk.q.dtype), n_dot_q)

    def check(self) -> None:
        """Whether it can be computed at all, asked where settings are made; nothing here.

        Raises:
            ValueError: it cannot; it says why.
        """

    def memory_part(self, memory: Tensor) -> Tensor:
        """The part of the cell's memory that this leaf reads: a composite's may be wider.

        Args:
            memory: C, (..., DH, DH), or [C, K], (..., DH, 2 DH).

        Returns:
            C alone for a leaf that wants no keys.
        """
        rows, columns = memory.shape[-2:]
        return memory if self.keys is not None or rows == columns else memory[..., :rows]


@settings
class RawRead(LeafRead):
    """The mLSTM's own read, C^T q (Beck et al. 2024, arXiv 2405.04517, equation 21)."""

    needs_precision: ClassVar[bool] = False
    traceable: ClassVar[bool] = True

    def matrix(self, memory: Tensor) -> Tensor:
        """The memory itself, (..., DH, DH)."""
        return memory

    def read_chunk(self, chunk: Chunk) -> Reading:
        numerator, n_dot_q = chunk.raw
        return Reading(numerator.to(chunk.q.dtype), n_dot_q)


def check_read(name: str, read: Read) -> None:
    """Raise a ValueError naming the setting if it is not a read."""
    if not isinstance(read, Read):
        raise ValueError(f"{name} must be a read of orthonar.reads, not {described(read, Read)}")
