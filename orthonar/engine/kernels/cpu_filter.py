"""The filter g(A_t) z_t of `orthonar.engine.chunk_filter` position by position, compiled for CPUs by Numba.

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size. What the chunkwise form shares
between positions costs it three products where a position with a matrix of its own needs one, and the matrix of one
position fits in a processor's nearest cache. So C_t and A_t = C_t^T C_t go along with the positions,

    C_t = alpha C_{t-1} + k v^T        A_t = alpha^2 A_{t-1} + v h^T + h v^T,    h = alpha C_{t-1}^T k + |k|^2 v / 2,

with k the key times its weight exp(G_t - peak_t) and alpha = exp(peak_{t-1} - peak_t); the filter is one product of A_t
with a vector for each of its degrees. Where writes cancel each other, such an update would keep the rounding of what
is gone: there C_t is formed anew from the chunk's start, in float64, and A_t from it.

Gradients are the adjoint of just that, backwards through the chunk: the one by A_t is a sum of as many products p r^T
as the filter has degrees, to which the later positions' is added, decayed; the one by C_t likewise. Of gates there are
only logs, and to add a number to all of them changes nothing. So with R_t, the gradient by log alpha_t, those by G_t
and peak_t add up to R_{t+1} - R_t; taken from this, and not from what a position itself reads, they leave the forget
gates' gradients, sums over all later positions, the rounding of one.
"""

import numpy as np
import torch
from numba import njit
from torch import Tensor

from ..by_hand import HandWritten
from .loops import INLINED, compiled, decays_and_weights, filled, in_threads, new_rows, padded_size
from .vectors import (
    add_outer_products,
    add_scaled,
    dot,
    next_adjoint,
    next_term,
    read_and_write,
    read_compare_and_write,
    scale,
    symmetric_products,
    trace,
    transpose_product,
    write_both_ways,
)


def compiled_filter(
    z: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    peak: Tensor,
    peak_start: Tensor,
    c_start: Tensor,
    coefficients: tuple[float, ...],
    eps: float,
    largest_cancellation: float,
) -> Tensor:
    """g(A_t) X_t^T q_t from z_t = C_t^T q_t, with X_t = C_t / max(||C_t||, eps), A_t = X_t^T X_t. Differentiable once.

    Args:
        z: raw numerators, (N, L, D), float64 or the dtype of k.
        k: keys, (N, L, D), float32 or float64: what is computed in.
        v: values, (N, L, D).
        log_input: G of `orthonar.engine.gates`, (N, L), float64.
        peak: (N, L), float64.
        peak_start: peak of the position before the chunk, (N, 1), float64.
        c_start: C_0, (N, D, D), float64 or the dtype of k.
        coefficients: c_0 ... c_n of g, see `orthonar.engine.chunk_filter`.
        eps: smallest norm of C that is divided by.
        largest_cancellation: C_t is formed anew where (sum of the writes' squared norms) / ||C||^2 is larger.

    Returns:
        (N, L, D) in the dtype of k.
    """
    # The gradient by z alone needs none of the vectors: the adjoint of g(A) is g(A).
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (k, v, log_input, peak, peak_start, c_start))
    chunk = (z, k, v, log_input, peak, peak_start, c_start)
    return _CompiledFilter.of(*chunk, coefficients, eps, largest_cancellation, keep)[0]


