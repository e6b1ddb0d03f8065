"""g(A_t) z_t for every position of every chunk at once, without forming a memory matrix.

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size.

Inside a chunk that starts from the state C_0, the memory after position t is

    C_t = a_t C_0 + sum_{u <= t} w_tu k_u v_u^T

so a product with A_t = C_t^T C_t needs only what the whole chunk shares, C_0^T C_0, K C_0, K K^T and V:

    u = w_t * (V x)
    e = a_t (K C_0) x + (K K^T) u
    A_t x = a_t^2 (C_0^T C_0) x + a_t (K C_0)^T u + V^T (w_t * e)

three dense products of small matrices for all positions of a chunk. Dividing C_t by its norm only rescales a_t and w_t.

The filter is a polynomial g(x) = sum_k c_k V_k(2 x - 1) in Chebyshev polynomials of the third kind (see
`orthonar.reads.chebyshev.odd_chebyshev`). With r_k = (-1)^k V_k(2 A - I) z, their three-term recurrence reads

    step_k = step_{k-1} - 4 A r_k,     r_{k+1} = r_k + step_k,     step_{-1} = 2 z,     y = sum_k (-1)^k c_k r_k.

|r_k| <= |q| whatever the memory, since s V_k(2 s^2 - 1) = T_{2k+1}(s): nothing grows. The adjoint is the same
recurrence run backwards with a source at each step.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .backends import can_compile, compiled_filter, fused_filter
from .blocks import blocks_of
from .by_hand import HandWritten
from .chunk import Chunk, Reading, memories
from .gates import ChunkGates
from .looking import known

# Writes that cancel each other leave a memory much smaller than they were, and what is shared by a chunk is squared:
# rounding is magnified by (sum of the writes' squared norms) / ||C||^2. Chunks beyond this are read by the plain form.
_LARGEST_CANCELLATION = 16.0
# Chunks of which a graph forms all memory matrices at the same time.
_MEMORIES_AT_ONCE = 32


def filtered_reading(
    chunk: Chunk, coefficients: tuple[float, ...], eps: float, plainly: Callable[[Tensor, Tensor, Tensor], Reading]
) -> Reading:
    """g(A_t) X_t^T q_t with X_t = C_t / max(||C_t||_F, eps) and A_t = X_t^T X_t, and n_t . q_t.

    Args:
        chunk: the chunks.
        coefficients: c_0 ... c_n of g, see `chunk_filter`.
        eps: smallest norm divided by.
        plainly: the same read by memory matrices, as `Chunk.read_by_matrices` wants it: for chunks whose writes cancel.

    Returns:
        (N, L, D) in the dtype of the chunk's queries, and (N, L) in float64.
    """
    numerator, n_dot_q = chunk.raw
    if chunk.fused:
        operands = numerator, chunk.k, chunk.v, *chunk.gates, chunk.c_start
        return Reading(fused_filter(*operands, coefficients, eps, _LARGEST_CANCELLATION, chunk.precision), n_dot_q)

    if can_compile(chunk.k.device, chunk.k.shape[-1]):
        operands = numerator, chunk.k, chunk.v, *chunk.gates, chunk.c_start
        return Reading(compiled_filter(*operands, coefficients, eps, _LARGEST_CANCELLATION), n_dot_q)

    k, v, dtype = chunk.k, chunk.v, chunk.q.dtype
    log_a, log_w = chunk.gates.log_decay[..., None].to(dtype), chunk.gates.log_weights.to(dtype)
    c_start = chunk.c_start.to(dtype)
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
    log_norm = 0.5 * squared.clamp_min(eps**2).log()[..., None]
    shared = torch.cat([gram, kc, v], 1)
    y = chunk_filter(numerator * (-log_norm).exp(), shared, kk, log_a - log_norm, log_w - log_norm, coefficients)
    cancelled = cancelled.any(-1)
    if torch.compiler.is_dynamo_compiling():  # decided as the graph runs
        operands = chunk.q, k, v, *chunk.gates, chunk.c_start
        return Reading(_Reread.of(y, cancelled, *operands, coefficients, eps), n_dot_q)
    found = known(cancelled.any())
    if found:
        y = _reread(y, cancelled.nonzero()[:, 0], chunk, plainly)
    elif found is None:  # all by both ways, then
        y = torch.where(cancelled[:, None, None], chunk.read_by_matrices(plainly).numerator.to(y.dtype), y)
    return Reading(y, n_dot_q)


def _reread(y: Tensor, indices: Tensor, chunk: Chunk, plainly: Callable) -> Tensor:
    """y with the chunks of these indices replaced by the plain form's result, computed in float64."""
    return y.index_copy(0, indices, chunk[indices].read_by_matrices(plainly).numerator.to(y.dtype))


