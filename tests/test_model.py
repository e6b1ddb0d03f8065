"""The model against the stock layer of the package `xlstm`, and one token at a time against the whole sequence."""

import copy
import dataclasses

import pytest
import torch
from scipy.stats import ks_2samp
from torch import Tensor, nn

from orthonar import NewtonSchulzRead, RawRead
from orthonar.mlstm import parts
from orthonar.mlstm.layer import MLSTM, LayerState, small_init_std
from orthonar.model import MLSTMConfig, MLSTMModel
from orthonar.xlstm import StockModel

READS = {"raw": RawRead(), "five_steps": NewtonSchulzRead(steps=5)}
FORMS = ["parallel", "recurrent", "chunkwise"]
SMALL = MLSTMConfig(vocab_size=11, embedding_dim=24, num_heads=2)

every_read = pytest.mark.parametrize("read", READS)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tokens_for(config: MLSTMConfig, batch: int = 2, length: int = 37) -> Tensor:
    return torch.randint(config.vocab_size, (batch, length), generator=seeded(7))


def shaken(model: nn.Module) -> nn.Module:
    """Moved off the initialisation, where gate weights and norms are zero and would hide mistakes; in float64."""
    generator = seeded(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.double()


def small_model(read: str = "raw", **changes) -> MLSTMModel:
    config = dataclasses.replace(SMALL, read=READS[read], **changes)
    return shaken(MLSTMModel(config, generator=seeded()))


def logits_and_grads(model: nn.Module, tokens: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    model.zero_grad()
    logits = model(tokens)
    targets = tokens.roll(-1, 1)
    nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
    return logits.detach(), {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def assert_same(model: nn.Module, other: nn.Module, tokens: Tensor, tolerance: float) -> None:
    """Logits and every parameter's gradient agree, the latter relative to the largest norm of all gradients."""
    logits, grads = logits_and_grads(model, tokens)
    other_logits, other_grads = logits_and_grads(other, tokens)
    torch.testing.assert_close(logits, other_logits, rtol=tolerance, atol=tolerance)
    largest = max(g.norm() for g in grads.values())
    assert grads.keys() == other_grads.keys()
    for name, grad in grads.items():
        assert grad.any(), name
        assert (grad - other_grads[name]).norm() <= tolerance * largest, name


# Sizes


@pytest.mark.parametrize(("vocab_size", "parameters"), [(80, 77_716), (96, 80_740)])
@every_read
def test_parameter_count_of_the_study(read, vocab_size, parameters):
    model = MLSTMModel(MLSTMConfig(vocab_size=vocab_size, read=READS[read]))
    assert sum(p.numel() for p in model.parameters()) == parameters


def test_defaults_are_the_study():
    config = MLSTMConfig()
    mixer = config.mixer
    assert (config.vocab_size, config.embedding_dim, mixer.num_heads) == (80, 94, 4)
    assert (mixer.inner_dim(94), mixer.head_size(94)) == (192, 48)
    assert mixer.read == RawRead() and mixer.form == "chunkwise"
    assert MLSTMModel().config == config


@pytest.mark.parametrize("embedding_dim", [8, 32, 33, 48, 94, 96, 100])
@pytest.mark.parametrize("proj_factor", [1.0, 1.3, 2.0])
def test_inner_width_is_that_of_the_stock_layer(embedding_dim, proj_factor):
    config = MLSTMConfig(embedding_dim=embedding_dim, proj_factor=proj_factor)
    assert config.mixer.inner_dim(embedding_dim) == len(StockModel(config, 1).layer.learnable_skip)


def test_same_parameters_for_every_read_and_form():
    models = [
        MLSTMModel(dataclasses.replace(SMALL, read=read, form=form), generator=seeded())
        for read in READS.values()
        for form in FORMS
    ]
    first = models[0].state_dict()
    for model in models[1:]:
        state = model.state_dict()
        assert state.keys() == first.keys()
        assert all(torch.equal(state[name], first[name]) for name in first)


# Against the stock layer

CONFIGS = {
    "study": MLSTMConfig(),
    "vocab_96": MLSTMConfig(vocab_size=96),
    "small": SMALL,
    "one_head_no_conv": dataclasses.replace(SMALL, num_heads=1, conv_kernel_size=1, qkv_block_size=8),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_state_dicts_load_both_ways(config):
    ours, stock = MLSTMModel(config, generator=seeded()), StockModel(config, 16)
    theirs = copy.deepcopy(stock.state_dict())
    stock.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs, strict=True)
    assert [name for name, _ in ours.named_children()] == ["embedding", "norm", "layer", "post_norm", "head"]
    assert list(ours.state_dict()) == list(stock.state_dict())


@pytest.mark.parametrize("length", [1, 16, 37])
@pytest.mark.parametrize("form", FORMS)
def test_logits_and_gradients_are_the_stock_layers(form, length):
    ours = small_model(form=form)
    stock = StockModel(SMALL, length).double()
    stock.load_state_dict(ours.state_dict(), strict=True)
    # the stock layer adds its 1e-6 in the frame of another log-scale
    assert_same(ours, stock, tokens_for(SMALL, length=length), 1e-6 if length > 1 else 1e-5)


def test_logits_and_gradients_are_the_stock_layers_at_the_size_of_the_study():
    stock = StockModel(MLSTMConfig(), 100).double()
    ours = MLSTMModel().double()
    ours.load_state_dict(shaken(stock).state_dict(), strict=True)
    assert_same(ours, stock, tokens_for(MLSTMConfig(), length=100), 1e-5)


@pytest.mark.parametrize("read", list(READS))
def test_forms_agree(read):
    plain = small_model(read, form="parallel")
    for form in ("recurrent", "chunkwise"):
        assert_same(small_model(read, form=form), plain, tokens_for(SMALL), 1e-8)


def test_reads_differ():
    tokens = tokens_for(SMALL)
    assert not torch.allclose(small_model("raw")(tokens), small_model("five_steps")(tokens), atol=1e-3)


# Initialisation


def pooled(models: list[nn.Module]) -> dict[str, Tensor]:
    states = [model.state_dict() for model in models]
    return {name: torch.cat([state[name].flatten() for state in states]) for name in states[0]}


def test_initial_weights_are_distributed_as_the_studys():
    """Constants are equal; for the rest a Kolmogorov-Smirnov test, which a wrong spread or shape would fail by far."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stock = pooled([StockModel(MLSTMConfig(), 1) for _ in range(25)])
    ours = pooled([MLSTMModel(generator=seeded(seed)) for seed in range(25)])
    constant = set()
    for name, theirs in stock.items():
        mine = ours[name]
        if torch.equal(theirs[: len(theirs) // 25].repeat(25), theirs):
            constant.add(name)
            assert torch.equal(mine, theirs), name
        else:
            assert ks_2samp(mine, theirs).pvalue > 1e-4, name
            assert abs(mine.std() / theirs.std() - 1) < 5 / len(mine) ** 0.5, name
            assert abs(mine.mean() - theirs.mean()) < 7 * theirs.std() / len(mine) ** 0.5, name
    assert abs(ours["embedding.weight"].std() - 1) < 0.01
    cell = "layer.mlstm_cell."
    assert constant == {
        "norm.weight",
        "post_norm.weight",
        "layer.learnable_skip",
        cell + "igate.weight",
        cell + "fgate.weight",
        cell + "fgate.bias",
        cell + "outnorm.weight",
    }


def test_the_embeddings_spread_is_a_setting_and_changes_nothing_else():
    small = dataclasses.replace(SMALL, embedding_std=small_init_std(24))
    a, b = (MLSTMModel(config, generator=seeded()).state_dict() for config in (SMALL, small))
    torch.testing.assert_close(b["embedding.weight"], a["embedding.weight"] * (2 / (5 * 24)) ** 0.5)
    assert all(torch.equal(a[name], b[name]) for name in a if name != "embedding.weight")


def test_initial_weights_come_from_the_generator():
    a, b, c = (MLSTMModel(SMALL, generator=seeded(seed)).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(a["embedding.weight"], c["embedding.weight"])
    generator = seeded()
    first, second = (MLSTMModel(SMALL, generator=generator).state_dict() for _ in range(2))
    assert not torch.equal(first["embedding.weight"], second["embedding.weight"])


def test_with_a_generator_the_global_random_state_is_left_alone():
    before = torch.get_rng_state()
    model = MLSTMModel(SMALL, generator=seeded())
    model.reset_parameters(seeded())
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_pytorchs_own_is_the_source():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = (MLSTMModel(SMALL).state_dict() for _ in range(2))
        torch.manual_seed(5)
        again = MLSTMModel(SMALL).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], second["embedding.weight"])


def test_a_layer_built_alone_is_initialised():
    """With the very weights that it has in a model drawn from the same generator, after the embedding."""
    generator = seeded()
    torch.empty(11, 24).normal_(generator=generator)
    built = MLSTM(num_heads=2).build(24, generator)
    inside = MLSTMModel(SMALL, generator=seeded()).layer.state_dict()
    assert all(torch.equal(value, inside[name]) for name, value in built.state_dict().items())


def test_modules_are_made_on_the_device_and_dtype_in_force(monkeypatch):
    with torch.device("meta"):
        assert {p.device.type for p in MLSTMModel(SMALL).parameters()} == {"meta"}
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in MLSTMModel(SMALL).parameters()} == {torch.float64}
    finally:
        torch.set_default_dtype(before)


def test_reset_draws_every_parameter_anew():
    model = MLSTMModel(SMALL, generator=seeded())
    fresh = copy.deepcopy(model.state_dict())
    shaken(model).float().reset_parameters(seeded())
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())


# One token at a time


def shapes(state: LayerState) -> list[tuple[int, ...]]:
    return [tuple(x.shape) for x in (state.conv, *state.memory)]


@pytest.mark.parametrize("kernel", [1, 4])
@every_read
def test_step_agrees_with_forward(read, kernel):
    model = small_model(read, conv_kernel_size=kernel)
    tokens = tokens_for(SMALL)
    wanted, state, sizes = model(tokens), None, set()
    for t, token in enumerate(tokens.unbind(1)):
        logits, state = model.step(token, state)
        torch.testing.assert_close(logits, wanted[:, t], rtol=1e-8, atol=1e-8)
        sizes.add(tuple(shapes(state)))
    size = SMALL.mixer.head_size(24)
    assert sizes == {((2, kernel - 1, 64), (2, 2, size, size), (2, 2, size), (2, 2))}


@every_read
def test_step_in_float32_at_the_size_of_the_study(read):
    model = MLSTMModel(MLSTMConfig(read=READS[read]), generator=seeded())
    tokens = tokens_for(model.config, length=40)
    state = None
    with torch.no_grad():
        wanted = model(tokens)
        for token in tokens.unbind(1):
            logits, state = model.step(token, state)
    torch.testing.assert_close(logits, wanted[:, -1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("length", [1, 2, 3, 16, 20])
@every_read
def test_steps_take_over_in_the_middle_of_a_sequence(read, length, form):
    model = small_model(read)
    tokens = tokens_for(SMALL, length=25)
    wanted = model(tokens)
    _, state = small_model(read, form=form).layer(model.norm(model.embedding(tokens[:, :length])))
    for t in range(length, 25):
        logits, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(logits, wanted[:, t], rtol=1e-8, atol=1e-8)


@every_read
def test_layer_goes_on_from_a_state(read):
    model = small_model(read)
    x = model.norm(model.embedding(tokens_for(SMALL)))
    whole, end = model.layer(x)
    first, state = model.layer(x[:, :2])
    second, state = small_model(read, form="recurrent").layer(x[:, 2:19], state)
    third, state = model.layer(x[:, 19:], state)
    torch.testing.assert_close(torch.cat([first, second, third], 1), whole, rtol=1e-8, atol=1e-8)
    for a, b in zip((state.conv, *state.memory), (end.conv, *end.memory)):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_step_does_not_change_the_state_it_was_given():
    model = small_model("five_steps")
    tokens = tokens_for(SMALL, length=6)
    state = None
    for token in tokens[:, :5].unbind(1):
        _, state = model.step(token, state)
    once, _ = model.step(tokens[:, 5], state)
    again, _ = model.step(tokens[:, 5], state)
    assert torch.equal(once, again)


def test_step_wants_one_token_a_row():
    with pytest.raises(ValueError, match="^token must"):
        small_model().step(torch.zeros(2, 1, dtype=torch.int64))


def test_future_tokens_change_no_logits():
    model, tokens = small_model("five_steps"), tokens_for(SMALL)
    changed = tokens.clone()
    changed[:, 20:] = (changed[:, 20:] + 1) % SMALL.vocab_size
    logits, other = model(tokens), model(changed)
    torch.testing.assert_close(logits[:, :20], other[:, :20], rtol=1e-9, atol=1e-9)
    assert not torch.allclose(logits[:, 20:], other[:, 20:])


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in ("vocab_size", "embedding_dim", "num_heads") for value in (0, -1, 2.0, True)),
        *(("embedding_std", value) for value in (0, -0.1, float("inf"), float("nan"), True, "small", None)),
        *((name, value) for name in ("conv_kernel_size", "qkv_block_size") for value in (0, 4.0, False)),
        ("num_heads", 5),
        ("qkv_block_size", 5),
        ("proj_factor", 0.0),
        ("proj_factor", -2.0),
        ("proj_factor", float("inf")),
        ("proj_factor", float("nan")),
        ("read", "raw"),
        ("read", None),
        ("read", RawRead),
        ("form", "fast"),
        ("form", None),
    ],
    ids=str,
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name}( must|: there is no)"):
        MLSTMConfig(**{name: value})


def test_config_is_frozen_and_knows_its_settings():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MLSTMConfig().vocab_size = 5
    with pytest.raises(ValueError, match="vocabulary is not a setting of ModelConfig"):
        MLSTMConfig(vocabulary=5)


# On a GPU


@every_read
def test_small_products_by_sequence_are_those_in_one(read, monkeypatch):
    model, tokens = small_model(read), tokens_for(SMALL)
    by_itself = copy.deepcopy(model)
    wanted = logits_and_grads(model, tokens)
    monkeypatch.setattr(parts, "by_sequence", lambda device: True)
    logits, grads = logits_and_grads(by_itself, tokens)
    torch.testing.assert_close(logits, wanted[0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(grads, wanted[1], rtol=1e-10, atol=1e-12)


@pytest.mark.needs_cuda
@every_read
def test_a_gpu_computes_what_a_cpu_does(read):
    model, tokens = small_model(read), tokens_for(SMALL)
    logits, grads = logits_and_grads(copy.deepcopy(model).cuda(), tokens.cuda())
    wanted = logits_and_grads(model, tokens)
    torch.testing.assert_close(logits.cpu(), wanted[0], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close({name: grad.cpu() for name, grad in grads.items()}, wanted[1], rtol=1e-7, atol=1e-9)
