"""Extreme gates, what is not a number, narrow dtypes, autocast, and norms that overflow.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import itertools
import math

import pytest
import torch
from gpu import where_kernels_run

from benchmarks.oracle import NAMES, Inputs, hostile_inputs, mlstm_by_hand, relative_errors, run_with_grads
from orthonar import (
    AdditiveWrite,
    DeltaWrite,
    FullDeltaWrite,
    MesaRead,
    MLSTMConfig,
    MLSTMModel,
    MLSTMState,
    MuonRead,
    NewtonSchulzRead,
    RawRead,
    RLSRead,
    WriteBack,
    mlstm_sequence,
    newton_schulz,
)

READS = {
    "raw": RawRead(),
    "two_steps": NewtonSchulzRead(steps=2),
    "five_steps": NewtonSchulzRead(),
    "mesa": MesaRead(),
    "muon": MuonRead(steps=3),
}
WRITES = {
    "additive": AdditiveWrite(),
    "delta": DeltaWrite(),
    "full_delta": FullDeltaWrite(),
    "write_back": WriteBack(steps=1, every=6),
}
FORMS = ["recurrent", "parallel", "chunkwise", pytest.param("fused", marks=pytest.mark.needs_triton)]
SHUT = {"infinite": -math.inf, "1e12": -1e12, "1e15": -1e15, "smallest": torch.finfo(torch.float32).min}
STARTS = 7, 16, 18  # inside a chunk, at the start of one, right after that
every_form = pytest.mark.parametrize("form", FORMS)


def cell(read: str, form: str = "chunkwise", write: str = "additive", **options):
    def run(*tensors):
        return mlstm_sequence(*tensors, read=READS[read], form=form, write=WRITES[write], **options)

    return where_kernels_run(run) if form == "fused" else run


def sequence(length: int = 24) -> Inputs:
    return hostile_inputs("random", heads=1, length=length, size=4)


def shut(inputs: Inputs, value: float, starts=STARTS) -> Inputs:
    """The same with this forget gate pre-activation at some positions."""
    fgate = inputs.fgate_preact.clone()
    fgate[..., list(starts)] = value
    return inputs._replace(fgate_preact=fgate)


# Gates that are shut


@pytest.mark.parametrize("value", SHUT.values(), ids=SHUT)
@every_form
def test_a_shut_gate_is_what_the_equations_say(form, value):
    inputs = shut(sequence(), value)
    wanted = torch.from_numpy(mlstm_by_hand(inputs, steps=2)[0])
    torch.testing.assert_close(cell("two_steps", form)(*inputs), wanted, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize(
    ("form", "read"),
    [
        *itertools.product(["recurrent", "chunkwise"], ["raw", "two_steps"]),
        pytest.param("fused", "raw", marks=pytest.mark.needs_triton),
    ],
)
def test_a_shut_gate_separates_documents(form, write, read):
    """Outputs and gradients are those of each document by itself, which begins with that gate."""
    inputs = shut(sequence(), -math.inf, (0, *STARTS))
    bounds = [0, *STARTS, 24]

    def by_themselves(*tensors):
        parts = [
            cell(read, "parallel", write, position=start)(*(x[:, :, start:stop] for x in tensors))
            for start, stop in zip(bounds, bounds[1:])
        ]
        return torch.cat(parts, 2)

    h, grads = run_with_grads(cell(read, form, write), inputs)
    assert all(torch.isfinite(x).all() for x in (h, *grads))
    errors = relative_errors(h, grads, run_with_grads(by_themselves, inputs))
    assert max(errors.values()) <= 1e-7, errors


@pytest.mark.parametrize("value", SHUT.values(), ids=SHUT)
def test_masks_in_float32(value):
    inputs = shut(sequence(100), value, range(5, 100, 7))
    wanted = run_with_grads(cell("two_steps", "parallel"), shut(sequence(100), -math.inf, range(5, 100, 7)))
    errors = relative_errors(*run_with_grads(cell("two_steps"), inputs.to(torch.float32)), wanted)
    assert max(errors.values()) <= 2e-5, errors


@every_form
def test_a_start_at_which_nothing_is_written(form):
    """Both gates shut at padding: nothing is read there, and what comes next finds an empty memory."""
    inputs = shut(sequence(12), -math.inf, [7, 8])
    igate = inputs.igate_preact.clone()
    igate[..., [7, 8]] = -math.inf
    h, grads = run_with_grads(cell("two_steps", form), inputs._replace(igate_preact=igate))
    assert all(torch.isfinite(x).all() for x in (h, *grads))
    assert h[:, :, 7:9].abs().max() < 1e-30
    rest = shut(sequence(12), -math.inf, [9]).part(slice(9, None))
    torch.testing.assert_close(h[:, :, 9:], cell("two_steps", "parallel")(*rest), rtol=1e-8, atol=1e-9)


# Least squares


@pytest.mark.parametrize("read", [MesaRead(), MesaRead(ridge=0.0001), RLSRead(), RLSRead(ridge=0.0001)], ids=str)
@pytest.mark.parametrize("strength", [1.0, 10.0])
def test_what_least_squares_cancels_float32_does_not_lose(read, strength):
    """At every position by itself, for heads whose factor 1 / sqrt(DH) float32 rounds."""
    q, k, v, igate, fgate = hostile_inputs("random", length=100, size=48, seed=4)
    inputs = q, k, v, (strength * igate).float().double(), fgate
    wanted = mlstm_sequence(*inputs, read=read)
    h = mlstm_sequence(*(x.float() for x in inputs), read=read).double()
    errors = torch.linalg.vector_norm(h - wanted, dim=-1) / torch.linalg.vector_norm(wanted, dim=-1)
    assert errors.max() < 1e-6


# What is not a number


@pytest.mark.parametrize("read", ["raw", "two_steps"])
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("form", ["chunkwise", "chunkwise without Numba"])
def test_what_a_write_makes_of_it_spoils_nothing_before_it(form, write, read, monkeypatch):
    """The delta rules solve for what is written: of one number that is none come many."""
    if "without" in form:
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    inputs = sequence()
    for name, value in (("k", math.nan), ("v", math.inf), ("igate_preact", math.nan), ("fgate_preact", math.nan)):
        spoilt = getattr(inputs, name).clone()
        spoilt[:, :, 9] = value
        # Inside autograd too: what is put apart must not reach the gradients of what is read before.
        leaves = [x.detach().requires_grad_() for x in inputs._replace(**{name: spoilt})]
        h = cell(read, form.split()[0], write)(*leaves)
        torch.testing.assert_close(h[:, :, :9], cell(read, "recurrent", write)(*inputs)[:, :, :9], rtol=1e-8, atol=1e-9)
        assert h[:, :, 9:].isnan().all()
        recurrent = cell(read, "recurrent", write)(*inputs._replace(**{name: spoilt}))
        assert torch.equal(h.isfinite(), recurrent.isfinite())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("form", "read"),
    [("chunkwise", "raw"), ("chunkwise", "two_steps"), pytest.param("fused", "raw", marks=pytest.mark.needs_triton)],
)
def test_what_is_not_a_number_spoils_nothing_before_it(form, read, name):
    inputs = sequence()
    spoilt = getattr(inputs, name).clone()
    spoilt[:, :, 5] = math.nan
    h = cell(read, form)(*inputs._replace(**{name: spoilt}))
    torch.testing.assert_close(h[:, :, :5], cell(read, form)(*inputs)[:, :, :5], rtol=1e-12, atol=1e-12)
    assert h[:, :, 5].isnan().all() and h[:, :, 6:].isnan().all() == (name != "q")


# Narrow dtypes and autocast


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise"])
@pytest.mark.parametrize("read", ["raw", "five_steps", "mesa", "muon"])
def test_narrow_dtypes_are_computed_in_float32(read, form, dtype):
    """Outputs and gradients are those of the same numbers in float32, rounded once; gates may be float32."""
    narrow = Inputs(*(x.to(dtype) for x in sequence(12)))
    narrow = narrow._replace(igate_preact=narrow.igate_preact.float())
    h, grads = run_with_grads(cell(read, form), narrow)
    # Drawn as above: weights of the outputs are rounded to the dtype.
    weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    leaves = [x.detach().float().requires_grad_() for x in narrow]
    wanted = cell(read, form)(*leaves)
    assert h.dtype == dtype and torch.equal(h, wanted.to(dtype))
    for x, grad, exact in zip(narrow, grads, torch.autograd.grad(wanted, leaves, weight.float()), strict=True):
        assert grad.dtype == x.dtype and torch.equal(grad, exact.to(x.dtype))


def test_states_of_narrow_dtypes_are_float32():
    narrow = Inputs(*(x.to(torch.bfloat16) for x in sequence(12)))
    first, state = cell("raw", return_state=True)(*narrow.part(slice(0, 5)))
    assert all(x.dtype == torch.float32 for x in state)
    second = cell("raw", initial_state=state)(*narrow.part(slice(5, None)))
    whole = cell("raw")(*narrow)
    torch.testing.assert_close(torch.cat([first, second], 2), whole, rtol=2**-7, atol=1e-3)
    narrow_state = MLSTMState(*(x.to(torch.bfloat16) for x in state))
    assert cell("raw", initial_state=narrow_state)(*narrow).dtype == torch.bfloat16


@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise"])
@pytest.mark.parametrize("read", ["raw", "five_steps", "mesa", "muon"])
def test_autocast_is_off_inside(read, form):
    single = sequence(12).to(torch.float32)
    wanted, wanted_grads = run_with_grads(cell(read, form), single)

    def under_autocast(*tensors):
        with torch.autocast("cpu", torch.bfloat16):
            h = cell(read, form)(*tensors)
        assert h.dtype == torch.bfloat16
        return h.float()

    h, grads = run_with_grads(under_autocast, single)
    assert torch.equal(h, wanted.bfloat16().float())
    # All that is rounded is the gradient by the output.
    for a, b in zip(grads, wanted_grads, strict=True):
        assert torch.linalg.vector_norm(a - b) <= 2**-8 * max(map(torch.linalg.vector_norm, wanted_grads))
    with torch.autocast("cpu", torch.bfloat16):
        assert cell(read, form)(*single.to(torch.float64)).dtype == torch.float64
        mixed = single._replace(q=single.q.bfloat16(), fgate_preact=single.fgate_preact.bfloat16())
        assert cell(read, form)(*mixed).dtype == torch.bfloat16


@pytest.mark.parametrize("change", ["autocast", torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("read", ["raw", "five_steps"])
def test_model_in_narrow_dtypes(read, change):
    config = MLSTMConfig(vocab_size=11, embedding_dim=8, num_heads=2, read=READS[read])
    model = MLSTMModel(config, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(11, (2, 20), generator=torch.Generator().manual_seed(1))
    wanted = model(tokens)
    if change == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(tokens)
    else:
        logits = model.to(change)(tokens)
    assert logits.dtype == (torch.bfloat16 if change == "autocast" else change)
    assert torch.linalg.vector_norm(logits - wanted) <= 0.03 * torch.linalg.vector_norm(wanted)
    logits.float().square().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("first", ["float32", "autocast"])
@pytest.mark.parametrize("read", ["raw", "five_steps"])
def test_a_state_goes_on_under_autocast(read, first):
    config = MLSTMConfig(vocab_size=11, embedding_dim=8, num_heads=2, read=READS[read])
    model = MLSTMModel(config, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(11, (2, 20), generator=torch.Generator().manual_seed(1))
    whole = model(tokens)
    with torch.autocast("cpu", torch.bfloat16, enabled=first == "autocast"):
        _, state = model(tokens[:, :9], return_state=True)
    with torch.autocast("cpu", torch.bfloat16):
        middle, state = model(tokens[:, 9:19], state, return_state=True)
        last, _ = model.step(tokens[:, 19], state)
    rest = torch.cat([middle, last[:, None]], 1)
    assert rest.dtype == torch.bfloat16
    assert torch.linalg.vector_norm(rest - whole[:, 9:]) <= 0.03 * torch.linalg.vector_norm(whole[:, 9:])


# Norms that overflow


@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise"])
@pytest.mark.parametrize("read", ["raw", "five_steps"])
def test_large_values(read, form):
    """Values of 1e19 and keys of 1e15 in float32: the memory's norm is beyond it, what is read is not."""
    inputs = sequence(20)
    inputs = inputs._replace(k=1e15 * inputs.k, v=1e19 * inputs.v).to(torch.float32)
    wanted = cell(read, "parallel")(*inputs.to(torch.float64))
    h = cell(read, form)(*inputs)
    assert torch.linalg.vector_norm(h / 1e19 - wanted / 1e19) <= 1e-5 * torch.linalg.vector_norm(wanted / 1e19)


