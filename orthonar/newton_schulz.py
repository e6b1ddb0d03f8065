"""The cubic Newton-Schulz iteration: on matrices, on scalars, and as a Chebyshev filter.

The iteration X <- X (3 I - X^T X) / 2 (Björck and Bowie 1971; Kovarik 1970) acts on each singular value s by
s <- s (3 - s^2) / 2 and drives every s in (0, sqrt 3) to 1. A few steps do *not* reach 1: after five, a singular value
of 0.01 has become 0.076. This is not the tuned quintic of the Muon optimizer, whose values hover around 1.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .checks import checked_integer

# Series for float64 are cut here, not at the machine epsilon: their coefficients carry rounding of about this size,
# and more where the function is steeper than _STEEP.
_SERIES_FLOOR, _STEEP = 1e-13, 30.0


def newton_schulz(x: Tensor, steps: int = 5, eps: float = 1e-6) -> Tensor:
    """Push the singular values of each matrix towards 1, after dividing the matrix by its Frobenius norm.

    X_0 = x / max(||x||_F, eps), then ``steps`` times X <- X (3 I - X^T X) / 2. Differentiable throughout.

    Args:
        x: matrices, (..., M, N), any floating dtype.
        steps: number of iterations, at least 0 (0 only normalises).
        eps: smallest norm divided by; an all-zero matrix stays zero.

    Returns:
        Tensor of the same shape and dtype; the singular values lie in [0, 1], the singular vectors are those of x.

    Raises:
        ValueError: if x is no floating matrix, or steps or eps is out of range.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor (..., M, N), not {x.dtype} {tuple(x.shape)}")
    check_iteration(steps, eps)
    norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
    x = x / norm.clamp_min(eps)
    # The smaller of the two Gram matrices gives the same product.
    wide = x.shape[-1] > x.shape[-2]
    for _ in range(steps):
        cubic = x @ x.mT @ x if wide else x @ (x.mT @ x)
        x = 1.5 * x - 0.5 * cubic
    return x


def check_iteration(steps: int, eps: float) -> None:
    """Raise a ValueError naming the setting if an iteration count or a norm floor is unusable."""
    checked_integer("steps", steps, 0)
    if not 0 < eps < float("inf"):
        raise ValueError(f"eps must be positive and finite, not {eps!r}")


def newton_schulz_scalar(s, steps: int = 5):
    """What ``steps`` iterations do to a singular value: s <- s (3 - s^2) / 2, repeated.

    Args:
        s: singular values in [0, 1], array, tensor or number.
        steps: number of iterations.

    Returns:
        The mapped values, of the same kind as ``s``.
    """
    for _ in range(steps):
        s = 1.5 * s - 0.5 * s**3
    return s


def odd_chebyshev(scalar_map: Callable, tolerance: float, max_terms: int = 1024) -> tuple[float, ...]:
    """Chebyshev coefficients of an odd function on [-1, 1], cut where the rest is below the tolerance.

    f(s) = sum_k c_k T_{2k+1}(s) + rest, with |rest| <= sum of the |c_k| left out <= tolerance (Trefethen,
    *Approximation Theory and Approximation Practice*, chapter 3). Since T_{2k+1}(s) = s V_k(2 s^2 - 1), with V_k the
    Chebyshev polynomials of the third kind, the same numbers are the coefficients of f(s) / s in the V_k, which is the
    polynomial of A = X^T X that a filter evaluates; its error is measured where it counts, multiplied by s.

    Args:
        scalar_map: the odd function, on float64 arrays.
        tolerance: largest sum of coefficients to leave out (absolute; the functions here are of size 1). Taken for
            what rounding allows, 1e-13 and more for steep functions, if it is smaller.
        max_terms: how many coefficients to try at most.

    Returns:
        (c_0, ..., c_n); n is the number of products with A that the filter costs.

    Raises:
        ValueError: if ``max_terms`` coefficients do not reach the tolerance.
    """
    terms = 64
    while True:
        # Interpolation in Chebyshev points of the first kind; 4 times the wanted terms keeps aliasing far below them.
        n = 8 * terms
        theta = (np.arange(n) + 0.5) * (np.pi / n)
        values = np.asarray(scalar_map(np.cos(theta)), dtype=np.float64)
        steepest = np.abs(np.diff(values) / np.diff(np.cos(theta))).max()
        floor = _SERIES_FLOOR * max(1.0, steepest / _STEEP)
        orders = np.arange(1, 2 * terms, 2)
        c = (2.0 / n) * (np.cos(np.outer(orders, theta)) @ values)
        left_out = np.append(np.cumsum(np.abs(c)[::-1])[::-1][1:], 0.0)
        enough = np.flatnonzero(left_out <= max(tolerance, floor))
        # The last quarter must be idle, or what the interpolation aliased into the series is not known to be small.
        if enough[0] < 3 * terms // 4:
            return tuple(float(x) for x in c[: enough[0] + 1])
        if terms >= max_terms:
            raise ValueError(f"tolerance {tolerance:.1e} is not reached with {max_terms} Chebyshev coefficients")
        terms *= 2
