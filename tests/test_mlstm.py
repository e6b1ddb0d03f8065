"""The three forms of the cell against a loop written out by hand, against each other, and against hostile inputs.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import math
from functools import cache

import numpy as np
import pytest
import torch
from grids import some_of
from hypothesis import given, settings
from hypothesis import strategies as st

import orthonar.engine.chunk as chunk_module
import orthonar.engine.chunk_filter as chunk_filter_module
import orthonar.engine.chunkwise as chunkwise_module
from benchmarks.oracle import (
    CHUNK,
    FAMILIES,
    NAMES,
    Inputs,
    assert_accurate,
    hostile_inputs,
    mlstm_by_hand,
    relative_errors,
    run_with_grads,
    saved_elements,
)
from orthonar import MesaRead, MLSTMState, NewtonSchulzRead, RawRead, RLSRead, mlstm_sequence

READS = {"raw": RawRead(), "two_steps": NewtonSchulzRead(steps=2), "five_steps": NewtonSchulzRead(steps=5)}
STEPS = {"raw": None, "two_steps": 2, "five_steps": 5}
FORMS = ["parallel", "recurrent", "chunkwise"]
# The chunkwise form with filters that Numba compiles, which "chunkwise" is here, and with PyTorch's operators instead.
CHUNKWISE = ["chunkwise", "by_operators"]
LENGTH = 40  # two chunks and a half
SHORT = 20  # for the recurrent form, which is slow: the pairs that straddle a chunk's end fit in

every_family = pytest.mark.parametrize("family", FAMILIES)
every_form = pytest.mark.parametrize("form", FORMS)
every_read = pytest.mark.parametrize("read", ["raw", "five_steps"])
# The interpreter is slow: without a GPU the fused kernels are run with fewer steps.
GPU = torch.cuda.is_available()
every_fused_read = pytest.mark.parametrize("read", ["raw", "five_steps" if GPU else "two_steps"])
# Examples drawn the same way on every run: the suite must not pass on one day and fail on the next.
examples = settings(max_examples=40, deadline=None, derandomize=True)


def cell(read: str = "raw", form: str = "chunkwise", **options):
    """The cell as a function of its five tensors."""
    if form == "by_operators":
        return without_numba(cell(read, "chunkwise", **options))
    return lambda *tensors: mlstm_sequence(*tensors, read=READS[read], form=form, **options)


def without_numba(function):
    def result(*args):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("ORTHONAR_NUMBA", "0")
            return function(*args)

    return result


def norm(x) -> float:
    return torch.linalg.vector_norm(torch.as_tensor(x)).item()


@cache
def inputs_of(family: str, length: int) -> Inputs:
    return hostile_inputs(family, length=length)


@cache
def reference(family: str, length: int, read: str):
    """Outputs and gradients of the plain form in float64."""
    return run_with_grads(cell(read, "parallel"), inputs_of(family, length))


def float64_tolerance(family: str) -> float:
    """Where open gates let writes cancel to the last digit, division by 1e-6 lifts the rounding that is left."""
    return 1e-7 if family.startswith("opposite") and family.endswith("open") else 1e-9


def random_state(heads: int = 2, size: int = 12, batch: int = 1, m: float = 0.5) -> MLSTMState:
    """A state as several writes leave it, in float64."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(batch, heads, *shape, generator=generator, dtype=torch.float64)

    return MLSTMState(normal(size, size), normal(size), m + 0.3 * normal())


# Outputs and gradients


@some_of(3, read=["raw", "five_steps"], form=[*FORMS, "by_operators"], family=FAMILIES)
def test_outputs_are_those_written_out_by_hand(read, form, family):
    length = SHORT if form == "recurrent" else LENGTH
    inputs = inputs_of(family, length)
    wanted = torch.from_numpy(mlstm_by_hand(inputs, STEPS[read])[0])
    h = reference(family, length, read)[0] if form == "parallel" else cell(read, form)(*inputs)
    assert norm(h - wanted) <= float64_tolerance(family) * norm(wanted)


