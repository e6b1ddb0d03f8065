"""The polar factor, Muon's quintic and ridge regression against what they are said to be."""

import math

import numpy as np
import pytest
import torch

from orthonar import MuonRead, NewtonSchulzRead, PolarRead, RidgeRead
from orthonar.reads.base import transpose_matvec


def with_singular_values(values, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices with singular values proportional to these, far from normalised, and their polar factors."""
    s = torch.as_tensor(values, dtype=torch.float64)
    size = s.shape[-1]
    random = torch.randn(*s.shape, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    u, _, vh = torch.linalg.svd(random)
    return 7.0 * (u * s[..., None, :]) @ vh, u @ vh


def queries(c: torch.Tensor) -> torch.Tensor:
    return torch.randn(c.shape[:-1], generator=torch.Generator().manual_seed(9), dtype=torch.float64)


# The polar factor


def test_polar_read_is_the_polar_factor_above_the_cutoff():
    drawn = torch.rand(50, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.36
    normalised = drawn / torch.linalg.vector_norm(drawn, dim=-1, keepdim=True)
    assert 0.15 < normalised.min() < 0.2  # above the cut-off, some just above
    c, polar = with_singular_values(drawn)
    torch.testing.assert_close(PolarRead().matrix(c), polar, rtol=0, atol=3e-6)
    q = queries(c)
    for dtype in (torch.float64, torch.float32):
        got = PolarRead().vector(c.to(dtype), q.to(dtype)).double()
        torch.testing.assert_close(got, transpose_matvec(polar, q), rtol=0, atol=2e-5)


@pytest.mark.parametrize("cutoff", [0.05, 0.15, 0.5, 1.0])
def test_polar_map_is_one_from_the_cutoff_on(cutoff):
    f = PolarRead(cutoff=cutoff).scalar_map
    above = f(torch.linspace(cutoff, 1, 1001, dtype=torch.float64))
    assert (1 - above).max() == pytest.approx(math.erfc(3.5), rel=1e-6) and (1 - above).min() >= 0
    below = torch.linspace(0, cutoff, 1001, dtype=torch.float64)
    assert (f(below).diff() > 0).all() and f(below)[0] == 0
    assert f(below[1:2]) / below[1] == pytest.approx(7 / math.sqrt(math.pi) / cutoff, rel=1e-4)
    torch.testing.assert_close(f(-below), -f(below))


def test_polar_read_is_no_polar_factor_below_the_cutoff():
    c, polar = with_singular_values([1.0, 1.0, 0.01])
    assert (PolarRead().matrix(c) - polar).abs().max() > 0.1


def test_newton_schulz_steps_lead_to_the_polar_read():
    c, _ = with_singular_values([[1.0, 0.5, 0.4, 0.2], [1.0, 1.0, 1.0, 1.0]])
    apart = [(NewtonSchulzRead(steps=n).matrix(c) - PolarRead().matrix(c)).abs().max().item() for n in (0, 2, 5, 8)]
    assert apart[0] > 0.4 and apart[1] > 0.2 and apart[2] > 0.01 and apart[3] < 1e-5


# Muon


def test_muon_read_is_the_published_quintic():
    c, _ = with_singular_values([1.0, 0.6, 0.3, 0.1, 0.0])
    x = c / torch.linalg.matrix_norm(c)
    for steps in range(4):
        torch.testing.assert_close(MuonRead(steps=steps).matrix(c), x, rtol=0, atol=1e-13)
        x = 3.4445 * x - 4.7750 * x @ x.mT @ x + 2.0315 * x @ x.mT @ x @ x.mT @ x


def test_muon_map_hovers_around_one():
    """It leaves [0, 1] and does not come closer to 1 with more steps."""
    s = torch.linspace(0.1, 1, 5001, dtype=torch.float64)
    lifted = [MuonRead(steps=steps).scalar_map(s) for steps in (3, 4, 5)]
    for f in lifted:
        assert 0.68 < f.min() < 0.75 and 1.1 < f.max() < 1.21
    assert (lifted[2] - 1).abs().mean() > 0.08
    assert MuonRead().scalar_map(torch.tensor(1e-9)) == pytest.approx(1e-9 * 3.4445**5)


# Ridge regression


@pytest.mark.parametrize("ridge", [0.001, 0.05, 1.0])
def test_ridge_read_solves_the_least_squares_problem(ridge):
    c, _ = with_singular_values([[1.0, 0.5, 0.2, 0.1], [1.0, 0.0, 0.0, 0.0]])
    q = queries(c)
    x = (c / torch.linalg.matrix_norm(c, keepdim=True)).numpy()
    got = transpose_matvec(RidgeRead(ridge=ridge).matrix(c), q).numpy()
    for i in range(2):
        stacked = np.concatenate([x[i], math.sqrt(ridge) * np.eye(4)])
        wanted = np.linalg.lstsq(stacked, np.append(q[i].numpy(), np.zeros(4)), rcond=None)[0]
        np.testing.assert_allclose(got[i], (1 + ridge) * wanted, atol=1e-11)


def test_ridge_map_peaks_where_it_is_said_to():
    s = torch.linspace(0, 1, 100001, dtype=torch.float64)
    f = RidgeRead(ridge=0.04).scalar_map(s)
    assert f[-1] == 1 and s[f.argmax()] == pytest.approx(0.2, abs=1e-5) and f.max() == pytest.approx(1.04 / 0.4)


# What the chunkwise form pays


@pytest.mark.parametrize(
    ("read", "degree", "double"),
    [
        (NewtonSchulzRead(steps=5), 23, False),
        (NewtonSchulzRead(steps=8), 79, False),
        (PolarRead(cutoff=0.2), 58, False),
        (PolarRead(), 77, False),
        (PolarRead(cutoff=0.13), 89, True),
        (PolarRead(cutoff=0.1), 115, True),
        (PolarRead(cutoff=0.05), 231, True),
        (MuonRead(steps=1), 2, False),
        (MuonRead(steps=2), 12, False),
        (MuonRead(steps=3), 41, True),
        (MuonRead(steps=4), 142, True),
        (MuonRead(), 490, True),
        (RidgeRead(ridge=0.1), 25, False),
        (RidgeRead(), 36, False),
        (RidgeRead(ridge=0.02), 58, True),
        (RidgeRead(ridge=0.01), 84, True),
    ],
    ids=str,
)
def test_degrees_and_dtypes_are_as_documented(read, degree, double):
    assert abs(len(read.coefficients(torch.float32)) - 1 - degree) <= 1
    assert read.working_dtype(torch.float32) == (torch.float64 if double else torch.float32)
    assert read.working_dtype(torch.float64) == torch.float64


@pytest.mark.parametrize(
    "read",
    [PolarRead(cutoff=0.05), PolarRead(cutoff=1), MuonRead(), RidgeRead(ridge=0.001), RidgeRead(ridge=1)],
    ids=str,
)
def test_extreme_settings_have_a_series_in_float64(read):
    s = np.linspace(0, 1, 3001)
    series = sum(c * np.cos((2 * k + 1) * np.arccos(s)) for k, c in enumerate(read.coefficients(torch.float64)))
    np.testing.assert_allclose(series, read.scalar_map(torch.from_numpy(s)), atol=3e-12)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (PolarRead, "cutoff", 0.04),
        (PolarRead, "cutoff", 1.01),
        (PolarRead, "cutoff", float("nan")),
        (PolarRead, "cutoff", "0.1"),
        (PolarRead, "cutoff", True),
        (PolarRead, "eps", 0.0),
        (MuonRead, "steps", -1),
        (MuonRead, "steps", 6),
        (MuonRead, "steps", 2.0),
        (MuonRead, "tolerance", 1.0),
        (RidgeRead, "ridge", 0.0),
        (RidgeRead, "ridge", 2),
        (RidgeRead, "ridge", None),
    ],
    ids=str,
)
def test_impossible_settings_are_named(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        kind(**{name: value})
