"""Attention against a plain softmax in float64, from its cache against the whole sequence, and its sizes."""

import math

import pytest
import torch
from test_layer import DOCUMENTS, ROWS, logits_and_gradients, packed
from test_model import assert_same, seeded, shaken
from torch import Tensor, nn
from torch.nn import functional as F

from orthonar import MLSTM, ModelConfig, SequenceModel
from orthonar.mixers.attention import Attention, AttentionLayer, AttentionState, _rotated

MIXERS = {
    "plain": Attention(num_heads=2, head_size=6, conv_kernel_size=0),
    "conv": Attention(num_heads=3, head_size=5),
    "rotary": Attention(num_heads=2, head_size=7, conv_kernel_size=2, rotary=True, rotary_base=100),
}
WIDTH = 12
every_mixer = pytest.mark.parametrize("mixer", MIXERS.values(), ids=MIXERS)


def shaken_model(mixer: Attention) -> SequenceModel:
    return shaken(SequenceModel(ModelConfig(11, WIDTH, mixer=mixer), generator=seeded()))


class Plain(nn.Module):
    """The same layer position by position, with rotations as complex numbers."""

    def __init__(self, layer: AttentionLayer):
        super().__init__()
        for name, part in layer.named_children():
            self.add_module(name, part)
        self.mixer = layer.mixer

    def turned(self, x: Tensor, t: int) -> Tensor:
        half = x.shape[-1] // 2
        numbers = torch.complex(x[..., :half], x[..., half : 2 * half])
        angles = torch.tensor([t / self.mixer.rotary_base ** (j / half) for j in range(half)], dtype=torch.float64)
        numbers = numbers * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([numbers.real, numbers.imag, x[..., 2 * half :]], -1)

    def forward(self, x: Tensor, state=None) -> tuple[Tensor, None]:
        c = x
        if self.mixer.conv_kernel_size:
            weight, bias = self.conv1d.conv.weight[:, 0], self.conv1d.conv.bias
            c, taps = torch.zeros_like(x) + bias, weight.shape[1]
            for ago in range(min(taps, x.shape[1])):
                c = c + F.pad(x[:, : x.shape[1] - ago], (0, 0, ago, 0)) * weight[:, taps - 1 - ago]
            c = F.silu(c)
        heads, out = self.mixer.num_heads, []
        q, k, v = (
            f(of).unflatten(-1, (heads, -1)) for f, of in zip((self.q_proj, self.k_proj, self.v_proj), (c, c, x))
        )
        if self.mixer.rotary:
            q, k = (torch.stack([self.turned(y[:, t], t) for t in range(x.shape[1])], 1) for y in (q, k))
        for t in range(x.shape[1]):
            scores = (k[:, : t + 1] * q[:, t, None]).sum(-1) / math.sqrt(q.shape[-1])  # (B, T, NH)
            weights = scores.exp() / scores.exp().sum(1, keepdim=True)
            out.append((weights[..., None] * v[:, : t + 1]).sum(1).flatten(1))
        return self.out_proj(torch.stack(out, 1)), None


@every_mixer
def test_outputs_and_gradients_are_those_of_a_plain_softmax(mixer):
    model = shaken_model(mixer)
    tokens = torch.randint(11, (2, 23), generator=seeded())
    plain = SequenceModel(model.config).double()
    plain.load_state_dict(model.state_dict())
    plain.layer = Plain(plain.layer)
    assert_same(model, plain, tokens, 1e-12)


@every_mixer
def test_the_cache_is_the_whole_sequence(mixer):
    model = shaken_model(mixer)
    tokens = torch.randint(11, (2, 20), generator=seeded())
    whole, state = model(tokens, return_state=True)
    for cuts in ([20], [1] * 20, [7, 1, 3, 9]):
        logits, held = [], None
        for part in tokens.split(cuts, 1):
            if part.shape[1] == 1:
                one, held = model.step(part[:, 0], held)
                one = one[:, None]
            else:
                one, held = model(part, held, return_state=True)
            logits.append(one)
        torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(tuple(held), tuple(state), rtol=1e-12, atol=1e-12)