@some_of(2, read=["raw", "five_steps"], form=["recurrent", *CHUNKWISE], family=FAMILIES)
def test_gradients_are_those_of_the_plain_form(read, form, family):
    length = SHORT if form == "recurrent" else LENGTH
    got = run_with_grads(cell(read, form), inputs_of(family, length))
    errors = relative_errors(*got, reference(family, length, read))
    assert max(errors.values()) <= float64_tolerance(family), errors


def assert_cell_accurate(inputs: Inputs, read: str, wanted, form: str = "chunkwise", **options) -> None:
    assert_accurate(cell(read, form, **options), cell(read, "parallel"), inputs, wanted)


@some_of(1, read=["raw", "five_steps"], form=CHUNKWISE, family=FAMILIES)
def test_float32_is_accurate(read, form, family):
    assert_cell_accurate(inputs_of(family, LENGTH), read, reference(family, LENGTH, read), form)


def fused(read: str, **options):
    """The cell in its fused form on a GPU or, interpreted, on the CPU."""
    return lambda *x: cell(read, "fused", **options)(*(y.to("cuda" if GPU else "cpu") for y in x))


def test_a_family_of_inputs_that_does_not_exist_is_refused():
    """Taken for the random one, a misspelt name would be a check that cannot fail."""
    with pytest.raises(ValueError, match=r"^name must be one of random, .*, not 'igate_50'"):
        hostile_inputs("igate_50")


@pytest.mark.needs_triton
@some_of(1, read=["raw", "five_steps" if GPU else "two_steps"], family=FAMILIES)
def test_fused_form_is_accurate(read, family):
    inputs = hostile_inputs(family, length=LENGTH, heads=1, size=5)
    plain = cell(read, "parallel")
    assert_accurate(fused(read), plain, inputs, run_with_grads(plain, inputs))


def tensor_core_products(interpreter, products: int):
    """A stand-in for the interpreter's product of matrices that multiplies float32 numbers as tensor cores do.

    A TF32 number is a float32 with the last 13 bits cut off. With three products, what is cut off is multiplied too,
    but for the smallest of the four.
    """

    def cut(x):
        return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)

    def create_dot(self, a, b, d, input_precision, max_num_imprecise_acc):
        x, y = a.data, b.data
        if x.dtype == np.float32:
            x1, y1 = cut(np.ascontiguousarray(x)), cut(np.ascontiguousarray(y))
            x2, y2 = cut(x - x1), cut(y - y1)
            result = x1 @ y1 + ((x1 @ y2 + x2 @ y1) if products == 3 else 0)
        else:
            result = x @ y
        return interpreter.TensorHandle(result + d.data, d.dtype.scalar)

    return create_dot


@pytest.mark.needs_triton
@pytest.mark.skipif(GPU, reason="a GPU multiplies so by itself")
@pytest.mark.parametrize("family", ["random", "one_write", "opposite_straddling_open", "gates_within_50", "fgate_+50"])
@pytest.mark.parametrize("read", ["raw", "five_steps"])
def test_fused_form_is_accurate_on_tensor_cores(read, family, monkeypatch):
    """Three TF32 products are accurate enough, and one is not: the test would notice."""
    from triton.runtime import interpreter

    inputs = hostile_inputs(family, length=32, heads=1, size=12)
    plain = cell(read, "parallel")
    wanted = run_with_grads(plain, inputs)
    monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", tensor_core_products(interpreter, 3))
    assert_accurate(fused(read), plain, inputs, wanted)
    if family == "random" and read == "five_steps":
        monkeypatch.setattr(interpreter.InterpreterBuilder, "create_dot", tensor_core_products(interpreter, 1))
        errors = relative_errors(*run_with_grads(fused(read), inputs.to(torch.float32)), wanted)
        assert 2e-5 < max(errors.values()) < 0.1, errors


