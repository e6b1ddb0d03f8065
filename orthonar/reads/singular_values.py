"""Functions of a matrix's singular values, by the singular value decomposition, with gradients that hold everywhere.

The decomposition's own gradient divides by differences of singular values, which a memory of a few writes has none of.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..engine.by_hand import HandWritten

# Two singular values closer than this count as near: (f(a) - f(b)) / (a - b) would lose what they have in common, and
# so f' is averaged between them instead.
_NEAR = 1e-3
_NODES, _NODE_WEIGHTS = (torch.from_numpy(x / 2) for x in np.polynomial.legendre.leggauss(6))


def map_singular_values(x: Tensor, scalar_map: Callable[[Tensor], Tensor]) -> Tensor:
    """U f(S) V^T for x = U S V^T: the same singular vectors, other singular values. Differentiable once.

    The gradient is Noferini's (SIAM J. Matrix Anal. Appl. 38, 2017): in the basis of the singular vectors, the
    symmetric part of a direction is multiplied by (f(s_i) - f(s_j)) / (s_i - s_j), the antisymmetric part by
    (f(s_i) + f(s_j)) / (s_i + s_j), and where these are 0 / 0 by their limits.

    Args:
        x: square matrices, (..., N, N), float64; one with an entry that is not finite has no decomposition.
        scalar_map: f, odd and smooth, applied to float64 tensors element by element, differentiable by autograd.

    Returns:
        (..., N, N), float64; NaN for a matrix that is not finite, as its gradient is.

    Raises:
        ValueError: if x is not square or not float64.
    """
    if x.ndim < 2 or x.shape[-1] != x.shape[-2] or x.dtype != torch.float64:
        raise ValueError(f"x must be square float64 matrices (..., N, N), not {x.dtype} {tuple(x.shape)}")
    return _MapSingularValues.of(x, scalar_map)[0]


@torch.no_grad()
def orthogonal_blocks(weight: Tensor) -> Tensor:
    """The polar factor of each block, U V^T for the block U S V^T.

    It is the orthogonal matrix nearest to the block (Fan and Hoffman 1955). A key projection with its blocks replaced
    so, and frozen, only rotates what it projects: the random keys of the follow-up (Aquino-Michaels 2026, arXiv
    2607.19390). Not differentiable.

    Args:
        weight: square blocks, (..., N, N), any floating dtype.

    Returns:
        Orthogonal blocks, of the same shape and dtype; computed in float64.

    Raises:
        ValueError: if weight is not square blocks of floating dtype, or not finite.
    """
    if not isinstance(weight, Tensor):
        raise ValueError(f"weight must be a tensor, not {type(weight).__name__}")
    if weight.ndim < 2 or weight.shape[-1] != weight.shape[-2] or not weight.is_floating_point():
        raise ValueError(f"weight must be square floating-point blocks, not {weight.dtype} {tuple(weight.shape)}")
    if not weight.isfinite().all():
        raise ValueError("weight must be finite")
    u, _, vh = torch.linalg.svd(weight.double())
    return (u @ vh).to(weight.dtype)


class _MapSingularValues(HandWritten):
    @staticmethod
    def forward(x, scalar_map):
        finite = x.isfinite().flatten(-2).all(-1)[..., None, None]
        u, s, vh = torch.linalg.svd(torch.where(finite, x, 0.0))
        return torch.where(finite, (u * scalar_map(s)[..., None, :]) @ vh, torch.nan), u, s, vh

    @staticmethod
    def saved(args, outputs):
        return outputs, args[1:]

    @staticmethod
    def gradients(tensors, other, needs, grad):
        (mapped, u, s, vh), (scalar_map,) = tensors, other
        rows, columns = s[..., :, None].expand_as(u), s[..., None, :].expand_as(u)
        symmetric = _mean_slope(scalar_map, rows, columns)
        antisymmetric = _mean_slope(scalar_map, rows, -columns)
        inner = u.mT @ grad @ vh.mT
        inner = (inner + inner.mT) / 2 * symmetric + (inner - inner.mT) / 2 * antisymmetric
        return torch.where(mapped.isnan().any(-1, keepdim=True).any(-2, keepdim=True), torch.nan, u @ inner @ vh), None


def _mean_slope(scalar_map: Callable, a: Tensor, b: Tensor) -> Tensor:
    """(f(a) - f(b)) / (a - b), the mean of f' between a and b; by Gauss and Legendre's rule where they are near."""
    distance = a - b
    near = distance.abs() < _NEAR
    far_slope = (scalar_map(a) - scalar_map(b)) / distance.masked_fill(near, 1.0)
    middle = ((a + b) / 2)[..., None] + distance[..., None] * _NODES.to(a.device)
    with torch.enable_grad():
        middle.requires_grad_()
        (slopes,) = torch.autograd.grad(scalar_map(middle).sum(), middle)
    return torch.where(near, slopes @ _NODE_WEIGHTS.to(a.device), far_slope)
