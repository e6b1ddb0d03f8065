"""The memory through a whole sequence and what is read from it, position by position, compiled for CPUs by Numba.

Axes: R rows (batch times heads), NC chunks, N = R NC, L positions in a chunk, D head size. What
`orthonar.engine.chunk_memory` and `orthonar.engine.chunk_states` do by products of matrices that a whole chunk shares,
for which queries, keys, scores and states are copied, converted and kept,

    C_t = alpha_t C_{t-1} + beta_t k_t v_t^T        y_t = C_t^T q_t        and n_t, n_t . q_t likewise,

is one pass over a matrix that a processor's nearest cache holds: each row is decayed, written and read while it is in
registers. alpha_t = exp(peak_{t-1} - peak_t), beta_t = exp(G_t - peak_t).

The gradient is three such passes. By the query it is C_t g_t, the same with keys and values exchanged; by value and key
it is the memory's adjoint, S_t = alpha_{t+1} S_{t+1} + q_t g_t^T going backwards, read by the key and the value. States
are followed anew within each chunk, from its start. By log alpha_t it is R_t = alpha_t <S_t, C_{t-1}>, and those by G_t
and peak_t add up to R_{t+1} - R_t: so the forget gates', sums over all later positions, keep the rounding of one.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..by_hand import HandWritten
from .loops import INLINED, compiled, decays_and_weights, filled, in_threads, new_rows, padded_size
from .vectors import write_and_read, write_read_and_compare


def compiled_memory(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    peak: Tensor,
    peak_initial: Tensor,
    c_initial: Tensor,
    n_initial: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What each position reads, and the states at the chunks' starts and the sequences' ends. Differentiable once.

    Args:
        q: queries, (N, L, D), float32 or float64: the dtype that gradients are computed in.
        k: keys, (N, L, D).
        v: values, (N, L, D).
        log_input: G of `orthonar.engine.gates`, (N, L), float64.
        peak: (N, L), float64.
        peak_initial: peak before the sequence, (R, 1), float64.
        c_initial: C before the sequence, (R, D, D), in the dtype that C is computed in, float64 or that of q.
        n_initial: n before the sequence, (R, D), float64.

    Returns:
        C_t^T q_t (N, L, D) in the dtype of q; n_t . q_t (N, L) in float64; C at the chunks' starts (N, D, D), in the
        dtype of c_initial; n there (N, D), float64; C and n after the last position, (R, D, D) and (R, D).
    """
    return _CompiledMemory.of(q, k, v, log_input, peak, peak_initial, c_initial, n_initial)