@pytest.mark.needs_triton
@pytest.mark.parametrize(("length", "size", "chunk_size"), [(1, 5, None), (21, 3, 4), (20, 17, 20), (18, 48, 16)])
@pytest.mark.parametrize("read", ["raw", "five_steps"])
def test_fused_form_at_odd_sizes(read, length, size, chunk_size):
    inputs = hostile_inputs("random", length=length, heads=1, size=size)
    plain = cell(read, "parallel")
    assert_accurate(fused(read, chunk_size=chunk_size), plain, inputs, run_with_grads(plain, inputs))


@pytest.mark.needs_triton
@every_fused_read
def test_fused_form_in_float64(read):
    inputs = hostile_inputs("random", length=10, heads=2, size=3)
    got = run_with_grads(fused(read, chunk_size=4), inputs)
    assert max(relative_errors(*got, run_with_grads(cell(read, "parallel"), inputs)).values()) <= 1e-9


@pytest.mark.needs_triton
@every_fused_read
def test_fused_form_takes_over_states(read):
    inputs, state = hostile_inputs("random", length=9, size=5), random_state(size=5)
    options = {"initial_state": state, "return_state": True}
    wanted = cell(read, "parallel", **options)(*inputs)
    moved = {"initial_state": MLSTMState(*(x.to("cuda" if GPU else "cpu") for x in state)), "return_state": True}
    got = fused(read, chunk_size=4, **moved)(*inputs)
    for mine, theirs in zip((got[0], *got[1]), (wanted[0], *wanted[1]), strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("family", ["random", "one_write", "opposite_every_pair_random", "fgate_+50"])
@every_read
def test_float32_is_accurate_at_the_size_of_the_study(read, family):
    inputs = hostile_inputs(family, length=130, size=48, heads=1)
    wanted = run_with_grads(cell(read, "parallel"), inputs)
    for form in CHUNKWISE:
        assert_cell_accurate(inputs, read, wanted, form)


# Seeds where n . q happens to pass near zero while exp(-m) is tiny: every error is divided by next to nothing.
@pytest.mark.parametrize(
    ("read", "family", "seed", "chunk_size"),
    [
        ("raw", "igate_+50_fgate_+50", 12, None),
        ("raw", "igate_+50_fgate_+50", 31, None),
        ("five_steps", "gates_within_50", 6, None),
        ("five_steps", "gates_within_50", 52, 5),
    ],
)
def test_float32_is_accurate_where_the_normaliser_vanishes(read, family, seed, chunk_size):
    inputs = hostile_inputs(family, length=LENGTH, seed=seed)
    wanted = run_with_grads(cell(read, "parallel"), inputs)
    assert_cell_accurate(inputs, read, wanted, chunk_size=chunk_size)


@some_of(
    2,
    read=["raw", "five_steps"],
    family=["random", "opposite_every_pair_random", "gates_within_50"],
    chunk_size=[1, 2, 5, 16, 39, 40, 64],
)
def test_chunk_size_changes_nothing(read, family, chunk_size):
    got = run_with_grads(cell(read, chunk_size=chunk_size), inputs_of(family, LENGTH))
    errors = relative_errors(*got, reference(family, LENGTH, read))
    assert max(errors.values()) <= float64_tolerance(family), errors


@pytest.mark.parametrize("steps", [0, 1, 2, 3, 8])
def test_any_number_of_steps(steps):
    inputs, read = inputs_of("random", LENGTH), NewtonSchulzRead(steps=steps)
    wanted = run_with_grads(lambda *x: mlstm_sequence(*x, read=read, form="parallel"), inputs)
    by_hand = torch.from_numpy(mlstm_by_hand(inputs, steps)[0])
    assert norm(wanted[0] - by_hand) <= 1e-9 * norm(by_hand)
    for form in ("chunkwise", "recurrent"):
        some = inputs if form == "chunkwise" else inputs.part(slice(0, SHORT))
        h, grads = run_with_grads(lambda *x, form=form: mlstm_sequence(*x, read=read, form=form), some)
        if form == "chunkwise":
            assert max(relative_errors(h, grads, wanted).values()) <= 1e-9
        else:
            assert norm(h - by_hand[:, :, :SHORT]) <= 1e-9 * norm(by_hand)


@every_form
@every_read
def test_gradients_are_those_of_finite_differences(read, form):
    """The gate gradients hold only if they flow through the log-scale m too."""
    inputs = [x.requires_grad_() for x in hostile_inputs("random", heads=1, length=4, size=3)]
    state = [x.requires_grad_() for x in random_state(heads=1, size=3)]
    options = {"chunk_size": 2} if form == "chunkwise" else {}

    def function(*tensors):
        state = MLSTMState(*tensors[5:])
        h, end = cell(read, form, initial_state=state, return_state=True, **options)(*tensors[:5])
        return h, *end

    assert torch.autograd.gradcheck(function, (*inputs, *state))


@pytest.mark.parametrize(("batch", "length"), [(1, 128), (1, 130), (2, 128), (2, 130)])
@every_read
def test_tensors_in_any_memory_layout(read, batch, length):
    """As the layers before the cell make them: positions before heads in memory."""
    inputs = hostile_inputs("random", batch=batch, length=length, size=5)
    strided = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in inputs]
    assert not strided[0].is_contiguous()
    got, wanted = (run_with_grads(cell(read), x) for x in (strided, inputs))
    assert max(relative_errors(*got, wanted).values()) <= 1e-9


