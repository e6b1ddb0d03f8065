"""Recursive least squares on the keys alone: every key counts the same, whatever the gates.

P_t = (ridge I + sum_{u <= t} k^_u k^_u^T)^{-1} with k^ = k / max(||k||, 1e-6) is what its recursion makes of
P_0 = I / ridge; the sum is kept beside C, so that the memory is [C, K], (DH, 2 DH).

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size (padded).
"""

from typing import ClassVar

import torch
from torch import Tensor

from ..engine.chunk import Chunk, KeyMemory, Reading
from ..settings import number, settings
from .base import LeafRead, transpose_matvec


@settings
class RLSRead(LeafRead):
    """The memory and its normaliser behind the inverse of what the keys have in common: P C, and P n in place of n.

    h_t = (P_t C_t)^T q_t / (max(|(P_t n_t) . q_t|, exp(-m_t)) + 1e-6), with P_0 = I / ridge and, at each position,
    P <- P - (P k^)(P k^)^T / (1 + k^^T P k^), k^ = k / max(||k||, 1e-6), without gates: recursive least squares
    (Plackett 1950) as a read, a variant of the follow-up (Aquino-Michaels 2026, arXiv 2607.19390). `orthonar.MesaRead`
    has its keys weighted as C has, and leaves the normaliser alone.

    It is the raw read of the query P_t q_t, n included, as P is symmetric. Within a chunk that starts from P_0,

        P_t = P_0 - sum_{u <= t} w_u w_u^T,    W = R^{-1} U P_0,    R R^T = I + U P_0 U^T

    with the keys k^ as the rows of U and R lower triangular: the matrix inversion lemma, where the leading part of R
    serves every position. All of it is in float64, since P reaches from 1 / (number of keys) to 1 / ridge, and C with
    it, of which as much cancels.

    Args:
        ridge: what the inverse starts from, 0.0001 to 1; the follow-up's is 0.01.
    """

    keys: ClassVar[str | None] = "ungated"
    #: Some of the libraries that factorize on a GPU wait for it.
    waits_for_host: ClassVar[bool] = True

    ridge: float = number(0.01, least=0.0001, most=1)

    def matrix(self, memory: Tensor) -> Tensor:
        """P C, (..., DH, DH), of memories [C, K], (..., DH, 2 DH)."""
        c, k = memory.chunk(2, -1)
        return (self._inverse(k) @ c.double()).to(c.dtype)

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """C^T P q for memories [C, K], (..., DH, 2 DH), and queries (..., DH)."""
        c, k = memory.chunk(2, -1)
        return transpose_matvec(c.double(), transpose_matvec(self._inverse(k), q.double())).to(q.dtype)

    def normaliser_state(self, memory: Tensor, n_state: Tensor) -> Tensor:
        """P n, (..., DH), for memories [C, K], (..., DH, 2 DH), and n, (..., DH)."""
        _, k = memory.chunk(2, -1)
        return transpose_matvec(self._inverse(k), n_state.double()).to(n_state.dtype)

    def read_chunk(self, chunk: Chunk) -> Reading:
        assert chunk.keys is not None  # they are kept for it
        numerator, n_dot_q = chunk.ask(self.queries(chunk.q, chunk.keys))
        return Reading(numerator.to(chunk.q.dtype), n_dot_q)

    def queries(self, q: Tensor, keys: KeyMemory) -> Tensor:
        """P_t q_t at every position: what the raw read is to be asked instead of q_t.

        Args:
            q: queries, (N, L, D).
            keys: the unit keys, as the chunks know them.

        Returns:
            (N, L, D), float64.
        """
        q, unit, p_start = q.double(), keys.left, self._inverse(keys.start)
        of_keys = unit @ p_start
        system = of_keys @ unit.mT + torch.eye(unit.shape[1], dtype=unit.dtype, device=unit.device)
        # It is positive definite, and where training has diverged a NaN says more than an error.
        w = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(system).L, of_keys, upper=False)
        return q @ p_start - (q @ w.mT).tril() @ w

    def _inverse(self, k: Tensor) -> Tensor:
        """P = (K + ridge I)^{-1}, symmetric, (..., DH, DH), float64."""
        damped = k.double() + self.ridge * torch.eye(k.shape[-1], dtype=torch.float64, device=k.device)
        return torch.linalg.inv_ex(damped).inverse
