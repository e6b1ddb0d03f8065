"""The layer's maps that Numba compiles for CPUs, against PyTorch's operators in float64; more in test_transforms.

Axes: B batch, S sequence, I inner width, NH heads, DH head size, K taps.
"""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from orthonar import MLSTM, ModelConfig, NewtonSchulzRead, SequenceModel, WriteBack
from orthonar.engine.backends import compiled_blocks, compiled_convolution
from orthonar.mlstm import parts
from orthonar.mlstm.layer import MLSTMLayer

HEADS = 2


def normal(shapes, dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=generator, dtype=torch.float64).to(dtype).requires_grad_() for s in shapes]


def blocks_operands(batch: int, length: int, inner: int, size: int, dtype=torch.float64) -> list[torch.Tensor]:
    """x, which is the first half of something wider, as a layer has it, and the blocks."""
    wide, weight = normal([(batch, length, 2 * inner), (inner // size, size, size)], dtype)
    return [wide.detach()[..., :inner].requires_grad_(), weight]


def convolution_operands(batch: int, length: int, inner: int, taps: int, dtype=torch.float64) -> list[torch.Tensor]:
    """x, taps and bias."""
    return normal([(batch, taps - 1 + length, inner), (inner, taps), (inner,)], dtype)


def of_blocks(x, weight):
    return compiled_blocks(x, weight, HEADS)


def by_einsum(x, weight):
    count, size, _ = weight.shape
    y = torch.einsum("bsni,noi->bsno", x.double().unflatten(-1, (count, size)), weight.double()).flatten(-2)
    return y.unflatten(-1, (HEADS, -1)).transpose(1, 2)


def by_conv1d(x, taps, bias):
    return F.conv1d(x.double().mT, taps.double()[:, None], bias.double(), groups=len(taps)).mT


def with_grads(function, tensors) -> list[torch.Tensor]:
    """The result, and the gradients of a fixed combination of its entries."""
    y = function(*tensors)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [y.detach(), *torch.autograd.grad((y.double() * weight).sum(), tensors)]


def assert_close(got, wanted, tolerance):
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape and (a.double() - b).norm() <= tolerance * b.norm()


# More positions than one piece of 256 has, and than one thread gets; a block of one, and one as wide as a vector.
@pytest.mark.parametrize(
    ("batch", "length", "inner", "size"), [(1, 1, 16, 1), (3, 7, 48, 2), (5, 511, 96, 4), (2, 300, 32, 8)]
)
def test_blocks(batch, length, inner, size):
    tensors = blocks_operands(batch, length, inner, size)
    assert_close(with_grads(of_blocks, tensors), with_grads(by_einsum, tensors), 1e-13)
    if inner // HEADS % 16 == 0:
        tensors = blocks_operands(batch, length, inner, size, torch.float32)
        assert_close(with_grads(of_blocks, tensors), with_grads(by_einsum, tensors), 1e-6)


@pytest.mark.parametrize(
    ("batch", "length", "inner", "taps"), [(1, 1, 1, 1), (3, 2, 5, 4), (5, 511, 48, 4), (1, 300, 7, 3)]
)
def test_convolution(batch, length, inner, taps):
    tensors = convolution_operands(batch, length, inner, taps)
    assert_close(with_grads(compiled_convolution, tensors), with_grads(by_conv1d, tensors), 1e-13)
    tensors = convolution_operands(batch, length, inner, taps, torch.float32)
    assert_close(with_grads(compiled_convolution, tensors), with_grads(by_conv1d, tensors), 1e-6)


def test_gradients_of_weights_do_not_add_up_rounding():
    """They are sums over all positions, here of numbers that are all alike."""
    x, weight = (torch.ones(s, requires_grad=True) for s in ((1, 200_000, 32), (8, 4, 4)))
    [of_weight] = torch.autograd.grad((0.1 * of_blocks(x, weight)).sum(), weight)
    torch.testing.assert_close(of_weight, torch.full_like(weight, 20_000), rtol=1e-5, atol=0)
    x, taps, bias = (torch.ones(s, requires_grad=True) for s in ((1, 200_003, 2), (2, 4), (2,)))
    for found in torch.autograd.grad((0.1 * compiled_convolution(x, taps, bias)).sum(), (taps, bias)):
        torch.testing.assert_close(found, torch.full_like(found, 20_000), rtol=1e-5, atol=0)


def test_what_is_not_finite_stays_where_it_is():
    """A dense matrix with zeros beside the blocks would spread it over the head."""
    x, weight = blocks_operands(1, 3, 32, 4)
    with torch.no_grad():
        x[0, 1, 5] = torch.inf
    finite = compiled_blocks(x, weight, HEADS).isfinite().transpose(1, 2).flatten(2)
    assert not finite[0, 1, 4:8].any() and finite[0, 1, :4].all() and finite[0, 1, 8:].all() and finite[0, ::2].all()


def test_threads_change_nothing():
    cases = (
        (of_blocks, blocks_operands(9, 511, 32, 4, torch.float32)),
        (
            compiled_convolution,
            convolution_operands(9, 511, 20, 4, torch.float32),
        ),
    )
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 6):  # a short loop takes half of them
            torch.set_num_threads(threads)
            results.append([x for case in cases for x in with_grads(*case)])
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class TestLayer:
    """Where the layer takes them."""

    @pytest.fixture
    def calls(self, monkeypatch):
        made = []
        for function in (compiled_blocks, compiled_convolution):
            monkeypatch.setattr(
                parts, function.__name__, lambda *a, function=function: made.append(function.__name__) or function(*a)
            )
        return made

    def layer(self, dtype=torch.float32, **settings) -> MLSTMLayer:
        torch.manual_seed(0)
        return MLSTM(num_heads=2, **settings).build(32).to(dtype)

    def test_the_same_with_and_without(self, calls, monkeypatch):
        """From a state, over several segments; all gradients."""
        layer = self.layer(torch.float64, read=NewtonSchulzRead())
        nn.init.normal_(layer.mlstm_cell.igate.weight, 0, 0.3)
        x = torch.randn(2, 41, 32, dtype=torch.float64, requires_grad=True)

        def results():
            first, state = layer(x[:, :2])  # fewer than the convolution has taps
            second, state = layer(x[:, 2:], state)
            y = torch.cat([first, second], 1)
            return y, state.conv, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters()])

        compiled = results()
        assert sorted(set(calls)) == ["compiled_blocks", "compiled_convolution"] and len(calls) == 8
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")
        calls.clear()
        torch.testing.assert_close(results(), compiled, rtol=1e-9, atol=1e-11)
        assert not calls

    @pytest.mark.parametrize(
        "settings",
        [{"form": "parallel"}, {"form": "recurrent"}, {"write": WriteBack(), "read": NewtonSchulzRead(steps=1)}],
        ids=["parallel", "recurrent", "by-token"],
    )
    def test_not_where_a_second_derivative_may_be_asked_for(self, settings, calls):
        layer = self.layer(**settings)
        x = torch.randn(1, 3, 32, requires_grad=True)
        [once] = torch.autograd.grad(layer(x)[0].square().sum(), x, create_graph=True)
        [twice] = torch.autograd.grad(once.square().sum(), x)
        assert twice.abs().sum() > 0 and not calls

    def test_not_where_heads_or_dtypes_do_not_fit(self, calls):
        x = torch.randn(1, 5, 32)
        self.layer(proj_factor=4.0)(x)
        assert len(calls) == 4
        calls.clear()
        torch.manual_seed(0)
        MLSTM(num_heads=8).build(32)(x)  # heads of 8 numbers: half of a vector
        assert calls == ["compiled_convolution"]
        calls.clear()
        with torch.autocast("cpu", torch.bfloat16):
            self.layer()(x)
        self.layer(torch.bfloat16)(x.bfloat16())
        assert not calls

    def test_a_convolution_of_ones_own_is_called_as_before(self):
        class Other(nn.Module):
            def forward(self, x, past, sequence=None, lengths=None):
                return x, past

        layer = self.layer()
        layer.conv1d = Other()
        assert layer(torch.randn(1, 5, 32))[0].shape == (1, 5, 32)

    def test_an_exported_model_is_made_of_operators(self, calls):
        model = SequenceModel(ModelConfig(12, 32, mixer=MLSTM(num_heads=2)))
        exported = torch.export.export(model, (torch.zeros(1, 9, dtype=torch.int64),))
        assert not calls and "orthonar" not in str(exported.graph)
