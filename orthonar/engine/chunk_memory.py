"""What a chunk writes to the memory, and what its positions read from it: dense products, no matrix of a position.

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size. With the log gates of
`orthonar.engine.gates`, the memory after position t of a chunk that starts from C_0 and n_0 is

    C_t = a_t C_0 + sum_{u <= t} w_tu k_u v_u^T,    a_t = exp(peak_start - peak_t),    w_tu = exp(G_u - peak_t)

and n_t the same without v_u. Both functions work in float64 where sums may cancel and something is divided by what is
left: n_t . q_t passes through zero, and filters must know to the last digit how far writes cancel. They take a block of
chunks at a time, sized for a CPU's caches, so that what float64 costs is arithmetic and not memory.
"""

import torch
from torch import Tensor

from .blocks import blocks_of
from .by_hand import HandWritten


def chunk_writes(k: Tensor, v: Tensor, log_w: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """What each chunk adds to the state: sum_u w_u k_u v_u^T and sum_u w_u k_u. Differentiable once.

    Args:
        k: keys, (N, L, D).
        v: values, (N, L, E).
        log_w: log weights of the writes, seen from the chunk's end, (N, L), float64.
        dtype: of the first result.

    Returns:
        (N, D, E) in dtype, and (N, D) in float64.
    """
    return _ChunkWrites.of(k, v, log_w, dtype)


def chunk_reads(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_input: Tensor,
    peak: Tensor,
    peak_start: Tensor,
    c_start: Tensor,
    n_start: Tensor,
) -> tuple[Tensor, Tensor]:
    """What each position reads, C_t^T q_t, and n_t . q_t. Differentiable once, gradients computed in the dtype of q.

    Args:
        q: queries, (N, L, D).
        k: keys, (N, L, D).
        v: values, (N, L, D).
        log_input: G, (N, L), float64.
        peak: (N, L), float64.
        peak_start: peak of the position before the chunk, (N, 1), float64.
        c_start: C_0, (N, D, D), in the dtype that C_t^T q_t is computed in.
        n_start: n_0, (N, D), float64.

    Returns:
        (N, L, D) in the dtype of q, and (N, L) in float64.
    """
    return _ChunkReads.of(q, k, v, log_input, peak, peak_start, c_start, n_start)


class _ChunkWrites(HandWritten):
    results = 2
    operator = "chunk_writes(Tensor k, Tensor v, Tensor log_w, ScalarType dtype) -> (Tensor, Tensor)"

    @staticmethod
    def forward(k, v, log_w, dtype):
        n, _, d = k.shape
        w = log_w.exp()
        c_added, n_added = k.new_empty(n, d, v.shape[-1], dtype=dtype), w.new_empty(n, d)
        for b in _blocks(k):
            weighted = k[b] * w[b, :, None]  # float64
            torch.bmm(weighted.to(dtype).mT, v[b].to(dtype), out=c_added[b])
            torch.sum(weighted, 1, out=n_added[b])
        return c_added, n_added

    @staticmethod
    def saved(args, outputs):
        return args[:3], args[3:]

    @staticmethod
    def outputs_like(k, v, log_w, dtype):
        n, _, d = k.shape
        return k.new_empty(n, d, v.shape[-1], dtype=dtype), log_w.new_empty(n, d)

    @staticmethod
    def gradients(tensors, other, needs, grad_c, grad_n):
        k, v, log_w = tensors
        w = log_w.exp()
        grad_k, grad_v, grad_log_w = torch.empty_like(k), torch.empty_like(v), torch.empty_like(w)
        for b in _blocks(k):
            gc, weight = grad_c[b].to(k.dtype), w[b, :, None]
            gk = (v[b] @ gc.mT + grad_n[b, None]).mul_(weight)
            grad_k[b] = gk
            torch.mul(k[b] @ gc, weight, out=grad_v[b])
            torch.sum(gk.mul_(k[b]), -1, out=grad_log_w[b])
        return grad_k, grad_v, grad_log_w, None


class _ChunkReads(HandWritten):
    results = 2
    operator = (
        "chunk_reads(Tensor q, Tensor k, Tensor v, Tensor log_input, Tensor peak, Tensor peak_start, Tensor c_start, "
        "Tensor n_start) -> (Tensor, Tensor)"
    )

    @staticmethod
    def forward(q, k, v, log_input, peak, peak_start, c_start, n_start):
        numerator, n_dot_q = torch.empty_like(q), torch.empty_like(peak)
        a = (peak_start - peak).exp()
        for b in _blocks(q):
            q64 = q[b].double()
            # No product is changed in place: selective checkpointing may be keeping it.
            scores = (q64 @ k[b].double().mT) * _weights(log_input[b], peak[b])
            torch.addcmul(scores.sum(-1), (q64 @ n_start[b, :, None])[..., 0], a[b], out=n_dot_q[b])
            c = c_start[b]
            carried = (q[b].to(c.dtype) @ c) * a[b, :, None].to(c.dtype)
            numerator[b] = carried.baddbmm_(scores.to(c.dtype), v[b].to(c.dtype))
        return numerator, n_dot_q

    @staticmethod
    def saved(args, outputs):
        return args, ()

    @staticmethod
    def outputs_like(q, k, v, log_input, peak, peak_start, c_start, n_start):
        return q, peak

    @staticmethod
    def gradients(tensors, other, needs, grad_numerator, grad_n_dot_q):
        q, k, v, log_input, peak, peak_start, c_start, n_start = tensors
        a = (peak_start - peak).exp()
        inputs = q, k, v, log_input, peak, a, c_start, n_start
        grads = [torch.empty_like(t) for t in inputs]
        grad_q, grad_k, grad_v, grad_log_input, grad_peak, grad_log_a, grad_c, grad_n = grads
        dtype = q.dtype
        for b in _blocks(q):
            q_b, k_b, v_b, g, c = (t[b].to(dtype) for t in (q, k, v, grad_numerator, c_start))
            weights = _weights(log_input[b], peak[b]).to(dtype)
            scores = (q_b @ k_b.mT).mul_(weights)
            _product(scores.mT, g, grad_v[b])
            grad_scores = (g @ v_b.mT).add_(grad_n_dot_q[b, :, None])
            in_logs = scores.mul_(grad_scores)
            torch.sum(in_logs, 1, dtype=torch.float64, out=grad_log_input[b])
            torch.sum(in_logs, 2, dtype=torch.float64, out=grad_peak[b])
            grad_scores.mul_(weights)
            _product(grad_scores.mT, q_b, grad_k[b])

            # a_t comes with q_t wherever it meets what the chunk starts from
            decay, carried_n = a[b, :, None].to(dtype), grad_n_dot_q[b] * a[b]
            of_start = (g @ c.mT).mul_(decay)
            of_start = torch.addcmul(of_start.double(), carried_n[..., None], n_start[b, None])
            torch.sum(of_start * q_b, -1, out=grad_log_a[b])
            grad_q[b] = of_start.add_(grad_scores @ k_b)
            _product(q_b.mT, g.mul(decay), grad_c[b])
            torch.bmm(carried_n[:, None], q[b].double(), out=grad_n[b, None])
        grad_peak.add_(grad_log_a).neg_()
        return grad_q, grad_k, grad_v, grad_log_input, grad_peak, grad_log_a.sum(1, keepdim=True), grad_c, grad_n


def _product(left: Tensor, right: Tensor, out: Tensor) -> None:
    """left @ right, written to a tensor of whatever dtype; where it has theirs, without a copy."""
    if out.dtype == left.dtype:
        torch.bmm(left, right, out=out)
    else:
        out.copy_(left @ right)


def _weights(log_input: Tensor, peak: Tensor) -> Tensor:
    """w_tu, (n, L, L), zero where u > t; it must not see u > t, where exp may overflow."""
    return torch.sub(log_input[:, None, :], peak[:, :, None]).tril_().exp_().tril_()


def _blocks(x: Tensor) -> list[slice]:
    return blocks_of(len(x), 8 * x[0].numel(), x.device)
