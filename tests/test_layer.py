"""The layer and the model as parts of other programs: states, sequences packed or padded, hooks, devices, bad input."""

import dataclasses
import io
import itertools
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils import parametrizations, prune

from orthonar import (
    DeltaWrite,
    LayerState,
    MesaRead,
    MLSTMConfig,
    MLSTMLayer,
    MLSTMModel,
    MLSTMState,
    NewtonSchulzRead,
    RawRead,
    RLSRead,
    RunConfig,
    WriteBack,
    evaluate,
    train,
)
from orthonar.mixers.attention import Attention, AttentionLayer
from orthonar.mlstm.layer import MLSTM, BlockDiagonal, untouched
from orthonar.mlstm.rows import emptied
from orthonar.training.train import train_together

SMALL = MLSTMConfig(vocab_size=11, embedding_dim=24, num_heads=2)
READS = {"raw": RawRead(), "five_steps": NewtonSchulzRead(steps=5), "mesa": MesaRead(), "rls": RLSRead()}
FORMS = ["chunkwise", "parallel", "recurrent"]

every_form = pytest.mark.parametrize("form", FORMS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def small_model(read: str = "five_steps", **changes) -> MLSTMModel:
    """Off its initialisation, where gate weights are zero, with input gates so small that the empty scale counts."""
    model = MLSTMModel(dataclasses.replace(SMALL, read=READS[read], **changes), generator=seeded())
    generator = seeded(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.layer.mlstm_cell.igate.bias -= 1.5
    return model.double()


def tokens_of(batch: int = 2, length: int = 37, seed: int = 7) -> Tensor:
    return torch.randint(SMALL.vocab_size, (batch, length), generator=seeded(seed))


def assert_same_state(state: LayerState, other: LayerState) -> None:
    torch.testing.assert_close((state.conv, *state.memory), (other.conv, *other.memory), rtol=1e-9, atol=1e-9)


# States


def as_it_is(state: LayerState) -> LayerState:
    return state


def as_plain_tuples(state: LayerState) -> tuple:
    return state.conv, tuple(state.memory), state.position


def as_saved_and_loaded(state: LayerState) -> LayerState:
    file = io.BytesIO()
    torch.save({"state": state.detach()}, file)
    file.seek(0)
    loaded = torch.load(file)["state"]
    assert type(loaded) is LayerState and type(loaded.memory) is MLSTMState
    return loaded


@pytest.mark.parametrize("carried", [as_it_is, as_plain_tuples, as_saved_and_loaded])
@every_form
def test_segments_of_any_length_are_the_whole(form, carried):
    model, tokens = small_model(form=form), tokens_of()
    whole, end = model(tokens, return_state=True)
    logits, state = [], None
    for start, stop in itertools.pairwise([0, 1, 3, 20, 37]):
        part, state = model(tokens[:, start:stop], state, return_state=True)
        logits.append(part)
        if stop < 37:
            state = carried(state)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-9, atol=1e-9)
    assert_same_state(state, end)
    assert state.position == end.position == 37
    torch.testing.assert_close(model.step(tokens[:, 0], carried(end)), model.step(tokens[:, 0], end))


def test_a_detached_state_stops_the_gradient_and_another_dtype_is_taken_along():
    model, tokens = small_model(), tokens_of()
    _, state = model(tokens, return_state=True)
    assert state.conv.requires_grad and state.memory.c_state.requires_grad
    detached = state.detach()
    assert not any(x.requires_grad for x in (detached.conv, *detached.memory))
    assert_same_state(detached, state)
    single = detached.to(torch.float32)
    assert {x.dtype for x in (single.conv, *single.memory)} == {torch.float32}
    logits = model.float()(tokens, single)
    torch.testing.assert_close(logits.double(), model.double()(tokens, detached), rtol=1e-3, atol=1e-4)
    assert state.to("meta").memory.m_state.is_meta


# Several sequences in a row, and positions that are not there

DOCUMENTS = [tokens_of(1, length, seed=length)[0] for length in (5, 1, 9, 22, 2, 17)]
ROWS = [[0, 2, 3], [5, 1, 4, 0]]  # of 36 and of 25 tokens


def packed(place: str) -> tuple[Tensor, Tensor, Tensor, list]:
    """Rows of documents, padded at one side, or after the first document."""
    lengths = [sum(len(DOCUMENTS[i]) for i in row) for row in ROWS]
    shape = len(ROWS), max(lengths)
    tokens, reset = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    padding, where = torch.ones(shape, dtype=torch.bool), []
    for b, (row, length) in enumerate(zip(ROWS, lengths)):
        t = shape[1] - length if place == "left" else 0
        for j, i in enumerate(row):
            t += shape[1] - length if place == "between" and j == 1 else 0
            here = slice(t, t + len(DOCUMENTS[i]))
            tokens[b, here], padding[b, here], reset[b, t] = DOCUMENTS[i], False, True
            where.append((b, here, i))
            t = here.stop
    return tokens, reset, padding, where


def logits_and_gradients(model: MLSTMModel, logits_of) -> tuple[list[Tensor], list[Tensor]]:
    model.zero_grad()
    logits = logits_of()
    sum((x.log_softmax(-1)[..., 0] * torch.arange(1, len(x) + 1)).sum() for x in logits).backward()
    return logits, [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize(
    ("read", "form", "place", "changes"),
    [
        *(("five_steps", "chunkwise", place, {}) for place in ("left", "right", "between")),
        *(("five_steps", form, "left", {}) for form in FORMS[1:]),
        ("raw", "chunkwise", "between", {}),
        ("five_steps", "chunkwise", "left", {"write": DeltaWrite(), "conv_kernel_size": 1}),
        ("mesa", "chunkwise", "left", {}),
        ("rls", "chunkwise", "right", {}),
    ],
)
def test_packed_and_padded_sequences_are_those_alone(read, form, place, changes):
    """Logits, gradients and what is carried on."""
    model = small_model(read, form=form, **changes)
    tokens, reset, padding, where = packed(place)

    def together():
        logits = model(tokens, reset=reset, padding=padding)
        return [logits[b, here] for b, here, _ in where]

    got = logits_and_gradients(model, together)
    alone = logits_and_gradients(model, lambda: [model(DOCUMENTS[i][None])[0] for _, _, i in where])
    torch.testing.assert_close(got, alone, rtol=1e-8, atol=1e-8)
    _, state = model(tokens, reset=reset, padding=padding, return_state=True)
    ends = [model(DOCUMENTS[row[-1]][None], return_state=True)[1] for row in ROWS]
    assert_same_state(state, LayerState(*(
        torch.cat(parts) if isinstance(parts[0], Tensor) else MLSTMState(*map(torch.cat, zip(*parts)))
        for parts in zip(*(end[:2] for end in ends))
    )))  # fmt: skip


@every_form
def test_padded_segments_go_on_from_a_state(form):
    """Rows advance by different numbers of tokens, with padding on either side; one is reset while it is padding."""
    model, tokens = small_model(form=form), tokens_of(2, 20)
    _, state = model(tokens[:, :6], return_state=True)
    segment, padding = torch.zeros(2, 9, dtype=torch.int64), torch.ones(2, 9, dtype=torch.bool)
    segment[0, 2:9], segment[1, :4] = tokens[0, 6:13], tokens[1, 6:10]
    padding[0, 2:9] = padding[1, :4] = False
    logits, after = model(segment, state, padding=padding, return_state=True)
    first, second = (model(tokens[b : b + 1, :end])[0] for b, end in ((0, 13), (1, 10)))
    torch.testing.assert_close(logits[0, 2:], first[6:], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits[1, :4], second[6:], rtol=1e-9, atol=1e-9)
    again, _ = model.step(torch.stack([tokens[0, 13], tokens[1, 10]]), after)
    wanted = torch.stack([model(tokens[:1, :14])[0, -1], model(tokens[1:, :11])[0, -1]])
    torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-9)

    reset = torch.zeros_like(padding)
    reset[0, 0] = reset[1, 8] = True  # before the first token of one row, after the last of the other
    logits, after = model(segment, state, padding=padding, reset=reset, return_state=True)
    torch.testing.assert_close(logits[0, 2:], model(tokens[:1, 6:13])[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits[1, :4], second[6:], rtol=1e-9, atol=1e-9)
    again, _ = model.step(torch.stack([tokens[0, 13], tokens[1, 10]]), after)
    wanted = torch.stack([model(tokens[:1, 6:14])[0, -1], model(tokens[1:, 10:11])[0, -1]])
    torch.testing.assert_close(again, wanted, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("read", ["five_steps", "rls"])
def test_rows_are_reset_on_the_way(read):
    """By `step`; and masks that say nothing change nothing."""
    model, tokens = small_model(read), tokens_of(2, 9)
    nowhere = torch.zeros(2, 9, dtype=torch.bool)
    wanted = model(tokens)
    torch.testing.assert_close(model(tokens, reset=nowhere, padding=nowhere), wanted, rtol=1e-9, atol=1e-9)
    state = None
    for t in range(9):
        logits, state = model.step(tokens[:, t], state, reset=torch.tensor([False, t == 4]))
    torch.testing.assert_close(logits[0], wanted[0, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits[1], model(tokens[1:, 4:])[0, -1], rtol=1e-9, atol=1e-9)


def test_a_write_that_counts_positions_says_that_rows_cannot_differ():
    nowhere = torch.zeros(2, 37, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"^padding: WriteBack\(.*counts positions"):
        small_model(write=WriteBack(every=1))(tokens_of(), padding=nowhere)
    with pytest.raises(ValueError, match=r"^reset: WriteBack\(.*counts positions"):
        small_model(write=WriteBack(every=4))(tokens_of(), reset=nowhere)
    small_model(write=WriteBack(every=1))(tokens_of(), reset=nowhere)


# Modules that are what they seem

PARTS = ("q_proj", "k_proj", "v_proj", "conv1d.conv", "mlstm_cell.igate", "mlstm_cell.fgate")


class LowRank(nn.Module):
    """A map with a low-rank addition, as adapters are put in."""

    def __init__(self, base: nn.Module, width: int, out: int):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(2, width, generator=seeded(1), dtype=torch.float64))
        self.b = nn.Parameter(torch.randn(out, 2, generator=seeded(2), dtype=torch.float64))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def loss_of(model: MLSTMModel) -> Tensor:
    return model(tokens_of()).square().mean()


@pytest.mark.parametrize("part", PARTS)
def test_hooks_fire_and_see_what_is_computed(part):
    model, seen = small_model(), []
    wanted, gradient = model(tokens_of()), torch.autograd.grad(loss_of(model), list(model.parameters()))
    reset = torch.rand(2, 37, generator=seeded()) < 0.2
    wanted_reset = model(tokens_of(), reset=reset)
    module = model.layer.get_submodule(part)
    handles = [
        module.register_forward_pre_hook(lambda *_: seen.append("before")),
        module.register_forward_hook(lambda _, inputs, output: seen.append(output)),
        module.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    torch.testing.assert_close(model(tokens_of()), wanted, rtol=1e-10, atol=1e-10)
    assert seen[0] == "before" and isinstance(seen[1], Tensor) and len(seen) == 2
    now = torch.autograd.grad(loss_of(model), list(model.parameters()))
    torch.testing.assert_close(now, gradient, rtol=1e-9, atol=1e-10)
    assert seen[-1] == "backward"
    torch.testing.assert_close(model(tokens_of(), reset=reset), wanted_reset, rtol=1e-10, atol=1e-10)
    for handle in handles:
        handle.remove()
    handle = module.register_forward_hook(lambda _, inputs, output: output + 0.5)
    assert not torch.allclose(model(tokens_of()), wanted, atol=1e-4)
    handle.remove()
    assert torch.equal(model(tokens_of()), wanted)  # the fast way again


@pytest.mark.parametrize("part", ["mlstm_cell.igate", "mlstm_cell.fgate", "q_proj"])
def test_a_wrapped_module_is_the_one_that_counts(part):
    model, merged = small_model(), small_model()
    module = model.layer.get_submodule(part)
    gate = isinstance(module, nn.Linear)
    wrapped = LowRank(module, *((192, 2) if gate else (64, 64)))
    model.layer.set_submodule(part, wrapped)
    if gate:
        merged.layer.get_submodule(part).weight.data += (wrapped.b @ wrapped.a).data
        torch.testing.assert_close(model(tokens_of()), merged(tokens_of()), rtol=1e-9, atol=1e-10)
    assert not torch.allclose(model(tokens_of()), small_model()(tokens_of()), atol=1e-4)
    loss_of(model).backward()
    assert wrapped.a.grad.any() and wrapped.b.grad.any()
    state = None
    for token in tokens_of().unbind(1):
        logits, state = model.step(token, state)
    torch.testing.assert_close(logits, model(tokens_of())[:, -1], rtol=1e-9, atol=1e-9)


def convolution(**options) -> nn.Conv1d:
    torch.manual_seed(0)
    return nn.Conv1d(64, 64, **{"kernel_size": 4, "dtype": torch.float64} | options)


def test_another_convolution_is_no_depthwise_one():
    """Of a dense one the taps of the first channel were once all that counted."""
    model, masks = small_model(), {"reset": torch.rand(2, 37, generator=seeded()) < 0.2}
    model.layer.conv1d.conv = convolution()
    whole, packed = model(tokens_of()), model(tokens_of(), **masks)
    stepped, state = [], None
    for token in tokens_of().unbind(1):
        logits, state = model.step(token, state)
        stepped.append(logits)
    model.layer.conv1d.conv = nn.Sequential(model.layer.conv1d.conv)  # no other way than to call it
    torch.testing.assert_close(whole, model(tokens_of()), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(torch.stack(stepped, 1), whole, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(packed, model(tokens_of(), **masks), rtol=1e-10, atol=1e-10)
    for options in ({"padding": 3}, {"dilation": 2}, {"stride": 2}, {"kernel_size": 3}):
        model.layer.conv1d.conv = convolution(groups=64, **options)
        with pytest.raises(ValueError, match=r"^conv1d.conv must make \(2, 64, 37\) of \(2, 64, 40\), not"):
            model(tokens_of())


@pytest.mark.parametrize("part", PARTS)
def test_pruned_and_parametrized_modules_train_on(part):
    model = small_model()
    module = model.layer.get_submodule(part)
    prune.l1_unstructured(module, "weight", 0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(model).backward()
        optimizer.step()
    assert (module.weight == 0).float().mean() >= 0.5 and module.weight_orig.grad.any()
    prune.remove(module, "weight")
    pruned = model(tokens_of())
    module.register_forward_hook(lambda *_: None)
    torch.testing.assert_close(model(tokens_of()), pruned, rtol=1e-9, atol=1e-10)

    model = small_model()
    parametrizations.spectral_norm(model.layer.get_submodule(part))
    with torch.no_grad():
        assert not torch.allclose(model(tokens_of()), small_model()(tokens_of()), atol=1e-6)


def test_when_the_small_matrices_are_multiplied_first(monkeypatch):
    """Only where all of the projections and gates are as they were built."""
    model, fast = small_model(), []
    by_head = BlockDiagonal.by_head
    monkeypatch.setattr(BlockDiagonal, "by_head", lambda self, heads: fast.append(heads) or by_head(self, heads))
    wanted = model(tokens_of())
    assert len(fast) == 3
    layer = model.layer
    for part, kind in [("q_proj", BlockDiagonal), ("mlstm_cell.igate", nn.Linear), ("conv1d.conv", nn.Conv1d)]:
        module = layer.get_submodule(part)
        assert untouched(module, kind)
        own = module.forward
        module.forward = lambda *inputs, own=own: own(*inputs)
        assert not untouched(module, kind)
        fast.clear()
        torch.testing.assert_close(model(tokens_of()), wanted, rtol=1e-10, atol=1e-10)
        assert bool(fast) == (part == "conv1d.conv")
        del module.forward
    assert not untouched(nn.Linear(2, 2), nn.Module)


@pytest.mark.parametrize("gates", [["igate"], ["fgate"], ["igate", "fgate"]], ids=str)
def test_gates_may_have_no_bias(gates):
    model, zero = small_model(), small_model()
    for gate in gates:
        getattr(model.layer.mlstm_cell, gate).bias = None
        nn.init.zeros_(getattr(zero.layer.mlstm_cell, gate).bias)
    torch.testing.assert_close(model(tokens_of()), zero(tokens_of()), rtol=1e-10, atol=1e-10)


def test_a_model_of_two_layers_as_its_page_has_it_trains():
    page = Path(__file__).parents[1] / "docs" / "your-own-model.md"
    text = page.read_text().split("## A layer in a model of your own\n")[1]
    names = {"__name__": "page"}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        exec(compile(text.split("```python\n")[1].split("```")[0], "your-own-model.md", "exec"), names)
    assert names["loss"] < 0.05  # 0.5 by predicting nothing
    model, waves = names["model"], names["waves"]
    with torch.no_grad():
        whole, _ = model(waves)
        first, states = model(waves[:, :20])
        second, _ = model(waves[:, 20:], states)
        alone, _ = model(waves, reset=torch.arange(33).expand(8, 33) == 20)
        torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(alone[:, 20:], model(waves[:, 20:])[0], rtol=1e-4, atol=1e-4)


# Where modules are made


class InForce(torch.overrides.TorchFunctionMode):
    """A device in force that is nobody's default: factories are told it on the way, as some libraries do."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones):
            kwargs.setdefault("device", "meta")
        return func(*args, **kwargs)


def test_every_parameter_is_made_on_the_device_in_force():
    with torch.device("meta"):
        in_context = MLSTMModel(SMALL)
    with InForce():
        in_mode = MLSTMModel(SMALL)
    torch.set_default_device("meta")
    try:
        by_default = MLSTMModel(SMALL)
    finally:
        torch.set_default_device(None)
    for model in (in_context, in_mode, by_default):
        assert {p.device.type for p in model.parameters()} == {"meta"}
    for read in ("raw", "five_steps", "mesa"):  # on a CPU their loops are compiled, and want numbers
        with FakeTensorMode():
            fake = MLSTMModel(dataclasses.replace(SMALL, read=READS[read]))
            assert fake(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 11)


def test_from_the_meta_device_by_drawing_or_loading():
    with torch.device("meta"):
        drawn, loaded, assigned = (MLSTMModel(SMALL, generator=seeded()) for _ in range(3))
        assert drawn(torch.zeros(2, 5, dtype=torch.int64)).shape == (2, 5, 11)
    wanted = MLSTMModel(SMALL, generator=seeded())
    drawn.to_empty(device="cpu").reset_parameters(seeded())
    loaded.to_empty(device="cpu").load_state_dict(wanted.state_dict())
    assigned.load_state_dict(wanted.state_dict(), assign=True)
    for model in (drawn, loaded, assigned):
        assert torch.equal(model(tokens_of()), wanted(tokens_of()))


# Bad input

LAYER = MLSTM(num_heads=2).build(24, seeded())
MODEL = MLSTMModel(SMALL, generator=seeded())
TOKENS, X = tokens_of(2, 4), torch.zeros(2, 4, 24)
STATE, WIDE = (
    MLSTMModel(config).state_after(TOKENS) for config in (SMALL, dataclasses.replace(SMALL, embedding_dim=48))
)
MASK = torch.zeros(2, 4, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MODEL(TOKENS[:, :0]), r"tokens must be a tensor \(B, S\), none of them 0, not one of shape \(2, 0\)"),
        (lambda: MODEL(TOKENS[0]), r"tokens must be a tensor \(B, S\), .* not one of shape \(4,\)"),
        (lambda: MODEL(TOKENS[None]), r"tokens must be a tensor \(B, S\), .* not one of shape \(1, 2, 4\)"),
        (lambda: MODEL(TOKENS.tolist()), r"tokens must be a tensor \(B, S\), .* not a list"),
        (lambda: MODEL(TOKENS.float()), "tokens must be int64 or int32, not torch.float32"),
        (lambda: MODEL(TOKENS + 8), "tokens must be from 0 to 10, not from 8 to "),
        (lambda: MODEL(TOKENS - 100), "tokens must be from 0 to 10, not from -100 to "),
        (lambda: MODEL.state_after(TOKENS[0]), r"tokens must be a tensor \(B, S\)"),
        (lambda: MODEL.step(TOKENS), r"token must be a tensor \(B,\), one token a row, not one of shape \(2, 4\)"),
        (lambda: MODEL.step(3), r"token must be a tensor \(B,\), one token a row, not a int"),
        (lambda: MODEL.step(TOKENS[:, 0] + 11), "token must be from 0 to 10"),
        (lambda: MODEL.step(TOKENS[:, 0].double()), "token must be int64 or int32, not torch.float64"),
        (lambda: MODEL.step(TOKENS[:, 0], reset=True), r"reset must be a tensor \(2,\), not a bool"),
        (lambda: MODEL(TOKENS, reset=MASK.long()), "reset must be a tensor of torch.bool, not a tensor of torch.int64"),
        (lambda: MODEL(TOKENS, padding=MASK[:1]), r"padding must have the shape \(2, 4\), not \(1, 4\)"),
        (lambda: MODEL(TOKENS, padding=[]), "padding must be a tensor of torch.bool, not a list"),
        (lambda: MODEL(TOKENS[:1], STATE), r"state.conv must have the shape \(1, 3, 64\), not \(2, 3, 64\)"),
        (lambda: MODEL(TOKENS, WIDE), r"state.conv must have the shape \(2, 3, 64\), not \(2, 3, 128\)"),
        (lambda: MODEL(TOKENS, STATE.to(torch.float64)), "state.conv must be torch.float32 on cpu like x, not"),
        (lambda: MODEL(TOKENS, STATE.memory), "state must be a LayerState .* not a MLSTMState of a tensor"),
        (lambda: MODEL(TOKENS, STATE.conv), "state must be a LayerState .* not a tensor of torch.float32"),
        (lambda: MODEL(TOKENS, {"state": STATE}), "state must be a LayerState .* not a dict"),
        (lambda: MODEL(TOKENS, STATE._replace(position=-1)), "state.position must be an integer of at least 0"),
        (
            lambda: MLSTMModel(dataclasses.replace(SMALL, read=MesaRead()))(TOKENS, STATE),
            r"state.memory.c_state must have the shape \(2, 2, 32, 64\), not \(2, 2, 32, 32\)",
        ),
        (lambda: LAYER(X[:, :0]), r"x must have the shape \(B, S, 24\), none of them 0, not \(2, 0, 24\)"),
        (lambda: LAYER(X[..., :23]), r"x must have the shape \(B, S, 24\), none of them 0, not \(2, 4, 23\)"),
        (lambda: LAYER(X.double()), "x must be torch.float32 like the layer's weights, not torch.float64"),
        (lambda: LAYER(X.tolist()), r"x must be a tensor \(B, S, 24\), none of them 0, not a list"),
        (lambda: LAYER(X.to("meta")), "x must be on cpu like the layer's weights, not on meta"),
        (lambda: LAYER.step(X[:, 0]), r"x must have the shape \(B, S, 24\), none of them 0, not \(2, 24\)"),
        (lambda: MLSTMLayer(MLSTM(num_heads=5), 24), "num_heads must divide the inner width 64, not be 5"),
        (lambda: MLSTMLayer(NewtonSchulzRead(), 24), r"mixer must be a mlstm \(.*\), not NewtonSchulzRead\("),
        (lambda: MLSTMLayer(MLSTM(), 0), "width must be an integer of at least 1, not 0"),
        (lambda: MLSTMLayer(MLSTM(), 24.0), "width must be an integer of at least 1, not 24.0"),
        (lambda: AttentionLayer(None, 24), r"mixer must be an attention \(.*\), not None"),
        (lambda: AttentionLayer(Attention(), "24"), "width must be an integer of at least 1, not '24'"),
        (lambda: MLSTMModel(MLSTM()), r"config must be a model config \(orthonar.model.ModelConfig\), not MLSTM"),
        (lambda: MLSTMModel(RunConfig()), r"config must be a model config \(.*\), not RunConfig"),
        (lambda: MLSTMState.zeros(1, 2, 4, read=RLSRead), "read must be a read of orthonar.reads, not <class"),
        (lambda: evaluate(MODEL, []), "batches must be pairs of tokens and targets, at least one"),
        (lambda: evaluate(MODEL, [TOKENS]), "batches must be pairs of tensors, tokens and targets, not of a Tensor"),
        (lambda: evaluate(MODEL, [(TOKENS, TOKENS[:, 1:])]), "batches: targets must be int64 of the tokens' shape"),
        (lambda: train({}), r"config must be a RunConfig, not a dict: RunConfig\(\*\*settings\) makes one"),
        (lambda: train(None), "config must be a RunConfig, not a NoneType"),
        (lambda: train(RunConfig(steps=1), 5), "on_evaluation must be a function, not 5"),
        (lambda: train_together(RunConfig()), "configs must be several RunConfig, not a RunConfig"),
        (lambda: train_together([{}]), "configs must be a RunConfig, not a dict"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)  # fmt: skip
def test_bad_input_is_named_in_one_sentence(call, message):
    with pytest.raises(ValueError, match=f"^{message}") as raised:
        call()
    assert "\n" not in str(raised.value)


def test_what_a_hook_on_the_embedding_raises_is_left_alone():
    model = MLSTMModel(SMALL)

    def fail(*_):
        raise IndexError("of the hook")

    model.embedding.register_forward_hook(fail)
    with pytest.raises(IndexError, match="of the hook"):
        model(TOKENS)


def test_a_start_whose_gates_are_both_shut_leaves_an_empty_memory():
    """The log-scale is the floor of log f, as the cell's is; the key is nothing, and not nothing less nothing."""
    shut = torch.full((1, 1, 3), -math.inf, dtype=torch.float64)
    keys, igate, fgate = emptied(torch.ones(1, 1, 3, 2).double(), shut, shut, torch.tensor([[[False, True, False]]]))
    assert keys[0, 0].tolist() == [[1, 1], [0, 0], [1, 1]]
    assert igate[0, 0].tolist() == [-math.inf, -1e4, -math.inf] and fgate[0, 0, 1] == -1e4