@every_mixer
@pytest.mark.parametrize("first", ["float32", "autocast"])
def test_a_cache_goes_on_under_autocast(mixer, first):
    """What is kept is then of another dtype than the inputs, or of two."""
    model = shaken_model(mixer).float()
    tokens = torch.randint(11, (2, 12), generator=seeded())
    whole = model(tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=first == "autocast"):
        _, held = model(tokens[:, :5], return_state=True)
    with torch.autocast("cpu", torch.bfloat16):
        middle, held = model(tokens[:, 5:11], held, return_state=True)
        last, _ = model.step(tokens[:, 11], held)
    rest = torch.cat([middle, last[:, None]], 1)
    assert rest.dtype == torch.bfloat16
    assert torch.linalg.vector_norm(rest - whole[:, 5:]) <= 0.03 * torch.linalg.vector_norm(whole[:, 5:])


@every_mixer
@pytest.mark.parametrize("place", ["left", "right", "between"])
def test_packed_and_padded_sequences_are_those_alone(mixer, place):
    """Logits, gradients, and what is carried on."""
    model = shaken_model(mixer)
    tokens, reset, padding, where = packed(place)

    def together():
        logits = model(tokens, reset=reset, padding=padding)
        return [logits[b, here] for b, here, _ in where]

    got = logits_and_gradients(model, together)
    alone = logits_and_gradients(model, lambda: [model(DOCUMENTS[i][None])[0] for _, _, i in where])
    torch.testing.assert_close(got, alone, rtol=1e-9, atol=1e-9)
    _, state = model(tokens, reset=reset, padding=padding, return_state=True)
    again, _ = model.step(torch.full((len(ROWS),), 3), state)
    for b, row in enumerate(ROWS):
        last = torch.cat([DOCUMENTS[row[-1]], torch.tensor([3])])
        torch.testing.assert_close(again[b], model(last[None])[0, -1], rtol=1e-9, atol=1e-9)


