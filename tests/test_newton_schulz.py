"""The iteration against singular values, its scalar map, and its Chebyshev series."""

import numpy as np
import pytest
import torch

from orthonar import newton_schulz
from orthonar.reads.chebyshev import odd_chebyshev
from orthonar.reads.newton_schulz import newton_schulz_scalar

STEPS = [0, 1, 2, 3, 5, 8]
SHAPES = {
    "square": (5, 5),
    "wide": (3, 7),
    "tall": (7, 3),
    "one_by_one": (1, 1),
    "row": (1, 6),
    "column": (6, 1),
    "batch": (2, 3, 4, 4),
    "batch_of_wide": (4, 2, 9),
    "empty_batch": (0, 4, 4),
}
SINGULAR_VALUES = np.linspace(0.0, 1.0, 20001)


def matrices(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_singular_values(x: torch.Tensor, steps: int) -> torch.Tensor:
    u, s, vh = torch.linalg.svd(x / torch.linalg.matrix_norm(x, keepdim=True), full_matrices=False)
    return u @ torch.diag_embed(newton_schulz_scalar(s, steps)) @ vh


def series(c, s: np.ndarray) -> np.ndarray:
    """sum_k c_k T_{2k+1}(s)."""
    theta = np.arccos(s)
    return sum(c_k * np.cos((2 * k + 1) * theta) for k, c_k in enumerate(c))


# The iteration


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_singular_values_are_mapped_and_vectors_kept(shape, steps):
    x = matrices(*shape)
    y = newton_schulz(x, steps)
    assert y.shape == x.shape and y.dtype == x.dtype
    torch.testing.assert_close(y, by_singular_values(x, steps), rtol=0, atol=1e-12)


@pytest.mark.parametrize("steps", STEPS)
def test_float32_is_close_to_float64(steps):
    x = matrices(6, 9, dtype=torch.float32)
    y = newton_schulz(x, steps)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.double(), newton_schulz(x.double(), steps), rtol=0, atol=2e-6)


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_scale_is_thrown_away(scale):
    x = matrices(4, 6)
    torch.testing.assert_close(newton_schulz(scale * x), newton_schulz(x))


def test_more_steps_come_closer_to_the_polar_factor():
    x = matrices(5, 5)
    u, _, vh = torch.linalg.svd(x)
    distances = [torch.linalg.matrix_norm(newton_schulz(x, n) - u @ vh).item() for n in (0, 5, 10, 40)]
    assert distances == sorted(distances, reverse=True) and distances[-1] < 1e-12


@pytest.mark.parametrize("steps", STEPS)
def test_small_matrices_meet_the_floor_of_the_norm(steps):
    zero = torch.zeros(2, 3, 4, dtype=torch.float64, requires_grad=True)
    y = newton_schulz(zero, steps)
    assert torch.equal(y, torch.zeros_like(y))
    (grad,) = torch.autograd.grad(y.sum(), zero)
    # below the floor the map is X / eps, whose slope at 0 is (3/2)^steps / eps
    torch.testing.assert_close(grad, torch.full_like(grad, 1.5**steps / 1e-6))
    torch.testing.assert_close(newton_schulz(1e-9 * matrices(3, 3), 0), matrices(3, 3) * 1e-3)
    torch.testing.assert_close(newton_schulz(matrices(3, 3), 0, eps=1e3), matrices(3, 3) * 1e-3)


def test_one_by_one_is_the_scalar_map_of_one():
    # s = 1 is a fixed point, so that only the sign is left
    y = newton_schulz(torch.tensor([[[2.0]], [[-3.0]], [[0.0]]]))
    torch.testing.assert_close(y, torch.tensor([[[1.0]], [[-1.0]], [[0.0]]]))


@pytest.mark.parametrize("shape", [(3, 3), (2, 4), (4, 2), (1, 1), (2, 2, 3)], ids=str)
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_gradient(shape, steps):
    x = matrices(*shape).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: newton_schulz(x, steps), x)
    if steps == 1:
        assert torch.autograd.gradgradcheck(lambda x: newton_schulz(x, steps), x)


