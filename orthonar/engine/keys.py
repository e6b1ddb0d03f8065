"""Keys of unit length, for writes that erase under a key and for reads that count keys."""

import torch
from torch import Tensor

from .looking import extremes

#: Keys shorter than this are divided by it instead of by their length.
SHORTEST_KEY = 1e-6
#: Smallest floor of a norm: squared it is still far above what float32 takes for 0.
LEAST_EPS = 1e-15
#: Largest floor of a norm: squared float32 still holds it.
MOST_EPS = 1e15


def unit_keys(k: Tensor, eps: float = SHORTEST_KEY) -> tuple[Tensor, Tensor]:
    """k / max(||k||, eps), and the divisor; differentiable as often as wanted, also at 0.

    Args:
        k: keys, (..., DH).
        eps: smallest length divided by.

    Returns:
        (..., DH) and (..., 1).
    """
    length = torch.linalg.vector_norm(k, dim=-1, keepdim=True)
    found = extremes(length)
    if found is None or found[0] == 0:  # where a norm has no second derivative
        empty = length == 0
        length = torch.linalg.vector_norm(k.masked_fill(empty, 1), dim=-1, keepdim=True).masked_fill(empty, 0)
    length = length.clamp_min(eps)
    return k / length, length