@every_form
@every_read
def test_rows_and_heads_do_not_mix(read, form):
    inputs = hostile_inputs("random", batch=2, heads=3, length=18, size=5)
    h = cell(read, form)(*inputs)
    for b in range(2):
        for head in range(3):
            alone = cell(read, form)(*(x[b : b + 1, head : head + 1] for x in inputs))
            torch.testing.assert_close(h[b : b + 1, head : head + 1], alone, rtol=1e-9, atol=1e-9)


# States


@every_form
@every_read
def test_initial_and_last_state(read, form):
    inputs, state = inputs_of("random", SHORT), random_state()
    h, end = cell(read, form, initial_state=state, return_state=True)(*inputs)
    h_wanted, end_wanted = mlstm_by_hand(inputs, STEPS[read], state=[x.numpy() for x in state])
    assert isinstance(end, MLSTMState)
    torch.testing.assert_close(h, torch.from_numpy(h_wanted), rtol=1e-9, atol=1e-9)
    for got, wanted in zip(end, end_wanted):
        torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)


@every_form
def test_no_state_is_the_zero_state(form):
    inputs = inputs_of("random", SHORT)
    zero = MLSTMState.zeros(1, 2, 12, dtype=torch.float64)
    assert [tuple(x.shape) for x in zero] == [(1, 2, 12, 12), (1, 2, 12), (1, 2)]
    assert torch.equal(cell(form=form, initial_state=zero)(*inputs), cell(form=form)(*inputs))


@every_form
def test_state_is_asked_for_or_not(form):
    inputs = inputs_of("random", SHORT)
    h, state = cell(form=form, return_state=True)(*inputs)
    assert torch.equal(h, cell(form=form)(*inputs))
    assert [tuple(x.shape) for x in state] == [(1, 2, 12, 12), (1, 2, 12), (1, 2)]


def test_state_detaches_and_moves():
    inputs = inputs_of("random", SHORT)
    _, state = cell(return_state=True)(*(x.requires_grad_() for x in inputs))
    assert all(x.requires_grad for x in state)
    detached = state.detach()
    assert not any(x.requires_grad for x in detached) and all(map(torch.equal, detached, state))
    moved = state.to("meta", torch.float32)
    assert isinstance(moved, MLSTMState) and all(x.is_meta and x.dtype == torch.float32 for x in moved)


def split(read: str, forms, splits: list[int], initial: MLSTMState | None = None):
    """Run the parts of a sequence one after the other, the state carried over; forms take turns."""

    def function(*tensors):
        state, h = initial, []
        bounds = [0, *splits, tensors[0].shape[2]]
        for i, (start, stop) in enumerate(zip(bounds, bounds[1:])):
            part = (x[:, :, start:stop] for x in tensors)
            form = forms[i % len(forms)]
            part_h, state = cell(read, form, initial_state=state, return_state=True)(*part)
            h.append(part_h)
        return torch.cat(h, 2)

    return function


