"""The filter g(A_t) z_t of `orthonar.engine.chunk_filter` as one kernel per chunk: all its passes on chip.

One launch runs one recurrence, x <- x + s, s <- s - 4 A x + source_k b, from x = 0 and s = source_0 b:

- with the filter's coefficients, last first, as sources, s + 2 x ends as g(A) b: Clenshaw's rule, and the adjoint of
  g(A) being itself, both the read (b = z) and the gradient by z (b = the gradient by the read);
- with the sources 1, 1, 0, 0, ... and b = z it passes through the vectors r_k of `orthonar.engine.chunk_filter`.

The gradients by what a chunk shares and by the gates are sums over products of r_k with the adjoint's x_k. Keeping both
for all positions would take more memory than all the rest, so the backward recomputes them for some chunks at a time.

What the recurrence multiplies with in every pass is read again in every pass, from the nearest cache: kept in
registers, as a compiler left alone would have it, it would crowd out everything else.

Chunks whose writes cancel too far for float32 are flagged on the device and read by C_t itself, in float64. Kernels
that have nothing to do return at once, so that nothing waits for the host to look at the flags.
"""

from functools import lru_cache

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

# Warps of a kernel whose products are TF32: by the compiler's count two issue a quarter fewer instructions than four,
# which would split the same operands into TF32 parts twice as often. Not timed yet.
_WARPS = 2
#: Of kernels that are run once and hold matrices of the head's size.
_MANY_WARPS = 8
#: Most memory for the vectors that the backward recomputes.
_BYTES_AT_ONCE = 256 << 20


def fused_chunk_filter(
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
    precision: str = "float32",
) -> Tensor:
    """g(A_t) X_t^T q_t from z_t = C_t^T q_t, with X_t = C_t / max(||C_t||, eps), A_t = X_t^T X_t. Differentiable once.

    Args:
        z: raw numerators, (N, L, D), float64.
        k: keys, (N, L, D), float32, or float64: then all chunks are computed as flagged ones are.
        v: values, (N, L, D).
        log_input: G of `orthonar.engine.gates`, (N, L), float64.
        peak: (N, L), float64.
        peak_start: peak of the position before the chunk, (N, 1), float64.
        c_start: C_0, (N, D, D), float64.
        coefficients: c_0 ... c_n of g, see `orthonar.engine.chunk_filter`.
        eps: smallest norm of C that is divided by.
        largest_cancellation: chunks are flagged in which (sum of the writes' squared norms) / ||C||^2 is larger.
        precision: of float32 products, see `orthonar.engine.kernels.tiles.PRECISIONS`.

    Returns:
        (N, L, D) in the dtype of k.
    """
    chunk = (z, k, v, log_input, peak, peak_start, c_start)
    operands = (t.contiguous() for t in chunk)
    return _ChunkFilter.of(*operands, coefficients, eps, largest_cancellation, precision)[0]


