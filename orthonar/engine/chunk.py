"""Chunks of a sequence as a read sees them: queries, keys, values, gates and what was in the memory before.

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size (padded), DH head size. The memory
after position t of a chunk that starts from C_0 and n_0 is

    C_t = a_t C_0 + sum_{u <= t} w_tu k_u v_u^T        n_t = a_t n_0 + sum_{u <= t} w_tu k_u n_value_u

with a_t = exp(peak_start - peak_t) and w_tu = exp(G_u - peak_t) as in `orthonar.engine.gates`, and n_value 1 unless the
write says otherwise.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .backends import fused_reads
from .chunk_memory import chunk_reads
from .gates import ChunkGates

# Chunks of which all memory matrices are formed at the same time, in float64.
_PLAIN_CHUNKS_AT_ONCE = 32


class Reading(NamedTuple):
    """What a read returns: the cell divides the one by max(|the other|, exp(-m)) + 1e-6."""

    numerator: Tensor  #: read(C_t)^T q_t, (..., DH).
    n_dot_q: Tensor  #: n_t . q_t, or what the read puts in its place, (...).


class KeyMemory(NamedTuple):
    """What is kept of the keys for reads that ask for it, K_t = a_t K_0 + sum_{u <= t} w_tu left_u right_u^T."""

    left: Tensor  #: (N, L, D).
    right: Tensor  #: (N, L, D), proportional to left.
    gates: ChunkGates
    start: Tensor  #: K_0, (N, D, D).


@dataclass(frozen=True, eq=False)
class Chunk:
    """N chunks, read together; what more than one read asks of them is computed once.

    Args:
        q: queries, (N, L, D).
        k: keys, (N, L, D).
        v: values, (N, L, D).
        gates: their gates.
        c_start: C_0, (N, D, D), in the dtype that C_t^T q_t is to be computed in.
        n_start: n_0, (N, D), float64.
        head_size: DH, at most D; from there on q, k and v are zeros.
        n_value: what n adds in the place of a value, (N, L); None is 1.
        keys: what is kept of the keys, if anything is.
        fused: whether the kernels of `orthonar.engine.kernels` are to be used.
        precision: of float32 products in the fused kernels.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: ChunkGates
    c_start: Tensor
    n_start: Tensor
    head_size: int
    n_value: Tensor | None = None
    keys: KeyMemory | None = None
    fused: bool = False
    precision: str = "float32"
    # What was asked for before. (Into `functools.cached_property`, and its lock, `torch.compile` cannot look.)
    _found: dict[str, Reading] = dataclasses.field(default_factory=dict, init=False)

    @property
    def raw(self) -> Reading:
        """The raw reading: C_t^T q_t, (N, L, D), in the queries' dtype or wider, and n_t . q_t, (N, L), in float64."""
        if "raw" not in self._found:
            operands = self.q, self.k, self.v, *self.gates, self.c_start, self.n_start
            reads = fused_reads(*operands, self.precision) if self.fused else chunk_reads(*operands)
            self._found["raw"] = self._with_n_values(self.q, *reads)
        return self._found["raw"]

    def remember(self, raw: Reading) -> None:
        """Take the raw reading from whoever computed it with the states; what is made of these chunks asks anew."""
        self._found["raw"] = raw

    def ask(self, q: Tensor) -> Reading:
        """The raw reading of other queries, (N, L, D), in their dtype."""
        return self._with_n_values(q, *chunk_reads(q, self.k, self.v, *self.gates, self.c_start, self.n_start))

    def _with_n_values(self, q: Tensor, numerator: Tensor, n_dot_q: Tensor) -> Reading:
        if self.n_value is not None:
            q, k = q.double(), self.k.double()
            scores = (q @ k.mT) * self.gates.log_weights.exp()
            n_dot_q = (scores @ self.n_value.double()[..., None])[..., 0]
            n_dot_q = n_dot_q + (q @ self.n_start[..., None])[..., 0] * self.gates.log_decay.exp()
        return Reading(numerator, n_dot_q)

    def read_by_matrices(self, read: Callable[[Tensor, Tensor, Tensor], Reading]) -> Reading:
        """The reading of a read that wants the memory itself, formed at every position, some chunks at a time.

        Args:
            read: makes a `Reading` of memories C (or [C, K], if keys are kept), (n, L, DH, DH) or (n, L, DH, 2 DH),
                of n, (n, L, DH), and of q, (n, L, DH), all in float64.

        Returns:
            (N, L, D) and (N, L), in float64; nothing of a position is kept for the backward pass.
        """
        parts = [self[i : i + _PLAIN_CHUNKS_AT_ONCE] for i in range(0, len(self.q), _PLAIN_CHUNKS_AT_ONCE)]
        if torch._C._are_functorch_transforms_active() or torch.compiler.is_compiling():
            # Neither knows the hooks that checkpointing is made of.
            readings = [part._read_positions(read) for part in parts]
        else:
            readings = [checkpoint(part._read_positions, read, use_reentrant=False) for part in parts]
        numerator, n_dot_q = (torch.cat(parts) for parts in zip(*readings))
        return Reading(F.pad(numerator, (0, self.q.shape[-1] - self.head_size)), n_dot_q)

    def _read_positions(self, read) -> Reading:
        size, a, w = self.head_size, self.gates.log_decay.exp(), self.gates.log_weights.exp()
        memory = memories(self.k, self.v, self.gates, self.c_start, size)
        if self.keys is not None:
            memory = torch.cat([memory, memories(*self.keys, size)], -1)
        k = self.k.double() if self.n_value is None else self.k * self.n_value.double()[..., None]
        n_state = a[..., None] * self.n_start[:, None] + w @ k
        return read(memory, n_state[..., :size], self.q[..., :size].double())

    def to(self, dtype: torch.dtype) -> "Chunk":
        """These chunks with q, k and v in another dtype."""
        if self.q.dtype == dtype:
            return self
        return dataclasses.replace(self, q=self.q.to(dtype), k=self.k.to(dtype), v=self.v.to(dtype))

    def __getitem__(self, chunks: slice | Tensor) -> "Chunk":
        """Some of the chunks."""
        return self._changed(lambda x: x[chunks])

    def without_gradients_of_the_memory(self) -> "Chunk":
        """The same chunks; gradients flow back to the queries alone."""
        return dataclasses.replace(self._changed(Tensor.detach), q=self.q)

    def without_gradients_of_the_queries(self) -> "Chunk":
        """The same chunks; gradients flow back to all but the queries."""
        return dataclasses.replace(self, q=self.q.detach())

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Chunk":
        """Every tensor changed by the same function."""

        def of(value):
            if isinstance(value, Tensor):
                return change(value)
            return type(value)(*map(of, value)) if isinstance(value, ChunkGates | KeyMemory) else value

        return Chunk(**{f.name: of(getattr(self, f.name)) for f in dataclasses.fields(self) if f.init})


def memories(left: Tensor, right: Tensor, gates: ChunkGates, start: Tensor, size: int) -> Tensor:
    """What is in the memory after every position: a_t start + sum_{u <= t} w_tu left_u right_u^T.

    Args:
        left: (N, L, D).
        right: (N, L, D).
        gates: a and w, by their logs.
        start: what was there before the chunks, (N, D, D).
        size: DH, at most D: how many rows and columns of it are wanted.

    Returns:
        (N, L, DH, DH), float64.
    """
    left, right = left[..., :size].double(), right[..., :size].double()
    added = torch.einsum("ntu,nud,nue->ntde", gates.log_weights.exp(), left, right)
    return gates.log_decay.exp()[..., None, None] * start[:, None, :size, :size] + added
