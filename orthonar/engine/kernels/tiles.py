"""What the kernels share: loading and storing a chunk's tiles, gates, and products of a chosen precision.

Axes: N chunks (of all batch rows and heads), L positions in a chunk, D head size. Tiles are padded with zeros to powers
of two, LP and DP, at least 16: smaller ones cannot be multiplied.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Precisions of the products of float32 numbers, with the names that Triton has for them: three products of TF32's 10
#: bits of mantissa make one of float32 accuracy.
PRECISIONS = {"float32": "tf32x3", "tf32": "tf32"}
#: An option for kernels that want all registers there are: for capability 8.0 NVIDIA's assembler, left to itself,
#: gives them 32 and keeps the rest in memory.
ALL_REGISTERS = {"maxnreg": 255}


def padded(size: int) -> int:
    """The side of a tile that holds `size` rows."""
    return max(16, triton.next_power_of_2(size))


def is_modern(device: torch.device) -> bool:
    """Whether a GPU's compute capability is at least 8.0; true in the interpreter."""
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def input_precision(precision: str, device: torch.device) -> str:
    """Triton's name for a precision; GPUs before capability 8.0 have no TF32, products there are exact float32."""
    return PRECISIONS[precision] if is_modern(device) else "ieee"


def tile_sizes(x: Tensor) -> dict[str, int]:
    """Sizes that kernels over chunks x (N, L, D) are compiled for."""
    _, length, size = x.shape
    return {"L": length, "D": size, "LP": padded(length), "DP": padded(size)}


@triton.jit
def dot(x, y, PRECISION: tl.constexpr):
    """x @ y in their type; the precision is that of float32 products."""
    return tl.dot(x, y, input_precision=PRECISION, out_dtype=x.dtype)


@triton.jit
def load_tile(ptr, n, rows, columns, R: tl.constexpr, C: tl.constexpr):
    """The n-th (R, C) matrix, zeros outside."""
    at = n * (R * C) + rows[:, None] * C + columns[None, :]
    return tl.load(ptr + at, mask=(rows[:, None] < R) & (columns[None, :] < C), other=0.0)


@triton.jit
def store_tile(ptr, n, rows, columns, R: tl.constexpr, C: tl.constexpr, values):
    """Store the n-th (R, C) matrix."""
    at = n * (R * C) + rows[:, None] * C + columns[None, :]
    tl.store(ptr + at, values.to(ptr.dtype.element_ty), mask=(rows[:, None] < R) & (columns[None, :] < C))


@triton.jit
def load_row(ptr, n, columns, C: tl.constexpr):
    """The n-th row of C numbers, zeros outside."""
    return tl.load(ptr + n * C + columns, mask=columns < C, other=0.0)


@triton.jit
def store_row(ptr, n, columns, C: tl.constexpr, values):
    """Store the n-th row of C numbers."""
    tl.store(ptr + n * C + columns, values.to(ptr.dtype.element_ty), mask=columns < C)


@triton.jit
def load_gates(input_ptr, peak_ptr, peak_start_ptr, n, t, L: tl.constexpr):
    """a_t and w_tu of `orthonar.engine.chunk_memory` in float64; zero for positions that pad the tile."""
    log_input = tl.load(input_ptr + n * L + t, mask=t < L, other=float("-inf"))
    peak = tl.load(peak_ptr + n * L + t, mask=t < L, other=float("inf"))
    log_w = tl.where(t[:, None] >= t[None, :], log_input[None, :] - peak[:, None], float("-inf"))
    return tl.exp(tl.load(peak_start_ptr + n) - peak), tl.exp(log_w)


@triton.jit
def store_gate_gradients(input_ptr, peak_ptr, peak_start_ptr, n, t, L: tl.constexpr, of_log_a, of_log_w):
    """Gradients of the gate logs, float64, from those of log a (LP) and log w (LP, LP)."""
    of_log_a, of_log_w = of_log_a.to(tl.float64), of_log_w.to(tl.float64)
    store_row(input_ptr, n, t, L, tl.sum(of_log_w, 0))
    store_row(peak_ptr, n, t, L, -of_log_a - tl.sum(of_log_w, 1))
    tl.store(peak_start_ptr + n, tl.sum(of_log_a, 0))