@pytest.mark.parametrize("others", [1.0, 1e151], ids=str)
def test_second_derivatives_hold_where_a_matrix_is_empty(others):
    """There the map is that of x / eps; elsewhere the second derivatives are those of sums of squares."""
    eps, sizes = 0.5, torch.tensor([others, 1, 1], dtype=torch.float64)[:, None, None]
    x = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x * torch.tensor([1, 0, 1e-170], dtype=torch.float64)[:, None, None]
    weight = torch.linspace(-1, 1, 48, dtype=torch.float64).reshape(3, 4, 4)

    def plain(x):
        x = x / (x * x).sum((-2, -1), keepdim=True).clamp_min(eps**2).sqrt()
        return 1.5 * x - 0.5 * x @ x.mT @ x

    def derivatives(function, x):
        x = x.clone().requires_grad_()
        (first,) = torch.autograd.grad((function(x) * weight).sum(), x, create_graph=True)
        return first, *torch.autograd.grad((first * weight.flip(0, 2)).sum(), x)

    got, wanted = derivatives(lambda x: newton_schulz(x, 1, eps), x * sizes), derivatives(plain, x)
    for order, (a, b) in enumerate(zip(got, wanted, strict=True), 1):
        torch.testing.assert_close(a * sizes**order, b, rtol=1e-10, atol=1e-12)


def test_default_is_five_steps():
    assert torch.equal(newton_schulz(matrices(4, 4)), newton_schulz(matrices(4, 4), 5))


