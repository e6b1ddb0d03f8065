"""Reads of a chosen degree: their polynomials are the best of their kind, by linear programming and by alternation."""

import math

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import chebval
from scipy.optimize import linprog

from orthonar import MuonRead, NewtonSchulzRead, ShortMuonRead, ShortNewtonSchulzRead, SteepRead
from orthonar.reads.best_polynomials import odd_series, steepest_odd
from orthonar.reads.newton_schulz import newton_schulz_scalar

S = np.sin(np.linspace(0, np.pi / 2, 2001)[1:])  # finest at 1, where polynomials turn fastest


def values(c, s=S):
    """The polynomial by NumPy's own series."""
    every = np.zeros(2 * len(c))
    every[1::2] = c
    return chebval(s, every)


def basis(degree, s=S):
    return np.cos(np.outer(np.arccos(s), np.arange(1, 2 * degree + 2, 2)))


def alternations(low, high, p, slack):
    """How often in turn p lies on the lower and on the upper bound."""
    place = np.where(p <= low + slack, -1, np.where(p >= high - slack, 1, 0))
    touched = place[place != 0]
    return 1 + np.count_nonzero(np.diff(touched))


degrees = pytest.mark.parametrize("degree", [1, 2, 5, 12, 23])


# As steep as can be


@degrees
@pytest.mark.parametrize("ripple", [0.01, 0.25, 0.9])
def test_steep_polynomial_alternates_between_its_bounds(degree, ripple):
    p = values(SteepRead(degree, ripple).series)
    first = np.argmax(p >= 1 - ripple)
    assert p.max() <= 1 + 1e-12 and p[first:].min() >= 1 - ripple - 1e-9
    assert alternations(1 - ripple, 1.0, p[first - 1 :], 1e-2 * ripple) == degree + 2
    assert (np.diff(p[:first]) > 0).all()


@pytest.mark.parametrize(("degree", "ripple"), [(1, 0.25), (3, 0.25), (6, 0.1)])
def test_no_polynomial_is_steeper_or_sooner(degree, ripple):
    c = SteepRead(degree, ripple).series
    p = values(c)
    first = S[np.argmax(p >= 1 - ripple)]
    turns = np.flatnonzero(np.diff(np.sign(np.diff(p)))) + 1
    second = np.append(S[turns], 1.0)[1]
    b, upper = basis(degree), np.ones(len(S))
    above = S >= second
    slopes = np.array([(2 * k + 1) * (-1) ** k for k in range(degree + 1)])
    free = [(None, None)] * (degree + 1)
    steepest = linprog(
        -slopes, np.vstack([b, -b, -b[above]]), np.concatenate([upper, upper, (ripple - 1) * upper[above]]), bounds=free
    )
    assert -steepest.fun == pytest.approx(slopes @ c, rel=1e-3)
    for shift, reached in ((1.001, True), (0.98, False)):
        # the largest least value from there on
        above = S >= shift * first
        lowest = np.column_stack([-b[above], np.ones(above.sum())])
        bounded = np.column_stack([b, np.zeros(len(S))])
        best = linprog(
            [0] * (degree + 1) + [-1], np.vstack([lowest, bounded]),
            np.concatenate([0 * upper[above], upper]), bounds=[*free, (None, None)],
        )  # fmt: skip
        assert (-best.fun >= 1 - ripple) == reached


def test_with_all_the_ripple_it_is_chebyshevs():
    np.testing.assert_allclose(steepest_odd(4, 2.0), [0, 0, 0, 0, 1], atol=1e-12)


def test_steepness_is_as_documented():
    slopes = {n: float(odd_series(SteepRead(n).series, 1e-7)) / 1e-7 for n in (1, 5, 6, 12, 23)}
    for n, slope in slopes.items():
        assert slope == pytest.approx(1.25 * n + 0.7, abs=0.15)
    assert slopes[5] < 1.5**5 < slopes[6]
    for ripple, first in ((0.1, 0.166), (0.25, 0.105)):
        assert values(SteepRead(6, ripple).series, np.array([first])) == pytest.approx(1 - ripple, abs=0.01)
    assert SteepRead(20).working_dtype(torch.float32) == torch.float32
    assert SteepRead(21).working_dtype(torch.float32) == torch.float64


# Nearest to Newton-Schulz


def cubic(s, steps=5):
    for _ in range(steps):
        s = (3 * s - s**3) / 2
    return s


@pytest.mark.parametrize(("degree", "documented"), [(1, 0.511), (2, 0.352), (4, 0.159), (8, 0.0178), (12, 0.00174)])
def test_minimax_is_what_linear_programming_finds(degree, documented):
    p, wanted, b = values(ShortNewtonSchulzRead(degree).series), cubic(S), basis(degree)
    error, one = np.abs(p - wanted).max(), np.ones((len(S), 1))
    best = linprog(
        [0] * (degree + 1) + [1], np.block([[b, -one], [-b, -one], [b, 0 * one]]),
        np.concatenate([wanted, -wanted, np.ones(len(S))]), bounds=[(None, None)] * (degree + 1) + [(0, None)],
    )  # fmt: skip
    assert best.fun <= error * (1 + 1e-6) and error == pytest.approx(best.fun, rel=2e-3)
    assert error == pytest.approx(documented, rel=5e-3)
    assert p.max() <= 1 + 1e-12


