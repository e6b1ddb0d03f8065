"""The read of the Mesa layer: recursive least squares on keys and values, solved at every position.

H_t = sum_u w_tu k_u k_u^T is a memory like C_t with keys in the place of values, so it is kept as one: this read has
the keys written beside the values, and its memory is [C_t, H_t], (DH, 2 DH).

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size (padded).
"""

import math
from dataclasses import KW_ONLY
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..engine.blocks import blocks_of
from ..engine.by_hand import HandWritten
from ..engine.chunk import Chunk, KeyMemory, Reading
from ..engine.keys import LEAST_EPS, MOST_EPS
from ..engine.looking import known
from ..settings import number, settings
from .base import LeafRead, transpose_matvec

# Conjugate gradients run in the dtype of the query until the residual is this share of the right-hand side; then the
# residual is computed anew in float64 and they start again from there, until it is below the last tolerance.
_ROUND_TOLERANCE, _MOST_ROUNDS = 1e-4, 6
_LAST_TOLERANCE = {torch.float32: 1e-9, torch.float64: 1e-13}


@settings
class MesaRead(LeafRead):
    """The value that ridge regression of the values on the keys, under the gates' weights, predicts for the query.

    h_t = C_t^T (H_t + lam_t I)^{-1} q_t with C_t = sum_u w_tu k_u v_u^T and H_t = sum_u w_tu k_u k_u^T: the Mesa layer
    of von Oswald et al. (arXiv 2309.05858; as MesaNet, arXiv 2506.05233). Two things differ there. lam is learned; here
    it is a fixed share of the trace, lam_t = max(ridge tr H_t, eps), so that the read has no parameters, does not
    depend on the scale of the weights, and H_t + lam_t I has a condition number of at most 1 + 1 / ridge. And nothing
    is divided by there; here the cell divides, as for every read.

    No filter of C can give this: it depends on H. The chunkwise form solves by conjugate gradients, all positions of a
    chunk at once; a product with H_t is two products with the chunk's keys and one with its start state, and no matrix
    of a position is formed. Were lam the same at every position of a chunk, the matrix inversion lemma would give all
    its inverses, as it does for `orthonar.RLSRead`; with the chunk's last lam it gives what the iterations are
    preconditioned by. That leaves the eigenvalues (h + lam_t) / (h + lam_L), h those of H_t in the frame of the last
    position: near 1, but for the first positions of a sequence, and never further apart than those of H_t + lam_t I
    are. So with c = 1 + 1 / ridge, n iterations always suffice for one round if
    2 sqrt(c) ((sqrt(c) - 1) / (sqrt(c) + 1))^n <= 1e-4 (n = 212 for ridge 0.001); they stop when all positions of a
    block are there, most often after a few. Each round gains four digits: float32 takes two or three rounds, float64
    three or four (more for ridges below 0.001), and the backward pass as many.

    Args:
        ridge: lam as a share of the trace of H, 0.0001 to 1.
        eps: smallest lam, for a memory that is empty.
    """

    keys: ClassVar[str | None] = "gated"
    waits_for_host: ClassVar[bool] = True

    _: KW_ONLY
    ridge: float = number(0.001, least=0.0001, most=1)
    eps: float = number(1e-6, least=LEAST_EPS, most=MOST_EPS)

    def matrix(self, memory: Tensor) -> Tensor:
        """(H + lam I)^{-1} C, (..., DH, DH), of memories [C, H], (..., DH, 2 DH)."""
        c, h = memory.chunk(2, -1)
        return torch.linalg.solve(self._damped(h), c)

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """C^T (H + lam I)^{-1} q for memories [C, H], (..., DH, 2 DH), and queries (..., DH)."""
        c, h = memory.chunk(2, -1)
        return transpose_matvec(c, torch.linalg.solve(self._damped(h), q[..., None])[..., 0])

    def _damped(self, h: Tensor) -> Tensor:
        trace = h.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None]
        return h + self._penalty(trace) * torch.eye(h.shape[-1], dtype=h.dtype, device=h.device)

    def _penalty(self, trace: Tensor) -> Tensor:
        return (self.ridge * trace).clamp_min(self.eps)

    def read_chunk(self, chunk: Chunk) -> Reading:
        assert chunk.keys is not None  # they are kept for it
        numerator, _ = chunk.ask(self.queries(chunk.q, chunk.keys))
        return Reading(numerator.to(chunk.q.dtype), chunk.raw.n_dot_q)

    def queries(self, q: Tensor, keys: KeyMemory) -> Tensor:
        """(H_t + lam_t I)^{-1} q_t at every position: what the raw read is to be asked instead of q_t.

        Differentiable once: by the implicit function theorem, the gradient is that of one residual,
        q_t - (H_t + lam_t I) x_t, multiplied by the same inverse.

        Args:
            q: queries, (N, L, D).
            keys: H, as the chunks know it.

        Returns:
            (N, L, D), float64.
        """
        k, k_written, h_start = keys.left.double(), keys.right.double(), keys.start
        a, w = keys.gates.log_decay.exp()[..., None], keys.gates.log_weights.exp()
        trace = a * h_start.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
        trace = trace + w @ (k * k_written).sum(-1, keepdim=True)
        parts = k, k_written, a, w, self._penalty(trace), h_start
        with torch.no_grad():
            preconditioner = _preconditioner(*parts)
        system = _System(*parts, *preconditioner)
        fixed = _System(*(x.detach() for x in system))
        most = _iterations(1 + 1 / self.ridge)
        x = _Solution.of(q.detach().double(), q.dtype, most, *fixed)
        return _ByResidual.of(q - system.matvec(x), x, q.dtype, most, *fixed)


