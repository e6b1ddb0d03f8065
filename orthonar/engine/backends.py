"""The one door to `orthonar.engine.kernels`: whether its kernels can run somewhere, and loading them where they do.

ORTHONAR_NUMBA=0 in the environment leaves Numba's aside.
"""

import importlib.util
import os
import warnings
from functools import cache, lru_cache

import torch
from torch import Tensor

from .by_hand import autocast_is_on
from .looking import called_while_traced, computed_apart, is_exporting

#: Precisions of float32 products in the kernels.
PRECISIONS = ("float32", "tf32")

_LARGEST_HEAD = 64
# Beyond it the matrices of a position leave the caches that a core has for itself.
_LARGEST_COMPILED_HEAD = 128
_OLDEST_CAPABILITY = (7, 5)
# The trial's filter: any coefficients that are not 0 would do.
_TRIAL_COEFFICIENTS, _TRIAL_EPS = tuple((-1) ** k / (k + 1) ** 2 for k in range(16)), 1e-6
# How far the first result may be from the plain form's: a broken kernel is caught, rounding is not.
_TRIAL_TOLERANCE = {"float32": 1e-4, "tf32": 5e-2}


def fused_reads(q, k, v, log_input, peak, peak_start, c_start, n_start, precision):
    """C_t^T q_t and n_t . q_t; see `orthonar.engine.kernels.chunk_reads`."""
    from .kernels.chunk_reads import fused_chunk_reads

    return fused_chunk_reads(q, k, v, log_input, peak, peak_start, c_start, n_start, precision)


def fused_filter(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps, limit, precision):
    """What a filter makes of the raw numerators z; see `orthonar.engine.kernels.chunk_filter`."""
    from .kernels.chunk_filter import fused_chunk_filter

    return fused_chunk_filter(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps, limit, precision)


def compiled_filter(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps, limit):
    """What a filter makes of the raw numerators z; see `orthonar.engine.kernels.cpu_filter`."""
    from .kernels.cpu_filter import compiled_filter

    return compiled_filter(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps, limit)


def compiled_memory(q, k, v, log_input, peak, peak_initial, c_initial, n_initial):
    """What is read and the states at the chunks' starts and ends; see `orthonar.engine.kernels.cpu_memory`."""
    from .kernels.cpu_memory import compiled_memory

    return compiled_memory(q, k, v, log_input, peak, peak_initial, c_initial, n_initial)