@degrees
@pytest.mark.parametrize("steps", [4, 5])
def test_minimax_alternates_between_its_bounds(degree, steps):
    p, wanted = values(ShortNewtonSchulzRead(degree, steps).series), cubic(S, steps)
    error = np.abs(p - wanted).max()
    # Where rounding is the error, nothing alternates.
    if error > 1e-10:
        assert alternations(wanted - error, np.minimum(wanted + error, 1), p, 1e-2 * error) >= degree + 2


@pytest.mark.parametrize("degree", [1, 4, 12])
def test_series_is_nearest_in_the_mean_square(degree):
    """At Chebyshev points a plain least-squares fit has Chebyshev's weight."""
    s = np.cos((np.arange(4000) + 0.5) * np.pi / 8000)
    fitted = np.linalg.lstsq(basis(degree, s), cubic(s))[0]
    c = np.array(ShortNewtonSchulzRead(degree, fit="series").series)
    scale = max(1, values(fitted).max())
    np.testing.assert_allclose(c, fitted / scale, atol=1e-6)
    assert values(c).max() <= 1 + 1e-9


@pytest.mark.parametrize("fit", ["minimax", "series"])
def test_enough_products_give_the_steps_themselves(fit):
    for steps, degree in ((1, 1), (2, 4), (3, 13), (5, 50)):
        read = ShortNewtonSchulzRead(degree, steps, fit)
        np.testing.assert_allclose(values(read.series), newton_schulz_scalar(S, steps), atol=1e-9)
    c = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = NewtonSchulzRead(steps=2).matrix(c)
    torch.testing.assert_close(ShortNewtonSchulzRead(4, 2, fit).matrix(c), wanted, rtol=0, atol=1e-9)


# Muon's polynomial, cut


def quintic(s, steps):
    """The iteration by powers, as its source has it."""
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize(("degree", "steps"), [(2, 1), (5, 2), (21, 3), (40, 5)])
def test_muons_steps_are_cut_nearest_in_the_mean_square(degree, steps):
    s = np.cos((np.arange(4000) + 0.5) * np.pi / 8000)
    fitted = np.linalg.lstsq(basis(degree, s), quintic(s, steps))[0]
    fine = np.sin(np.linspace(0, np.pi / 2, 200_001))
    c = np.array(ShortMuonRead(degree, steps).series)
    np.testing.assert_allclose(c, fitted / max(1, values(fitted, fine).max()), atol=1e-6)


def test_enough_products_give_muons_steps_over_their_largest_value():
    c = torch.randn(3, 7, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    largest = quintic(np.linspace(0, 1, 1_000_001), 2).max()
    wanted = MuonRead(steps=2).matrix(c) / largest
    torch.testing.assert_close(ShortMuonRead(12, 2).matrix(c), wanted, rtol=0, atol=1e-9)


def test_what_is_told_of_the_cut():
    s = np.linspace(0, 1, 100_001)
    steepest, cut = quintic(s, 3), values(ShortMuonRead().series, s)
    assert steepest[1] / s[1] == pytest.approx(40.9, abs=0.1) and steepest[1] / s[1] / steepest.max() > 33.5
    assert cut[1] / s[1] == pytest.approx(24.3, abs=0.1) and np.abs(cut).max() <= 1 + 1e-9
    rippling = values(SteepRead(20).series, s)
    ripples = [np.abs(np.gradient(f, s)[s > 0.3]).max() for f in (cut, rippling)]
    assert ripples[0] < 42 and ripples[1] > 190
    assert ShortMuonRead(21).working_dtype(torch.float32) == torch.float32
    assert ShortMuonRead(22).working_dtype(torch.float32) == torch.float64


# All of them


@pytest.mark.parametrize(
    "read", [SteepRead(7), ShortNewtonSchulzRead(7), ShortNewtonSchulzRead(23), ShortMuonRead()], ids=str
)
def test_degree_is_the_number_of_products(read):
    for dtype in (torch.float32, torch.float64):
        assert read.coefficients(dtype) == read.series and len(read.series) == read.degree + 1
    shorter = ShortNewtonSchulzRead(23, tolerance=1e-2).coefficients(torch.float32)
    assert len(shorter) < 13


def test_matrix_is_the_polynomial_of_the_matrix():
    """By powers, X (b_0 + b_1 A + b_2 A^2 + ...), with the polynomial expanded by hand for n = 2."""
    c = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = c / torch.linalg.matrix_norm(c)
    read = SteepRead(2)
    c0, c1, c2 = read.series
    a = x.mT @ x
    powers = (c0 - 3 * c1 + 5 * c2) * torch.eye(5, dtype=a.dtype) + (4 * c1 - 20 * c2) * a + 16 * c2 * a @ a
    torch.testing.assert_close(read.matrix(c), x @ powers, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (SteepRead, "degree", 0),
        (SteepRead, "degree", 65),
        (SteepRead, "ripple", 0.0),
        (SteepRead, "ripple", math.nan),
        (ShortNewtonSchulzRead, "steps", 0),
        (ShortNewtonSchulzRead, "fit", "best"),
        (ShortMuonRead, "steps", 6),
    ],
    ids=str,
)
def test_impossible_settings_are_named(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        kind(**{name: value})