class _Reread(HandWritten):
    """The same by the series, of memories formed in float64, for graphs: they can hold numbers but no plain form."""

    operator = (
        "reread(Tensor y, Tensor cancelled, Tensor q, Tensor k, Tensor v, Tensor log_input, Tensor peak, "
        "Tensor peak_start, Tensor c_start, float[] coefficients, float eps) -> Tensor"
    )

    @staticmethod
    def forward(y, cancelled, *args):
        *chunk, coefficients, eps = args
        y = y.clone()
        for some in _some_of(cancelled):
            y[some] = _by_memories(*(x[some] for x in chunk), coefficients, eps).to(y.dtype)
        return y

    @staticmethod
    def saved(args, outputs):
        return args[1:-2], args[-2:]

    @staticmethod
    def gradients(tensors, other, needs, grad):
        (cancelled, *chunk), grads = tensors, [torch.zeros_like(x) for x in tensors[1:]]
        for some in _some_of(cancelled):
            here = (x[some] for x in chunk)
            by_memories = torch.func.vjp(lambda *chunk: _by_memories(*chunk, *other), *here)
            y, pull_back = by_memories  # type: ignore[misc]  # no third, which is for has_aux
            for whole, part in zip(grads, pull_back(grad[some].to(y.dtype)), strict=True):
                whole[some] = part
        return grad.masked_fill(cancelled[:, None, None], 0), None, *grads, None, None

    @staticmethod
    def outputs_like(y, *args):
        return y

    @staticmethod
    def gradients_like(tensors, other):
        cancelled, q, *rest = tensors
        return q, cancelled, q, *rest


def _some_of(cancelled: Tensor) -> list[Tensor]:
    """The numbers of the chunks whose writes cancel, so many at a time that their memories can be formed."""
    indices = cancelled.nonzero()[:, 0]
    return list(indices.split(_MEMORIES_AT_ONCE)) if len(indices) else []


def _by_memories(q, k, v, log_input, peak, peak_start, c_start, coefficients, eps) -> Tensor:
    """g(A_t) X_t^T q_t by the memories of every position, (N, L, D), float64."""
    memory = memories(k, v, ChunkGates(log_input, peak, peak_start), c_start, q.shape[-1])
    x = memory / torch.linalg.vector_norm(memory, dim=(-2, -1), keepdim=True).clamp_min(eps)
    return filtered_vector(x, q.double(), coefficients)


