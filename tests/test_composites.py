"""Blends and straight-through reads: whose result, whose gradients, to the last bit."""

import math

import pytest
import torch

import orthonar.engine.chunk_filter as chunk_filter_module
import orthonar.engine.kernels.cpu_filter as cpu_filter
from benchmarks.oracle import NAMES, hostile_inputs, relative_errors, run_with_grads
from orthonar import BlendRead, NewtonSchulzRead, RawRead, RidgeRead, StraightThroughRead, mlstm_sequence


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


def numerator_by_hand(read, c, q):
    """Of the few reads that these tests use, from their formulas."""
    if isinstance(read, RawRead):
        return c.mT @ q
    x = c / torch.linalg.matrix_norm(c, keepdim=True)
    identity = torch.eye(c.shape[-1], dtype=c.dtype)
    if isinstance(read, RidgeRead):
        return (1 + read.ridge) * torch.linalg.inv(x.mT @ x + read.ridge * identity) @ x.mT @ q
    for _ in range(read.steps):
        x = x @ (3 * identity - x.mT @ x) / 2
    return x.mT @ q


def straight_through_by_hand(value_read, gradient_read):
    """The definition: numerator of one, gradients of the other's numerator, over the divisor with its own gradients."""

    def function(q, k, v, igate_preact, fgate_preact):
        size, h = q.shape[-1], []
        c, n, m = q.new_zeros(*q.shape[:2], size, size), q.new_zeros(*q.shape[:2], size, 1), q.new_zeros(q.shape[:2])
        for t in range(q.shape[2]):
            q_t, k_t, v_t = (x[:, :, t, :, None] for x in (q, k / math.sqrt(size), v))
            carried = torch.nn.functional.logsigmoid(fgate_preact[:, :, t]) + m
            m = torch.where(igate_preact[:, :, t] >= carried, igate_preact[:, :, t], carried)
            forget, gate = ((x - m).exp()[..., None, None] for x in (carried, igate_preact[:, :, t]))
            c, n = forget * c + gate * k_t @ v_t.mT, forget * n + gate * k_t
            value, other = (numerator_by_hand(read, c, q_t) for read in (value_read, gradient_read))
            divisor = torch.maximum((n.mT @ q_t).abs(), (-m).exp()[..., None, None]) + 1e-6
            h.append(((other + (value - other).detach()) / divisor)[..., 0])
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


@pytest.mark.parametrize("compiled", [True, False])
def test_backward_pass_of_the_forward_read_is_not_run(compiled, monkeypatch):
    def fail(*args):
        raise AssertionError("ran")

    inputs = hostile_inputs("random", length=20, size=7)
    if compiled:
        monkeypatch.setattr(cpu_filter._CompiledFilter, "gradients", fail)
    else:
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")
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
    ],
    ids=str,
)
def test_impossible_settings_are_named(kind, name, value):
    with pytest.raises(ValueError, match=f"^{name}( must|: there is no)"):
        kind(**{name: value})
