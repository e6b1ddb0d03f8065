"""What it means to read the memory: a map from the memory matrix C and a query q to a vector.

A read is a small frozen object, one of two kinds. A *leaf* says which matrix it puts in the place of C; that is the
plain form, every test's oracle, and all that a leaf must say. A leaf may also know how to read one memory with one
query faster than that (one token at a time), and how to read chunks of a sequence without forming C: a filter,
y = g(X^T X) X^T q with X = C / max(||C||_F, eps), does so by the Chebyshev coefficients of g. A *composite* says how
the results of other reads are put together, in every form of the cell alike.

This file holds the kinds and the raw read, the files beside it one kind of read each. A class that derives from one of
these is a read: nothing has to be registered.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..engine.chunk import Chunk, Reading
from ..engine.chunk_filter import filtered_reading, filtered_vector, transpose_matvec
from ..engine.keys import LEAST_EPS
from ..engine.looking import called_while_traced, largest
from ..settings import Settings, number, settings, variant_settings
from .chebyshev import odd_chebyshev
from .singular_values import map_singular_values

# What float32 rounding is multiplied by: that of X^T q by the gain g = f(s) / s, that of A by s |g'(s^2)|. Up to here
# (eight Newton-Schulz steps: 26 and 111) errors stay within 2e-5 on all inputs tried.
_LARGEST_GAIN, _MOST_SENSITIVE = 30.0, 120.0


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
            q: queries, (..., DH).

        Returns:
            (..., DH).
        """
        return transpose_matvec(self._checked_matrix(memory), q)

    def _checked_matrix(self, memory: Tensor) -> Tensor:
        """`matrix`, with an error in the place of a result of another size where a subclass gives another."""
        matrix, size = self.matrix(memory), memory.shape[-2]
        if tuple(matrix.shape[-2:]) != (size, size):
            raise ValueError(f"read: the matrix of {self} must be (..., {size}, {size}), not {tuple(matrix.shape)}")
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


@settings
class FilterRead(LeafRead):
    """A read g(A) z, with A = X^T X, z = X^T q and X = C / max(||C||_F, eps).

    The function f(s) = s g(s^2) says what the read does to the singular values s of X; a subclass gives it as
    `scalar_map` and need give no more. One that gives `matrix` too gives the same map in another way, as an oracle;
    what is no map of singular values derives from `LeafRead`.

    Args:
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series for f on [0, 1]; None is 4 times the machine epsilon of the tensors'
            dtype, less than the rounding of the plain form.
    """

    traceable: ClassVar[bool] = True

    _: KW_ONLY
    eps: float = number(1e-6, least=LEAST_EPS)
    tolerance: float | None = number(None, above=0, below=1, optional=True)

    def __post_init__(self):
        super().__post_init__()
        values = variant_settings(self)
        del values["name"]
        object.__setattr__(self, "_as_text", json.dumps(values, default=str))

    @abstractmethod
    def scalar_map(self, s: Tensor) -> Tensor:
        """f(s), element by element; odd and smooth in s, or it is refused before anything is read.

        Args:
            s: singular values of X, in [-1, 1], float64, of any shape.

        Returns:
            float64, of the same shape.
        """

    def check(self) -> None:
        self.coefficients(torch.float32)

    def matrix(self, memory: Tensor) -> Tensor:
        """U f(S) V^T for X = U S V^T, (..., DH, DH), in float64 inside."""
        return map_singular_values(self.normalised(memory.double()), self.scalar_map).to(memory.dtype)

    def products(self, dtype: torch.dtype) -> int:
        """How many products with A = X^T X the read takes: the degree of its series.

        Args:
            dtype: of the queries, which the error of the series follows if `tolerance` is None.
        """
        return len(self.coefficients(dtype)) - 1

    def normalised(self, c_state: Tensor) -> Tensor:
        """X = C / max(||C||_F, eps)."""
        return normalised(c_state, self.eps)

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """The read for memories (..., DH, DH) and queries (..., DH): A once, then one row times A a degree."""
        dtype, c, _ = self._prepared(q.dtype)
        x = self.normalised(memory.to(dtype))
        return filtered_vector(x, q.to(dtype), c).to(q.dtype)

    def read_chunk(self, chunk: Chunk) -> Reading:
        """The reading by the Chebyshev series, no memory formed but where writes cancel.

        There it is of memories formed anew in float64: by `matrix` with PyTorch's operators, by the same series in
        compiled kernels and graphs.
        """
        dtype = chunk.q.dtype
        working_dtype, coefficients, eps = self._prepared(dtype)
        chunk = chunk.to(working_dtype)
        numerator, n_dot_q = filtered_reading(chunk, coefficients, eps, self.read_plainly)
        return Reading(numerator.to(dtype), n_dot_q)

    def _prepared(self, dtype: torch.dtype) -> tuple[torch.dtype, tuple[float, ...], float]:
        """The working dtype and the coefficients for queries of a dtype, and eps."""
        if torch.compiler.is_dynamo_compiling():  # to which neither an object nor its numbers are constants
            return _prepared_of(type(self), self._as_text, dtype)
        return self.working_dtype(dtype), self.coefficients(dtype), self.eps

    def working_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the read computes in.

        Args:
            dtype: of the queries.

        Returns:
            The same, or float64 for maps so steep that they magnify float32 rounding too much.
        """
        return torch.float64 if _magnifies_rounding(self) else dtype

    def coefficients(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Coefficients of g in the Chebyshev polynomials of the third kind (`orthonar.reads.chebyshev`).

        Args:
            dtype: of the queries, which the error of the series follows if `tolerance` is None.

        Returns:
            From degree 0 up, one more than the degree of the series.

        Raises:
            ValueError: the map is not odd, not a number somewhere, or not smooth enough for a series of that error.
        """
        return _coefficients(self, 4 * torch.finfo(dtype).eps if self.tolerance is None else self.tolerance)