class _CompiledFilter(HandWritten):
    operator = (
        "compiled_filter(Tensor z, Tensor k, Tensor v, Tensor log_input, Tensor peak, Tensor peak_start, "
        "Tensor c_start, float[] coefficients, float eps, float largest_cancellation, bool keep) -> (Tensor, Tensor)"
    )

    @staticmethod
    def forward(z, *args):
        *chunk, coefficients, eps, limit, keep = args
        n, length, d = z.shape
        operands = _operands(*chunk)
        padded = operands[0].shape[-1]
        numbers = _numbers(operands[0].dtype, coefficients, eps, limit)
        y = z.new_empty(n, length, padded, dtype=chunk[0].dtype)
        vectors = y.new_empty(n, length, (len(coefficients) - 1) * keep, padded)
        arrays = y.numpy(), vectors.numpy()
        in_threads(_read, n, filled(z.to(chunk[0].dtype), padded), *operands, *numbers, *arrays, padded * (None,))
        return y[..., :d].contiguous(), vectors

    @staticmethod
    def saved(args, outputs):
        return (*args[:7], outputs[1]), args[7:]

    @staticmethod
    def outputs_like(z, k, *rest):
        *_, coefficients, _, _, keep = rest
        *shape, d = k.shape
        return k, k.new_empty(*shape, (len(coefficients) - 1) * keep, padded_size(d))

    @staticmethod
    def gradients_like(tensors, other):
        return tensors[:7]

    @staticmethod
    def gradients(tensors, other, needs, grad_y):
        (z, *chunk, vectors), (coefficients, eps, limit, keep) = tensors, other
        if not any(needs[1:]):
            y, _ = _CompiledFilter.forward(grad_y, *chunk, coefficients, eps, limit, False)
            return y.to(z.dtype), *10 * [None]
        if not keep:
            _, vectors = _CompiledFilter.forward(z, *chunk, coefficients, eps, limit, True)
        operands = _operands(*chunk)
        d, padded = z.shape[-1], operands[0].shape[-1]
        grads = [
            grad_y.new_empty(x.shape, dtype=torch.from_numpy(x).dtype)
            for x in (operands[0], operands[0], operands[1], *operands[4:])
        ]
        given = *(filled(x.to(chunk[0].dtype), padded) for x in (grad_y, z)), vectors.numpy()
        numbers = _numbers(operands[0].dtype, coefficients, eps, limit)
        in_threads(_read_back, len(z), *given, *operands, *numbers, *(x.numpy() for x in grads), padded * (None,))
        of_z, of_k, of_v, *of_gates, of_c = grads
        of_z, of_k, of_v = (x[..., :d].contiguous() for x in (of_z, of_k, of_v))
        return of_z.to(z.dtype), of_k, of_v, *of_gates, of_c[:, :d, :d].contiguous(), *4 * [None]


def _operands(k, v, log_input, peak, peak_start, c_start) -> tuple[np.ndarray, ...]:
    """k, v, alpha, beta, G, peak, peak_start and C_0 for the loops."""
    padded = padded_size(k.shape[-1])
    gates = (x.to(k.dtype) for x in decays_and_weights(log_input, peak, peak_start))
    logs = (x.contiguous().numpy() for x in (log_input, peak, peak_start))
    return filled(k, padded), filled(v, padded), *(x.numpy() for x in gates), *logs, filled(c_start, padded, 2)


def _numbers(
    dtype: np.dtype, coefficients: tuple[float, ...], eps: float, limit: float
) -> tuple[np.ndarray, np.ndarray]:
    """1, 1 / 2, eps and the limit; and the coefficients: all in the dtype that is computed in, or Numba widens it."""
    return np.array([1, 0.5, eps, limit], dtype), np.array(coefficients, dtype)


@njit(**INLINED)
def _gram(c, a, sized):
    """A = C^T C."""
    a[:] = 0
    add_outer_products(c, c, c.dtype.type(1), a, sized)


@njit(**INLINED)
def _memory_anew(k, v, log_input, peak, peak_start, c_start, t, c):
    """C_t from the chunk's start, summed in float64."""
    exact = np.exp(peak_start[0] - peak[t]) * c_start.astype(np.float64)
    for u in range(t + 1):
        weight = np.exp(log_input[u] - peak[t])
        for j in range(c.shape[0]):
            weighted = weight * k[u, j]
            for i in range(c.shape[1]):
                exact[j, i] += weighted * v[u, i]
    c[:] = exact