@every_mixer
def test_padded_segments_go_on_from_a_state(mixer):
    """Rows advance by different numbers of tokens; one is reset before them, the other while it is padding."""
    model = shaken_model(mixer)
    tokens = torch.randint(11, (2, 20), generator=seeded())
    _, state = model(tokens[:, :6], return_state=True)
    segment, padding = torch.zeros(2, 9, dtype=torch.int64), torch.ones(2, 9, dtype=torch.bool)
    segment[0, 2:9], segment[1, :4] = tokens[0, 6:13], tokens[1, 6:10]
    padding[0, 2:9] = padding[1, :4] = False
    reset = torch.zeros_like(padding)
    for starts in ((0, 0), (6, 10)):
        logits, after = model(segment, state, padding=padding, reset=reset, return_state=True)
        torch.testing.assert_close(logits[0, 2:], model(tokens[:1, starts[0] : 13])[0, -7:], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(logits[1, :4], model(tokens[1:, :10])[0, 6:], rtol=1e-9, atol=1e-9)
        again, _ = model.step(torch.stack([tokens[0, 13], tokens[1, 10]]), after.detach().to("cpu"))
        wanted = [model(tokens[:1, starts[0] : 14])[0, -1], model(tokens[1:, starts[1] : 11])[0, -1]]
        torch.testing.assert_close(again, torch.stack(wanted), rtol=1e-9, atol=1e-9)
        reset[0, 0] = reset[1, 8] = True


@every_mixer
def test_rows_are_reset_on_the_way(mixer):
    """By `step`; and masks that say nothing change nothing."""
    model = shaken_model(mixer)
    tokens, nowhere = torch.randint(11, (2, 9), generator=seeded()), torch.zeros(2, 9, dtype=torch.bool)
    wanted, state = model(tokens), None
    torch.testing.assert_close(model(tokens, reset=nowhere, padding=nowhere), wanted, rtol=1e-12, atol=1e-12)
    for t in range(9):
        reset = torch.tensor([False, True]) if t == 4 else None
        logits, state = model.step(tokens[:, t], state, reset=reset)
    torch.testing.assert_close(logits[0], wanted[0, -1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits[1], model(tokens[1:, 4:])[0, -1], rtol=1e-9, atol=1e-9)


def test_rotations_see_distances_alone():
    q, k = torch.randn(2, 1, 1, 9, 8, dtype=torch.float64, generator=seeded())
    at = torch.arange(9)
    scores = [_rotated(q, start + at, 100.0) @ _rotated(k, start + at, 100.0).mT for start in (0, 5000)]
    torch.testing.assert_close(*scores, rtol=1e-10, atol=1e-10)
    assert (scores[0] - q @ k.mT).abs().max() > 0.1


@pytest.mark.parametrize(("width", "heads"), [(94, 4), (64, 2), (32, 2), (128, 4)])
def test_it_has_as_many_parameters_as_the_mlstm(width, heads):
    of_mlstm, of_attention = (
        sum(p.numel() for p in mixer(num_heads=heads).build(width).parameters()) for mixer in (MLSTM, Attention)
    )
    assert abs(of_attention / of_mlstm - 1) < 0.005


def test_it_draws_its_own_weights():
    layers = [AttentionLayer(Attention(), 94, generator=seeded(seed)) for seed in (0, 0, 1)]
    for name, weight in layers[0].named_parameters():
        assert torch.equal(weight, dict(layers[1].named_parameters())[name])
        assert not torch.equal(weight, dict(layers[2].named_parameters())[name])
    layers[2].reset_parameters(seeded(0))
    assert torch.equal(layers[0].k_proj.weight, layers[2].k_proj.weight)
    assert layers[0].k_proj.weight.std().item() == pytest.approx(math.sqrt(2 / 5 / 94), rel=0.03)
    assert layers[0].out_proj.weight.std().item() == pytest.approx(2 / math.sqrt(94), rel=0.03)


def test_one_layer_recalls_what_came_after_only_with_the_convolution():
    """In a row a b ... a, the last position sees which token came after the first a, or does not."""
    for mixer, told_apart in ((MIXERS["plain"], False), (MIXERS["conv"], True)):
        model = shaken_model(mixer)
        # The same tokens, paired otherwise: without a convolution the last position sees the same set.
        one, other = torch.tensor([[1, 7, 2, 8, 3, 1], [1, 8, 2, 7, 3, 1]]).unsqueeze(1)
        differ = (model(one)[:, -1] - model(other)[:, -1]).abs().max() > 1e-9
        assert bool(differ) == told_apart


@pytest.mark.parametrize(
    ("name", "x", "state"),
    [
        ("x must", torch.zeros(2, 3), None),
        ("x must", torch.zeros(2, 3, 5), None),
        ("x must", torch.zeros(2, 3, WIDTH).double(), None),
        ("x must", [1], None),
        ("state must", torch.zeros(2, 3, WIDTH), 3),
        ("state.conv", torch.zeros(2, 3, WIDTH), (torch.zeros(1, 3, WIDTH), *[torch.zeros(2, 3, 4, 5)] * 2)),
        ("state.keys", torch.zeros(2, 3, WIDTH), (torch.zeros(2, 3, WIDTH), *[torch.zeros(2, 2, 4, 5)] * 2)),
        ("state.values", torch.zeros(2, 3, WIDTH),
         AttentionState(torch.zeros(2, 3, WIDTH), torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 3, 5))),
        ("state.seen", torch.zeros(2, 3, WIDTH),
         AttentionState(torch.zeros(2, 3, WIDTH), *[torch.zeros(2, 3, 4, 5)] * 2, torch.zeros(2, 3).bool())),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(name, x, state):
    with pytest.raises(ValueError, match=name):
        AttentionLayer(MIXERS["conv"], WIDTH)(x, state)


@pytest.mark.parametrize("name", ["reset", "padding"])
def test_a_mask_that_does_not_fit_is_named(name):
    layer, x = AttentionLayer(MIXERS["conv"], WIDTH), torch.zeros(2, 3, WIDTH)
    for mask in (torch.zeros(2, 3), torch.zeros(2, 4).bool()):
        with pytest.raises(ValueError, match=f"^{name}"):
            layer(x, **{name: mask})


@pytest.mark.parametrize(
    "impossible", [{"num_heads": 0}, {"head_size": 0}, {"conv_kernel_size": -1}, {"rotary_base": 1}]
)
def test_impossible_settings_are_named(impossible):
    with pytest.raises(ValueError, match=next(iter(impossible))):
        Attention(**impossible)


def test_one_channel_cannot_be_rotated():
    with pytest.raises(ValueError, match="rotary"):
        ModelConfig(11, WIDTH, mixer=Attention(head_size=1, rotary=True))