class _System(NamedTuple):
    """H_t + lam_t I for the positions of chunks: H_t = a_t H_0 + sum_u w_tu k_u k_u'^T, with k' the keys as written."""

    k: Tensor  #: (N, L, D).
    k_written: Tensor  #: (N, L, D), proportional to k.
    a: Tensor  #: (N, L, 1).
    w: Tensor  #: (N, L, L).
    penalty: Tensor  #: lam, (N, L, 1).
    h_start: Tensor  #: H_0, (N, D, D).
    p_start: Tensor  #: P_0 of the preconditioner, (N, D, D).
    p_rows: Tensor  #: W of the preconditioner, (N, L, D).

    def matvec(self, x: Tensor) -> Tensor:
        """(H_t + lam_t I) x_t, (N, L, D)."""
        return self.a * (x @ self.h_start) + (x @ self.k_written.mT * self.w) @ self.k + self.penalty * x

    def precondition(self, x: Tensor) -> Tensor:
        """P_t x_t, (N, L, D), with P_t = P_0 - sum_{u <= t} w_u w_u^T."""
        return x @ self.p_start - (x @ self.p_rows.mT).tril() @ self.p_rows


def _preconditioner(k, k_written, a, w, penalty, h_start) -> tuple[Tensor, Tensor]:
    """P_t = (H_t / lam_L + I)^{-1} of a chunk's positions, all of H in the frame of its last, whose lam is the largest.

    With the written keys as the rows of U, P_0 = (a_L H_0 / lam_L + I)^{-1}, R R^T = I + U P_0 U^T and R lower
    triangular, P_t = P_0 - sum_{u <= t} w_u w_u^T for the rows w_u of R^{-1} U P_0: the matrix inversion lemma. No
    eigenvalue of what is inverted is below 1 or above 1 + 1 / ridge.

    Args:
        k, k_written, a, w, penalty, h_start: of `_System`.

    Returns:
        P_0, (N, D, D), and the rows w_u, (N, L, D); of chunks that are not finite the identity and zeros.
    """
    last = penalty[:, -1:]
    identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
    p_start = torch.linalg.inv_ex(a[:, -1:] / last * h_start + identity).inverse
    # k k'^T = u u^T, since k' is a multiple of k.
    u = (k * k_written).sqrt().copysign(k) * (w[:, -1, :, None] / last).sqrt()
    of_keys = u @ p_start
    gram = of_keys @ u.mT + torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    rows = torch.linalg.solve_triangular(torch.linalg.cholesky_ex(gram).L, of_keys, upper=False)
    # What is not finite at one position must not reach those before it, which solve without then.
    finite = (p_start.sum((1, 2)) + rows.sum((1, 2))).isfinite()[:, None, None]
    return torch.where(finite, p_start, identity), torch.where(finite, rows, 0.0)


