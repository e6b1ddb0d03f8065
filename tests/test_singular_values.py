"""The map of singular values against the iteration that it must equal, and its gradient where the SVD's own fails."""

import pytest
import torch

from orthonar.reads.newton_schulz import newton_schulz_scalar
from orthonar.reads.singular_values import map_singular_values

SIZE = 5


def by_products(x):
    """Two cubic steps, by matrix products alone."""
    for _ in range(2):
        x = 1.5 * x - 0.5 * x @ x.mT @ x
    return x


def scalar(s):
    return newton_schulz_scalar(s, 2)


def matrices() -> dict[str, torch.Tensor]:
    """Of distinct singular values, and of equal, vanishing and almost equal ones."""
    generator = torch.Generator().manual_seed(3)
    u, _, vh = torch.linalg.svd(torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64))
    values = {
        "distinct": [0.9, 0.6, 0.4, 0.2, 0.05],
        "equal": [0.5, 0.5, 0.5, 0.1, 0.1],
        "almost_equal": [0.5, 0.5 - 1e-12, 0.5 - 1e-7, 0.4995, 0.4985],
        "rank_1": [1.0, 0, 0, 0, 0],
        "almost_singular": [0.7, 1e-4, 1e-8, 1e-16, 0],
        "zero": [0.0] * SIZE,
    }
    return {name: u @ torch.tensor(s, dtype=torch.float64).diag() @ vh for name, s in values.items()}


@pytest.mark.parametrize("name", matrices())
def test_values_and_gradients_are_those_of_matrix_products(name):
    x = matrices()[name].requires_grad_()
    weight = torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    got, wanted = map_singular_values(x, scalar), by_products(x)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-13)
    grads = [torch.autograd.grad((y * weight).sum(), x)[0] for y in (got, wanted)]
    torch.testing.assert_close(*grads, rtol=0, atol=1e-11)


def test_batches():
    x = torch.stack(list(matrices().values())).reshape(2, 3, SIZE, SIZE)
    torch.testing.assert_close(map_singular_values(x, scalar), by_products(x), rtol=0, atol=1e-13)


def test_a_matrix_that_is_not_finite_spoils_no_other():
    x = torch.stack(list(matrices().values())).requires_grad_()
    hostile = x.clone()
    hostile[1, 2, 3], hostile[4, 0, 0] = torch.nan, torch.inf
    whole, spoilt = map_singular_values(x, scalar), map_singular_values(hostile, scalar)
    finite = [0, 2, 3, 5]
    assert torch.equal(spoilt[finite], whole[finite]) and spoilt[[1, 4]].isnan().all()
    grads = [torch.autograd.grad(y[finite].square().sum(), x)[0] for y in (whole, spoilt)]
    assert torch.equal(grads[0][finite], grads[1][finite])


def test_steep_maps_have_their_own_gradient():
    """Of a map that no product of few matrices gives, against finite differences."""
    x = matrices()["distinct"].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: map_singular_values(x, lambda s: torch.erf(10 * s)), x)


@pytest.mark.parametrize("x", [torch.ones(3), torch.ones(2, 3).double(), torch.ones(3, 3)], ids=str)
def test_impossible_arguments_are_named(x):
    with pytest.raises(ValueError, match="^x must"):
        map_singular_values(x, scalar)
