"""Blends and straight-through reads: whose result, whose gradients, to the last bit."""

import math

import pytest
import torch
from oracle import NAMES, hostile_inputs, relative_errors, run_with_grads

import orthonar.engine.chunk_filter as chunk_filter_module
from orthonar import BlendRead, NewtonSchulzRead, RawRead, RidgeRead, StraightThroughRead, mlstm_sequence
from orthonar.engine.gates import normaliser
from orthonar.mlstm.cell import MLSTMState, _write


def cell(read, form: str = "chunkwise", **options):
    return lambda *tensors: mlstm_sequence(*tensors, read=read, form=form, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize(("alpha", "read"), [(0, RawRead()), (1, NewtonSchulzRead())], ids=["raw", "orthogonalized"])
@pytest.mark.parametrize("family", ["random", "opposite_every_pair_random", "gates_within_50"])
def test_ends_of_a_blend_are_its_parts(family, alpha, read, form, dtype):
    inputs = hostile_inputs(family, length=20 if form == "recurrent" else 40, size=7).to(dtype)
    h, grads = run_with_grads(cell(BlendRead(alpha=alpha), form), inputs)
    h_wanted, grads_wanted = run_with_grads(cell(read, form), inputs)
    assert torch.equal(h, h_wanted)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_wanted, strict=True))


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_a_blend_is_linear_in_alpha(form):
    inputs = hostile_inputs("random", length=20, size=7)
    raw, ortho = (run_with_grads(cell(read, form), inputs) for read in (RawRead(), NewtonSchulzRead()))
    h, grads = run_with_grads(cell(BlendRead(alpha=0.125), form), inputs)
    mixed = [0.125 * a + 0.875 * b for a, b in zip((ortho[0], *ortho[1]), (raw[0], *raw[1]), strict=True)]
    assert max(relative_errors(h, grads, (mixed[0], mixed[1:])).values()) <= 1e-12


def straight_through_by_hand(value_read, gradient_read):
    """The definition: numerator of one, gradients of the other's numerator, over the divisor with its own gradients."""

    def function(q, k, v, igate_preact, fgate_preact):
        size = q.shape[-1]
        state, h = MLSTMState.zeros(len(q), q.shape[1], size, dtype=q.dtype), []
        for t in range(q.shape[2]):
            now = (x[:, :, t] for x in (k / math.sqrt(size), v, igate_preact, fgate_preact))
            state = _write(state, *now)
            value, other = (
                (read.matrix(state.c_state).mT @ q[:, :, t, :, None])[..., 0] for read in (value_read, gradient_read)
            )
            divisor = normaliser((state.n_state * q[:, :, t]).sum(-1), state.m_state)
            h.append((other + (value - other).detach()) / divisor[..., None])
        return torch.stack(h, 2)

    return function


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@pytest.mark.parametrize(
    ("value_read", "gradient_read"),
    [(NewtonSchulzRead(), RawRead()), (RawRead(), NewtonSchulzRead()), (RidgeRead(), NewtonSchulzRead(steps=2))],
    ids=["forward_orthogonalized", "forward_raw", "two_filters"],
)
def test_straight_through_has_the_gradients_of_the_other(value_read, gradient_read, form):
    inputs = hostile_inputs("random", length=20, size=7)
    wanted = run_with_grads(straight_through_by_hand(value_read, gradient_read), inputs)
    got = run_with_grads(cell(StraightThroughRead(value_read, gradient_read), form), inputs)
    assert max(relative_errors(*got, wanted).values()) <= 1e-9
    own = run_with_grads(cell(value_read, form), inputs)
    errors = relative_errors(*got, own)
    assert errors["h"] < 1e-14 and all(errors[name] > 1e-3 for name in NAMES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_straight_through_is_exact(dtype):
    """The result is the forward read's to the last bit, the values' gradient the backward read's."""
    inputs = hostile_inputs("gates_within_50", length=40, size=7).to(dtype)
    h, grads = run_with_grads(cell(StraightThroughRead(RidgeRead(), NewtonSchulzRead())), inputs)
    assert torch.equal(h, cell(RidgeRead())(*inputs))
    torch.testing.assert_close(grads[2], run_with_grads(cell(NewtonSchulzRead()), inputs)[1][2], rtol=1e-6, atol=0)


def test_backward_pass_of_the_forward_read_is_not_run(monkeypatch):
    def fail(*args):
        raise AssertionError("ran")

    inputs = hostile_inputs("random", length=20, size=7)
    monkeypatch.setattr(chunk_filter_module, "_adjoint", fail)
    run_with_grads(cell(StraightThroughRead(NewtonSchulzRead(), RawRead())), inputs)
    with pytest.raises(AssertionError, match="ran"):
        run_with_grads(cell(StraightThroughRead(RawRead(), NewtonSchulzRead())), inputs)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (BlendRead, "alpha", -0.1),
        (BlendRead, "alpha", 1.1),
        (BlendRead, "alpha", float("nan")),
        (BlendRead, "alpha", True),
        (BlendRead, "alpha", "0.5"),
        (BlendRead, "one", None),
        (BlendRead, "other", RawRead),
        (StraightThroughRead, "forward", "raw"),
        (StraightThroughRead, "backward", {"name": "RawRead"}),
    ],
    ids=str,
)
def test_impossible_settings_are_named(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        kind(**{name: value})
