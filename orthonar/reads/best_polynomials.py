"""Odd polynomials that are best in a stated sense, as coefficients in T_1, T_3, T_5, ...: filters of a chosen degree.

A polynomial p(s) = sum_k c_k T_{2k+1}(s), k = 0 ... n, costs a filter n products with A = X^T X: p(s) / s has degree n
in s^2. All are bounded by 1 on [-1, 1], so that such a read lifts no singular value above the largest.

In numpy and float64, and always the same: what a read computes may not depend on where it runs.
"""

from collections.abc import Callable

import numpy as np
from numpy.polynomial import chebyshev

from .chebyshev import odd_chebyshev

# Below this a best approximation is rounding, and the series is as good.
_NO_ERROR = 1e-10
_GRID, _CLOSE, _MOST_EXCHANGES = 4096, 1e-5, 100


def steepest_odd(degree: int, ripple: float) -> np.ndarray:
    """The odd polynomial that comes into [1 - ripple, 1] soonest and stays there up to s = 1.

    With n = degree, it takes the values 1, 1 - ripple, 1, ... in turn at its n positive critical points x_1 < ... < x_n
    and at x_{n+1} = 1, and reaches 1 - ripple for the first time at x_0 < x_1. So it is the best approximation of the
    sign function on [x_0, 1], scaled to a largest value of 1 (Eremenko and Yuditskii 2007, "Uniform approximation of
    sgn x by polynomials and entire functions"); ripple = 2 would give T_{2n+1}.

    No other odd polynomial q of this degree lies within [1 - ripple, 1] on [x_0, 1]: the difference of the two would
    change sign n + 1 times among x_0 ... x_{n+1}, but has at most n positive zeros. In the same way none with
    |q| <= 1 on [0, 1] and q >= 1 - ripple on [x_2, 1] has a greater slope at 0.

    Args:
        degree: n, at least 1.
        ripple: how far it may fall below 1 on the way, above 0.

    Returns:
        c_0 ... c_n.
    """
    orders = np.arange(1, 2 * degree + 2, 2)
    levels = np.where(np.arange(degree + 1) % 2, 1 - ripple, 1.0)
    points = np.cos(np.pi * np.arange(degree, -1, -1) / (2 * degree + 1))  # those of T_{2n+1}
    for _ in range(_MOST_EXCHANGES):
        c = np.linalg.solve(np.cos(np.outer(np.arccos(points), orders)), levels)
        slope = chebyshev.chebder(_all_orders(c))
        # The levels alternate, so between the points it turns n times, and its derivative has no other positive zeros.
        turns = np.sort(np.abs(chebyshev.chebroots(slope).real))[::2]
        moved, points[:-1] = np.abs(turns - points[:-1]).max(), turns
        if moved < 1e-12:
            break
    return _bounded(c)


def best_odd(f: Callable, degree: int) -> np.ndarray:
    """The odd polynomial p nearest to an odd function f with values in [0, 1]: least max |p - f| with p <= 1 on [0, 1].

    By exchange (Remez 1934, with the bound as in Taylor and Schumaker 1971, "Remez algorithm for approximation with
    restricted range"): with the error e, p touches the bounds f - e and min(f + e, 1) in turn at n + 2 points, n =
    degree. By the argument of `steepest_odd`, no other polynomial has so small an error.

    Args:
        f: on float64 arrays.
        degree: n, at least 1.

    Returns:
        c_0 ... c_n, or fewer where f itself is a polynomial of lower degree.
    """
    series = np.array(odd_chebyshev(f, _NO_ERROR))
    if len(series) <= degree + 1:
        return _bounded(series)
    # An angle's sine: finest at 1, where polynomials turn fastest.
    angle = np.linspace(0, np.pi / 2, _GRID + 1)[1:]
    s, wanted = np.sin(angle), np.asarray(f(np.sin(angle)))
    basis = np.cos(np.outer(np.pi / 2 - angle, np.arange(1, 2 * degree + 2, 2)))
    # Where T_{2n+3}, most of what a series of this degree leaves out, is +1 and -1 in turn.
    points = np.searchsorted(s, np.cos(np.pi * np.arange(degree + 1, -1, -1) / (2 * degree + 3)) - 1e-12)
    signs = (-1.0) ** np.arange(len(points))
    *_, error = _through(basis, wanted, points, signs, 0)
    signs, error = signs * np.sign(error), abs(error)
    for _ in range(_MOST_EXCHANGES):
        bounded = (signs > 0) & (wanted[points] + error > 1)
        *c, error = _through(basis, wanted, points, signs, bounded)
        high, low = np.minimum(wanted + error, 1), wanted - error
        # -1 on the lower and 1 on the upper bound.
        place = (2 * basis @ c - high - low) / (high - low)
        if np.abs(place).max() <= 1 + _CLOSE:
            break
        sections = np.split(np.arange(len(s)), np.flatnonzero(np.diff(np.sign(place))) + 1)
        points = np.array([section[np.abs(place[section]).argmax()] for section in sections])
        while len(points) > degree + 2:
            drop_first = abs(place[points[0]]) < abs(place[points[-1]])
            points = points[1:] if drop_first else points[:-1]
        signs = np.sign(place[points])
    return _bounded(np.array(c))


def _through(basis, wanted, points, signs, bounded) -> np.ndarray:
    """Coefficients and error e: p = f + e or f - e at the points, by sign, or p = 1 where it is bounded."""
    of_error = np.where(bounded, 0, -signs)
    system = np.column_stack([basis[points], of_error])
    return np.linalg.solve(system, np.where(bounded, 1, wanted[points]))


def truncated_series(f: Callable, degree: int) -> np.ndarray:
    """An odd function's Chebyshev series up to T_{2n+1}, n = degree: nearest in Chebyshev's weighted mean square.

    int_0^1 (p - f)^2 / sqrt(1 - s^2) ds is least for it among odd polynomials of this degree. It may pass 1, and is
    then divided by its largest value.

    Args:
        f: on float64 arrays.
        degree: n, at least 0.

    Returns:
        c_0 ... c_n, or fewer where f itself is a polynomial of lower degree.
    """
    return _bounded(np.array(odd_chebyshev(f, 0.0)[: degree + 1]))


def odd_series(c, s):
    """sum_k c_k T_{2k+1}(s).

    Args:
        c: c_0 ... c_n.
        s: where, array or tensor.
    """
    twice = 4 * s * s - 2
    before, current = s, s  # T_{-1} = T_1
    total = c[0] * current
    for c_k in c[1:]:
        before, current = current, twice * current - before
        total = total + c_k * current
    return total


def _bounded(c: np.ndarray) -> np.ndarray:
    """Divided by the largest value on [-1, 1] if that is above 1."""
    turns = chebyshev.chebroots(chebyshev.chebder(_all_orders(c)))
    # Of a complex turn the real part may be no turn: its value counts all the same.
    places = np.append(turns.real[np.abs(turns.real) <= 1], 1.0)
    return c / max(1.0, np.abs(odd_series(c, places)).max())


def _all_orders(c: np.ndarray) -> np.ndarray:
    """Coefficients in T_0, T_1, T_2, ..., those of even order 0."""
    every = np.zeros(2 * len(c))
    every[1::2] = c
    return every
