"""The Mesa layer's read: least squares on keys and values, its iterations, its state."""

import pytest
import torch

import orthonar.reads.mesa as mesa_module
from benchmarks.oracle import assert_accurate, hostile_inputs, relative_errors, run_with_grads, saved_elements
from orthonar import MesaRead, MLSTMState, RawRead, mlstm_sequence
from orthonar.engine.gates import gate_logs, in_chunks
from orthonar.reads.mesa import _conjugate_gradients, _iterations, _preconditioner, _System


def cell(form: str = "chunkwise", read=MesaRead(), **options):  # noqa: B008 (frozen)
    return lambda *tensors: mlstm_sequence(*tensors, read=read, form=form, **options)


def associations(count: int, size: int, seed: int = 0):
    """As many keys as fit, far from orthogonal, with open gates; then each key is asked for."""
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randn(count, size, generator=generator, dtype=torch.float64) + 0.5
    values = torch.randn(count, size, generator=generator, dtype=torch.float64)
    k, v = torch.cat([keys, torch.zeros_like(keys)]), torch.cat([values, torch.zeros_like(values)])
    q = torch.cat([torch.zeros_like(keys), keys])
    igate = torch.zeros(1, 1, 2 * count, dtype=torch.float64)
    return (q[None, None], k[None, None], v[None, None], igate, igate + 50), values


def test_stored_values_come_back():
    """Least squares tells keys apart that are not orthogonal; the raw read returns a mixture."""
    x, values = associations(count=6, size=8)
    divisor = (x[0] @ (x[1].sum(2)[..., None] / 8**0.5))[0, 0, 6:].abs().clamp_min(1)
    mesa = cell(read=MesaRead(ridge=0.0001))(*x)[0, 0, 6:] * divisor
    raw = cell(read=RawRead())(*x)[0, 0, 6:]

    def alignment(h):
        return torch.cosine_similarity(h, values, dim=-1).min()

    # Keys were written divided by sqrt(8), queries not: the prediction is that many times the value.
    torch.testing.assert_close(mesa / 8**0.5, values, rtol=0, atol=0.15)
    assert alignment(mesa) > 0.99 > 0.8 > alignment(raw)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_gradients_are_those_of_finite_differences(form):
    inputs = [x.requires_grad_() for x in hostile_inputs("random", heads=1, length=5, size=3)]
    generator = torch.Generator().manual_seed(5)
    draws = [
        torch.randn(1, 1, *shape, generator=generator, dtype=torch.float64) for shape in ((3, 3), (3, 4), (3,), ())
    ]
    memory = torch.cat([draws[0], draws[1] @ draws[1].mT], -1).requires_grad_()
    options = {"chunk_size": 2} if form == "chunkwise" else {}

    def function(*tensors):
        # H stays symmetric, as only keys can make it.
        c, h = tensors[5].chunk(2, -1)
        state = MLSTMState(torch.cat([c, (h + h.mT) / 2], -1), draws[2], draws[3])
        h, end = cell(form, MesaRead(ridge=0.1), initial_state=state, return_state=True, **options)(*tensors[:5])
        return h, *end

    assert torch.autograd.gradcheck(function, (*inputs, memory))


@pytest.mark.parametrize("ridge", [0.0001, 0.03, 1.0])
@pytest.mark.parametrize("family", ["random", "same_key", "gates_within_50"])
def test_any_ridge(family, ridge):
    inputs, read = hostile_inputs(family, length=33, size=7), MesaRead(ridge=ridge)
    wanted = run_with_grads(cell("parallel", read), inputs)
    assert max(relative_errors(*run_with_grads(cell(read=read), inputs), wanted).values()) <= 1e-8
    assert_accurate(cell(read=read), cell("parallel", read), inputs, wanted)


def test_scale_of_the_keys_is_divided_out():
    """lam goes with the trace: keys c times as large are read as queries 1 / c as large."""
    q, k, v, i, f = hostile_inputs("random", length=20, size=5)
    moved = cell()(q / 3, k * 3, v, i, f)
    torch.testing.assert_close(moved * 9, cell()(q, k, v, i, f), rtol=1e-9, atol=1e-9)


def system(condition_ridge: float, size: int = 24):
    """A system of one position whose eigenvalues reach from 1 to 1 + 1 / ridge, evenly in logarithm."""
    generator = torch.Generator().manual_seed(2)
    u, _, _ = torch.linalg.svd(torch.randn(1, size, size, generator=generator, dtype=torch.float64))
    eigenvalues = torch.logspace(0, 1, size, dtype=torch.float64)
    eigenvalues = (eigenvalues - 1) / 9 / condition_ridge
    none = torch.zeros(1, 1, size, dtype=torch.float64)
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    not_preconditioned = torch.eye(size, dtype=torch.float64)[None], none
    return _System(none, none, one, one, one, (u * eigenvalues) @ u.mT, *not_preconditioned), u


@pytest.mark.parametrize("ridge", [0.5, 0.01, 0.001, 0.0001])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_bound_on_the_iterations_suffices(ridge, dtype):
    exact, u = system(ridge)
    b = u.sum(-1)[:, None] / 24**0.5
    rounded = _System(*(x.to(dtype) for x in exact))
    x = _conjugate_gradients(b.to(dtype), rounded, _iterations(1 + 1 / ridge)).double()
    left = torch.linalg.vector_norm(b - exact.matvec(x))
    # float32 has rounding on top, the worse the condition.
    assert left <= (1.01e-4 if dtype == torch.float64 else 1e-4 + 1e-6 / ridge)


