"""Odd functions as Chebyshev series: what makes a filter of a map of singular values."""

from collections.abc import Callable

import numpy as np

# Series for float64 are cut here, not at the machine epsilon: their coefficients carry rounding of about this size,
# and more where the function is steeper than _STEEP.
_SERIES_FLOOR, _STEEP = 1e-13, 30.0


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