@some_of(
    3,
    read=["raw", "five_steps"],
    form=["parallel", "chunkwise"],
    family=["random", "opposite_straddling_random", "gates_either_50"],
    splits=[[1], [13], [16], [39], [7, 8, 30]],
)
def test_split_sequences(read, form, family, splits):
    got = run_with_grads(split(read, [form], splits), inputs_of(family, LENGTH))
    errors = relative_errors(*got, reference(family, LENGTH, read))
    assert max(errors.values()) <= float64_tolerance(family), errors


@every_read
def test_forms_take_over_from_each_other(read):
    forms = ["chunkwise", "recurrent", "parallel", "recurrent", "chunkwise"]
    got = run_with_grads(split(read, forms, [11, 14, 19, 22]), inputs_of("random", LENGTH))
    assert max(relative_errors(*got, reference("random", LENGTH, read)).values()) <= 1e-9


@pytest.mark.parametrize("splits", [[13], [16, 17]], ids=str)
@every_read
def test_split_sequences_in_float32(read, splits):
    single = inputs_of("random", LENGTH).to(torch.float32)
    errors = relative_errors(
        *run_with_grads(split(read, ["chunkwise"], splits), single), reference("random", LENGTH, read)
    )
    assert max(errors.values()) <= 2e-5, errors


@pytest.mark.parametrize("form", ["recurrent", "chunkwise"])
@pytest.mark.parametrize("m", [0.5, 20.0, -20.0])
@every_read
def test_gradients_of_and_through_states(read, m, form):
    """Of a loss on outputs and last state, by inputs and first state."""
    inputs = inputs_of("random", SHORT)
    leaves = [x.clone().requires_grad_() for x in (*inputs, *random_state(m=m))]

    def grads(form: str):
        state = MLSTMState(*leaves[5:])
        h, end = cell(read, form, initial_state=state, return_state=True)(*leaves[:5])
        loss = sum((x * x).sum() for x in (h, *end))
        return torch.autograd.grad(loss, leaves)

    wanted = grads("parallel")
    largest = max(map(norm, wanted))
    for name, a, b in zip((*NAMES, "c_state", "n_state", "m_state"), grads(form), wanted):
        assert norm(a - b) <= 1e-9 * largest, name


# What the definition says about scales


@every_form
def test_scale_of_keys_and_queries(form):
    """1 / sqrt(DH) may move from k to q under the raw read; under a normalised one that divides the output by it."""
    q, k, v, i, f = inputs_of("random", SHORT)
    root = math.sqrt(12)
    raw, moved = cell("raw", form)(q, k, v, i, f), cell("raw", form)(q / root, k * root, v, i, f)
    torch.testing.assert_close(raw, moved, rtol=1e-9, atol=1e-9)
    ortho = cell("five_steps", form)(q, k, v, i, f)
    moved = cell("five_steps", form)(q / root, k * root, v, i, f)
    torch.testing.assert_close(ortho / root, moved, rtol=1e-9, atol=1e-9)
    assert norm(ortho - moved) > 0.5 * norm(ortho)


@every_form
def test_raw_read_does_not_depend_on_the_stabiliser(form):
    """The same empty memory under another log-scale: m_t changes, and with it the orthogonalized read alone."""
    inputs = inputs_of("random", SHORT)
    empty = MLSTMState.zeros(1, 2, 12, dtype=torch.float64)
    shifted = empty._replace(m_state=empty.m_state + 3.0)
    raw = cell("raw", form)(*inputs)
    assert norm(raw - cell("raw", form, initial_state=shifted)(*inputs)) < 1e-4 * norm(raw)
    ortho = cell("five_steps", form)(*inputs)
    assert norm(ortho - cell("five_steps", form, initial_state=shifted)(*inputs)) > 0.1 * norm(ortho)


