"""Every write against a loop written out from its formula: outputs, gradients, states, hostile inputs, settings.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import dataclasses
import json
import math
from functools import cache

import pytest
import torch
from grids import some_of

import orthonar.mlstm.writes as writes_module
from benchmarks.oracle import FAMILIES, Inputs, assert_accurate, hostile_inputs, relative_errors, run_with_grads
from orthonar import (
    AdditiveWrite,
    BlendRead,
    DeltaWrite,
    MesaRead,
    MLSTMConfig,
    MLSTMModel,
    MLSTMState,
    NewtonSchulzRead,
    PolarRead,
    RawRead,
    WriteBack,
    mlstm_sequence,
)
from orthonar.engine.chunkwise import Additions, chunkwise
from orthonar.mlstm.cell import FORMS
from orthonar.mlstm.writes import Write, check_write
from orthonar.settings import variant_from_settings, variant_settings

WRITES = {
    "additive": AdditiveWrite(),
    "back_every_token": WriteBack(),
    "back_normalised": WriteBack(steps=0, every=3),
    "back_every_chunk": WriteBack(every=16),
    "back_every_5": WriteBack(steps=3, every=5),
    "delta": DeltaWrite(),
    "delta_half": DeltaWrite(erase=0.5),
}
#: Those whose rounding is not magnified at every position.
STEADY = ["back_every_chunk", "delta", "delta_half"]
READS = {"raw": RawRead(), "five_steps": NewtonSchulzRead()}
CPU_FORMS = ["parallel", "recurrent", "chunkwise"]

every_write = pytest.mark.parametrize("write", WRITES)
every_form = pytest.mark.parametrize("form", CPU_FORMS)
every_read = pytest.mark.parametrize("read", READS)


def cell(write, read=READS["raw"], form: str = "chunkwise", **options):
    return lambda *tensors: mlstm_sequence(*tensors, write=write, read=read, form=form, **options)


def orthogonalized(c, steps):
    x = c / torch.linalg.matrix_norm(c)
    for _ in range(steps):
        x = x @ (3 * torch.eye(len(x), dtype=x.dtype) - x.T @ x) / 2
    return x


def read_by_hand(read, c, q):
    """The numerator of the few reads that these tests use."""
    if isinstance(read, BlendRead):
        one, other = read_by_hand(read.one, c, q), read_by_hand(read.other, c, q)
        return read.alpha * one + (1 - read.alpha) * other
    if isinstance(read, NewtonSchulzRead):
        c = orthogonalized(c, read.steps) if c.any() else c
    if isinstance(read, PolarRead):
        u, s, vh = torch.linalg.svd(c / torch.linalg.matrix_norm(c))
        c = (u * torch.erf(3.5 * s / read.cutoff)) @ vh
    return c.T @ q


def by_formula(write, read, q, k, v, i, f, state=None, position=0):
    """One position, row and head at a time, from the equations of the writes' docstrings; differentiable.

    Returns:
        h (B, NH, S, DH) and (C, n, m) after the last position.
    """
    batch, heads, length, size = q.shape
    h, ends = [], []
    for b in range(batch):
        for head in range(heads):
            if state is None:
                c, n, m = q.new_zeros(size, size), q.new_zeros(size), q.new_zeros(())
            else:
                c, n, m = (x[b, head] for x in state)
            for t in range(length):
                q_t, k_t, v_t = q[b, head, t], k[b, head, t] / math.sqrt(size), v[b, head, t]
                i_t, log_f = i[b, head, t], -torch.nn.functional.softplus(-f[b, head, t])
                m_new = i_t if i_t >= log_f + m else log_f + m
                forget, write_t, m = (log_f + m - m_new).exp(), (i_t - m_new).exp(), m_new
                c = forget * c
                if isinstance(write, DeltaWrite) and k_t.norm() > 0:
                    beta, u = write.erase * write_t, k_t / k_t.norm().clamp_min(1e-6)
                    c = c - beta * torch.outer(u, c.T @ u)
                c, n = c + write_t * torch.outer(k_t, v_t), forget * n + write_t * k_t
                numerator = read_by_hand(read, c, q_t)
                h.append(numerator / (torch.maximum((n @ q_t).abs(), (-m).exp()) + 1e-6))
                last_of_period = isinstance(write, WriteBack) and (position + t + 1) % write.every == 0
                if last_of_period and torch.linalg.matrix_norm(c) > 1e-6:
                    c = orthogonalized(c, write.steps)
            ends.append((c, n, m))
    ends = [torch.stack(x).unflatten(0, (batch, heads)) for x in zip(*ends)]
    return torch.stack(h).reshape(q.shape), ends


@cache
def inputs_of(family: str, length: int, size: int) -> Inputs:
    return hostile_inputs(family, length=length, size=size, heads=1)


@cache
def reference(write: str, read: str, family: str, length: int, size: int):
    return run_with_grads(lambda *x: by_formula(WRITES[write], READS[read], *x)[0], inputs_of(family, length, size))


def random_state(size: int, heads: int = 1, batch: int = 1) -> MLSTMState:
    generator = torch.Generator().manual_seed(5)
    shapes = [(size, size), (size,), ()]
    return MLSTMState(*(torch.randn(batch, heads, *s, generator=generator, dtype=torch.float64) for s in shapes))


# Against the formulas


@every_form
@every_read
@every_write
def test_outputs_and_gradients_are_those_of_the_formula(write, read, form):
    """Two chunks and a bit; a memory that is soon of full rank, so that rounding has no empty directions to fill."""
    got = run_with_grads(cell(WRITES[write], READS[read], form), inputs_of("random", 35, 4))
    errors = relative_errors(*got, reference(write, read, "random", 35, 4))
    assert max(errors.values()) <= 1e-8, errors


@pytest.mark.parametrize("form", ["recurrent", "chunkwise"])
@pytest.mark.parametrize("write", ["back_every_token", "back_every_5", "delta_half"])
def test_gradients_are_those_of_finite_differences(write, form):
    inputs = [x.requires_grad_() for x in hostile_inputs("random", heads=1, length=4, size=2)]
    state = [x.requires_grad_() for x in random_state(2)]
    given = WRITES[write]
    if isinstance(given, WriteBack):
        given = dataclasses.replace(given, every=min(given.every, 2))

    def function(*tensors):
        state = MLSTMState(*tensors[5:])
        h, end = cell(given, NewtonSchulzRead(2), form, initial_state=state, return_state=True)(*tensors[:5])
        return h, *end

    assert torch.autograd.gradcheck(function, (*inputs, *state))


@pytest.mark.parametrize(("length", "size"), [(1, 5), (2, 3), (15, 1), (17, 7)])
@every_write
def test_odd_sizes(write, length, size):
    inputs = hostile_inputs("random", batch=2, heads=2, length=length, size=size)
    state = random_state(size, heads=2, batch=2)
    h, end = cell(WRITES[write], initial_state=state, return_state=True)(*inputs)
    h_wanted, end_wanted = by_formula(WRITES[write], RawRead(), *inputs, state)
    assert isinstance(end, MLSTMState)
    for got, wanted in zip((h, *end), (h_wanted, *end_wanted)):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("read", [PolarRead(), BlendRead(0.3)], ids=["polar", "blend"])
@pytest.mark.parametrize("write", STEADY)
def test_other_reads_see_the_memory_that_was_written(write, read):
    inputs = inputs_of("random", 20, 4)
    wanted, _ = by_formula(WRITES[write], read, *inputs)
    torch.testing.assert_close(cell(WRITES[write], read)(*inputs), wanted, rtol=1e-8, atol=1e-8)


@pytest.mark.needs_triton
@pytest.mark.parametrize("write", ["back_every_5", "delta"])
def test_fused_form(write):
    """On a GPU or, interpreted, on the CPU."""
    inputs, device = inputs_of("random", 7, 3), "cuda" if torch.cuda.is_available() else "cpu"
    fused = cell(WRITES[write], READS["raw"], "fused", chunk_size=4)
    got = run_with_grads(lambda *x: fused(*(y.to(device) for y in x)), inputs)
    assert max(relative_errors(*got, reference(write, "raw", "random", 7, 3)).values()) <= 1e-8


# Hostile inputs


@some_of(1, write=["back_every_5", "delta"], family=FAMILIES)
def test_hostile_inputs_give_what_the_formula_says(write, family):
    got = run_with_grads(cell(WRITES[write]), inputs_of(family, 24, 3))
    errors = relative_errors(*got, reference(write, "raw", family, 24, 3))
    assert max(errors.values()) <= 1e-8, errors


@some_of(
    1,
    write=["back_every_token", "back_every_5", "delta"],
    family=[f for f in FAMILIES if not f.startswith("length") or f == "length_77"],
)
def test_finite_in_finite_out(write, family):
    inputs = inputs_of(family, 22, 4).to(torch.float32)
    h, grads = run_with_grads(cell(WRITES[write], NewtonSchulzRead()), inputs)
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in (h, *grads))


@pytest.mark.parametrize("family", ["random", "same_key", "opposite_every_pair_random", "gates_within_50", "length_77"])
@pytest.mark.parametrize("read", ["raw", "five_steps"])
@pytest.mark.parametrize("write", ["delta", "delta_half"])
def test_float32_is_accurate(write, read, family):
    inputs, plain = inputs_of(family, 40, 12), cell(WRITES[write], READS[read], "parallel")
    assert_accurate(cell(WRITES[write], READS[read]), plain, inputs, run_with_grads(plain, inputs))


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e-6, 1e-3])
def test_delta_of_short_keys(size):
    """A key shorter than eps erases little, one of any other length as much as one of length 1."""
    inputs = inputs_of("random", 20, 3)
    inputs = inputs._replace(k=size * inputs.k)
    h, end = cell(DeltaWrite(), return_state=True)(*inputs)
    h_wanted, end_wanted = by_formula(DeltaWrite(), RawRead(), *inputs)
    for got, wanted in zip((h, *end), (h_wanted, *end_wanted)):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=0)
    h, grads = run_with_grads(cell(DeltaWrite()), inputs.to(torch.float32))
    assert all(torch.isfinite(x).all() for x in (h, *grads))


def test_the_delta_rule_cannot_blow_up():
    """The same long key again and again, gates open: the additive memory grows with every write, this one does not."""
    inputs = inputs_of("same_key", 300, 6)
    gates = {"igate_preact": torch.zeros(1, 1, 300).double(), "fgate_preact": torch.full((1, 1, 300), 50.0).double()}
    inputs = inputs._replace(k=100 * inputs.k, v=inputs.v[:, :, :1].expand_as(inputs.v), **gates)
    _, first = cell(DeltaWrite(), return_state=True)(*inputs.part(slice(0, 1)))
    _, last = cell(DeltaWrite(), return_state=True)(*inputs)
    _, added = cell(AdditiveWrite(), return_state=True)(*inputs)
    torch.testing.assert_close(last.c_state, first.c_state, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(added.c_state, 300 * first.c_state, rtol=1e-9, atol=1e-9)


# What the writes mean


def test_the_default_is_the_additive_write_to_the_last_bit():
    inputs, state = inputs_of("random", 40, 12).to(torch.float32), random_state(12)
    state = MLSTMState(*(x.float() for x in state))
    for read in READS.values():
        h, *end = chunkwise(inputs.q, Additions(inputs.k, inputs.v), *inputs[3:], read, None, state)
        got, got_end = mlstm_sequence(*inputs, read=read, initial_state=state, return_state=True)
        named = mlstm_sequence(*inputs, read=read, initial_state=state, write=AdditiveWrite(), position=7)
        assert torch.equal(got, h) and torch.equal(named, h)
        assert all(torch.equal(a, b) for a, b in zip(got_end, end))


def test_what_is_read_is_what_is_kept():
    """With an orthogonalized read of as many steps, the first read is the raw read of what replaces the memory."""
    inputs, write = inputs_of("random", 1, 5), WriteBack(steps=4)
    h, state = cell(write, NewtonSchulzRead(4), return_state=True)(*inputs)
    divisor = torch.maximum((state.n_state * inputs.q[:, :, 0]).sum(-1).abs(), (-state.m_state).exp()) + 1e-6
    raw = torch.einsum("bhde,bhd->bhe", state.c_state, inputs.q[:, :, 0]) / divisor[..., None]
    torch.testing.assert_close(h[:, :, 0], raw, rtol=1e-12, atol=1e-12)


def test_write_back_leaves_an_empty_memory_alone():
    c_state = random_state(4).c_state
    c_state = c_state / torch.linalg.matrix_norm(c_state)
    write = WriteBack(steps=0, eps=1e-3)
    torch.testing.assert_close(write.replacement(2e-3 * c_state), c_state)
    assert torch.equal(write.replacement(5e-4 * c_state), 5e-4 * c_state)
    assert not write.replacement(0 * c_state).any()


@pytest.mark.parametrize("form", ["recurrent", "chunkwise"])
def test_writes_that_change_nothing_are_additive(form):
    inputs = inputs_of("random", 35, 4)
    wanted = run_with_grads(cell(AdditiveWrite(), form=form), inputs)
    for write in (DeltaWrite(erase=0.0), WriteBack(every=36)):
        assert max(relative_errors(*run_with_grads(cell(write, form=form), inputs), wanted).values()) <= 1e-12


def test_a_key_written_again_is_replaced():
    """By the delta rule with the input gate at its peak, a key then holds the newest value alone."""
    inputs = inputs_of("same_key", 6, 4)
    inputs = inputs._replace(igate_preact=torch.arange(6.0).double().expand(1, 1, 6))
    _, state = cell(DeltaWrite(), return_state=True)(*inputs)
    newest = torch.outer(inputs.k[0, 0, -1], inputs.v[0, 0, -1]) / 2
    torch.testing.assert_close(state.c_state[0, 0], newest, rtol=1e-12, atol=1e-12)


def test_adding_to_all_input_gates_changes_no_memory():
    """Once the scale's initial 0 is out of the way: that is why the stored memory is what is orthogonalized."""
    inputs = inputs_of("random", 20, 4)
    louder = inputs._replace(igate_preact=inputs.igate_preact + 100)
    loud = inputs._replace(igate_preact=inputs.igate_preact + 50)
    for write in WRITES.values():
        (_, one), (_, other) = (cell(write, return_state=True)(*x) for x in (loud, louder))
        torch.testing.assert_close(one.c_state, other.c_state, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("chunk", [1, 3, 40])
def test_the_delta_rule_does_not_depend_on_its_chunks(chunk, monkeypatch):
    monkeypatch.setattr(writes_module, "_CHUNK", chunk)
    got = run_with_grads(cell(DeltaWrite()), inputs_of("random", 35, 4))
    assert max(relative_errors(*got, reference("delta", "raw", "random", 35, 4)).values()) <= 1e-10


# States


@pytest.mark.parametrize("splits", [[16], [7, 8, 30]], ids=str)
@every_write
def test_split_sequences(write, splits):
    """Anywhere, if the position is passed on."""
    inputs = inputs_of("random", 35, 4)

    def function(*tensors):
        state, h, bounds = None, [], [0, *splits, 35]
        for start, stop in zip(bounds, bounds[1:]):
            options = {"initial_state": state, "position": start, "return_state": True}
            part, state = cell(WRITES[write], **options)(*(x[:, :, start:stop] for x in tensors))
            h.append(part)
        return torch.cat(h, 2)

    errors = relative_errors(*run_with_grads(function, inputs), reference(write, "raw", "random", 35, 4))
    assert max(errors.values()) <= 1e-8, errors


def test_without_its_position_a_part_counts_from_its_own_start():
    inputs, write = inputs_of("random", 32, 4), WriteBack(every=8)
    whole = cell(write)(*inputs)
    for split, same in ((16, True), (8, True), (13, False)):
        first, state = cell(write, return_state=True)(*inputs.part(slice(0, split)))
        rest = cell(write, initial_state=state)(*inputs.part(slice(split, 32)))
        assert torch.allclose(torch.cat([first, rest], 2), whole, rtol=1e-8, atol=1e-8) == same


@pytest.mark.parametrize("write", ["additive", "back_every_token", "back_every_5", "delta"])
def test_step_is_the_sequence(write):
    sizes = {"vocab_size": 11, "embedding_dim": 8, "num_heads": 2, "qkv_block_size": 2}
    config = MLSTMConfig(**sizes, read=NewtonSchulzRead(3), write=WRITES[write])
    model = MLSTMModel(config, generator=torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(11, (2, 13), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted, state, got = model(tokens), None, []
        for token in tokens.T:
            logits, state = model.step(token, state)
            got.append(logits)
    assert state.position == 13
    torch.testing.assert_close(torch.stack(got, 1), wanted, rtol=1e-6, atol=1e-6)


def test_the_model_uses_its_write():
    logits = []
    for write in ("additive", "back_every_5", "delta"):
        config = MLSTMConfig(vocab_size=11, embedding_dim=8, num_heads=2, qkv_block_size=2, write=WRITES[write])
        model = MLSTMModel(config, generator=torch.Generator().manual_seed(0))
        logits.append(model(torch.arange(11)[None]))
    assert all(not torch.equal(a, b) for a, b in zip(logits, logits[1:]))


# Settings


@every_write
def test_settings_survive_as_plain_data(write):
    write = WRITES[write]
    plain = json.loads(json.dumps(variant_settings(write)))
    assert plain["name"] == type(write).__name__
    assert variant_from_settings("write", Write, plain) == write and hash(write) == hash(
        variant_from_settings("write", Write, plain)
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "RawRead"},
            "write: there is no 'RawRead', only AdditiveWrite, DeltaWrite, FullDeltaWrite, WriteBack",
        ),
        ({}, "write: there is no None"),
        ({"name": "DeltaWrite", "steps": 5}, "write: DeltaWrite has no setting steps"),
    ],
    ids=["read", "nothing", "setting"],
)
def test_unknown_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        variant_from_settings("write", Write, settings)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (WriteBack, "steps", -1),
        (WriteBack, "steps", 2.5),
        (WriteBack, "every", 0),
        (WriteBack, "every", True),
        (WriteBack, "eps", 0.0),
        (DeltaWrite, "erase", -0.1),
        (DeltaWrite, "erase", 1.1),
        (DeltaWrite, "erase", float("nan")),
        (DeltaWrite, "eps", float("inf")),
    ],
    ids=str,
)
def test_impossible_settings_are_named(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        kind(**{name: value})


@pytest.mark.parametrize("no_write", [None, "delta", DeltaWrite, RawRead()], ids=str)
def test_what_is_no_write_is_named(no_write):
    inputs = inputs_of("random", 2, 3)
    for function in (
        lambda: check_write("write", no_write, RawRead()),
        lambda: mlstm_sequence(*inputs, write=no_write),
        lambda: MLSTMConfig(write=no_write),
    ):
        with pytest.raises(ValueError, match="^write( must be|: there is no)"):
            function()


@pytest.mark.parametrize("read", [MesaRead(), BlendRead(0.5, MesaRead(), RawRead())], ids=["mesa", "blend"])
def test_reads_that_want_keys_want_the_additive_write(read):
    inputs = inputs_of("random", 4, 3)
    for write in (WriteBack(), DeltaWrite()):
        for form in FORMS:
            with pytest.raises(ValueError, match=r"^write must be AdditiveWrite\(\) for a read"):
                mlstm_sequence(*inputs, read=read, write=write, form=form)
        with pytest.raises(ValueError, match=r"^write must be AdditiveWrite\(\) for a read"):
            MLSTMConfig(read=read, write=write)
    assert mlstm_sequence(*inputs, read=read, write=AdditiveWrite()).shape == inputs.q.shape


@pytest.mark.parametrize("position", [-1, 1.0, None, True], ids=str)
def test_impossible_positions_are_named(position):
    with pytest.raises(ValueError, match="^position must"):
        mlstm_sequence(*inputs_of("random", 2, 3), position=position)


def test_a_write_is_frozen_and_must_say_what_it_adds():
    with pytest.raises(dataclasses.FrozenInstanceError):
        WriteBack().steps = 3
    with pytest.raises(TypeError, match="abstract"):
        Write()