class _Solution(HandWritten):
    """The solution for right-hand sides b; the gradient by b alone is written, the system must need none."""

    @staticmethod
    def forward(b, dtype, most, *system):
        return _solve(b, _System(*system), dtype, most)

    @staticmethod
    def saved(args, outputs):
        _, dtype, most, *system = args
        return (outputs[0], *system), (dtype, most)

    @staticmethod
    def gradients(tensors, other, needs, grad):
        if any(needs[1:]):
            raise NotImplementedError("the gradient by the system goes through the residual")
        return _solve(grad, _System(*tensors[1:]), *other), None, None, *(None for _ in _System._fields)


class _ByResidual(HandWritten):
    """x as it is; its gradient, multiplied by the inverse of the system, goes to the residual."""

    @staticmethod
    def forward(residual, x, dtype, most, *system):
        return x.clone()

    @staticmethod
    def saved(args, outputs):
        _, _, dtype, most, *system = args
        return (outputs[0], *system), (dtype, most)

    @staticmethod
    def gradients(tensors, other, needs, grad):
        return _solve(grad, _System(*tensors[1:]), *other), None, None, None, *(None for _ in _System._fields)


def _iterations(condition: float) -> int:
    """Steps of conjugate gradients that bring the residual below the tolerance of a round, by Chebyshev's bound.

    Saad, *Iterative Methods for Sparse Linear Systems*, equation 6.128, for the error's energy norm; the residual's
    norm is at most sqrt(condition) times as far from it.
    """
    root = math.sqrt(condition)
    return math.ceil(math.log(2 * root / _ROUND_TOLERANCE) / math.log((root + 1) / (root - 1)))


def _solve(b: Tensor, system: _System, dtype: torch.dtype, most: int) -> Tensor:
    """The solution for right-hand sides b (N, L, D), float64: conjugate gradients in dtype, refined in float64."""
    x = torch.zeros_like(b)
    for block in blocks_of(len(b), b[0].numel() * b.element_size() * 8, b.device):
        exact = _System(*(t[block] for t in system))
        rounded = _System(*(t.to(dtype) for t in exact))
        size = torch.linalg.vector_norm(b[block], dim=-1, keepdim=True)
        residual = b[block]
        for _ in range(_MOST_ROUNDS):
            left = torch.linalg.vector_norm(residual, dim=-1, keepdim=True)
            if known((left <= _LAST_TOLERANCE[dtype] * size).all()):
                break
            left = torch.where(left > 0, left, 1.0)
            x[block] += left * _conjugate_gradients((residual / left).to(dtype), rounded, most)
            residual = b[block] - exact.matvec(x[block])
    return x


def _conjugate_gradients(b: Tensor, system: _System, most: int) -> Tensor:
    """An approximate solution for right-hand sides of norm 1 or 0 (Hestenes and Stiefel 1952; preconditioned)."""
    tiny = torch.finfo(b.dtype).tiny
    x, residual = torch.zeros_like(b), b
    direction = better = system.precondition(b)
    product = (b * better).sum(-1, keepdim=True)
    for _ in range(most):
        if known(((residual * residual).sum(-1) <= _ROUND_TOLERANCE**2).all()):
            break
        applied = system.matvec(direction)
        step = product / (direction * applied).sum(-1, keepdim=True).clamp_min(tiny)
        x = x + step * direction
        residual = residual - step * applied
        better = system.precondition(residual)
        before, product = product, (residual * better).sum(-1, keepdim=True)
        direction = better + product / before.clamp_min(tiny) * direction
    return x