@every_form
def test_gradient_flows_through_the_stabiliser(form):
    """One write with m = i: C does not depend on i in its frame, h does, by exp(-m) in the normaliser alone."""
    x = hostile_inputs("random", length=1)
    x = x._replace(q=1e-3 * x.q, igate_preact=0 * x.igate_preact + 0.7, fgate_preact=0 * x.fgate_preact)
    h, grads = run_with_grads(cell("five_steps", form), x, seed=1)
    weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(1)).double()
    wanted = (weight * h).sum(-1) * math.exp(-0.7) / (math.exp(-0.7) + 1e-6)
    torch.testing.assert_close(grads[3], wanted, rtol=1e-9, atol=0)


# What is kept


@every_read
def test_no_memory_matrix_per_position_is_kept(read):
    heads, length, size = 2, 256, 64
    inputs = hostile_inputs("random", heads=heads, length=length, size=size).to(torch.float32)
    matrices = heads * length * size * size
    largest, total = saved_elements(cell(read), inputs)
    assert largest < 0.5 * matrices and total < matrices
    # the measure does see them where they are kept
    assert saved_elements(cell(read, "parallel"), inputs.part(slice(0, 32)))[1] > matrices * 32 / length


@every_read
def test_long_sequences(read):
    """Finite, right at the end, and kept memory proportional to length."""
    length, tail = 16384, 24
    inputs = hostile_inputs("random", heads=1, length=length, size=8).to(torch.float32)
    h, grads = run_with_grads(cell(read), inputs)
    assert all(torch.isfinite(x).all() for x in (h, *grads))
    assert all(x[:, :, 0].any() and x[:, :, -1].any() for x in grads)

    double = inputs.to(torch.float64)
    _, state = cell("raw", chunk_size=512, return_state=True)(*double.part(slice(0, -tail)))
    end = cell(read, "parallel", initial_state=state)(*double.part(slice(-tail, None)))
    assert norm(h[:, :, -tail:] - end) < 2e-5 * norm(end)

    half = saved_elements(cell(read), inputs.part(slice(0, length // 2)))[1]
    assert saved_elements(cell(read), inputs)[1] < 2.05 * half


# Writes that cancel


@pytest.fixture
def reread(monkeypatch) -> list[list[int]]:
    """Notes which chunks are read by the plain form; PyTorch's operators compute all the rest."""
    monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    original, calls = chunk_filter_module._reread, []

    def spy(y, indices, read, plain):
        calls.append(indices.tolist())
        return original(y, indices, read, plain)

    monkeypatch.setattr(chunk_filter_module, "_reread", spy)
    return calls


@pytest.mark.parametrize(
    ("family", "chunks"),
    [
        ("random", []),
        ("same_key", []),
        ("zero_values", []),
        ("opposite_in_chunk_open", [0, 3]),
        ("opposite_straddling_open", [1, 4]),
        ("opposite_every_pair_open", [0, 1, 2, 3, 4, 5]),
        ("almost_opposite_in_chunk_open", [0, 3]),
        ("almost_opposite_straddling_open", [1, 4]),
    ],
)
def test_cancelled_chunks_are_read_by_the_plain_form(family, chunks, reread):
    inputs = inputs_of(family, LENGTH).to(torch.float32)
    cell("five_steps")(*inputs)
    assert sum(reread, []) == chunks
    reread.clear()
    cell("raw")(*inputs)
    assert reread == []


@pytest.mark.parametrize("at_once", [1, 4, 32])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_plain_form_of_cancelled_chunks_is_right(dtype, at_once, reread, monkeypatch):
    """Every chunk sent through the fallback, in parts."""
    monkeypatch.setattr(chunk_module, "_PLAIN_CHUNKS_AT_ONCE", at_once)
    monkeypatch.setattr(chunk_filter_module, "_LARGEST_CANCELLATION", 0.0)
    inputs = inputs_of("random", LENGTH).to(dtype)
    h, grads = run_with_grads(cell("five_steps"), inputs)
    assert sum(reread, []) == [0, 1, 2, 3, 4, 5]
    errors = relative_errors(h, grads, reference("random", LENGTH, "five_steps"))
    assert max(errors.values()) <= (2e-5 if dtype == torch.float32 else 1e-9), errors


def test_guarded_series_stays_finite_without_the_fallback(monkeypatch):
    """Whatever the norm's rounding, the spectrum stays in [0, 1], where the series cannot grow."""
    monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    monkeypatch.setattr(chunk_filter_module, "_reread", lambda y, indices, read, plain: y)
    for family in (name for name in FAMILIES if "opposite" in name):
        h, grads = run_with_grads(cell("five_steps"), inputs_of(family, LENGTH).to(torch.float32))
        assert all(torch.isfinite(x).all() for x in (h, *grads)), family
        assert norm(h) < 10 * norm(reference(family, LENGTH, "five_steps")[0]) + 10, family


# Properties


@st.composite
def problems(draw, dtype=torch.float64):
    """Inputs of any size and gates, and options of the cell."""
    batch, heads = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    length, size = draw(st.integers(1, 36)), draw(st.integers(1, 9))
    x = hostile_inputs(
        "random", batch=batch, heads=heads, length=length, size=size, seed=draw(st.integers(0, 2**32 - 1))
    )
    spread = draw(st.sampled_from([1.0, 10.0, 50.0]))
    shift = draw(st.sampled_from([-20.0, 0.0, 20.0]))
    x = x._replace(igate_preact=(spread * x.igate_preact + shift).clamp(-50, 50))
    x = x._replace(fgate_preact=(spread * x.fgate_preact).clamp(-50, 50))
    if draw(st.booleans()):  # a few distinct keys, signs of values at random: writes that cancel
        place = torch.arange(length) % draw(st.integers(1, 3))
        sign = torch.where(x.v[..., :1] > 0, 1.0, -1.0)
        x = x._replace(k=x.k[:, :, place], v=sign * x.v[:, :, place])
    return x.to(torch.float32).to(dtype), draw(st.sampled_from(list(READS))), draw(st.integers(1, 40))


@examples
@given(problems())
def test_property_chunkwise_is_recurrent(problem):
    inputs, read, chunk_size = problem
    with torch.no_grad():
        h, state = cell(read, chunk_size=chunk_size, return_state=True)(*inputs)
        wanted, state_wanted = cell(read, "recurrent", return_state=True)(*inputs)
    assert norm(h - wanted) <= 1e-6 * norm(wanted)
    for a, b in zip(state, state_wanted):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@examples
@given(problems())
def test_property_gradients_are_those_of_the_plain_form(problem):
    inputs, read, chunk_size = problem
    wanted = run_with_grads(cell(read, "parallel"), inputs)
    errors = relative_errors(*run_with_grads(cell(read, chunk_size=chunk_size), inputs), wanted)
    assert max(errors.values()) <= 1e-6, errors


@examples
@given(problems(torch.float32))
def test_property_finite_in_finite_out(problem):
    inputs, read, chunk_size = problem
    h, grads = run_with_grads(cell(read, chunk_size=chunk_size), inputs)
    for name, x in zip(("h", *NAMES), (h, *grads)):
        assert torch.isfinite(x).all(), name


@examples
@given(problems(), st.data())
def test_property_causality(problem, data):
    """Another future changes nothing before it, and no gradient flows back from the past into it."""
    inputs, read, chunk_size = problem
    length = inputs.q.shape[2]
    now = data.draw(st.integers(0, length))
    future = hostile_inputs("gates_within_50", batch=len(inputs.q), heads=inputs.q.shape[1], length=length, size=1)
    changed = [x.clone() for x in inputs]
    for x, other in zip(changed, future):
        x[:, :, now:] = 3 * other[:, :, now:]
    run = cell(read, chunk_size=chunk_size)
    before, after = (run(*x)[:, :, :now] for x in (inputs, changed))
    assert norm(before - after) <= 1e-9 * norm(before)
    _, grads = run_with_grads(lambda *x: run(*x)[:, :, :now], inputs)
    assert not any(g[:, :, now:].any() for g in grads)


# Settings


def arguments(**changes) -> dict:
    """Good arguments, some of them changed."""
    good = hostile_inputs("random", length=4, size=3)._asdict()
    return good | changes


def state_with(**changes) -> MLSTMState:
    return random_state(size=3)._replace(**changes)


@pytest.mark.parametrize(
    ("name", "changes"),
    {
        "q_rank": ("q", {"q": torch.ones(2, 4, 3)}),
        "q_empty": ("q", {"q": torch.ones(1, 2, 0, 3)}),
        "q_complex": ("q", {"q": torch.ones(1, 2, 4, 3, dtype=torch.complex64)}),
        "q_integer": ("q", {"q": torch.ones(1, 2, 4, 3, dtype=torch.int64)}),
        "k_length": ("k", {"k": torch.ones(1, 2, 5, 3, dtype=torch.float64)}),
        "k_dtype": ("k", {"k": torch.ones(1, 2, 4, 3)}),
        "k_device": ("k", {"k": torch.ones(1, 2, 4, 3, dtype=torch.float64, device="meta")}),
        "v_size": ("v", {"v": torch.ones(1, 2, 4, 5, dtype=torch.float64)}),
        "igate_rank": ("igate_preact", {"igate_preact": torch.ones(1, 2, 4, 1, dtype=torch.float64)}),
        "igate_dtype": ("igate_preact", {"igate_preact": torch.ones(1, 2, 4)}),
        "fgate_heads": ("fgate_preact", {"fgate_preact": torch.ones(1, 1, 4, dtype=torch.float64)}),
        "read_none": ("read", {"read": None}),
        "read_name": ("read", {"read": "raw"}),
        "read_class": ("read", {"read": RawRead}),
        "form": ("form", {"form": "chunked"}),
        "form_none": ("form", {"form": None}),
        "chunk_size_zero": ("chunk_size", {"chunk_size": 0}),
        "chunk_size_fraction": ("chunk_size", {"chunk_size": 16.0}),
        "chunk_size_bool": ("chunk_size", {"chunk_size": True}),
        "c_state_shape": ("initial_state.c_state", {"initial_state": random_state(size=4)}),
        "n_state_shape": ("initial_state.n_state", {"initial_state": state_with(n_state=torch.ones(1, 2, 4))}),
        "m_state_shape": ("initial_state.m_state", {"initial_state": state_with(m_state=torch.ones(1, 2, 1))}),
        "m_state_dtype": ("initial_state.m_state", {"initial_state": state_with(m_state=torch.ones(1, 2))}),
    }.values(),
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_impossible_arguments_are_named(name, changes):
    with pytest.raises(ValueError, match=f"^{name} must"):
        mlstm_sequence(**arguments(**changes))


def test_good_arguments_pass():
    assert mlstm_sequence(**arguments(initial_state=state_with(), chunk_size=2)).shape == (1, 2, 4, 3)


def test_defaults():
    inputs = inputs_of("random", LENGTH)
    assert torch.equal(mlstm_sequence(*inputs), cell("raw", "chunkwise")(*inputs))
    assert CHUNK == chunkwise_module._CHUNK_FOR_FILTER  # or the straddling families would not straddle


@pytest.mark.parametrize("form", ["chunkwise", "recurrent"])
@pytest.mark.parametrize("read", [RawRead(), NewtonSchulzRead(), MesaRead(), RLSRead()], ids=lambda r: type(r).__name__)
@pytest.mark.parametrize(("of_keys", "of_values"), [(1e20, 1e-12), (1e-22, 1e18), (1e9, 1e-9)])
def test_keys_whose_squares_leave_float32_are_read_in_float64(of_keys, of_values, read, form):
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, 2, 9, 4, generator=generator).unbind()
    gates = torch.zeros(1, 2, 9), torch.zeros(1, 2, 9)
    inputs = q, k * of_keys, v * of_values, *gates
    exact = mlstm_sequence(*(x.double() for x in inputs), read=read, form="parallel")
    found = mlstm_sequence(*inputs, read=read, form=form)
    # What of it is below float32's smallest number is 0.
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=max(1e-44, 1e-5 * exact.abs().max().item()))