@pytest.mark.parametrize(
    ("dtype", "scale", "tolerance"),
    [
        (torch.float16, 3e4, 5e-3),
        (torch.bfloat16, 3e37, 4e-2),
        (torch.float32, 3e37, 1e-5),
        (torch.float64, 3e307, 1e-12),
    ],
    ids=str,
)
def test_newton_schulz_of_large_matrices(dtype, scale, tolerance):
    x = torch.randn(3, 8, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64).clamp(-2, 2)
    got = newton_schulz((x * scale).to(dtype)).double()
    assert torch.linalg.vector_norm(got - newton_schulz(x)) <= tolerance * torch.linalg.vector_norm(got)


def test_newton_schulz_and_scale():
    """No scale at norms from eps on, and below it what the docstring says."""
    x = torch.randn(12, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = x / torch.linalg.vector_norm(x)
    wanted = newton_schulz(x)
    for norm in (1e-6 * (1 + 1e-9), 1e-3, 1.0, 1e30, 1e300):
        torch.testing.assert_close(newton_schulz(norm * x), wanted, rtol=1e-12, atol=1e-14)
    assert torch.linalg.vector_norm(newton_schulz(1e-10 * x)).item() == pytest.approx(0.00076, rel=1e-2)


def test_newton_schulz_outside_autocast():
    x = torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(newton_schulz(x), newton_schulz(x.clone()))
        inside = newton_schulz(x)
    assert torch.equal(inside, newton_schulz(x))