def filtered_vector(x: Tensor, q: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """g(X^T X) X^T q for single matrices, by the recurrence at the top of this file.

    Args:
        x: matrices of norm at most 1, (..., D, D).
        q: vectors, (..., D); leading axes broadcast.
        coefficients: c_0 ... c_n of g, see `chunk_filter`.

    Returns:
        (..., D).
    """
    if x.shape[:-2] != q.shape[:-1]:
        leading = torch.broadcast_shapes(x.shape[:-2], q.shape[:-1])
        x, q = x.expand(*leading, -1, -1), q.expand(*leading, -1)
    # For one token an operator costs its call: A is formed, one product for two a degree. A is symmetric, and in
    # batches a row times a matrix is several times faster than a matrix times a column. In float64, which costs no call
    # more: A's rounding moves a singular value near 1 to where V_k has grown by the square of the degree.
    matrices, size = x.double().reshape(-1, *x.shape[-2:]), x.shape[-1]
    a = matrices.mT @ matrices
    r = q.double().reshape(-1, 1, size) @ matrices
    y, step = coefficients[0] * r, 2 * r
    for k, c in enumerate(coefficients[1:], 1):
        step = torch.baddbmm(step, r, a, alpha=-4)
        r = r + step
        y = torch.add(y, r, alpha=-c if k % 2 else c)
    return y.reshape(q.shape).to(q.dtype)


def transpose_matvec(matrix: Tensor, q: Tensor) -> Tensor:
    """M^T q for matrices (..., M, N) and vectors (..., M)."""
    return (q[..., None, :] @ matrix)[..., 0, :]


def chunk_filter(
    z: Tensor, shared: Tensor, kk: Tensor, log_a: Tensor, log_w: Tensor, coefficients: tuple[float, ...]
) -> Tensor:
    """Apply the polynomial with these coefficients of A_t to z_t at every position.

    y_t = sum_k c_k V_k(2 A_t - I) z_t. Differentiable once in every tensor; the hand-written backward keeps the vectors
    r_k, (n, N, L, D) numbers for degree n, and no matrix of a position.

    Args:
        z: right-hand sides, (N, L, D).
        shared: [C_0^T C_0 ; K C_0 ; V] below one another, (N, D + 2 L, D).
        kk: K K^T, (N, L, L).
        log_a: log of the decay of the start state, minus the log of the memory's norm, (N, L, 1).
        log_w: log of the causal gate weights, minus the log of the memory's norm, (N, L, L); -inf above the diagonal.
        coefficients: c_0 ... c_n in the V_k. The caller sees to it that A_t has its spectrum in [0, 1].

    Returns:
        y, (N, L, D).
    """
    # The gradient by z alone needs none of the vectors: the adjoint of g(A) is g(A).
    keep = torch.is_grad_enabled() and any(x.requires_grad for x in (shared, kk, log_a, log_w))
    together = torch.compiler.is_dynamo_compiling()
    return _ChunkFilter.of(z, shared, kk, log_a, log_w, coefficients, keep, together)[0]


class _ChunkFilter(HandWritten):
    """What is kept, if anything is, are tensors of one block of chunks each; together, one tensor of all chunks."""

    operator = (
        "chunk_filter(Tensor z, Tensor shared, Tensor kk, Tensor log_a, Tensor log_w, float[] coefficients, bool keep, "
        "bool together) -> (Tensor, Tensor)"
    )

    @staticmethod
    def forward(z, shared, kk, log_a, log_w, coefficients, keep, together):
        room = z.new_empty((len(coefficients) - 1) * keep, *z.shape) if together else None
        y, kept = _filter(z, *_operands(shared, kk, log_a, log_w), coefficients, keep, room)
        return (y, room) if together else (y, *kept)

    @staticmethod
    def saved(args, outputs):
        z, *chunk, coefficients, keep, together = args
        y, *kept = outputs
        return (*chunk, y, *(kept if keep else [z])), (coefficients, keep, together)

    @staticmethod
    def outputs_like(z, shared, kk, log_a, log_w, coefficients, keep, together):
        return z, z.new_empty((len(coefficients) - 1) * keep, *z.shape)

    @staticmethod
    def gradients_like(tensors, other):
        *chunk, y = tensors[:5]
        return y, *chunk

    @staticmethod
    def gradients(tensors, other, needs, grad_y):
        (*chunk, _), kept, (coefficients, keep, together) = tensors[:5], tensors[5:], other
        operands = _operands(*chunk)
        if not any(needs[1:]):
            return _filter(grad_y, *operands, coefficients, keep=False)[0], *7 * [None]
        if not keep:
            _, kept = _filter(kept[0], *operands, coefficients, keep=True)
        elif together:
            kept = [kept[0][:, block] for block in _blocks(operands[0])]
        grads = [torch.empty_like(t) for t in (grad_y, *operands)]
        for block, vectors in zip(_blocks(operands[0]), kept, strict=True):
            here = [t[block] for t in operands]
            _adjoint([g[block] for g in grads], grad_y[block], vectors, *here, coefficients)
        return *grads, None, None, None


def _operands(shared, kk, log_a, log_w) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """shared, kk, 2 a and 2 w, so that the operator is 4 A."""
    return shared, kk, 2 * log_a.exp(), 2 * log_w.exp()


def _filter(z, shared, kk, a, w, coefficients, keep, room=None) -> tuple[Tensor, list[Tensor]]:
    """y, and the vectors r_0 ... r_{n-1} if they are to be kept, a tensor for each block of chunks; of room, if any."""
    y = z * coefficients[0]
    # A tensor per block: an allocator hands moderate sizes out again without fetching fresh memory.
    kept: list[Tensor] = []
    for block in _blocks(shared):
        here = [t[block] for t in (y, z, shared, kk, a, w)]
        vectors = None
        if keep:
            vectors = z.new_empty(len(coefficients) - 1, *here[1].shape) if room is None else room[:, block]
        _recur(*here, coefficients, vectors)
        if vectors is not None:
            kept.append(vectors)
    return y, kept


def _recur(y, z, shared, kk, a, w, c, kept) -> None:
    """Add sum_{k > 0} (-1)^k c_k r_k to y for one block of chunks; r_0 ... r_{n-1} go to kept, if it is not None."""
    n, length, d = z.shape
    to_chunk = shared[:, d:].mT.contiguous()  # a transposed view would multiply several times slower
    gates = torch.cat([a.expand(n, length, length), w], -1)
    a, a_squared = a.contiguous(), a * a
    products = z.new_empty(n, length, 2 * length)
    mixed = z.new_empty(n, length, length)
    left = z.new_empty(n, length, d + 2 * length)
    am, u = products[..., :length], products[..., length:]
    left_r, left_u, left_e = left[..., :d], left[..., d : d + length], left[..., d + length :]

    step = 2 * z
    degree = len(c) - 1
    r = torch.empty_like(z) if kept is None or not degree else kept[0]
    r.copy_(z)
    for k in range(degree):
        torch.bmm(r, to_chunk, out=products)
        products.mul_(gates)
        torch.bmm(u, kk, out=mixed)
        mixed.add_(am)
        torch.mul(r, a_squared, out=left_r)
        torch.mul(u, a, out=left_u)
        torch.mul(mixed, w, out=left_e)
        step.baddbmm_(left, shared, alpha=-1)
        # The last r is added to y alone.
        r = torch.add(r, step, out=r if kept is None else kept[k + 1] if k + 1 < degree else step)
        y.add_(r, alpha=c[k + 1] * (-1) ** (k + 1))


def _adjoint(grads, grad_y, kept, shared, kk, a, w, c) -> None:
    """Fill the gradients of z, shared, kk, log_a and log_w for one block of chunks.

    With p_k the adjoint of step_k, the gradients are those of -sum_k p_k^T (4 A) r_k, a form that is bilinear in the
    vectors, symmetric, linear in what the chunk shares and of degree 2 in the gates. So the derivatives by log a and
    log w of a position add up to twice its value, which gives the one from the others.
    """
    grad_r, grad_shared, grad_kk, grad_log_a, grad_log_w = grads
    n, length, d = grad_y.shape
    rows, of_r, of_p = 2 * length, slice(0, length), slice(length, 2 * length)
    to_chunk = shared[:, d:].mT.contiguous()
    gates = torch.cat([a.expand(n, length, length), w], -1).repeat(1, 2, 1)
    a_squared = a * a
    x = grad_y.new_zeros(n, rows, d)  # r_k above p_k: one product serves both
    r, p = x[:, of_r], x[:, of_p]
    products = grad_y.new_empty(n, rows, 2 * length)
    mixed = grad_y.new_empty(n, rows, length)
    # Each of its own, for the products' sake: a part of a larger matrix multiplies at half the speed.
    left_p, rest_r = grad_y.new_empty(n, length, d + 2 * length), grad_y.new_empty(n, length, 2 * length)
    am, u = products[..., :length], products[..., length:]
    u_r, u_p, e_r, e_p = u[:, of_r], u[:, of_p], mixed[:, of_r], mixed[:, of_p]
    decayed_p, u_of_p, e_of_p = left_p.split([d, length, length], -1)
    u_of_r, e_of_r = rest_r.chunk(2, -1)
    left_p_t, rest_r_t, u_p_t = left_p.mT, rest_r.mT, u_p.mT
    grad_rest = grad_y.new_zeros(n, 2 * length, d)  # what of it comes from r's side
    applied = torch.empty_like(grad_y)  # 4 A p
    form = torch.zeros_like(grad_y)  # sums to p^T (4 A) r
    through = torch.zeros_like(grad_log_w)

    degree = len(c) - 1
    torch.mul(grad_y, c[degree] * (-1) ** degree, out=grad_r)
    grad_kk.zero_()
    grad_shared.zero_()
    for k in range(degree - 1, -1, -1):
        r.copy_(kept[k])
        p.add_(grad_r)
        torch.bmm(x, to_chunk, out=products)
        products.mul_(gates)
        torch.bmm(u, kk, out=mixed)
        mixed.add_(am)
        torch.mul(p, a_squared, out=decayed_p)
        torch.mul(u_p, a, out=u_of_p)
        torch.mul(u_r, a, out=u_of_r)
        torch.mul(e_p, w, out=e_of_p)
        torch.mul(e_r, w, out=e_of_r)
        torch.bmm(left_p, shared, out=applied)
        grad_shared.baddbmm_(left_p_t, r, alpha=-1)
        grad_rest.baddbmm_(rest_r_t, p)
        grad_kk.baddbmm_(u_p_t, u_r, alpha=-1)
        through.addcmul_(u_r, e_p).addcmul_(u_p, e_r)
        form.addcmul_(r, applied)
        grad_r.add_(grad_y, alpha=c[k] * (-1) ** k).sub_(applied)
    grad_r.add_(p, alpha=2)
    grad_shared[:, d:].sub_(grad_rest)
    torch.neg(through, out=grad_log_w)
    torch.sub(through.sum(-1, keepdim=True), form.sum(-1, keepdim=True), alpha=2, out=grad_log_a)


def _blocks(shared: Tensor) -> list[slice]:
    return blocks_of(len(shared), shared[0].numel() * shared.element_size(), shared.device)