@njit(**INLINED)
def _start(c_start, c, a, squares, sized):
    """C_0 and its A to c and a, and both of squares, ||C_0||^2."""
    c[:] = c_start
    _gram(c, a, sized)
    squares[:] = trace(a, sized)


@njit(**INLINED)
def _follow(t, chunk, constants, c_old, a_old, c, a, key, seen, h, squares, sized):
    """Go on to position t of a chunk: C_t and A_t from those before, to key k_t with its weight, to seen
    alpha C_{t-1}^T k_t.

    squares is ||C_t||^2, and what it were if no writes cancelled. Returns whether C_t was formed anew.
    """
    k, v, alpha, beta, log_input, peak, peak_start, c_start = chunk
    decay, square, value = alpha[t], alpha[t] * alpha[t], v[t]
    scale(beta[t], k[t], key, sized)
    of_key = dot(key, key, sized)
    read_and_write(c_old, c, decay, key, value, key, seen, sized)
    add_scaled(seen, constants[1] * of_key, value, h, sized)
    write_both_ways(a_old, a, square, value, h, sized)
    squares[0] = trace(a, sized)
    squares[1] = square * squares[1] + of_key * dot(value, value, sized)
    anew = not squares[0] * constants[3] >= squares[1]
    if anew:
        _memory_anew(k, v, log_input, peak, peak_start, c_start, t, c)
        _gram(c, a, sized)
        squares[:] = trace(a, sized)
    return anew


@compiled
def _read(
    start, stop, z, k, v, alpha, beta, log_input, peak, peak_start, c_start, constants, coefficients, y, vectors, sized
):
    """y, and the vectors r_k if there is room for them, of the chunks from start to stop."""
    d, degree, keep = len(sized), len(coefficients) - 1, vectors.shape[2] > 0
    one, two, eps = constants[0], constants[0] + constants[0], constants[2]
    c, a, squares = new_rows(d, k, sized), new_rows(d, k, sized), np.empty(2, k.dtype)
    key, seen, h = new_rows(3, k, sized)
    unkept, last = new_rows(max(degree, 1), k, sized), new_rows(1, k, sized)
    for n in range(start, stop):
        chunk = k[n], v[n], alpha[n], beta[n], log_input[n], peak[n], peak_start[n], c_start[n]
        _start(c_start[n], c, a, squares, sized)
        for t in range(k.shape[1]):
            _follow(t, chunk, constants, c, a, c, a, key, seen, h, squares, sized)
            inverse = one / max(np.sqrt(squares[0]), eps)
            four = (two * inverse) * (two * inverse)
            terms, out = vectors[n, t] if keep else unkept, y[n, t]
            scale(inverse, z[n, t], terms[0], sized)
            scale(coefficients[0], terms[0], out, sized)
            for m in range(degree - 1):
                next_term(a, four, terms, m, terms, m + 1, coefficients[m + 1], out, sized)
            if degree:
                next_term(a, four, terms, degree - 1, last, 0, coefficients[degree], out, sized)


