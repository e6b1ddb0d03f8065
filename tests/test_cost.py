"""The formulas against counted products, the command on tiny sizes, and its records as tables."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.stock import StockModel
from orthonar import MLSTMConfig, MLSTMModel, NewtonSchulzRead, RawRead, cost, mlstm_sequence


class Counted(TorchDispatchMode):
    """Counts the operations of products and depthwise convolutions, in-place and out= variants included.

    `torch.utils.flop_counter` does not see the in-place ones, and takes a depthwise convolution's backward for a dense
    one.
    """

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__.removesuffix("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left = args[0 if name in ("mm", "bmm") else 1]
            self.total += 2 * out.numel() * left.shape[-1]
        elif name == "convolution":
            self.total += 2 * out.numel() * args[1][0].numel()
        elif name == "convolution_backward":
            grad_out, _, weight = args[:3]
            self.total += 2 * 2 * grad_out.numel() * weight[0].numel()
        return out


def counted(function) -> int:
    with Counted() as mode:
        function()
    return mode.total


def degree_of(steps, dtype=torch.float32):
    return len(NewtonSchulzRead(steps=steps).coefficients(dtype)) - 1


BATCH, LENGTH, HEADS, SIZE = 3, 37, 2, 5


class TestCell:
    """Outputs and gradients of the cell alone, in float64, which does not pad the head size."""

    def count(self, read, form, length=LENGTH, chunk_size=None):
        generator = torch.Generator().manual_seed(0)
        shape = (BATCH, HEADS, length, SIZE)
        new = {"generator": generator, "dtype": torch.float64}
        x = [torch.randn(s, **new).requires_grad_() for s in (*[shape] * 3, *[shape[:3]] * 2)]
        call = {"read": read, "form": form, "chunk_size": chunk_size}
        # Not all positions alike: a sum's gradients are views of one number, and products with them are cut short.
        probe = torch.randn(shape, **new)
        return counted(lambda: torch.autograd.grad(mlstm_sequence(*x, **call), x, probe))

    @pytest.mark.parametrize("steps", [0, 1, 4])
    def test_plain(self, steps):
        read = NewtonSchulzRead(steps=steps)
        assert self.count(read, "parallel") == cost.plain_cell(BATCH, LENGTH, HEADS, SIZE, steps)

    @pytest.mark.parametrize(("length", "chunk_size"), [(LENGTH, None), (LENGTH, 7), (9, 16), (1, None)])
    def test_chunkwise_raw(self, length, chunk_size):
        count = self.count(RawRead(), "chunkwise", length, chunk_size)
        assert count == cost.chunkwise_cell(BATCH, length, HEADS, SIZE, None, chunk_size)

    @pytest.mark.parametrize(("steps", "length", "chunk_size"), [(1, LENGTH, None), (3, LENGTH, 7), (5, 9, 16)])
    def test_chunkwise_filter(self, steps, length, chunk_size, monkeypatch):
        monkeypatch.setattr("orthonar.chunkwise._LARGEST_CANCELLATION", math.inf)  # no chunk is read again
        count = self.count(NewtonSchulzRead(steps=steps), "chunkwise", length, chunk_size)
        degree = degree_of(steps, torch.float64)
        assert count == cost.chunkwise_cell(BATCH, length, HEADS, SIZE, degree, chunk_size)


@pytest.mark.parametrize(("width", "heads", "vocab_size"), [(30, 4, 21), (30, 2, 17)])
@pytest.mark.parametrize("contender", ["plain", "stock", "raw", "orthogonalized"])
def test_whole_model(contender, width, heads, vocab_size, monkeypatch):
    """Layers and cell together, in float32, at head sizes that need no padding."""
    monkeypatch.setattr("orthonar.chunkwise._LARGEST_CANCELLATION", math.inf)
    read = RawRead() if contender in ("stock", "raw") else NewtonSchulzRead(steps=3)
    form = "parallel" if contender == "plain" else "chunkwise"
    config = MLSTMConfig(vocab_size, width, heads, read=read, form=form)
    model = StockModel(config, LENGTH) if contender == "stock" else MLSTMModel(config)
    tokens = torch.randint(vocab_size, (BATCH, LENGTH), generator=torch.Generator().manual_seed(0))
    probe = torch.randn(BATCH, LENGTH, vocab_size)
    count = counted(lambda: model(tokens).backward(probe))
    assert count == cost.step_operations(contender, config, BATCH, LENGTH, degree_of(3), 3)


def test_operations_are_linear_in_length_but_for_the_stock_layer():
    config = MLSTMConfig()
    for contender in ("plain", "raw", "orthogonalized", "stock"):
        counts = [cost.step_operations(contender, config, 4, length, 23, 5) for length in (512, 1024, 2048)]
        growth = [b / a for a, b in itertools.pairwise(counts)]
        if contender == "stock":
            assert growth[1] > growth[0] > 2
        else:
            assert growth == pytest.approx([2, 2], rel=1e-3)


def test_passes_of_the_study():
    assert cost.passes(degree_of(5)) == 49
