"""What the kernels that Numba compiles share: how they are compiled, how tensors reach them, and their small loops.

Numba compiles for one head size at a time, some seconds each, and keeps what it compiled beside these files.
"""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numba import njit
from numba.core.caching import FunctionCache
from torch import Tensor
from torch.nn import functional as F

from .llvm_rows import LANES

# What a compiler may do with sums; it may not assume that all numbers are finite.
_FAST = {"reassoc", "contract", "nsz", "arcp"}
#: How what is called there is compiled. Functions of their own would be linked in one way when they are compiled and in
#: another when they are found compiled, and would sum up in another order: a run would depend on what ran before.
INLINED: dict[str, Any] = {"inline": "always"}
# Of what loops are made beside the file that each is in.
_PARTS = hashlib.sha256(
    b"".join(files(__package__).joinpath(name).read_bytes() for name in ("llvm_rows.py", "loops.py", "vectors.py"))
).hexdigest()


class _Cache(FunctionCache):
    """What was compiled from other parts is not found. Numba looks at a loop's own file alone: after an update of the
    others' it would go on with what it compiled before."""

    def _index_key(self, sig, codegen):
        return *super()._index_key(sig, codegen), _PARTS


def compiled(loop: Callable) -> Callable:
    """A loop over chunks or rows, compiled when it is first called and kept for other processes."""
    dispatcher: Any = njit(fastmath=_FAST, nogil=True)(loop)
    dispatcher._cache = _Cache(loop)
    return dispatcher


def padded_size(size: int) -> int:
    """A head's size in whole vectors."""
    return -(-size // LANES) * LANES


def filled(x: Tensor, size: int, axes: int = 1) -> np.ndarray:
    """A tensor whose last axes are filled up with zeros to a size, as an array."""
    missing = size - x.shape[-1]
    return (F.pad(x, axes * (0, missing)) if missing else x.contiguous()).numpy()


def decays_and_weights(log_input: Tensor, peak: Tensor, peak_start: Tensor) -> tuple[Tensor, Tensor]:
    """What is left at each position of the state before it, and of its own write: of G and peak (N, L), and (N, 1)."""
    before = torch.cat([peak_start, peak[:, :-1]], 1)
    return (before - peak).exp(), (log_input - peak).exp()


def in_threads(loop: Callable, count: int, *args, least: int | None = None) -> None:
    """The loop over all chunks or rows, shared out to as many threads as PyTorch has.

    PyTorch's own threads wait awake for a millisecond or two before they sleep, and take a core each meanwhile. A loop
    that takes no longer says how much of it is worth a thread, and is shared out to half as many at most.

    Args:
        loop: called with the bounds of a part and args.
        count: how many chunks, rows or positions there are.
        args: of the loop.
        least: fewest of them that a thread of a short loop is given; None is no short loop.
    """
    threads = torch.get_num_threads() if least is None else min(torch.get_num_threads() // 2, count // least)
    threads = max(1, min(threads, count))
    bounds = [count * i // threads for i in range(threads + 1)]
    first, *others = zip(bounds[:-1], bounds[1:], strict=True)
    if not others:  # without a pool, which a small loop takes as long to set up as to run
        return loop(*first, *args)
    with ThreadPoolExecutor(len(others)) as pool:
        running = [pool.submit(loop, *part, *args) for part in others]
        loop(*first, *args)
        for part in running:
            part.result()


# Numba takes the length of a tuple from its type. Loops over a head's numbers are told their length by one, so that
# they are compiled for this very size: unrolled, in registers, three times faster.


@njit(**INLINED)
def new_rows(count, like, sized):
    """An array (count, D), of the dtype of another, that begins where a vector in memory does.

    A vector that lies across two lines of the cache is loaded twice.
    """
    spare = np.empty(count * len(sized) + LANES, like.dtype)
    ahead = -(spare.ctypes.data // like.itemsize) % LANES
    return spare[ahead : ahead + count * len(sized)].reshape(count, len(sized))