@compiled
def _read_back(
    start, stop, grad_y, z, vectors, k, v, alpha, beta, log_input, peak, peak_start, c_start, constants, coefficients,
    grad_z, grad_k, grad_v, grad_input, grad_peak, grad_peak_start, grad_c, sized,
):  # fmt: skip
    """The gradients of `_read`, of the chunks from start to stop."""
    d, degree, length = len(sized), len(coefficients) - 1, k.shape[1]
    one, two, eps = constants[0], constants[0] + constants[0], constants[2]
    zero = one - one
    c = new_rows((length + 1) * d, k, sized).reshape(length + 1, d, d)
    a = new_rows((length + 1) * d, k, sized).reshape(length + 1, d, d)
    of_c, of_a, both = new_rows(d, k, sized), new_rows(d, k, sized), new_rows(d, k, sized)
    keys, seen = new_rows(length, k, sized), new_rows(length, k, sized)
    norms, squares = np.empty(length, k.dtype), np.empty(2, k.dtype)
    anew = np.empty(length + 1, np.bool_)
    p = new_rows(degree + 2, k, sized)
    p[degree + 1] = 0
    source, form, applied, of_h, of_key, of_v, w, ones = new_rows(8, k, sized)
    ones[:] = 1
    for n in range(start, stop):
        chunk = k[n], v[n], alpha[n], beta[n], log_input[n], peak[n], peak_start[n], c_start[n]
        _start(c_start[n], c[0], a[0], squares, sized)
        for t in range(length):
            anew[t] = _follow(t, chunk, constants, c[t], a[t], c[t + 1], a[t + 1], keys[t], seen[t], w, squares, sized)
            norms[t] = np.sqrt(squares[0])
        of_c[:] = 0
        of_a[:] = 0
        back = zero
        of_log_decay = 0.0  # in float64, so that its differences add up
        for t in range(length - 1, -1, -1):
            key, value = keys[t], v[n, t]
            norm = max(norms[t], eps)
            four = (two / norm) * (two / norm)
            # p_m, the adjoint of r_m, times 4 / ||C||^2, is in row m; the row after the last is 0.
            of_r, r = grad_z[n, t], vectors[n, t]
            scale(four, grad_y[n, t], source, sized)
            scale(coefficients[degree], source, p[degree], sized)
            form[:] = 0
            for m in range(degree - 1, -1, -1):
                next_adjoint(a[t + 1], four, p, m, coefficients[m], source, r, form, sized)
            add_scaled(p[0], -one, p[1], of_r, sized)  # r_{-1} is r_0
            scale(one / (four * norm), of_r, of_r, sized)
            through_z, of_norm = dot(of_r, z[n, t], sized), dot(form, ones, sized)
            add_outer_products(p[1 : degree + 1], r, back * back, of_a, sized)  # what later positions left is decayed
            if norms[t] > eps:
                of_square = -(two * of_norm + through_z) / (two * norm * norm)
                for i in range(d):
                    of_a[i, i] += of_square
            if anew[t]:
                _through_gram(c[t + 1], of_a, of_c, both, applied, sized)
                of_a[:] = 0
            # w = C_t^T k; where C_t was formed anew, what it is multiplied with is 0
            back, of_key_itself = alpha[n, t], dot(key, key, sized)
            add_scaled(seen[t], of_key_itself, value, w, sized)
            of_log = two * back * symmetric_products(of_a, a[t], value, w, of_h, applied, sized)
            through_h = dot(of_h, seen[t], sized)
            of_value_itself = dot(value, of_h, sized)
            scale(back, of_h, of_h, sized)
            # C_t = alpha C_{t-1} + k v^T once more, of which the first part goes into the pass over C_{t-1}
            of_log += read_compare_and_write(of_c, of_c, c[t], back, key, value, of_h, of_v, of_key, sized)
            add_scaled(of_v, one, applied, grad_v[n, t], sized)
            add_scaled(of_key, of_value_itself, key, of_key, sized)
            scale(beta[n, t], of_key, grad_k[n, t], sized)
            of_log = back * of_log + through_h
            grad_input[n, t] = dot(key, of_key, sized)
            grad_peak[n, t] = of_log_decay - of_log - grad_input[n, t]
            of_log_decay = np.float64(of_log)
        for j in range(d):
            for i in range(d):
                of_a[j, i] *= back * back
        _through_gram(c[0], of_a, of_c, both, applied, sized)
        grad_peak_start[n, 0] = of_log_decay
        grad_c[n] = of_c


@njit(**INLINED)
def _through_gram(c, of_a, of_c, both, row, sized):
    """Add the gradient by C of A = C^T C, C (G + G^T) for the gradient G by A."""
    d = len(sized)
    for j in range(d):
        for i in range(d):
            both[j, i] = of_a[j, i] + of_a[i, j]
    for j in range(d):
        transpose_product(both, c[j], row, sized)
        for i in range(d):
            of_c[j, i] += row[i]