class _CompiledMemory(HandWritten):
    results = 6
    operator = (
        "compiled_memory(Tensor q, Tensor k, Tensor v, Tensor log_input, Tensor peak, Tensor peak_initial, "
        "Tensor c_initial, Tensor n_initial) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
    )

    @staticmethod
    def forward(q, k, v, log_input, peak, peak_initial, c_initial, n_initial):
        rows, d = n_initial.shape
        padded = padded_size(d)
        operands = _operands(rows, q, k, v, log_input, peak, peak_initial, c_initial.dtype)
        y, n_dot_q, c_start, n_start = (
            x.numpy()
            for x in (
                q.new_empty(rows, peak.numel() // rows, padded),
                peak.new_empty(rows, peak.numel() // rows),
                c_initial.new_empty(rows, len(q) // rows, padded, padded),
                n_initial.new_empty(rows, len(q) // rows, padded),
            )
        )
        c, n = filled(c_initial, padded, 2).copy(), filled(n_initial, padded).copy()
        in_threads(_follow, rows, *operands, y, n_dot_q, c_start, n_start, c, n, padded * (None,))
        read, asked, *ends = (torch.from_numpy(x) for x in (y, n_dot_q, c_start, n_start, c, n))
        read, asked = read.reshape(*q.shape[:-1], padded)[..., :d], asked.reshape(peak.shape)
        starts = ends[0][..., :d, :d].flatten(0, 1), ends[1][..., :d].flatten(0, 1)
        return tuple(x.contiguous() for x in (read, asked, *starts, ends[2][:, :d, :d], ends[3][:, :d]))

    @staticmethod
    def saved(args, outputs):
        return (*args, *outputs[2:4]), ()

    @staticmethod
    def outputs_like(q, k, v, log_input, peak, peak_initial, c_initial, n_initial):
        count, _, d = q.shape  # not len(q): that would be one number in a graph for all lengths
        return q, peak, c_initial.new_empty(count, d, d), n_initial.new_empty(count, d), c_initial, n_initial

    @staticmethod
    def gradients_like(tensors, other):
        return tensors[:8]

    @staticmethod
    def gradients(tensors, other, needs, *grads):
        q, k, v, log_input, peak, peak_initial, c_initial, n_initial, c_start, n_start = tensors
        rows, d = n_initial.shape
        padded = padded_size(d)
        operands = _operands(rows, q, k, v, log_input, peak, peak_initial, q.dtype)
        of_y, of_n_dot_q, of_c_start, of_n_start, of_c, of_n = grads
        starts = (
            filled(x, padded, x.dim() - 1).reshape(rows, -1, *(x.dim() - 1) * [padded])
            for x in (c_start, n_start, of_c_start, of_n_start)
        )
        given = _by_rows(rows, of_y, padded), of_n_dot_q.reshape(rows, -1).contiguous().numpy()
        # These are written over, and then are the gradients by what the sequence started from.
        c, n = filled(of_c.to(q.dtype), padded, 2).copy(), filled(of_n, padded).copy()
        found = [np.empty_like(operands[0]) for _ in range(3)]
        found += [np.empty_like(given[1]) for _ in range(2)] + [np.empty((rows, 1))]
        in_threads(_follow_back, rows, *operands, *starts, *given, *found, c, n, padded * (None,))
        of_q, of_k, of_v, *of_gates = map(torch.from_numpy, found)
        of_q, of_k, of_v = (x.reshape(*q.shape[:-1], padded)[..., :d].contiguous() for x in (of_q, of_k, of_v))
        of_input, of_peak, of_initial = (x.reshape(like.shape) for x, like in zip(of_gates, (peak, peak, peak_initial)))
        of_c = torch.from_numpy(c)[:, :d, :d].to(c_initial.dtype).contiguous()
        return of_q, of_k, of_v, of_input, of_peak, of_initial, of_c, torch.from_numpy(n)[:, :d].contiguous()


def _by_rows(rows: int, x: Tensor, padded: int) -> np.ndarray:
    """(N, L, D) as (R, NC L, D), padded."""
    return filled(x, padded).reshape(rows, -1, padded)


def _operands(rows, q, k, v, log_input, peak, peak_initial, dtype: torch.dtype) -> tuple:
    """q, k and v; alpha in dtype, in which C is computed; alpha and beta in float64; L."""
    padded = padded_size(q.shape[-1])
    logs = log_input.reshape(rows, -1), peak.reshape(rows, -1), peak_initial
    alpha, beta = decays_and_weights(*logs)
    vectors = (_by_rows(rows, x, padded) for x in (q, k, v))
    return *vectors, alpha.to(dtype).numpy(), alpha.numpy(), beta.numpy(), q.shape[1]


@compiled
def _follow(
    start, stop, q, k, v, decay, alpha, beta, length, y, n_dot_q, c_start, n_start, c_all, n_all, sized
):  # fmt: skip
    """y, n . q and the states of the rows from start to stop; c_all and n_all go from the first states to the last."""
    d = len(sized)
    key, value, query, read = (
        np.empty(d, c_all.dtype), np.empty(d, c_all.dtype), np.empty(d, c_all.dtype), np.empty(d, c_all.dtype)
    )  # fmt: skip
    for r in range(start, stop):
        c, n = c_all[r], n_all[r]
        for s in range(k.shape[1]):
            if s % length == 0:
                c_start[r, s // length] = c
                n_start[r, s // length] = n
            q_s, k_s, v_s, y_s = q[r, s], k[r, s], v[r, s], y[r, s]
            left, weight, total = alpha[r, s], beta[r, s], 0.0
            for i in range(d):
                weighted = weight * k_s[i]
                key[i], value[i], query[i] = weighted, v_s[i], q_s[i]
                n[i] = left * n[i] + weighted
                total += n[i] * q_s[i]
            n_dot_q[r, s] = total
            write_and_read(c, c, decay[r, s], key, value, query, read, sized)
            for i in range(d):
                y_s[i] = read[i]


@compiled
def _follow_back(
    start, stop, q, k, v, decay, alpha, beta, length, c_start, n_start, grad_c_start, grad_n_start,
    grad_y, grad_n_dot_q, grad_q, grad_k, grad_v, grad_input, grad_peak, grad_initial, grad_c, grad_n, sized,
):  # fmt: skip
    """The gradients of `_follow`; grad_c and grad_n go from those by the last states to those by the first."""
    d = len(sized)
    # C_{t-1}^T at t, and n_{t-1}; the adjoint of C and its transpose, of which each is read along its rows
    c, n = new_rows((length + 1) * d, q, sized).reshape(length + 1, d, d), np.empty((length + 1, d), np.float64)
    keys, of_key, of_transpose = new_rows(length, q, sized), new_rows(1, q, sized)[0], new_rows(d, q, sized)
    for r in range(start, stop):
        of_c, of_n, of_log_decay = grad_c[r], grad_n[r], 0.0
        for chunk in range(c_start.shape[1] - 1, -1, -1):
            _transpose(of_c, of_transpose, sized)
            _transpose(c_start[r, chunk], c[0], sized)
            for i in range(d):
                n[0, i] = n_start[r, chunk, i]
            for t in range(length):
                s = chunk * length + t
                k_s, key, before, after, of_q = k[r, s], keys[t], n[t], n[t + 1], grad_q[r, s]
                left, weight, of_dot = alpha[r, s], beta[r, s], grad_n_dot_q[r, s]
                for i in range(d):
                    weighted = weight * k_s[i]
                    key[i] = weighted
                    after[i] = left * before[i] + weighted
                write_and_read(c[t], c[t + 1], decay[r, s], v[r, s], key, grad_y[r, s], of_q, sized)
                for i in range(d):
                    of_q[i] += of_dot * after[i]
            # What a chunk ends with, later ones start with: it comes decayed already.
            last, back, back_exactly = chunk * length + length - 1, decay.dtype.type(1), 1.0
            for s in range(last, last - length, -1):
                t = s - chunk * length
                q_s, k_s, of_y, before, of_k = q[r, s], k[r, s], grad_y[r, s], n[t], grad_k[r, s]
                write_and_read(of_c, of_c, back, q_s, of_y, keys[t], grad_v[r, s], sized)
                of_log = np.float64(
                    write_read_and_compare(of_transpose, of_transpose, back, of_y, q_s, v[r, s], of_key, c[t], sized)
                )
                weight, of_dot, of_weight = beta[r, s], grad_n_dot_q[r, s], 0.0
                for i in range(d):
                    of_n[i] = back_exactly * of_n[i] + of_dot * q_s[i]
                    of_log += of_n[i] * before[i]
                    of_this = weight * (of_key[i] + of_n[i])
                    of_k[i] = of_this
                    of_weight += of_this * k_s[i]
                back, back_exactly = decay[r, s], alpha[r, s]
                of_log *= back_exactly
                grad_input[r, s] = of_weight
                grad_peak[r, s] = of_log_decay - of_log - of_weight
                of_log_decay = of_log
            for j in range(d):
                of_n[j] = back_exactly * of_n[j] + grad_n_start[r, chunk, j]
                for i in range(d):
                    of_c[j, i] = back * of_c[j, i] + grad_c_start[r, chunk, j, i]
        grad_initial[r, 0] = of_log_decay


@njit(**INLINED)
def _transpose(m, transposed, sized):
    """Rows for columns."""
    for j in range(len(sized)):
        for i in range(len(sized)):
            transposed[i, j] = m[j, i]
