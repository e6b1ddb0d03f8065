"""The mLSTM a chunk at a time: states at the chunks' starts, dense products inside, no memory matrix per position.

Axes: R rows (batch times heads), NC chunks, L positions in a chunk, D head size (padded), N = R NC.
"""

import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from .chunk_filter import chunk_filter
from .gates import gate_logs, log_weights, normaliser

# Chosen by measurement on CPUs. A filter multiplies with every chunk's start state some fifty times and wants it spread
# over few positions; the raw read multiplies with it once.
_CHUNK_FOR_FILTER, _CHUNK_FOR_RAW = 16, 32
# Matrix products of sizes that are multiples of this run up to three times faster.
_LANES = 16

# Writes that cancel each other leave a memory much smaller than they were, and what is shared by a chunk is squared:
# rounding is magnified by (sum of the writes' squared norms) / ||C||^2. Chunks beyond this are read by the plain form.
_LARGEST_CANCELLATION = 16.0
_PLAIN_CHUNKS_AT_ONCE = 32


def chunkwise(q, k, v, igate_preact, fgate_preact, read, chunk_size, initial_state):
    """The chunkwise form of `orthonar.mlstm_sequence`, on checked arguments, keys unscaled.

    Returns:
        h (B, NH, S, DH), c_state (B, NH, DH, DH), n_state (B, NH, DH), m_state (B, NH).
    """
    batch, heads, length, size = q.shape
    dtype = q.dtype
    coefficients = read.coefficients(dtype)
    if chunk_size is None:
        chunk_size = _CHUNK_FOR_RAW if coefficients is None else _CHUNK_FOR_FILTER
    chunk_size = min(chunk_size, length)
    chunks = -(-length // chunk_size)
    missing = chunks * chunk_size - length

    # Padding positions write nothing and keep what is there.
    logs = gate_logs(igate_preact, fgate_preact, initial_state[2])
    # The keys' factor 1/sqrt(DH) goes to the weights of their writes: it only ever meets them as a product.
    write = logs.write - 0.5 * math.log(size)
    write = pad(write, (0, missing), value=-torch.inf).reshape(-1, chunks, chunk_size)
    peak = torch.cat([logs.peak, logs.peak[..., -1:].expand(-1, -1, missing)], -1).reshape(-1, chunks, chunk_size)
    peak_end = peak[..., -1]
    peak_start = torch.cat([initial_state[2].double().reshape(-1, 1), peak_end[:, :-1]], 1)

    padded = -(-size // _LANES) * _LANES if dtype == torch.float32 else size
    q, k, v = (pad(x, (0, padded - size, 0, missing)).reshape(-1, chunk_size, padded).contiguous() for x in (q, k, v))

    # What a chunk adds to the state, seen from its end. The filters must know to the last digit how far writes cancel.
    precise = torch.float64 if coefficients is not None else dtype
    decay = (peak_start - peak_end).exp()
    # k . q passes through zero, and where exp(-m) is small every read is divided by n . q: float64 there too.
    q64, k64 = q.double(), k.double()
    weighted = k64 * (write - peak_end[..., None]).exp().reshape(-1, chunk_size, 1)
    c_initial, n_initial = (initial_state[i].flatten(0, 1) for i in (0, 1))
    c_initial = pad(c_initial, (0, padded - size, 0, padded - size)).to(precise)
    n_initial = pad(n_initial, (0, padded - size)).double()
    c_start, c_end = _states(decay, weighted.to(precise).mT @ v.to(precise), c_initial)
    n_start, n_end = _states(decay, weighted.sum(1), n_initial)

    # What every position gets from the start state and from the positions of its chunk.
    write, peak = write.flatten(0, 1), peak.flatten(0, 1)
    log_a = (peak_start.reshape(-1, 1) - peak)[..., None]
    a = log_a.exp()
    scores, intra = _GatedScores.apply(q64, k64, write, peak, precise)
    n_dot_q = (a * (q64 @ n_start[..., None]))[..., 0] + intra
    numerator = torch.baddbmm(a.to(precise) * (q.to(precise) @ c_start), scores, v.to(precise)).to(dtype)

    if coefficients is not None:
        log_w = log_weights(write, peak)
        exact = {"q": q64, "k": k64, "v": v, "a": a, "w": log_w.exp(), "c_start": c_start}
        logs_low = log_a.to(dtype), log_w.to(dtype)
        numerator = _filtered(numerator, k, v, c_start.to(dtype), *logs_low, read, coefficients, exact)

    scale = pad(logs.scale, (0, missing)).reshape(-1, chunk_size)
    h = numerator / normaliser(n_dot_q, scale).to(dtype)[..., None]
    h = h.reshape(batch, heads, -1, padded)[:, :, :length, :size]
    return (
        h,
        c_end[:, :size, :size].reshape(batch, heads, size, size).to(dtype),
        n_end[:, :size].reshape(batch, heads, size).to(dtype),
        logs.scale[..., -1].to(dtype),
    )


def _filtered(numerator, k, v, c_start, log_a, log_w, read, coefficients, exact):
    """g(A_t) X_t^T q_t from the raw numerators C_t^T q_t, with X_t = C_t / max(||C_t||, eps)."""
    a, w = log_a[..., 0].exp(), log_w.exp()
    gram = c_start.mT @ c_start
    kc, kk = k @ c_start, k @ k.mT
    # ||C_t||^2 = a^2 ||C_0||^2 + 2 a sum_u w_u k_u . C_0 v_u + sum_uu' w_u w_u' (k_u . k_u') (v_u . v_u')
    of_start = a * a * gram.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)
    of_both = 2 * a * (w @ (kc * v).sum(-1, keepdim=True))[..., 0]
    overlaps = kk * (v @ v.mT)
    squared = of_start + of_both + ((w @ overlaps) * w).sum(-1)
    with torch.no_grad():
        without_cancelling = of_start + (w * w @ overlaps.diagonal(dim1=-2, dim2=-1)[..., None])[..., 0]
        cancelled = squared * _LARGEST_CANCELLATION < without_cancelling
    # Where the norm is not to be trusted, an upper bound of it keeps the spectrum in [0, 1].
    squared = torch.where(cancelled, without_cancelling, squared)
    log_norm = 0.5 * squared.clamp_min(read.eps**2).log()[..., None]
    shared = torch.cat([gram, kc, v], 1)
    y = chunk_filter(numerator * (-log_norm).exp(), shared, kk, log_a - log_norm, log_w - log_norm, coefficients)
    if cancelled.any():
        y = _reread(y, cancelled.any(-1).nonzero()[:, 0], read, exact)
    return y


def _reread(y: Tensor, indices: Tensor, read, exact: dict[str, Tensor]) -> Tensor:
    """Replace the chunks with these indices by the plain form's result, computed in float64."""

    def by_matrices(q, k, v, a, w, c_start):
        c_state = a[..., None] * c_start[:, None] + torch.einsum("ntu,nud,nue->ntde", w, k, v)
        return (q[:, :, None] @ read.matrix(c_state))[:, :, 0]

    parts = []
    for some in indices.split(_PLAIN_CHUNKS_AT_ONCE):
        operands = [exact[name][some].double() for name in ("q", "k", "v", "a", "w", "c_start")]
        parts.append(checkpoint(by_matrices, *operands, use_reentrant=False))
    return y.index_copy(0, indices, torch.cat(parts).to(y.dtype))


def _states(decay: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """States at the start of every chunk, and at the end of the last: s_{c+1} = decay_c s_c + update_c.

    Args:
        decay: (R, NC), float64.
        update: (R * NC, ...).
        initial: s_0, (R, ...).

    Returns:
        starts (R * NC, ...) and end (R, ...), in the dtype of update.
    """
    rows, chunks = decay.shape
    starts, end = _Scan.apply(decay.to(update.dtype), update.reshape(rows, chunks, -1), initial.reshape(rows, -1))
    return starts.reshape(update.shape), end.reshape(initial.shape)


class _GatedScores(torch.autograd.Function):
    """(q_t . k_u) exp(G_u - peak_t) for u <= t, and its sum over u: inside a chunk, what of n_t . q_t is its own.

    The sum may cancel, so it is taken in float64; nothing in the backward does, which works in the other result's dtype
    and keeps no float64 matrices.
    """

    @staticmethod
    def forward(ctx, q, k, write, peak, dtype):
        weights = torch.sub(write[:, None, :], peak[:, :, None]).exp_().tril_()
        scores = torch.bmm(q, k.mT).mul_(weights)
        total = scores.sum(-1)
        scores = scores.to(dtype)
        ctx.save_for_backward(q, k, weights.to(dtype), scores)
        return scores, total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_scores, grad_total):
        q, k, weights, scores = ctx.saved_tensors
        grad = grad_scores + grad_total.to(scores.dtype)[..., None]
        in_logs = grad * scores
        grad.mul_(weights)
        grad_q, grad_k = (grad @ k.to(grad.dtype)).to(q.dtype), (grad.mT @ q.to(grad.dtype)).to(k.dtype)
        by_write, by_peak = in_logs.sum(-2, dtype=torch.float64), in_logs.sum(-1, dtype=torch.float64)
        return grad_q, grad_k, by_write, by_peak.neg_(), None


class _Scan(torch.autograd.Function):
    """A loop over chunks that keeps one copy of the states and none of its steps."""

    @staticmethod
    def forward(ctx, decay, update, initial):
        starts = torch.empty_like(update)
        state = initial
        for c in range(update.shape[1]):
            starts[:, c] = state
            state = torch.addcmul(update[:, c], state, decay[:, c, None])
        ctx.save_for_backward(decay, starts)
        return starts, state

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_starts, grad_end):
        decay, starts = ctx.saved_tensors
        grad_update = torch.empty_like(starts)
        grad = grad_end
        for c in range(starts.shape[1] - 1, -1, -1):
            grad_update[:, c] = grad
            grad = torch.addcmul(grad_starts[:, c], grad, decay[:, c, None])
        return (grad_update * starts).sum(-1), grad_update, grad
