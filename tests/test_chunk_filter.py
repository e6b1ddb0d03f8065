"""The filter of a chunk against explicit memory matrices, one for every position.

Axes: N chunks, L positions in a chunk, D head size.
"""

import numpy as np
import pytest
import torch

import orthonar.engine.chunk_filter as module
from orthonar import NewtonSchulzRead
from orthonar.engine import blocks
from orthonar.engine.chunk_filter import chunk_filter

CHUNKS, LENGTH, SIZE = 7, 5, 4
NAMES = ("z", "c0", "k", "v", "log_a", "log_w")
COEFFICIENTS = {
    "degree_0": (0.7,),
    "degree_1": (0.7, -0.4),
    "degree_2": (0.7, -0.4, 0.2),
    "five_steps": NewtonSchulzRead(steps=5).coefficients(torch.float64),
}


def operands(chunks: int = CHUNKS, length: int = LENGTH, size: int = SIZE, dtype=torch.float64) -> list:
    """z, C_0, K, V and the logs of both gates, scaled so that every memory has Frobenius norm 1."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    z, c0 = normal(chunks, length, size), normal(chunks, size, size)
    k, v = normal(chunks, length, size), normal(chunks, length, size)
    log_a = normal(chunks, length, 1)
    log_w = normal(chunks, length, length).masked_fill(~torch.ones(length, length).tril().bool(), -torch.inf)
    log_norm = torch.linalg.matrix_norm(memories(c0, k, v, log_a, log_w)).log()[..., None]
    return [x.to(dtype).requires_grad_() for x in (z, c0, k, v, log_a - log_norm, log_w - log_norm)]


def memories(c0, k, v, log_a, log_w) -> torch.Tensor:
    """C_t = a_t C_0 + sum_u w_tu k_u v_u^T, (N, L, D, D)."""
    written = torch.einsum("ntu,nud,nue->ntde", log_w.exp(), k, v)
    return log_a.exp()[..., None] * c0[:, None] + written


def plain(z, c0, k, v, log_a, log_w, coefficients) -> torch.Tensor:
    """sum_k c_k V_k(2 A - I) z, with A = C^T C, by the polynomials' recurrence on whole matrices."""
    c_state = memories(c0, k, v, log_a, log_w)
    identity = torch.eye(c_state.shape[-1], dtype=c_state.dtype)
    x = 2 * c_state.mT @ c_state - identity
    terms = [identity.expand_as(x), 2 * x - identity]
    while len(terms) < len(coefficients):
        terms.append(2 * x @ terms[-1] - terms[-2])
    g = sum(c * term for c, term in zip(coefficients, terms))
    return (g @ z[..., None])[..., 0]


def fast(z, c0, k, v, log_a, log_w, coefficients) -> torch.Tensor:
    shared = torch.cat([c0.mT @ c0, k @ c0, v], 1)
    return chunk_filter(z, shared, k @ k.mT, log_a, log_w, coefficients)


def with_grads(function, tensors, coefficients) -> list[torch.Tensor]:
    y = function(*tensors, coefficients)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [t.detach() for t in (y, *torch.autograd.grad(y, tensors, weight, materialize_grads=True))]


def assert_agree(got, wanted, tolerance=1e-10):
    for name, a, b in zip(("y", *NAMES), got, wanted, strict=True):
        assert torch.isfinite(a).all(), name
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=name)


@pytest.fixture
def blocks_of(monkeypatch):
    """Sets how many chunks of the size that `operands` makes by default are treated together."""

    def limit(chunks: int) -> None:
        nbytes = chunks * (SIZE + 2 * LENGTH) * SIZE * 8
        monkeypatch.setitem(blocks._BYTES, "cpu", nbytes)
        shared = torch.empty(CHUNKS, SIZE + 2 * LENGTH, SIZE, dtype=torch.float64)
        assert len(module._blocks(shared)) == -(-CHUNKS // chunks)

    return limit


@pytest.mark.parametrize("per_block", [1, 3, 64], ids="blocks_of_{}".format)
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_outputs_and_gradients(name, per_block, blocks_of):
    blocks_of(per_block)
    tensors, coefficients = operands(), COEFFICIENTS[name]
    assert_agree(with_grads(fast, tensors, coefficients), with_grads(plain, tensors, coefficients))


@pytest.mark.parametrize(("length", "size"), [(1, 1), (1, 4), (6, 1), (3, 9), (9, 3)])
def test_odd_sizes(length, size):
    tensors, coefficients = operands(2, length, size), COEFFICIENTS["five_steps"]
    assert_agree(with_grads(fast, tensors, coefficients), with_grads(plain, tensors, coefficients), 1e-9)


def test_float32_is_close_to_float64():
    coefficients = NewtonSchulzRead(steps=5).coefficients(torch.float32)
    tensors = operands(length=16, size=16, dtype=torch.float32)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    for got, wanted in zip(with_grads(fast, tensors, coefficients), with_grads(plain, exact, coefficients)):
        assert got.dtype == torch.float32
        assert torch.linalg.vector_norm(got - wanted) < 1e-5 * torch.linalg.vector_norm(wanted)


def test_blocks_change_nothing(blocks_of):
    tensors, coefficients = operands(), COEFFICIENTS["five_steps"]
    whole = with_grads(fast, tensors, coefficients)
    blocks_of(4)
    assert_agree(with_grads(fast, tensors, coefficients), whole, 1e-14)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_gradient_by_z_alone(name, blocks_of):
    """Needs nothing kept, and is the same."""
    blocks_of(3)
    z, *others = operands()
    wanted = with_grads(plain, [z, *others], COEFFICIENTS[name])[:2]
    got = with_grads(lambda z, c: fast(z, *(x.detach() for x in others), c), [z], COEFFICIENTS[name])
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_future_positions_get_no_gradient():
    *_, of_log_w = with_grads(fast, operands(), COEFFICIENTS["five_steps"])
    assert not of_log_w.triu(1).any()


def test_arguments_are_left_as_they_were():
    tensors = operands()
    before = [x.detach().clone() for x in tensors]
    with_grads(fast, tensors, COEFFICIENTS["five_steps"])
    assert all(torch.equal(a, b) for a, b in zip(before, tensors))


def test_zero_memory_gives_the_polynomial_at_zero():
    z, c0, k, v, log_a, log_w = (x.detach() for x in operands())
    y = fast(z, 0 * c0, 0 * k, v, log_a, log_w, COEFFICIENTS["five_steps"])
    # NS_5(s) / s at s = 0
    torch.testing.assert_close(y, 1.5**5 * z)


def test_gradients_of_gradients_are_refused():
    tensors = operands()
    y = fast(*tensors, COEFFICIENTS["degree_2"])
    (grad,) = torch.autograd.grad(y.square().sum(), tensors[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiated once"):
        grad.sum().backward()
