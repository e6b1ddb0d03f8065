"""Reads put into models of the package `xlstm`, and taken out again."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from xlstm import (
    mLSTMBlockConfig,
    mLSTMLayerConfig,
    sLSTMBlockConfig,
    sLSTMLayerConfig,
    xLSTMBlockStack,
    xLSTMBlockStackConfig,
    xLSTMLMModel,
    xLSTMLMModelConfig,
)

from orthonar import MesaRead, MLSTMConfig, MLSTMModel, NewtonSchulzRead, RawRead
from orthonar.xlstm import StockModel, put_read, state_dict_from_xlstm, take_out

LENGTH = 40
CELLS = ["blocks.0.xlstm.mlstm_cell", "blocks.2.xlstm.mlstm_cell"]


def shaken(model: nn.Module) -> nn.Module:
    """Moved off the initialisation, where gates do not depend on what is read; in float64."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double().eval()


@pytest.fixture
def stack() -> xLSTMBlockStack:
    """An mLSTM, an sLSTM and an mLSTM block."""
    config = xLSTMBlockStackConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=2, conv1d_kernel_size=4)),
        slstm_block=sLSTMBlockConfig(slstm=sLSTMLayerConfig(backend="vanilla", num_heads=2)),
        context_length=LENGTH,
        num_blocks=3,
        embedding_dim=32,
        slstm_at=[1],
    )
    return shaken(xLSTMBlockStack(config))


@pytest.fixture
def x() -> Tensor:
    return torch.randn(2, LENGTH, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def step_by_step(model: nn.Module, x: Tensor) -> Tensor:
    outputs, state = [], None
    with torch.no_grad():
        for t in range(x.shape[1]):
            y, state = model.step(x[:, t : t + 1], state=state)
            outputs.append(y)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("form", ["chunkwise", "parallel"])
def test_the_raw_read_is_the_stock_models(stack, x, form):
    whole, by_step = stack(x), step_by_step(stack, x)
    weights = copy.deepcopy(stack.state_dict())
    assert put_read(stack, RawRead(), form=form) == CELLS
    # In a whole sequence the stock cell adds its 1e-6 in the frame of another log-scale, in `step` in the same.
    torch.testing.assert_close(stack(x), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(step_by_step(stack, x), by_step, rtol=1e-11, atol=1e-11)
    assert stack.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in stack.state_dict().items())


def test_an_orthogonalized_read_is_put_in_trained_through_and_taken_out(stack, x):
    stock = stack(x), step_by_step(stack, x)
    read = NewtonSchulzRead(steps=5)
    put_read(stack, RawRead())
    put_read(stack, read)  # in the place of the other
    whole = stack(x)
    assert not torch.allclose(whole, stock[0], atol=0.1)
    torch.testing.assert_close(step_by_step(stack, x), whole, rtol=1e-8, atol=1e-8)
    whole.square().mean().backward()
    assert all(parameter.grad.isfinite().all() and parameter.grad.any() for parameter in stack.parameters())
    twin, block = copy.deepcopy(stack), pickle.loads(pickle.dumps(stack.blocks[0]))  # sLSTM blocks are not pickled
    assert torch.equal(twin(x), whole) and torch.equal(block(x), stack.blocks[0](x))
    assert take_out(twin) == CELLS and take_out(block) == ["xlstm.mlstm_cell"]
    assert torch.equal(twin(x), stock[0]) and torch.equal(block(x), twin.blocks[0](x))
    assert torch.equal(stack(x), whole)
    assert take_out(stack) == CELLS and take_out(stack) == []
    assert torch.equal(stack(x), stock[0]) and torch.equal(step_by_step(stack, x), stock[1])


def test_the_example_of_its_page_runs():
    page = Path(__file__).parents[1] / "docs" / "your-own-model.md"
    text = page.read_text().split("## In an existing `xlstm` model\n")[1]
    names = {"__name__": "page"}
    exec(compile(text.split("```python\n")[1].split("```")[0], "your-own-model.md", "exec"), names)
    assert all(parameter.grad is not None for parameter in names["model"].parameters())


def test_what_cannot_be_is_named(stack, x):
    with pytest.raises(ValueError, match="^model: this Linear has no mLSTMCell of the package xlstm"):
        put_read(nn.Linear(2, 2), RawRead())
    with pytest.raises(ValueError, match="^model must be a torch.nn.Module, not a dict"):
        take_out({})
    with pytest.raises(ValueError, match="^read must be a read"):
        put_read(stack, "raw")
    with pytest.raises(ValueError, match="^form must be one of"):
        put_read(stack, RawRead(), form="fast")
    assert take_out(stack) == []
    put_read(stack, MesaRead())
    stack(x)
    with pytest.raises(ValueError, match=r"^read: MesaRead\(.*\) keeps keys beside C"):
        step_by_step(stack, x)


def language_model(blocks: int = 1, **changes) -> xLSTMLMModel:
    config = xLSTMLMModelConfig(
        mlstm_block=mLSTMBlockConfig(mlstm=mLSTMLayerConfig(num_heads=2)),
        context_length=LENGTH,
        num_blocks=blocks,
        embedding_dim=24,
        vocab_size=11,
        **changes,
    )
    return shaken(xLSTMLMModel(config))


def test_a_language_models_weights_load_and_mean_the_same():
    stock, tokens = language_model(), torch.arange(2 * LENGTH).view(2, -1) % 11
    for read in (RawRead(), NewtonSchulzRead()):
        model = MLSTMModel(MLSTMConfig(vocab_size=11, embedding_dim=24, num_heads=2, read=read)).double()
        model.load_state_dict(state_dict_from_xlstm(stock.state_dict()), strict=True)
        put_read(stock, read)
        torch.testing.assert_close(stock(tokens), model(tokens), rtol=1e-9, atol=1e-9)
    with torch.device("meta"):
        mapped = state_dict_from_xlstm(stock.state_dict())
    assert torch.equal(mapped["embedding.weight"], model.embedding.weight), "whatever the default device is"


def test_weights_without_a_place_are_named():
    with pytest.raises(ValueError, match="^state_dict: xlstm_block_stack.blocks.1.xlstm_norm.weight has no place"):
        state_dict_from_xlstm(language_model(blocks=2).state_dict())
    whole = language_model().state_dict()
    for extra in ("xlstm.q_proj.bias", "xlstm.slstm_cell._bias_"):
        name = f"xlstm_block_stack.blocks.0.{extra}"
        with pytest.raises(ValueError, match=f"^state_dict: {name} has no place"):
            state_dict_from_xlstm(whole | {name: torch.zeros(2)})
    with pytest.raises(ValueError, match=r"and has no xlstm_block_stack.post_blocks_norm.weight$"):
        state_dict_from_xlstm({n: x for n, x in whole.items() if "post_blocks_norm" not in n})
    with pytest.raises(ValueError, match="and has no "):
        state_dict_from_xlstm({})


def test_the_stock_layer_takes_no_more_than_its_context():
    model = StockModel(MLSTMConfig(vocab_size=11, embedding_dim=24, num_heads=2), 8)
    assert model(torch.zeros(1, 5, dtype=torch.int64)).shape == (1, 5, 11)
    with pytest.raises(ValueError, match="^tokens: 9 positions are more than the stock layer's context of 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^config must be a model config \(orthonar.model.ModelConfig\), not None"):
        StockModel(None, 8)
    for length in (0, -1, 2.5):
        with pytest.raises(ValueError, match="^context_length must be an integer of at least 1"):
            StockModel(MLSTMConfig(vocab_size=11, embedding_dim=24, num_heads=2), length)