@pytest.mark.parametrize(
    ("name", "call"),
    {
        "list": ("x", lambda: newton_schulz([[1.0, 2.0]])),
        "no_rows": ("x", lambda: newton_schulz(torch.ones(0, 3))),
        "vector": ("x", lambda: newton_schulz(torch.ones(3))),
        "integers": ("x", lambda: newton_schulz(torch.ones(3, 3, dtype=torch.int64))),
        "steps_negative": ("steps", lambda: newton_schulz(torch.eye(3), -1)),
        "steps_fraction": ("steps", lambda: newton_schulz(torch.eye(3), 2.0)),
        "steps_bool": ("steps", lambda: newton_schulz(torch.eye(3), True)),
        "eps_zero": ("eps", lambda: newton_schulz(torch.eye(3), eps=0.0)),
        "eps_infinite": ("eps", lambda: newton_schulz(torch.eye(3), eps=float("inf"))),
        "eps_nan": ("eps", lambda: newton_schulz(torch.eye(3), eps=float("nan"))),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_arguments_are_named(name, call):
    with pytest.raises(ValueError, match=f"^{name} must"):
        call()


# The scalar map


def test_scalar_map_is_the_written_out_cubic():
    s = np.linspace(-1, 1, 7)
    once = s * (3 - s**2) / 2
    np.testing.assert_allclose(newton_schulz_scalar(s, 1), once, rtol=1e-15)
    np.testing.assert_allclose(newton_schulz_scalar(s, 2), once * (3 - once**2) / 2, rtol=1e-15)
    np.testing.assert_array_equal(newton_schulz_scalar(s, 0), s)


@pytest.mark.parametrize("steps", STEPS)
def test_scalar_map_is_odd_and_rises_from_0_to_1(steps):
    mapped = newton_schulz_scalar(SINGULAR_VALUES, steps)
    assert mapped[0] == 0 and mapped[-1] == 1
    assert (np.diff(mapped) >= -1e-15).all() and (mapped >= SINGULAR_VALUES - 1e-15).all()
    np.testing.assert_allclose(newton_schulz_scalar(-SINGULAR_VALUES, steps), -mapped, rtol=1e-15)


def test_five_steps_do_not_reach_one():
    assert newton_schulz_scalar(0.01, 5) == pytest.approx(0.0757, abs=2e-4)
    assert torch.equal(newton_schulz_scalar(torch.tensor([1.0])), torch.tensor([1.0]))


# The series

#: (steps, degree): the largest error on [0, 1] of the series of g(A) in Chebyshev polynomials of the first kind, as
#: measured beforehand. The third kind, which the package uses, must not be worse.
FIRST_KIND = {
    (5, 16): 1.1e-4,
    (5, 20): 4.1e-6,
    (5, 24): 1.1e-7,
    (5, 32): 2e-11,
    (3, 8): 2.7e-6,
    (3, 12): 4e-12,
}


@pytest.mark.parametrize(("steps", "degree"), FIRST_KIND, ids=str)
def test_error_by_degree(steps, degree):
    c = odd_chebyshev(lambda s: newton_schulz_scalar(s, steps), 1e-13)[: degree + 1]
    error = np.abs(series(c, SINGULAR_VALUES) - newton_schulz_scalar(SINGULAR_VALUES, steps)).max()
    assert FIRST_KIND[steps, degree] / 4 < error < FIRST_KIND[steps, degree]


@pytest.mark.parametrize("tolerance", [1e-2, 1e-4, 2.0**-23, 1e-9, 1e-12], ids="{:.0e}".format)
@pytest.mark.parametrize("steps", STEPS)
def test_tolerance_is_kept_and_no_term_is_wasted(steps, tolerance):
    c = odd_chebyshev(lambda s: newton_schulz_scalar(s, steps), tolerance)
    mapped = newton_schulz_scalar(SINGULAR_VALUES, steps)
    assert np.abs(series(c, SINGULAR_VALUES) - mapped).max() <= tolerance + 1e-14
    whole = odd_chebyshev(lambda s: newton_schulz_scalar(s, steps), 1e-13)
    assert len(c) == 1 or np.abs(whole[len(c) - 1 :]).sum() > tolerance


def test_degree_for_float32_is_about_24():
    c = odd_chebyshev(newton_schulz_scalar, torch.finfo(torch.float32).eps)
    assert 22 <= len(c) - 1 <= 26


def test_low_degrees_are_exact():
    np.testing.assert_allclose(odd_chebyshev(lambda s: s, 1e-13), [1.0], atol=1e-14)
    # (3 s - s^3) / 2 with s = T_1 and s^3 = (3 T_1 + T_3) / 4
    np.testing.assert_allclose(odd_chebyshev(lambda s: newton_schulz_scalar(s, 1), 1e-13), [1.125, -0.125], atol=1e-14)


def test_coefficients_serve_the_third_kind():
    """f(s) / s = sum_k c_k V_k(2 s^2 - 1), by V_0 = 1, V_1 = 2 x - 1, V_{k+1} = 2 x V_k - V_{k-1}."""
    c = odd_chebyshev(newton_schulz_scalar, 1e-12)
    s = SINGULAR_VALUES[1:]
    x = 2 * s**2 - 1
    v = [np.ones_like(x), 2 * x - 1]
    while len(v) < len(c):
        v.append(2 * x * v[-1] - v[-2])
    g = sum(c_k * v_k for c_k, v_k in zip(c, v))
    np.testing.assert_allclose(s * g, newton_schulz_scalar(s), atol=1e-11)


def test_unreachable_tolerances_raise():
    with pytest.raises(ValueError, match="tolerance"):
        odd_chebyshev(np.sign, 1e-6)
    with pytest.raises(ValueError, match="64 Chebyshev coefficients"):
        odd_chebyshev(lambda s: newton_schulz_scalar(s, 8), 1e-12, max_terms=64)


def test_many_terms_are_found_where_they_are_needed():
    c = odd_chebyshev(lambda s: newton_schulz_scalar(s, 10), 1e-9)
    assert len(c) > 64
    error = np.abs(series(c, SINGULAR_VALUES) - newton_schulz_scalar(SINGULAR_VALUES, 10)).max()
    assert error < 2e-9