def compiled_blocks(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """What a block-diagonal map makes of every position, by head; see `orthonar.engine.kernels.cpu_layer`."""
    from .kernels.cpu_layer import compiled_blocks

    return compiled_blocks(x, weight, heads)


def compiled_convolution(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """A depthwise convolution over the current and the past positions; see `orthonar.engine.kernels.cpu_layer`."""
    from .kernels.cpu_layer import compiled_convolution

    return compiled_convolution(x, taps, bias)


def fused_states(decay: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """States at the chunks' starts and the last one's end; see `orthonar.engine.kernels.states`."""
    from .kernels.states import fused_scan

    return fused_scan(decay, update, initial)


def can_fuse(device: torch.device, head_size: int, chunk_size: int, filtered: bool, precision: str) -> bool:
    """Whether the kernels run on a device; a GPU where they do not is warned about once.

    Args:
        device: where the tensors are.
        head_size: DH.
        chunk_size: positions in a chunk.
        filtered: whether the read is a filter.
        precision: of float32 products.
    """
    # What is exported is made of PyTorch's operators.
    if device.type != "cuda" or is_exporting():
        return False
    return _fuse_or_warn(device, head_size, chunk_size, filtered, precision)


def can_compile(device: torch.device, head_size: int) -> bool:
    """Whether Numba's kernels compute memory and filters on a device; one that is there and fails is warned about once.

    Args:
        device: where the tensors are.
        head_size: DH.
    """
    # What is exported, or traced with tensors without data, is made of PyTorch's operators.
    if device.type != "cpu" or head_size > _LARGEST_COMPILED_HEAD or is_exporting():
        return False
    return numba_version() is not None


def can_compile_maps(*tensors: Tensor) -> bool:
    """Whether Numba's kernels compute a layer's maps of tensors: all float32 or all float64, and no autocast.

    Args:
        tensors: inputs and weights.
    """
    dtypes, device = {x.dtype for x in tensors}, tensors[0].device
    exact = len(dtypes) == 1 and dtypes <= {torch.float32, torch.float64} and not autocast_is_on(device)
    return exact and can_compile(device, 1)


def can_compile_blocks(x: Tensor, weight: Tensor, heads: int) -> bool:
    """Whether they compute a block-diagonal map by head: blocks and heads must be cut into whole vectors of 64 bytes.

    Args:
        x: (B, S, I).
        weight: the blocks, (I / size, size, size).
        heads: NH.
    """
    lanes, head_size = 64 // x.element_size(), x.shape[2] // heads
    whole = lanes % weight.shape[1] == 0 and head_size % lanes == 0
    return whole and head_size <= _LARGEST_COMPILED_HEAD and can_compile_maps(x, weight)


@called_while_traced
def numba_version() -> str | None:
    """Version of the Numba that compiles loops for CPUs, None where none does."""
    return _numba_version() if os.environ.get("ORTHONAR_NUMBA") != "0" else None


@cache
def _numba_version() -> str | None:
    if importlib.util.find_spec("numba") is None:
        return None
    try:
        import numba

        from .kernels import cpu_filter, cpu_layer, cpu_memory  # noqa: F401 (Numba looks for a place to keep what it compiles)
    except Exception as exception:  # whatever a compiler may raise
        reason = f"{type(exception).__name__}: {exception}"
        _warn_once(f"orthonar: Numba is installed but cannot be used, PyTorch's operators are slower: {reason}")
        return None
    return numba.__version__


@called_while_traced
def _fuse_or_warn(*trial) -> bool:
    reason = why_unsupported(*trial)
    if reason is not None:
        _warn_once(f"orthonar: the fused kernels cannot be used, PyTorch's operators are slower: {reason}")
    return reason is None


@called_while_traced
def why_unsupported(
    device: torch.device, head_size: int, chunk_size: int, filtered: bool, precision: str
) -> str | None:
    """Why the kernels cannot run on a device, None if they can; arguments as of `can_fuse`.

    On a GPU they are tried out first, on one chunk against the plain form.
    """
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"they need a GPU, not {device.type}"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is missing"
    if head_size > _LARGEST_HEAD:
        return f"heads may have at most {_LARGEST_HEAD} numbers, not {head_size}"
    if device.type != "cuda":
        return None
    if torch.cuda.get_device_capability(device) < _OLDEST_CAPABILITY:
        return f"{torch.cuda.get_device_name(device)} is older than capability {_OLDEST_CAPABILITY}"
    return _trial(device, head_size, chunk_size, filtered, precision)


@lru_cache(maxsize=64)
def _trial(device: torch.device, head_size: int, chunk_size: int, filtered: bool, precision: str) -> str | None:
    try:
        # The answer is kept, whatever the caller traces, differentiates or maps over.
        error = computed_apart(lambda: trial_error(device, head_size, chunk_size, filtered, precision))
    except Exception as exception:  # whatever a compiler or driver may raise
        return f"{type(exception).__name__}: {str(exception).strip().splitlines()[0] if str(exception) else ''}"
    if not error < _TRIAL_TOLERANCE[precision]:
        return f"on a trial they were wrong by {error:.1e}"
    return None


@torch.inference_mode(False)
@torch.enable_grad()
def trial_error(device: torch.device, head_size: int, chunk_size: int, filtered: bool, precision: str) -> float:
    """Largest relative error, gradients too, of one chunk against the plain form; arguments as of `can_fuse`.

    The caller may be anywhere, also where no gradients are wanted.
    """
    kept = torch.float64 if filtered else torch.float32
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, chunk_size, head_size)] * 3 + [(1, head_size, head_size), (1, head_size)]
    q, k, v, c_start, n_start = (
        torch.randn(shape, generator=generator, dtype=torch.float32).to(device).requires_grad_() for shape in shapes
    )
    gates = torch.rand(1, chunk_size + 1, generator=generator, dtype=torch.float64).to(device)
    log_input, peak_start = gates[:, 1:].detach().requires_grad_(), gates[:, :1]
    peak = torch.cat([peak_start, log_input], 1).cummax(1).values[:, 1:]
    inputs = q, k, v, log_input, c_start, n_start

    c_state = (peak_start - peak).exp()[..., None, None] * c_start[:, None].double()
    weights = (log_input[:, None, :] - peak[:, :, None]).tril().exp().tril()
    c_state = c_state + torch.einsum("ntu,nud,nue->ntde", weights, k.double(), v.double())
    n_state = (peak_start - peak).exp()[..., None] * n_start[:, None].double() + weights @ k.double()
    read_matrix = _filtered_matrix(c_state, _TRIAL_COEFFICIENTS, _TRIAL_EPS) if filtered else c_state
    expected = (
        torch.einsum("ntde,ntd->nte", read_matrix, q.double()),
        (n_state * q).sum(-1),
    )
    memory, logs = c_start.to(kept), (log_input, peak, peak_start)
    z, n_dot_q = fused_reads(q, k, v, *logs, memory, n_start.double(), precision)
    if filtered:
        z = fused_filter(z, k, v, *logs, memory, _TRIAL_COEFFICIENTS, _TRIAL_EPS, 16.0, precision)
    got = z, n_dot_q
    scale = [torch.randn(e.shape, generator=generator, dtype=torch.float64).to(device) for e in expected]
    expected_grads = torch.autograd.grad(expected, inputs, scale, retain_graph=True)
    got_grads = torch.autograd.grad(got, inputs, [s.to(g.dtype) for s, g in zip(scale, got)])
    pairs = zip((*got, *got_grads), (*expected, *expected_grads))
    return max(((a.double() - b.double()).norm() / b.double().norm()).item() for a, b in pairs)


def _filtered_matrix(c_state: Tensor, coefficients: tuple[float, ...], eps: float) -> Tensor:
    """X sum_k c_k V_k(2 X^T X - I) for X = C / max(||C||_F, eps), by matrices: the oracle of the trial."""
    x = c_state / torch.linalg.vector_norm(c_state, dim=(-2, -1), keepdim=True).clamp_min(eps)
    identity = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    s = 2 * x.mT @ x - identity
    terms = [identity, 2 * s - identity]
    while len(terms) < len(coefficients):
        terms.append(2 * s @ terms[-1] - terms[-2])
    return x @ sum(c * term for c, term in zip(coefficients, terms))


@cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)
