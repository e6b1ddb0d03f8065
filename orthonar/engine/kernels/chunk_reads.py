"""`orthonar.engine.chunk_memory.chunk_reads` as one kernel per chunk: C_t^T q_t and n_t . q_t at every position.

Scores and n . q are summed in float64, since n . q passes through zero; so is C_t^T q_t where the state is kept in
float64, as filters want it, who must know to the last digit how far writes cancel. Nothing is kept for the backward but
the inputs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..by_hand import HandWritten
from .tiles import (
    ALL_REGISTERS,
    dot,
    input_precision,
    is_modern,
    load_gates,
    load_row,
    load_tile,
    store_gate_gradients,
    store_row,
    store_tile,
    tile_sizes,
)


def fused_chunk_reads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    peak: Tensor,
    peak_start: Tensor,
    c_start: Tensor,
    n_start: Tensor,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """What each position reads, C_t^T q_t, and n_t . q_t. Differentiable once.

    Args:
        q: queries, (N, L, D).
        k: keys, (N, L, D).
        v: values, (N, L, D).
        log_input: G, (N, L), float64.
        peak: (N, L), float64.
        peak_start: peak of the position before the chunk, (N, 1), float64.
        c_start: C_0, (N, D, D), in the dtype that C_t^T q_t and its gradients are computed in; before capability 8.0,
            whose 64 KiB of shared memory would not suffice, gradients are computed in the dtype of q.
        n_start: n_0, (N, D), float64.
        precision: of float32 products, see `orthonar.engine.kernels.tiles.PRECISIONS`.

    Returns:
        (N, L, D) in the dtype of c_start, and (N, L) in float64.
    """
    chunk = (q, k, v, log_input, peak, peak_start, c_start, n_start)
    return _ChunkReads.of(*(t.contiguous() for t in chunk), precision)


class _ChunkReads(HandWritten):
    results = 2
    operator = (
        "fused_chunk_reads(Tensor q, Tensor k, Tensor v, Tensor log_input, Tensor peak, Tensor peak_start, "
        "Tensor c_start, Tensor n_start, str precision) -> (Tensor, Tensor)"
    )

    @staticmethod
    def forward(q, k, v, log_input, peak, peak_start, c_start, n_start, precision):
        inputs = q, k, v, log_input, peak, peak_start, c_start, n_start
        numerator, n_dot_q = torch.empty_like(q, dtype=c_start.dtype), torch.empty_like(peak)
        _forward[(len(q),)](*inputs, numerator, n_dot_q, **_options(q, precision))
        return numerator, n_dot_q

    @staticmethod
    def saved(args, outputs):
        return args[:-1], args[-1:]

    @staticmethod
    def outputs_like(q, k, v, log_input, peak, peak_start, c_start, n_start, precision):
        return q.new_empty(q.shape, dtype=c_start.dtype), peak

    @staticmethod
    def gradients(inputs, other, needs, grad_numerator, grad_n_dot_q):
        grads = [torch.empty_like(t) for t in inputs]
        given = grad_numerator.contiguous(), grad_n_dot_q.contiguous()
        wide = is_modern(inputs[0].device)
        options = _options(inputs[0], *other)
        _backward[(len(inputs[0]),)](*inputs, *given, *grads, WIDE=wide, **options, **ALL_REGISTERS)
        return *grads, None


def _options(q: Tensor, precision: str) -> dict:
    return tile_sizes(q) | {"PRECISION": input_precision(precision, q.device)}


@triton.jit
def _load(q_ptr, k_ptr, v_ptr, c0_ptr, n0_ptr, n, t, d, L: tl.constexpr, D: tl.constexpr):
    q, k, v = load_tile(q_ptr, n, t, d, L, D), load_tile(k_ptr, n, t, d, L, D), load_tile(v_ptr, n, t, d, L, D)
    return q, k, v, load_tile(c0_ptr, n, d, d, D, D), load_row(n0_ptr, n, d, D)


@triton.jit
def _forward(
    q_ptr, k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0_ptr, n0_ptr, y_ptr, n_dot_q_ptr,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    q, k, v, c0, n0 = _load(q_ptr, k_ptr, v_ptr, c0_ptr, n0_ptr, n, t, d, L, D)
    a, w = load_gates(input_ptr, peak_ptr, peak_start_ptr, n, t, L)
    state = c0.dtype
    scores = dot(q.to(tl.float64), tl.trans(k.to(tl.float64)), PRECISION) * w
    n_dot_q = tl.sum(scores, 1) + a * tl.sum(q.to(tl.float64) * n0[None, :], 1)
    carried = dot(q.to(state), c0, PRECISION) * a.to(state)[:, None]
    store_tile(y_ptr, n, t, d, L, D, carried + dot(scores.to(state), v.to(state), PRECISION))
    store_row(n_dot_q_ptr, n, t, L, n_dot_q)


@triton.jit
def _backward(
    q_ptr, k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0_ptr, n0_ptr, grad_y_ptr, grad_n_dot_q_ptr,
    grad_q_ptr, grad_k_ptr, grad_v_ptr, grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, grad_c0_ptr, grad_n0_ptr,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    q, k, v, c0, n0 = _load(q_ptr, k_ptr, v_ptr, c0_ptr, n0_ptr, n, t, d, L, D)
    if not WIDE:
        c0 = c0.to(q.dtype)
    exact_a, exact_w = load_gates(input_ptr, peak_ptr, peak_start_ptr, n, t, L)
    of_n = exact_a * load_row(grad_n_dot_q_ptr, n, t, L)
    state = c0.dtype
    q, k, v, a, w = q.to(state), k.to(state), v.to(state), exact_a.to(state), exact_w.to(state)
    grad_y = load_tile(grad_y_ptr, n, t, d, L, D).to(state)
    scores = dot(q, tl.trans(k), PRECISION) * w

    grad_weighted = dot(grad_y, tl.trans(v), PRECISION) + load_row(grad_n_dot_q_ptr, n, t, L).to(state)[:, None]
    grad_scores = grad_weighted * w
    store_tile(grad_v_ptr, n, t, d, L, D, dot(tl.trans(scores), grad_y, PRECISION))
    store_tile(grad_k_ptr, n, t, d, L, D, dot(tl.trans(grad_scores), q, PRECISION))
    of_start = a[:, None] * dot(grad_y, tl.trans(c0), PRECISION) + (of_n[:, None] * n0[None, :]).to(state)
    store_tile(grad_q_ptr, n, t, d, L, D, of_start + dot(grad_scores, k, PRECISION))
    store_tile(grad_c0_ptr, n, d, d, D, D, dot(tl.trans(q), a[:, None] * grad_y, PRECISION))
    store_row(grad_n0_ptr, n, d, D, tl.sum(of_n[:, None] * q.to(tl.float64), 0))
    of_log_a = tl.sum(of_start * q, 1)
    store_gate_gradients(grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, n, t, L, of_log_a, grad_weighted * scores)