class _ChunkFilter(HandWritten):
    operator = (
        "fused_chunk_filter(Tensor z, Tensor k, Tensor v, Tensor log_input, Tensor peak, Tensor peak_start, "
        "Tensor c_start, float[] coefficients, float eps, float largest_cancellation, str precision) "
        "-> (Tensor, Tensor)"
    )

    @staticmethod
    def forward(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps, largest_cancellation, precision):
        inputs = z, k, v, log_input, peak, peak_start, c_start
        sizes, products, launch = _options(k, precision)
        signed, clenshaw, _ = _sources(coefficients, k.device)
        y = torch.empty_like(k)
        flags = torch.ones(len(k), dtype=torch.int32, device=k.device)
        if k.dtype == torch.float32:
            shared = _prepared(inputs, flags, eps, largest_cancellation, sizes, products)
            operands = *shared.operands(v), flags
            _recur[(len(k),)](
                shared.z, *operands, clenshaw, y, y, y, y, len(coefficients) - 1, 0, KEEP=False, ADJOINT=False, **launch
            )
            del shared, operands
        _exact[(len(k),)](*inputs, flags, signed, y, len(coefficients) - 1, eps * eps, num_stages=1, **sizes)
        return y, flags

    @staticmethod
    def saved(args, outputs):
        return (*args[:7], outputs[1]), args[7:]

    @staticmethod
    def outputs_like(z, k, *rest):
        return k, k.new_empty(len(k), dtype=torch.int32)

    @staticmethod
    def gradients(tensors, other, needs, grad_y):
        *inputs, flags = tensors
        z, k, v, *gates, c_start = inputs
        coefficients, eps, largest_cancellation, precision = other
        sizes, products, launch = _options(k, precision)
        signed, clenshaw, climb = _sources(coefficients, k.device)
        degree = len(coefficients) - 1
        grad_y = grad_y.contiguous()
        grads = [torch.empty_like(t) for t in inputs]
        if k.dtype == torch.float32:
            # The flags stay as they were: the same kernel on the same numbers.
            shared = _prepared(inputs, flags, eps, largest_cancellation, sizes, products)
            grad_scaled = torch.empty_like(k)
            at_once = max(1, _BYTES_AT_ONCE // (2 * max(degree, 1) * k[0].numel() * k.element_size()))
            room = k.new_empty(2, min(at_once, len(k)), max(degree, 1), *k.shape[1:])
            form = k.new_empty(min(at_once, len(k)), k.shape[1])
            sums = [torch.empty_like(t[: len(form)]) for t in (shared.gram, shared.kc, shared.kc, shared.kk, shared.kk)]
            for block in (slice(i, min(i + at_once, len(k))) for i in range(0, len(k), at_once)):
                grid = (block.stop - block.start,)
                here = shared[block]
                gram, *operands = here.operands(v[block])
                operands.append(flags[block])
                result = grad_scaled[block], room[0], form  # the climb's own y is of no use
                up, down = {"KEEP": True, "ADJOINT": False}, {"KEEP": True, "ADJOINT": True}
                _recur[grid](here.z, gram, *operands, climb, room[0], *result, degree, 0, **up, **launch)
                _recur[grid](grad_y[block], gram, *operands, clenshaw, room[1], *result, degree, 0, **down, **launch)
                _sums[grid](*operands, *room, *sums, degree, 0, **launch, **ALL_REGISTERS)
                _gradients[grid](
                    *(t[block] for t in (k, *gates, c_start)), here.z, here.over_norm, here.clamped,
                    here.kc, v[block], here.kk, flags[block], *sums, form, result[0], *(t[block] for t in grads),
                    num_stages=1, num_warps=_MANY_WARPS, **sizes, **products,
                )  # fmt: skip
        _exact_backward[(len(k),)](*inputs, flags, signed, grad_y, *grads, degree, eps * eps, num_stages=1, **sizes)
        return *grads, None, None, None, None


def _options(k: Tensor, precision: str) -> tuple[dict, dict, dict]:
    """Of the kernels: sizes, the products' precision, and what all launches of a recurrence take."""
    sizes, products = tile_sizes(k), {"PRECISION": input_precision(precision, k.device)}
    return sizes, products, {"num_stages": 1, "num_warps": _WARPS if is_modern(k.device) else 4, **sizes, **products}


class _Shared:
    """What `_prepare` finds for every chunk: numbers that the passes share, in float32, (N, ...) each."""

    names = ("z", "over_norm", "clamped", "gram", "kc", "kk", "a", "w")

    def __init__(self, *tensors: Tensor):
        self.tensors = tensors
        self.z, self.over_norm, self.clamped, self.gram, self.kc, self.kk, self.a, self.w = tensors

    def __getitem__(self, block: slice) -> "_Shared":
        return _Shared(*(t[block] for t in self.tensors))

    def operands(self, v: Tensor) -> tuple[Tensor, ...]:
        """What a product with 4 A takes, in the order the kernels take it."""
        return self.gram, self.kc, v, self.kk, self.a, self.w


def _prepared(inputs, flags, eps, largest_cancellation, sizes, products) -> _Shared:
    *chunk, c_start = inputs
    k = chunk[1]
    count, length, size = k.shape
    vectors, per_position, pairs = (length, size), (length,), (length, length)
    new = vectors, per_position, per_position, (size, size), vectors, pairs, per_position, pairs
    shared = _Shared(*(k.new_empty(count, *shape) for shape in new))
    squared = k.new_empty(count)
    _prepare_start[(count,)](k, c_start, shared.gram, shared.kc, squared, num_warps=_MANY_WARPS, **sizes, **products)
    found = shared.z, shared.over_norm, shared.clamped, shared.kk, shared.a, shared.w
    _prepare[(count,)](
        *chunk, shared.kc, squared, flags, *found, eps * eps, largest_cancellation, **sizes, **products,
        **ALL_REGISTERS,
    )  # fmt: skip
    return shared


@lru_cache(maxsize=64)
def _sources(coefficients: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """(-1)^k c_k, first and last first, and 1, 1, 0, 0, ...; kept, since copying from the host would wait for it."""
    signed = torch.tensor([c * (-1) ** k for k, c in enumerate(coefficients)], dtype=torch.float64)
    climb = torch.zeros(len(signed) + 1, dtype=torch.float64)
    climb[:2] = 1
    return signed.to(device), signed.flip(0).to(device), climb.to(device)


@triton.jit
def _prepare_start(
    k_ptr, c0_ptr, gram_ptr, kc_ptr, squared_ptr,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Of the state at the chunk's start: C_0^T C_0, K C_0 and ||C_0||^2."""
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    c0 = load_tile(c0_ptr, n, d, d, D, D).to(tl.float32)
    store_tile(gram_ptr, n, d, d, D, D, dot(tl.trans(c0), c0, PRECISION))
    store_tile(kc_ptr, n, t, d, L, D, dot(load_tile(k_ptr, n, t, d, L, D), c0, PRECISION))
    tl.store(squared_ptr + n, tl.sum(tl.sum(c0 * c0, 1), 0))


@triton.jit
def _prepare(
    z_ptr, k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, kc_ptr, squared_ptr, flag_ptr,
    scaled_ptr, over_norm_ptr, clamped_ptr, kk_ptr, a_ptr, w_ptr, smallest_squared, limit,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Norms, flags, and what the passes share; a and w are twice those of C_t over its norm."""
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    k, v, kc = load_tile(k_ptr, n, t, d, L, D), load_tile(v_ptr, n, t, d, L, D), load_tile(kc_ptr, n, t, d, L, D)
    exact_a, exact_w = load_gates(input_ptr, peak_ptr, peak_start_ptr, n, t, L)
    a, w = exact_a.to(tl.float32), exact_w.to(tl.float32)
    kk = dot(k, tl.trans(k), PRECISION)
    overlaps = kk * dot(v, tl.trans(v), PRECISION)
    # ||C_t||^2 = a^2 ||C_0||^2 + 2 a sum_u w_u k_u . C_0 v_u + sum_uu' w_u w_u' (k_u . k_u') (v_u . v_u')
    of_start = a * a * tl.load(squared_ptr + n)
    of_both = 2 * a * tl.sum(w * tl.sum(kc * v, 1)[None, :], 1)
    squared = of_start + of_both + tl.sum(dot(w, overlaps, PRECISION) * w, 1)
    own = tl.sum(k * k, 1) * tl.sum(v * v, 1)
    without_cancelling = of_start + tl.sum(w * w * own[None, :], 1)
    tl.store(flag_ptr + n, tl.max((squared * limit < without_cancelling).to(tl.int32), 0))

    over_norm = 1 / tl.sqrt(tl.maximum(squared, smallest_squared).to(tl.float64))
    store_tile(scaled_ptr, n, t, d, L, D, load_tile(z_ptr, n, t, d, L, D) * over_norm[:, None])
    store_row(over_norm_ptr, n, t, L, over_norm)
    store_row(clamped_ptr, n, t, L, (squared < smallest_squared).to(tl.float32))
    store_tile(kk_ptr, n, t, t, L, L, kk)
    store_row(a_ptr, n, t, L, 2 * exact_a * over_norm)
    store_tile(w_ptr, n, t, t, L, L, 2 * exact_w * over_norm[:, None])


@triton.jit
def _recur(
    b_ptr, gram_ptr, kc_ptr, v_ptr, kk_ptr, a_ptr, w_ptr, flag_ptr, source_ptr, kept_ptr, y_ptr, r_ptr, form_ptr,
    degree, stay,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
    KEEP: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    """x <- x + s, s <- s - 4 A x + source_k b; the x_k go to kept if KEEP, s + 2 x goes to y.

    As the ADJOINT it goes down where the r_k went up: its x_k are kept last first, and sum_k r_k . (4 A) x_k, of each
    position, goes to form. stay is 0: the compiler does not know, and so reads again what it would else keep in
    registers.
    """
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    if tl.load(flag_ptr + n) != 0:
        return
    b = load_tile(b_ptr, n, t, d, L, D)
    a, w = load_row(a_ptr, n, t, L), load_tile(w_ptr, n, t, t, L, L)
    s = tl.load(source_ptr).to(tl.float32) * b
    x = tl.zeros_like(b)
    form = tl.zeros([LP], tl.float32)
    for j in range(degree):
        x += s
        place = n * degree + (degree - 1 - j if ADJOINT else j)
        if KEEP:
            store_tile(kept_ptr, place, t, d, L, D, x)
        m = n + j * stay
        v, kc = load_tile(v_ptr, m, t, d, L, D), load_tile(kc_ptr, m, t, d, L, D)
        u = w * dot(x, tl.trans(v), PRECISION)
        e = a[:, None] * dot(x, tl.trans(kc), PRECISION) + dot(u, load_tile(kk_ptr, m, t, t, L, L), PRECISION)
        product = dot(x * (a * a)[:, None], load_tile(gram_ptr, m, d, d, D, D), PRECISION)
        product += dot(u * a[:, None], kc, PRECISION)
        product += dot(w * e, v, PRECISION)
        if ADJOINT:
            form += tl.sum(product * load_tile(r_ptr, place, t, d, L, D), 1)
        s += tl.load(source_ptr + j + 1).to(tl.float32) * b - product
    store_tile(y_ptr, n, t, d, L, D, s + 2 * x)
    if ADJOINT:
        store_row(form_ptr, n, t, L, form)


@triton.jit
def _sums(
    kc_ptr, v_ptr, kk_ptr, a_ptr, w_ptr, flag_ptr, r_ptr, p_ptr, of_gram_ptr, of_kc_ptr, of_v_ptr, of_kk_ptr, of_w_ptr,
    degree, stay, L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From r_k and the p_k that the adjoint keeps, sums over k: the derivatives of sum_k p_k^T (4 A) r_k.

    By the Gram matrix of C_0 (half of it, to be added to its transpose), by K C_0, V, K K^T (likewise half) and log w.
    """
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    if tl.load(flag_ptr + n) != 0:
        return
    a, w = load_row(a_ptr, n, t, L), load_tile(w_ptr, n, t, t, L, L)
    of_gram = tl.zeros([DP, DP], tl.float32)
    of_kc, of_v = tl.zeros([LP, DP], tl.float32), tl.zeros([LP, DP], tl.float32)
    of_kk, of_w = tl.zeros([LP, LP], tl.float32), tl.zeros([LP, LP], tl.float32)
    for j in range(degree):
        r, p = load_tile(r_ptr, n * degree + j, t, d, L, D), load_tile(p_ptr, n * degree + j, t, d, L, D)
        m = n + j * stay
        v, kc, kk = load_tile(v_ptr, m, t, d, L, D), load_tile(kc_ptr, m, t, d, L, D), load_tile(kk_ptr, m, t, t, L, L)
        of_gram += dot(tl.trans(p * (a * a)[:, None]), r, PRECISION)
        u_r, u_p = w * dot(r, tl.trans(v), PRECISION), w * dot(p, tl.trans(v), PRECISION)
        e_r = a[:, None] * dot(r, tl.trans(kc), PRECISION) + dot(u_r, kk, PRECISION)
        e_p = a[:, None] * dot(p, tl.trans(kc), PRECISION) + dot(u_p, kk, PRECISION)
        of_w += u_r * e_p + u_p * e_r
        of_kk += dot(tl.trans(u_p), u_r, PRECISION)
        of_kc += dot(tl.trans(u_p * a[:, None]), r, PRECISION) + dot(tl.trans(u_r * a[:, None]), p, PRECISION)
        of_v += dot(tl.trans(w * e_p), r, PRECISION) + dot(tl.trans(w * e_r), p, PRECISION)
    store_tile(of_gram_ptr, n, d, d, D, D, of_gram)
    store_tile(of_kc_ptr, n, t, d, L, D, of_kc)
    store_tile(of_v_ptr, n, t, d, L, D, of_v)
    store_tile(of_kk_ptr, n, t, t, L, L, of_kk)
    store_tile(of_w_ptr, n, t, t, L, L, of_w)


@triton.jit
def _gradients(
    k_ptr, input_ptr, peak_ptr, peak_start_ptr, c0_ptr, z_ptr, over_norm_ptr, clamped_ptr, kc_ptr, v_ptr, kk_ptr,
    flag_ptr, of_gram_ptr, of_kc_ptr, of_v_ptr, of_kk_ptr, of_w_ptr, form_ptr, grad_scaled_ptr,
    grad_z_ptr, grad_k_ptr, grad_v_ptr, grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, grad_c0_ptr,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients by all inputs, from the sums: those of -form, and then those by way of the norm.

    The form is of degree 2 in the gates: its derivatives by log a and log w of a position add up to twice its value.
    """
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    if tl.load(flag_ptr + n) != 0:
        return
    form, through = load_row(form_ptr, n, t, L), load_tile(of_w_ptr, n, t, t, L, L)

    # By way of the norm, which divides z, a and w alike.
    over_norm = load_row(over_norm_ptr, n, t, L)
    grad_scaled = load_tile(grad_scaled_ptr, n, t, d, L, D)
    store_tile(grad_z_ptr, n, t, d, L, D, grad_scaled * over_norm[:, None])
    grad_log_norm = 2 * form - tl.sum(grad_scaled * load_tile(z_ptr, n, t, d, L, D), 1)
    grad_squared = tl.where(load_row(clamped_ptr, n, t, L) != 0, 0.0, 0.5 * grad_log_norm * over_norm * over_norm)

    k, v, kc = load_tile(k_ptr, n, t, d, L, D), load_tile(v_ptr, n, t, d, L, D), load_tile(kc_ptr, n, t, d, L, D)
    kk, vv = load_tile(kk_ptr, n, t, t, L, L), dot(v, tl.trans(v), PRECISION)
    c0 = load_tile(c0_ptr, n, d, d, D, D).to(tl.float32)
    exact_a, exact_w = load_gates(input_ptr, peak_ptr, peak_start_ptr, n, t, L)
    a, w = exact_a.to(tl.float32), exact_w.to(tl.float32)
    x = tl.sum(kc * v, 1)
    by_a = 2 * a * a * tl.sum(tl.sum(c0 * c0, 1), 0) + 2 * a * tl.sum(w * x[None, :], 1)
    by_w = w * (2 * a[:, None] * x[None, :] + 2 * dot(w, kk * vv, PRECISION))
    of_log_a = tl.sum(through, 1) - 2 * form + grad_squared * by_a
    store_gate_gradients(
        grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, n, t, L, of_log_a, grad_squared[:, None] * by_w - through
    )
    of_x = tl.sum((2 * grad_squared * a)[:, None] * w, 0)
    of_overlaps = dot(tl.trans(w), grad_squared[:, None] * w, PRECISION)
    of_v, of_kc = load_tile(of_v_ptr, n, t, d, L, D), load_tile(of_kc_ptr, n, t, d, L, D)
    grad_v = of_x[:, None] * kc - of_v + 2 * dot(of_overlaps * kk, v, PRECISION)
    store_tile(grad_v_ptr, n, t, d, L, D, grad_v)
    grad_kc, grad_kk = of_x[:, None] * v - of_kc, of_overlaps * vv - load_tile(of_kk_ptr, n, t, t, L, L)
    grad_k = dot(grad_kk + tl.trans(grad_kk), k, PRECISION) + dot(grad_kc, tl.trans(c0), PRECISION)
    store_tile(grad_k_ptr, n, t, d, L, D, grad_k)
    of_gram = load_tile(of_gram_ptr, n, d, d, D, D)
    grad_c0 = dot(tl.trans(k), grad_kc, PRECISION) - dot(c0, of_gram + tl.trans(of_gram), PRECISION)
    store_tile(grad_c0_ptr, n, d, d, D, D, grad_c0 + 2 * tl.sum(grad_squared * a * a, 0) * c0)


@triton.jit
def _memory(
    k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0, n, position, d, smallest_squared,
    L: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """C_t over its norm, one over the norm, and whether the norm is eps, all in float64."""
    peak = tl.load(peak_ptr + n * L + position)
    c = tl.exp(tl.load(peak_start_ptr + n) - peak) * c0
    for u in range(position + 1):
        w = tl.exp(tl.load(input_ptr + n * L + u) - peak)
        k, v = load_row(k_ptr, n * L + u, d, D).to(tl.float64), load_row(v_ptr, n * L + u, d, D).to(tl.float64)
        c += (w * k)[:, None] * v[None, :]
    squared = tl.sum(tl.sum(c * c, 1), 0)
    over_norm = 1 / tl.sqrt(tl.maximum(squared, smallest_squared))
    return c * over_norm, over_norm, squared < smallest_squared


@triton.jit
def _exact(
    z_ptr, k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0_ptr, flag_ptr, c_ptr, y_ptr, degree, smallest_squared,
    L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """Flagged chunks: one C_t at a time, in float64."""
    n, d = tl.program_id(0).to(tl.int64), tl.arange(0, DP)
    if tl.load(flag_ptr + n) == 0:
        return
    c0 = load_tile(c0_ptr, n, d, d, D, D)
    for position in range(L):
        c, over_norm, _ = _memory(
            k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0, n, position, d, smallest_squared, L, D
        )
        r = load_row(z_ptr, n * L + position, d, D) * over_norm
        step = 2 * r
        y = tl.load(c_ptr) * r
        for j in range(degree):
            step -= 4 * tl.sum(c * tl.sum(c * r[None, :], 1)[:, None], 0)
            r += step
            y += tl.load(c_ptr + j + 1) * r
        store_row(y_ptr, n * L + position, d, D, y)


@triton.jit
def _exact_backward(
    z_ptr, k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0_ptr, flag_ptr, c_ptr, grad_y_ptr,
    grad_z_ptr, grad_k_ptr, grad_v_ptr, grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, grad_c0_ptr,
    degree, smallest_squared, L: tl.constexpr, D: tl.constexpr, LP: tl.constexpr, DP: tl.constexpr,
):  # fmt: skip
    """The recurrence up, and down again beside its adjoint: in float64 nothing is lost on the way."""
    n, t, d = tl.program_id(0).to(tl.int64), tl.arange(0, LP), tl.arange(0, DP)
    if tl.load(flag_ptr + n) == 0:
        return
    c0 = load_tile(c0_ptr, n, d, d, D, D)
    grad_c0 = tl.zeros_like(c0)
    grad_k, grad_v = tl.zeros([LP, DP], tl.float64), tl.zeros([LP, DP], tl.float64)
    of_log_a, of_log_w = tl.zeros([LP], tl.float64), tl.zeros([LP, LP], tl.float64)
    for position in range(L):
        c, over_norm, clamped = _memory(
            k_ptr, v_ptr, input_ptr, peak_ptr, peak_start_ptr, c0, n, position, d, smallest_squared, L, D
        )
        grad_y = load_row(grad_y_ptr, n * L + position, d, D).to(tl.float64)
        r = load_row(z_ptr, n * L + position, d, D) * over_norm
        step = 2 * r
        for _up in range(degree):
            step -= 4 * tl.sum(c * tl.sum(c * r[None, :], 1)[:, None], 0)
            r += step
        grad_r = tl.load(c_ptr + degree) * grad_y
        p = tl.zeros_like(r)
        of_c = tl.zeros_like(c)
        for j in range(degree):
            r -= step
            p += grad_r
            c_r, c_p = tl.sum(c * r[None, :], 1), tl.sum(c * p[None, :], 1)
            step += 4 * tl.sum(c * c_r[:, None], 0)
            of_c -= 4 * (c_p[:, None] * r[None, :] + c_r[:, None] * p[None, :])
            grad_r += tl.load(c_ptr + degree - 1 - j) * grad_y - 4 * tl.sum(c * c_p[:, None], 0)
        grad_scaled = grad_r + 2 * p
        store_row(grad_z_ptr, n * L + position, d, D, grad_scaled * over_norm)
        of_log_norm = -tl.sum(grad_scaled * r, 0) - tl.sum(tl.sum(of_c * c, 1), 0)
        of_c = (of_c + tl.where(clamped, 0.0, of_log_norm) * c) * over_norm

        # C_t = a_t C_0 + sum_u w_tu k_u v_u^T
        peak = tl.load(peak_ptr + n * L + position)
        a = tl.exp(tl.load(peak_start_ptr + n) - peak)
        grad_c0 += a * of_c
        of_log_a += tl.where(t == position, a * tl.sum(tl.sum(of_c * c0, 1), 0), 0.0)
        for u in range(position + 1):
            w = tl.exp(tl.load(input_ptr + n * L + u) - peak)
            k, v = load_row(k_ptr, n * L + u, d, D).to(tl.float64), load_row(v_ptr, n * L + u, d, D).to(tl.float64)
            of_k, of_v = w * tl.sum(of_c * v[None, :], 1), w * tl.sum(of_c * k[:, None], 0)
            here = (t == u)[:, None]
            grad_k += tl.where(here, of_k[None, :], 0.0)
            grad_v += tl.where(here, of_v[None, :], 0.0)
            of_log_w += tl.where((t == position)[:, None] & (t == u)[None, :], tl.sum(of_k * k, 0), 0.0)
    store_tile(grad_k_ptr, n, t, d, L, D, grad_k)
    store_tile(grad_v_ptr, n, t, d, L, D, grad_v)
    store_tile(grad_c0_ptr, n, d, d, D, D, grad_c0)
    store_gate_gradients(grad_input_ptr, grad_peak_ptr, grad_peak_start_ptr, n, t, L, of_log_a, of_log_w)
