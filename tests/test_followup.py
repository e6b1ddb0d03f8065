"""The follow-up's variants (arXiv 2607.19390) against loops written out from their definitions.

Outputs and all gradients, those by the initial state too, in float64, in every form of the cell.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import math

import pytest
import torch
from grids import some_of

from benchmarks.oracle import (
    FAMILIES,
    assert_accurate,
    assert_model_steps_as_it_runs,
    hostile_inputs,
    relative_errors,
    run_with_grads,
)
from orthonar import (
    AdditiveWrite,
    BlendRead,
    FullDeltaWrite,
    MatrixStraightThroughRead,
    MesaRead,
    MLSTMConfig,
    MLSTMState,
    NewtonSchulzRead,
    RawRead,
    RLSRead,
    RunConfig,
    StraightThroughRead,
    mlstm_sequence,
    orthogonal_blocks,
)
from orthonar.mlstm.layer import MLSTM
from orthonar.reads.base import LeafRead
from orthonar.reads.filter_read import FilterRead
from orthonar.settings import settings

VARIANTS = {
    "ns0": (NewtonSchulzRead(steps=0), AdditiveWrite()),
    "forward": (MatrixStraightThroughRead(), AdditiveWrite()),
    "backward": (MatrixStraightThroughRead(forward=RawRead(), backward=NewtonSchulzRead()), AdditiveWrite()),
    "rls": (RLSRead(), AdditiveWrite()),
    "delta": (RawRead(), FullDeltaWrite()),
    "delta_orthogonalized": (NewtonSchulzRead(), FullDeltaWrite()),
}
FORMS = ["parallel", "recurrent", "chunkwise"]
every_variant = pytest.mark.parametrize("name", VARIANTS)
every_form = pytest.mark.parametrize("form", FORMS)


def cell(name: str, form: str = "chunkwise", **options):
    read, write = VARIANTS[name]
    return lambda *tensors: mlstm_sequence(*tensors, read=read, write=write, form=form, **options)


def normalised(c):
    return c / torch.linalg.matrix_norm(c, keepdim=True).clamp_min(1e-6)


def iterated(c):
    x = normalised(c)
    for _ in range(5):
        x = x @ (3 * torch.eye(x.shape[-1], dtype=x.dtype) - x.mT @ x) / 2
    return x


def by_definition(name: str, q, k, v, i, f, c=None, n=None, m=None, key_sum=None):
    """h and the last (C, n, m) of a loop over positions; key_sum is what P has seen before, for "rls"."""
    batch, heads, length, size = q.shape
    identity = torch.eye(size, dtype=q.dtype)
    if c is None:
        c, n, m = q.new_zeros(batch, heads, size, size), q.new_zeros(batch, heads, size), q.new_zeros(batch, heads)
    n = n[..., None]
    p = (identity / 0.01).expand(batch, heads, size, size) if key_sum is None else (key_sum + 0.01 * identity).inverse()
    h = []
    for t in range(length):
        q_t, k_t, v_t = (x[:, :, t, :, None] for x in (q, k, v))
        # A key of zeros has a length, but no derivative of it.
        unit = k_t / torch.where(k_t.any(-2, True), k_t, torch.ones_like(k_t)).norm(dim=-2, keepdim=True).clamp_min(
            1e-6
        )
        log_f = torch.log(torch.sigmoid(f[:, :, t]))
        m_new = torch.where(i[:, :, t] >= log_f + m, i[:, :, t], log_f + m)
        forget, gate = (log_f + m - m_new).exp()[..., None, None], (i[:, :, t] - m_new).exp()[..., None, None]
        m = m_new
        if name.startswith("delta"):
            c = c - unit @ (unit.mT @ c)
            n = n - unit @ (unit.mT @ n)
        c = forget * c + gate * (k_t / math.sqrt(size)) @ v_t.mT
        n = forget * n + gate * (k_t / math.sqrt(size))
        c_read, n_read = c, n
        if name == "ns0":
            c_read = normalised(c)
        elif name == "forward":
            c_read = c + (iterated(c) - c).detach()
        elif name == "backward":
            c_read = iterated(c) + (c - iterated(c)).detach()
        elif name == "delta_orthogonalized":
            c_read = iterated(c)
        elif name == "rls":
            pk = p @ unit
            p = p - pk @ pk.mT / (1 + unit.mT @ pk)
            c_read, n_read = p @ c, p @ n
        divisor = torch.maximum((n_read.mT @ q_t).abs(), (-m).exp()[..., None, None]) + 1e-6
        h.append((c_read.mT @ q_t / divisor)[..., 0])
    return torch.stack(h, 2), (c, n[..., 0], m)


def states(name: str, size: int, batch: int = 2, heads: int = 2):
    """What a state is made of: C, n, m, and columns whose outer products are what P has seen."""
    generator = torch.Generator().manual_seed(5)
    shapes = [(size, size), (size,), (), (size, 3)]
    parts = [torch.randn(batch, heads, *s, generator=generator, dtype=torch.float64) for s in shapes]
    return parts if name == "rls" else parts[:3]


def gradients(outputs, by):
    """Of a fixed combination of the outputs."""
    generator = torch.Generator().manual_seed(1)
    total = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in outputs)
    return torch.autograd.grad(total, by, retain_graph=True)


@pytest.mark.parametrize(("length", "size"), [(1, 3), (35, 5), (33, 7), (77, 4)])
@every_form
@every_variant
def test_outputs_states_and_gradients_are_those_of_the_definition(name, form, length, size):
    inputs = hostile_inputs("random", batch=2, length=length, size=size)
    leaves = [x.clone().requires_grad_() for x in (*inputs, *states(name, size))]
    sequence, (c, n, m, *columns) = leaves[:5], leaves[5:]
    key_sums = [x @ x.mT for x in columns]

    h_wanted, end_wanted = by_definition(name, *sequence, c, n, m, *key_sums)
    state = MLSTMState(torch.cat([c, *key_sums], -1), n, m)
    h, end = cell(name, form, initial_state=state, return_state=True)(*sequence)
    end = end._replace(c_state=end.c_state[..., :size])
    outputs, wanted = (h, *end), (h_wanted, *end_wanted)
    for mine, theirs in zip(outputs, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9 * float(theirs.detach().abs().max()))
    mine, theirs = gradients(outputs, leaves), gradients(wanted, leaves)
    largest = max(float(x.norm()) for x in theirs)
    errors = [float((a - b).norm()) / largest for a, b in zip(mine, theirs, strict=True)]
    assert max(errors) <= 1e-9, errors


@some_of(3, name=VARIANTS, family=[x for x in FAMILIES if "length" not in x or x in ("length_1", "length_17")])
def test_hostile_inputs(name, family):
    """Against the definition where rounding is not magnified; finite in float32 everywhere."""
    inputs = hostile_inputs(family, length=36, size=6)
    wanted = run_with_grads(lambda *x: by_definition(name, *x)[0], inputs)
    errors = relative_errors(*run_with_grads(cell(name), inputs), wanted)
    assert max(errors.values()) <= (1e-7 if family.endswith("open") else 1e-9), errors
    h, grads = run_with_grads(cell(name), inputs.to(torch.float32))
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in (h, *grads))


@pytest.mark.parametrize("family", ["random", "same_key", "opposite_every_pair_random", "gates_within_50"])
@every_variant
def test_float32_is_accurate(name, family):
    inputs, plain = hostile_inputs(family, length=50, size=12), cell(name, "parallel")
    assert_accurate(cell(name), plain, inputs, run_with_grads(plain, inputs))


@every_variant
def test_state_is_carried_over_from_form_to_form(name):
    inputs, read = hostile_inputs("random", length=60, size=5), VARIANTS[name][0]

    def in_parts(*tensors):
        state, h, bounds = MLSTMState.zeros(1, 2, 5, read=read, dtype=torch.float64), [], [0, 19, 22, 30, 60]
        for start, stop, form in zip(bounds, bounds[1:], ["chunkwise", "recurrent", "parallel", "chunkwise"]):
            part = (x[:, :, start:stop] for x in tensors)
            more, state = cell(name, form, initial_state=state, return_state=True)(*part)
            h.append(more)
        return torch.cat(h, 2)

    wanted = run_with_grads(lambda *x: by_definition(name, *x)[0], inputs)
    assert max(relative_errors(*run_with_grads(in_parts, inputs), wanted).values()) <= 1e-9


@every_variant
def test_model_steps_as_it_runs(name):
    read, write = VARIANTS[name]
    assert_model_steps_as_it_runs(1e-9, read=read, write=write)


@pytest.mark.needs_triton
@pytest.mark.parametrize("name", ["forward", "rls", "delta"])
def test_fused_form(name):
    inputs, device = hostile_inputs("random", heads=1, length=7, size=3), "cuda" if torch.cuda.is_available() else "cpu"
    fused = cell(name, "fused", chunk_size=4)
    got = run_with_grads(lambda *x: fused(*(y.to(device) for y in x)), inputs)
    wanted = run_with_grads(lambda *x: by_definition(name, *x)[0], inputs)
    assert max(relative_errors(*got, wanted).values()) <= 1e-9


# Straight through the matrix


@pytest.mark.parametrize("numba", ["0", "1"], ids=["by_operators", "compiled"])
def test_query_gets_the_gradient_of_what_is_read_and_the_rest_the_other(numba, monkeypatch):
    monkeypatch.setenv("ORTHONAR_NUMBA", numba)
    inputs = hostile_inputs("random", length=30, size=6)
    reads = MatrixStraightThroughRead(), NewtonSchulzRead(), StraightThroughRead()
    (h, mine), (h_own, own), (h_old, old) = (
        run_with_grads(lambda *x, read=read: mlstm_sequence(*x, read=read), inputs) for read in reads
    )
    # Compiled, a memory is followed position by position; what has gradients of its own asks it by chunks.
    close = {"rtol": 0, "atol": 0} if numba == "0" else {"rtol": 1e-13, "atol": 1e-14}
    for other in (h_own, h_old):
        torch.testing.assert_close(h, other, **close)
    torch.testing.assert_close(mine[0], own[0], rtol=1e-9, atol=1e-12)
    for a, b in zip(mine[1:], old[1:]):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert (mine[0] - old[0]).norm() > 0.1 * old[0].norm()


@pytest.mark.parametrize("read", [BlendRead(), MesaRead(), RLSRead(), None, RawRead], ids=str)
@pytest.mark.parametrize("name", ["forward", "backward"])
def test_parts_without_a_matrix_of_their_own_are_named(name, read):
    with pytest.raises(ValueError, match=f"^{name} must be a read"):
        MatrixStraightThroughRead(**{name: read})


@settings
class KinkedRead(FilterRead):
    """Its slope at 0 is 0 and its curvature there has no bound, so that no series of it ends."""

    def scalar_map(self, s):
        return s * s.abs().sqrt()


@pytest.mark.parametrize("name", ["forward", "backward"])
def test_parts_that_cannot_be_computed_are_refused_with_the_settings(name):
    with pytest.raises(ValueError) as alone:
        MLSTM(read=KinkedRead())
    with pytest.raises(ValueError) as inside:
        MLSTM(read=MatrixStraightThroughRead(**{name: KinkedRead()}))
    assert str(inside.value) == str(alone.value)


# Least squares on the keys


class SlowRLSRead(RLSRead):
    """In chunks by its matrix and its normaliser alone."""

    read_chunk = LeafRead.read_chunk


def test_least_squares_by_matrices_is_the_same():
    inputs = hostile_inputs("random", length=35, size=5)
    wanted = run_with_grads(cell("rls"), inputs)
    got = run_with_grads(lambda *x: mlstm_sequence(*x, read=SlowRLSRead()), inputs)
    assert max(relative_errors(*got, wanted).values()) <= 1e-10


@every_form
def test_a_blend_blends_the_normaliser_too(form):
    """Its matrix is the blend of the matrices, and so is what it has in the place of n."""
    inputs = hostile_inputs("random", length=20, size=4)
    read = BlendRead(0.25, RLSRead(), RawRead())
    h = mlstm_sequence(*inputs, read=read, form=form)
    q, k, v, i, f = inputs
    c, n, m = torch.zeros(1, 2, 4, 4).double(), torch.zeros(1, 2, 4, 1).double(), torch.zeros(1, 2).double()
    p = 100 * torch.eye(4).double()
    for t in range(20):
        q_t, k_t, v_t = (x[:, :, t, :, None] for x in (q, k, v))
        unit = k_t / k_t.norm(dim=-2, keepdim=True)
        log_f = torch.log(torch.sigmoid(f[:, :, t]))
        m, before = torch.maximum(i[:, :, t], log_f + m), m
        forget, gate = ((x - m).exp()[..., None, None] for x in (log_f + before, i[:, :, t]))
        c, n = forget * c + gate * k_t @ v_t.mT / 2, forget * n + gate * k_t / 2
        p = p - p @ unit @ unit.mT @ p / (1 + unit.mT @ p @ unit)
        blended = 0.25 * p + 0.75 * torch.eye(4).double()
        wanted = (
            (blended @ c).mT @ q_t / (torch.maximum(((blended @ n).mT @ q_t).abs(), (-m).exp()[..., None, None]) + 1e-6)
        )
        torch.testing.assert_close(h[:, :, t], wanted[..., 0], rtol=1e-9, atol=1e-9)


def test_keys_are_kept_in_one_way():
    both = BlendRead(0.5, MesaRead(), RLSRead())
    with pytest.raises(ValueError, match="^read must keep keys in one way"):
        MLSTMConfig(read=both)
    with pytest.raises(ValueError, match="^read must keep keys in one way"):
        mlstm_sequence(*hostile_inputs("length_2", size=3), read=both)
    with pytest.raises(ValueError, match=r"^write must be AdditiveWrite\(\) for a read"):
        MLSTMConfig(read=RLSRead(), write=FullDeltaWrite())


@pytest.mark.parametrize("value", [0.0, 2.0, float("nan"), None, True])
def test_impossible_ridges_are_named(value):
    with pytest.raises(ValueError, match="^ridge must"):
        RLSRead(ridge=value)


# Writes that erase


def test_what_a_key_holds_is_replaced_whatever_the_gate():
    """Even a write that is hardly written erases what was there, in C and in n."""
    inputs = hostile_inputs("same_key", heads=1, length=2, size=4)
    gates = {"igate_preact": torch.tensor([[[0.0, -40.0]]]).double(), "fgate_preact": 50 + 0 * inputs.fgate_preact}
    _, state = cell("delta", return_state=True)(*inputs._replace(**gates))
    k, v = inputs.k[0, 0, 1] / 2, inputs.v[0, 0, 1]
    tiny = math.exp(-40)
    torch.testing.assert_close(state.c_state[0, 0], tiny * torch.outer(k, v), rtol=0, atol=1e-15)
    torch.testing.assert_close(state.n_state[0, 0], tiny * k, rtol=0, atol=1e-15)


@pytest.mark.parametrize("size", [1e-12, 1e-7, 1e-6, 1e-3])
def test_short_keys(size):
    inputs = hostile_inputs("random", length=20, size=3)
    inputs = inputs._replace(k=size * inputs.k)
    got, wanted = cell("delta")(*inputs), by_definition("delta", *inputs)[0]
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9 * float(wanted.abs().max()))


# Frozen random keys


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_orthogonal_blocks(dtype):
    weight = torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    weight[0, 0] = 0
    weight[0, 1, 1:] = 0
    got = orthogonal_blocks(weight.requires_grad_())
    assert got.shape == weight.shape and got.dtype == dtype and not got.requires_grad
    identity = torch.eye(4, dtype=dtype).expand_as(got)
    torch.testing.assert_close(got @ got.mT, identity, rtol=0, atol=10 * torch.finfo(dtype).eps)
    # W = Q H with H symmetric and not negative: that makes Q the polar factor.
    h = got[1:].mT @ weight[1:]
    torch.testing.assert_close(h, h.mT, rtol=0, atol=200 * torch.finfo(dtype).eps)
    assert torch.linalg.eigvalsh(h.double()).min() > 0


@pytest.mark.parametrize("weight", [torch.ones(4), torch.ones(2, 3), torch.ones(4, 4, dtype=torch.int64)], ids=str)
def test_what_is_not_blocks_is_named(weight):
    with pytest.raises(ValueError, match="^weight must be square"):
        orthogonal_blocks(weight)


def test_what_has_no_polar_factor_is_named():
    for weight, said in (([[1.0]], "a tensor, not list"), (torch.full((2, 2), torch.nan), "finite")):
        with pytest.raises(ValueError, match=f"^weight must be {said}$"):
            orthogonal_blocks(weight)


# Settings


@pytest.mark.parametrize("name", ["forward", "backward", "rls", "delta"])
def test_runs_are_told_apart_and_read_back(name):
    read, write = VARIANTS[name]
    config = RunConfig(read=read, write=write)
    again = RunConfig.from_settings(config.settings())
    assert again == config and again.identity == config.identity
    others = [RunConfig(read=r, write=w) for r, w in VARIANTS.values()] + [RunConfig(read=StraightThroughRead())]
    assert [x.identity for x in others].count(config.identity) == 1
