"""The mLSTM a chunk at a time: states at the chunks' starts, dense products inside, no memory matrix per position.

Axes: R rows (batch times heads), NC chunks, L positions in a chunk, D head size (padded), N = R NC.
"""

import math
from functools import partial

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from .backends import can_fuse, fused_reads, fused_states, obstacle
from .chunk_filter import chunk_filter
from .chunk_memory import chunk_reads, chunk_writes
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


def chunkwise(q, k, v, igate_preact, fgate_preact, read, chunk_size, initial_state, fused=None, precision="float32"):
    """The chunkwise form of `orthonar.mlstm_sequence`, on checked arguments, keys unscaled.

    fused says whether the programs of `orthonar.engine.kernels` compute it; None is wherever they can.

    Returns:
        h (B, NH, S, DH), c_state (B, NH, DH, DH), n_state (B, NH, DH), m_state (B, NH).

    Raises:
        ValueError: fused programs were asked for and cannot run.
    """
    # Rows are (head, batch): a layer that projects head by head has them so in memory.
    q, k, v, igate_preact, fgate_preact = (x.transpose(0, 1) for x in (q, k, v, igate_preact, fgate_preact))
    c_initial, n_initial, m_initial = (x.transpose(0, 1) for x in initial_state)
    heads, batch, length, size = q.shape
    dtype = q.dtype
    chunk_size = _chunk_size(read, length, chunk_size)
    chunks = -(-length // chunk_size)
    missing = chunks * chunk_size - length
    trial = q.device, size, chunk_size, read.precise, precision
    if fused is None:
        fused = can_fuse(*trial)
    elif fused and (reason := obstacle(*trial)) is not None:
        raise ValueError(f"form: the fused programs cannot run here: {reason}")

    # Padding positions write nothing and keep what is there.
    logs = gate_logs(igate_preact, fgate_preact, m_initial)
    # The keys' factor 1/sqrt(DH) goes to the weights of their writes: it only ever meets them as a product.
    write = logs.write - 0.5 * math.log(size)
    write = _pad(write, (0, missing), value=-torch.inf).reshape(-1, chunks, chunk_size)
    peak = torch.cat([logs.peak, logs.peak[..., -1:].expand(-1, -1, missing)], -1).reshape(-1, chunks, chunk_size)
    peak_end = peak[..., -1]
    peak_start = torch.cat([m_initial.double().reshape(-1, 1), peak_end[:, :-1]], 1)

    padded = -(-size // _LANES) * _LANES if dtype == torch.float32 else size
    q, k, v = (_pad(x, (0, padded - size, 0, missing)).reshape(-1, chunk_size, padded) for x in (q, k, v))

    # The filters must know to the last digit how far writes cancel.
    precise = torch.float64 if read.precise else dtype
    k_written = k / math.sqrt(size) if read.writes_keys else None
    written = v if k_written is None else torch.cat([v, k_written], -1)
    c_initial = _pad(c_initial.unflatten(-1, (-1, size)), (0, padded - size, 0, 0, 0, padded - size))
    c_initial = c_initial.flatten(-2).flatten(0, 1).to(precise)
    n_initial = _pad(n_initial.flatten(0, 1), (0, padded - size)).double()
    c_added, n_added = chunk_writes(k, written, (write - peak_end[..., None]).flatten(0, 1), precise)
    decay = (peak_start - peak_end).exp()
    scan = fused_states if fused else _Scan.apply
    c_start, c_end = _states(decay, c_added, c_initial, scan)
    n_start, n_end = _states(decay, n_added, n_initial, scan)

    write, peak, peak_start = write.flatten(0, 1), peak.flatten(0, 1), peak_start.reshape(-1, 1)
    read_chunks = partial(_fused_read_chunks, precision=precision) if fused else _read_chunks
    memory = write, peak, peak_start, c_start, n_start
    numerator, n_dot_q = _evaluate(q, k, v, k_written, *memory, read, read_chunks)

    scale = _pad(logs.scale, (0, missing)).reshape(-1, chunk_size)
    h = numerator * normaliser(n_dot_q, scale).reciprocal().to(dtype)[..., None]
    h = _pad(h.reshape(heads, batch, -1, padded), (0, size - padded, 0, -missing))
    c_end = _pad(c_end.unflatten(-1, (-1, padded)), (0, size - padded, 0, 0, 0, size - padded))
    c_end = c_end.reshape(heads, batch, size, -1).to(dtype)
    n_end = _pad(n_end, (0, size - padded)).reshape(heads, batch, size).to(dtype)
    return tuple(x.transpose(0, 1) for x in (h, c_end, n_end, logs.scale[..., -1].to(dtype)))


def looks_for_cancellation(read, device: torch.device, head_size: int, length: int, precision: str) -> bool:
    """Whether the host must learn, on the way, which chunks' writes cancel: in filters, but for the fused programs.

    Args:
        read: the read.
        device: where to compute.
        head_size: DH.
        length: S.
        precision: of the products in the fused programs.
    """
    return read.precise and not can_fuse(device, head_size, _chunk_size(read, length), True, precision)


def _chunk_size(read, length: int, asked: int | None = None) -> int:
    if asked is None:
        asked = _CHUNK_FOR_FILTER if read.precise else _CHUNK_FOR_RAW
    return min(asked, length)


def _pad(x: Tensor, amounts: tuple[int, ...], value: float = 0.0) -> Tensor:
    """PyTorch's pad (negative amounts cut), without the copy that it makes where there is nothing to do."""
    return F.pad(x, amounts, value=value) if any(amounts) else x


def _evaluate(q, k, v, k_written, write, peak, peak_start, c_start, n_start, read, read_chunks):
    """As read_chunks, for any read, leaf by leaf; c_start is [C, H] if k_written was written beside the values."""
    n_dot_q = None
    c_only, h_start = c_start[..., : v.shape[-1]], c_start[..., v.shape[-1] :]

    def numerator(leaf):
        nonlocal n_dot_q
        working, coefficients = leaf.working_dtype(q.dtype), leaf.coefficients(q.dtype)
        qkv = (x.to(working) for x in (q, k, v))
        result, n_dot_q = read_chunks(*qkv, write, peak, peak_start, c_only, n_start, leaf, coefficients)
        if leaf.needs_keys:
            asked = leaf.queries(q, k, k_written, write, peak, peak_start, h_start)
            result, _ = chunk_reads(asked, k, v, write, peak, peak_start, c_only, n_start)
        return result.to(q.dtype)

    return read.evaluate(numerator), n_dot_q


def _read_chunks(q, k, v, write, peak, peak_start, c_start, n_start, read, coefficients):
    """What every position reads, before the normaliser, (N, L, D), and n_t . q_t, (N, L) in float64."""
    numerator, n_dot_q = chunk_reads(q, k, v, write, peak, peak_start, c_start, n_start)
    if coefficients is not None:
        numerator = _filtered(numerator, q, k, v, write, peak, peak_start, c_start, read, coefficients)
    return numerator, n_dot_q


def _fused_read_chunks(*operands, precision):
    """As `_read_chunks`, by the fused programs."""
    *operands, read, coefficients = operands
    eps = getattr(read, "eps", None)
    return fused_reads(*operands, coefficients, eps, _LARGEST_CANCELLATION, precision)


def _filtered(numerator, q, k, v, write, peak, peak_start, c_start, read, coefficients):
    """g(A_t) X_t^T q_t from the raw numerators C_t^T q_t, with X_t = C_t / max(||C_t||, eps)."""
    log_a, log_w = (peak_start - peak)[..., None], log_weights(write, peak)
    exact = {"q": q, "k": k, "v": v, "log_a": log_a, "log_w": log_w, "c_start": c_start}
    log_a, log_w, c_start = (x.to(q.dtype) for x in (log_a, log_w, c_start))
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

    def by_matrices(q, k, v, log_a, log_w, c_start):
        c_state = log_a.exp()[..., None] * c_start[:, None] + torch.einsum("ntu,nud,nue->ntde", log_w.exp(), k, v)
        return (q[:, :, None] @ read.matrix(c_state))[:, :, 0]

    parts = []
    for some in indices.split(_PLAIN_CHUNKS_AT_ONCE):
        operands = [exact[name][some].double() for name in ("q", "k", "v", "log_a", "log_w", "c_start")]
        parts.append(checkpoint(by_matrices, *operands, use_reentrant=False))
    return y.index_copy(0, indices, torch.cat(parts).to(y.dtype))


def _states(decay: Tensor, update: Tensor, initial: Tensor, scan) -> tuple[Tensor, Tensor]:
    """States at the start of every chunk, and at the end of the last: s_{c+1} = decay_c s_c + update_c.

    Args:
        decay: (R, NC), float64.
        update: (R * NC, ...).
        initial: s_0, (R, ...).
        scan: does it for decay (R, NC), update (R, NC, K) and initial (R, K).

    Returns:
        starts (R * NC, ...) and end (R, ...), in the dtype of update.
    """
    rows, chunks = decay.shape
    starts, end = scan(decay.to(update.dtype), update.reshape(rows, chunks, -1), initial.reshape(rows, -1))
    return starts.reshape(update.shape), end.reshape(initial.shape)


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
        return (grad_update[..., None, :] @ starts[..., None])[..., 0, 0], grad_update, grad