def test_iterations_are_as_documented():
    assert _iterations(1001) == 212
    assert _iterations(2) < 20


@pytest.mark.parametrize(
    "family", ["random", "same_key", "zero_keys", "one_open_gate", "gates_within_50", "igate_+50_fgate_-50"]
)
def test_preconditioner_is_the_inverse_at_the_last_penalty(family):
    """Held against matrices formed one by one; what it leaves is never spread wider than what was there."""
    ridge, eps, length, size = 0.001, 1e-6, 12, 5
    _, k, _, igate, fgate = hostile_inputs(family, length=2 * length, size=size)
    logs = gate_logs(igate, fgate, torch.zeros(igate.shape[:2], dtype=torch.float64))
    gates = in_chunks(logs.log_input, logs.peak, torch.zeros(igate.shape[:2], dtype=torch.float64), length)
    k = k.double().unflatten(2, (2, length))[0, 0]
    a, w = gates.log_decay.exp()[0, 0, ..., None], gates.log_weights.exp()[0, 0]
    writes = torch.einsum("ntu,nud,nue->ntde", w, k, 0.4 * k)
    h = [writes[:1], a[1:, :, :, None] * writes[:1, -1:] + writes[1:]]
    h_start, h = torch.cat([torch.zeros_like(h[0][:, 0]), h[0][:, -1]]), torch.cat(h)
    penalty = (ridge * h.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True)).clamp_min(eps)
    parts = k, 0.4 * k, a, w, penalty, h_start
    system = _System(*parts, *_preconditioner(*parts))

    def columns(product):
        """The matrices by which every position is multiplied, (2, L, D, D)."""
        return torch.stack([product(row.expand(2, length, size)) for row in torch.eye(size, dtype=torch.float64)], -1)

    eye = torch.eye(size, dtype=torch.float64)
    to_last = (gates.peak - gates.peak[..., -1:]).exp()[0, 0, ..., None, None]
    wanted = torch.linalg.inv(to_last * h / penalty[:, -1:, :, None] + eye)
    found = columns(system.precondition)
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-11)

    damped = h + penalty[..., None] * eye
    torch.testing.assert_close(columns(system.matvec), damped, rtol=1e-9, atol=1e-12)

    def spread(eigenvalues):
        return eigenvalues.real.amax(-1) / eigenvalues.real.amin(-1)

    left, before = spread(torch.linalg.eigvals(found @ damped)), spread(torch.linalg.eigvals(damped))
    assert (left <= before * (1 + 1e-9)).all()
    assert family != "random" or left[1].max() < 3


def test_right_hand_sides_of_zero():
    exact, _ = system(0.001)
    assert not _conjugate_gradients(torch.zeros(1, 1, 24, dtype=torch.float64), exact, 10).any()


def test_rounds_gain_the_digits(monkeypatch):
    """With one round of conjugate gradients the result is off by about what a round leaves; refined, by far less."""
    inputs = hostile_inputs("random", length=33, size=9)
    wanted = run_with_grads(cell("parallel"), inputs)
    refined = relative_errors(*run_with_grads(cell(), inputs), wanted)
    monkeypatch.setattr(mesa_module, "_MOST_ROUNDS", 1)
    rough = relative_errors(*run_with_grads(cell(), inputs), wanted)
    assert max(refined.values()) < 1e-9 and 1e-9 < max(rough.values()) < 0.1


def test_state_holds_both_memories():
    inputs = hostile_inputs("random", length=19, size=5)
    states = [cell(form, return_state=True)(*inputs)[1] for form in ("parallel", "recurrent", "chunkwise")]
    _, raw = cell(read=RawRead(), return_state=True)(*inputs)
    for state in states:
        assert state.c_state.shape == (1, 2, 5, 10)
        torch.testing.assert_close(state.c_state[..., :5], raw.c_state)
        torch.testing.assert_close(state.c_state[..., 5:], states[0].c_state[..., 5:])
        torch.testing.assert_close(state.c_state[..., 5:], state.c_state[..., 5:].mT)
    empty = MLSTMState.zeros(1, 2, 5, read=MesaRead(), dtype=torch.float64)
    assert torch.equal(cell(initial_state=empty)(*inputs), cell()(*inputs))


def test_state_of_another_read_is_refused():
    inputs = hostile_inputs("random", length=4, size=5)
    with pytest.raises(ValueError, match=r"^initial_state.c_state must have the shape \(1, 2, 5, 10\)"):
        cell(initial_state=MLSTMState.zeros(1, 2, 5, dtype=torch.float64))(*inputs)


def test_no_memory_matrix_per_position_is_kept():
    heads, length, size = 2, 128, 64
    inputs = hostile_inputs("random", heads=heads, length=length, size=size).to(torch.float32)
    largest, total = saved_elements(cell(), inputs)
    matrices = heads * length * size * size
    assert largest < 0.2 * matrices and total < matrices


@pytest.mark.parametrize(
    ("name", "value"),
    [("ridge", 0.0), ("ridge", 1e-5), ("ridge", 2.0), ("ridge", float("nan")), ("ridge", None), ("eps", 0.0)],
    ids=str,
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        MesaRead(**{name: value})