def normalised(x: Tensor, eps: float) -> Tensor:
    """x / max(||x||_F, eps), also where the norm overflows the dtype.

    Args:
        x: matrices, (..., M, N), of any floating dtype.
        eps: smallest norm divided by.

    Returns:
        (..., M, N).
    """
    size, moderate = largest(x), torch.finfo(x.dtype).max ** 0.5 / 1e4
    if size is not None and size < moderate:
        return x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).clamp_min(eps)
    with torch.no_grad():
        # Powers of two, so that nothing is rounded: the largest entry comes to lie between 2 and 4, or is tiny.
        _, exponent = torch.frexp(x.abs().amax((-2, -1), keepdim=True))
        most = math.frexp(torch.finfo(x.dtype).max)[1] - 2
        scale = torch.ldexp(torch.ones_like(exponent, dtype=x.dtype), (2 - exponent).clamp_max(most))
        smallest = eps * scale
    x = x * scale
    return x / torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True).maximum(smallest)


@called_while_traced
def _prepared_of(
    kind: type[FilterRead], as_text: str, dtype: torch.dtype
) -> tuple[torch.dtype, tuple[float, ...], float]:
    return kind(**json.loads(as_text))._prepared(dtype)


@lru_cache(maxsize=256)
def _magnifies_rounding(read: FilterRead) -> bool:
    def magnifies() -> bool:
        _check_map(read)
        s = torch.linspace(0, 1, 4097, dtype=torch.float64, device="cpu")[1:]
        gain = read.scalar_map(s) / s
        sensitivity = gain.diff() / s.diff() / 2
        return gain.abs().max().item() > _LARGEST_GAIN or sensitivity.abs().max().item() > _MOST_SENSITIVE

    return _apart(magnifies)


@lru_cache(maxsize=256)
def _coefficients(read: FilterRead, tolerance: float) -> tuple[float, ...]:
    def made() -> tuple[float, ...]:
        _check_map(read)
        try:
            return odd_chebyshev(lambda s: read.scalar_map(torch.from_numpy(s)).numpy(), tolerance)
        except ValueError as error:
            raise ValueError(f"read: the map of {read} is not smooth enough: {error}") from None

    return _apart(made)


def _check_map(read: FilterRead) -> None:
    """Raise a ValueError if a map is not what a filter can be made of: its even part would be lost without a word."""
    s = torch.linspace(-1, 1, 65, dtype=torch.float64, device="cpu")
    values = read.scalar_map(s)
    of = f"read: the map of {read}"
    if not isinstance(values, Tensor) or values.shape != s.shape or values.dtype != s.dtype:
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{of} must give float64 of its argument's shape, not {got}")
    if not values.isfinite().all():
        raise ValueError(f"{of} is not a finite number at {s[~values.isfinite()][0].item():g}")
    if (values + values.flip(0)).abs().max() > 1e-9 * values.abs().max().clamp_min(1):
        raise ValueError(f"{of} must be odd, f(-s) = -f(s)")


def _apart(function: Callable):
    """The result of a function that is to compute with numbers whatever the caller traces, exports or differentiates.

    All that PyTorch puts in the way of numbers belongs to a thread. What is kept of a read must not hold any of it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.no_grad()(function)).result()


def check_read(name: str, read: Read) -> None:
    """Raise a ValueError naming the setting if it is not a read."""
    if not isinstance(read, Read):
        raise ValueError(f"{name} must be a read of orthonar.reads, not {read!r}")
