"""What every read owes the cell: its forms agree, its plain form is a loop written out by hand, its settings survive.

The raw read and five Newton-Schulz steps are tested harder in test_mlstm.py.
"""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from grids import some_of
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import erf

from benchmarks.oracle import (
    assert_accurate,
    assert_model_steps_as_it_runs,
    hostile_inputs,
    mlstm_by_hand,
    relative_errors,
    run_with_grads,
)
from orthonar import (
    BlendRead,
    DeltaWrite,
    FullDeltaWrite,
    MatrixStraightThroughRead,
    MesaRead,
    MLSTMState,
    MuonRead,
    NewtonSchulzRead,
    PolarRead,
    RawRead,
    RidgeRead,
    RLSRead,
    RunConfig,
    ShortMuonRead,
    ShortNewtonSchulzRead,
    SteepRead,
    StraightThroughRead,
    WriteBack,
    mlstm_sequence,
)
from orthonar.mlstm.writes import Write
from orthonar.reads.base import Read
from orthonar.settings import variant_from_settings, variant_settings
from orthonar.study.records import RunStore

ROOT = Path(__file__).parents[1]
READS = {
    "ns0": NewtonSchulzRead(steps=0),
    "ns1": NewtonSchulzRead(steps=1),
    "ns2": NewtonSchulzRead(steps=2),
    "ns3": NewtonSchulzRead(steps=3),
    "ns8": NewtonSchulzRead(steps=8),
    "polar": PolarRead(),
    "muon2": MuonRead(steps=2),
    "muon3": MuonRead(steps=3),
    "ridge": RidgeRead(),
    "steep": SteepRead(6),
    "short": ShortNewtonSchulzRead(3),
    "short_muon": ShortMuonRead(9, 2),
    "mesa": MesaRead(),
    "blend": BlendRead(alpha=0.3),
    "blend_with_mesa": BlendRead(alpha=0.5, one=MesaRead(), other=NewtonSchulzRead(steps=0)),
    "straight_through": StraightThroughRead(),
    "straight_through_exchanged": StraightThroughRead(forward=RawRead(), backward=NewtonSchulzRead()),
    "matrix_straight_through": MatrixStraightThroughRead(),
    "rls": RLSRead(),
    "nested": BlendRead(0.5, StraightThroughRead(RidgeRead(), RawRead()), BlendRead(0.25, NewtonSchulzRead(steps=1))),
}
#: Those where rounding matters most, for what is slow.
HARDEST = ["ns8", "polar", "muon3", "ridge", "steep", "mesa", "blend", "straight_through"]
FAMILIES = [
    "random",
    "zero_keys",
    "zero_values",
    "one_write",
    "same_key",
    "opposite_in_chunk_open",
    "opposite_straddling_random",
    "opposite_every_pair_open",
    "opposite_every_pair_random",
    "igate_-50_fgate_+50",
    "igate_+50_fgate_-50",
    "gates_either_50",
    "gates_within_50",
    "length_1",
    "length_17",
]
every_read = pytest.mark.parametrize("name", READS)


def cell(read, form: str = "chunkwise", **options):
    return lambda *tensors: mlstm_sequence(*tensors, read=read, form=form, **options)


@cache
def inputs_of(family: str):
    return hostile_inputs(family, length=36, size=9)


@cache
def reference(name: str, family: str):
    """Outputs and gradients of the plain form in float64."""
    return run_with_grads(cell(READS[name], "parallel"), inputs_of(family))


def norm(x) -> float:
    return torch.linalg.vector_norm(torch.as_tensor(x)).item()


# The plain form against a loop written out by hand


def muon(s, steps):
    for _ in range(steps):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


def cubic(s, steps):
    for _ in range(steps):
        s = (3 * s - s**3) / 2
    return s


def series(s, c):
    every = np.zeros(2 * len(c))
    every[1::2] = c
    return np.polynomial.polynomial.polyval(s, np.polynomial.chebyshev.cheb2poly(every))


MAPS = {
    **{f"ns{n}": (lambda s, n=n: cubic(s, n)) for n in (0, 1, 2, 3, 8)},
    "polar": lambda s: erf(3.5 * s / 0.15),
    "muon2": lambda s: muon(s, 2),
    "muon3": lambda s: muon(s, 3),
    "ridge": lambda s: 1.05 * s / (s**2 + 0.05),
    "steep": lambda s: series(s, READS["steep"].series),
    "short": lambda s: series(s, READS["short"].series),
    "short_muon": lambda s: series(s, READS["short_muon"].series),
    "raw": None,
}


def mapped(c, f):
    """U f(S) V^T for C / max(||C||, 1e-6) = U S V^T."""
    u, s, vh = np.linalg.svd(c / max(np.linalg.norm(c), 1e-6))
    return (u * f(s)) @ vh


def matrix_by_hand(name: str):
    """The matrix in the place of C, or of [C, H], in numpy."""

    def mesa(memory):
        c, h = np.hsplit(memory, 2)
        return np.linalg.inv(h + max(0.001 * np.trace(h), 1e-6) * np.eye(len(h))) @ c

    if name == "mesa":
        return mesa
    return (lambda c: c) if name == "raw" else lambda c: mapped(c, MAPS[name])


def h_by_hand(name: str, inputs, state=None):
    """Outputs of the loop written out by hand; of composites, from those of their parts."""
    parts = {
        "blend": [(0.3, "ns5"), (0.7, "raw")],
        "straight_through": [(1, "ns5")],
        "straight_through_exchanged": [(1, "raw")],
        "matrix_straight_through": [(1, "ns5")],
        "blend_with_mesa": [(0.5, "mesa"), (0.5, "ns0")],
        "nested": [(0.5, "ridge"), (0.125, "ns1"), (0.375, "raw")],
    }.get(name, [(1, name)])
    h = 0
    for weight, part in parts:
        steps = {"ns5": 5}.get(part)
        matrix = None if steps else matrix_by_hand(part)
        h = h + weight * mlstm_by_hand(inputs, steps, matrix=matrix, keys=part == "mesa", state=state)[0]
    return torch.from_numpy(h)


# rls has its own divisor: test_followup.py
@some_of(
    2,
    name=[name for name in READS if name != "rls"],
    family=["random", "zero_keys", "one_write", "gates_either_50", "length_1"],
)
def test_plain_form_is_written_out_by_hand(name, family):
    wanted = h_by_hand(name, inputs_of(family))
    assert norm(reference(name, family)[0] - wanted) <= 1e-8 * norm(wanted)


# The fast forms against the plain one


@some_of(5, name=READS, family=FAMILIES)
def test_chunkwise_is_the_plain_form(name, family):
    errors = relative_errors(*run_with_grads(cell(READS[name]), inputs_of(family)), reference(name, family))
    # Open gates let writes cancel to the last digit; steep maps lift the rounding that is left.
    assert max(errors.values()) <= (1e-7 if family.endswith("open") else 1e-8), errors


@some_of(3, name=HARDEST, family=FAMILIES)
def test_float32_is_accurate(name, family):
    read = READS[name]
    assert_accurate(cell(read), cell(read, "parallel"), inputs_of(family), reference(name, family))


@pytest.mark.parametrize("name", ["ns8", "polar", "ridge", "mesa"])
def test_float32_is_accurate_at_the_size_of_the_study(name):
    read, inputs = READS[name], hostile_inputs("random", length=50, size=47, heads=1)
    plain = cell(read, "parallel")
    assert_accurate(cell(read), plain, inputs, run_with_grads(plain, inputs))


def test_muon_with_all_its_steps():
    read, inputs = MuonRead(), hostile_inputs("random", length=20, size=6)
    wanted = run_with_grads(cell(read, "parallel"), inputs)
    assert max(relative_errors(*run_with_grads(cell(read), inputs), wanted).values()) <= 1e-8
    assert_accurate(cell(read), cell(read, "parallel"), inputs, wanted)


@pytest.mark.parametrize("family", ["opposite_every_pair_random", "gates_within_50"])
@every_read
def test_recurrent_is_the_plain_form(name, family):
    short = inputs_of(family).part(slice(0, 9))
    wanted = run_with_grads(cell(READS[name], "parallel"), short)
    errors = relative_errors(*run_with_grads(cell(READS[name], "recurrent"), short), wanted)
    assert max(errors.values()) <= 1e-8, errors


@every_read
def test_state_is_carried_over_from_form_to_form(name):
    """Through three forms and odd places, against the whole sequence at once; gradients flow through the states."""
    read, inputs = READS[name], inputs_of("random")

    def in_parts(*tensors):
        state, h = MLSTMState.zeros(1, 2, 9, read=read, dtype=torch.float64), []
        bounds = [0, 13, 16, 19, 36]
        for start, stop, form in zip(bounds, bounds[1:], ["chunkwise", "recurrent", "parallel", "chunkwise"]):
            part = (x[:, :, start:stop] for x in tensors)
            more, state = cell(read, form, initial_state=state, return_state=True)(*part)
            h.append(more)
        return torch.cat(h, 2)

    errors = relative_errors(*run_with_grads(in_parts, inputs), reference(name, "random"))
    assert max(errors.values()) <= 1e-8, errors


@pytest.mark.parametrize("chunk_size", [1, 7, 40])
@pytest.mark.parametrize("name", ["mesa", "nested"])
def test_chunk_size_changes_nothing(name, chunk_size):
    got = run_with_grads(cell(READS[name], chunk_size=chunk_size), inputs_of("opposite_every_pair_random"))
    errors = relative_errors(*got, reference(name, "opposite_every_pair_random"))
    assert max(errors.values()) <= 1e-8, errors


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(list(READS)), st.integers(1, 20), st.integers(1, 6), st.integers(0, 999), st.sampled_from([1, 50])
)
def test_property_finite_and_recurrent(name, length, size, seed, spread):
    """float32 is finite, outputs and gradients, and in float64 the fast form is the recurrent one."""
    x = hostile_inputs("random", heads=1, length=length, size=size, seed=seed)
    x = x._replace(igate_preact=(spread * x.igate_preact).clamp(-50, 50)).to(torch.float32)
    h, grads = run_with_grads(cell(READS[name]), x)
    assert all(torch.isfinite(y).all() for y in (h, *grads))
    x = x.to(torch.float64)
    h, wanted = (cell(READS[name], form)(*x) for form in ("chunkwise", "recurrent"))
    assert norm(h - wanted) <= 1e-6 * norm(wanted)


@pytest.mark.parametrize("name", ["polar", "mesa", "nested"])
def test_model_steps_as_it_runs(name):
    assert_model_steps_as_it_runs(1e-7, read=READS[name])


# Settings


@pytest.mark.parametrize("form", ["chunkwise", "recurrent", "parallel"])
def test_the_smallest_floor_of_a_norm_still_divides(form):
    """Before the first key nothing is in the memory, and its norm is 0."""
    draws = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 9, 8, generator=draws) for _ in range(3))
    k[:, :, :3] = 0
    gates = torch.zeros(1, 1, 9), torch.zeros(1, 1, 9)
    inputs = [x.requires_grad_() for x in (q, k, v, *gates)]
    h = mlstm_sequence(*inputs, read=NewtonSchulzRead(eps=1e-15), form=form)
    gradients = torch.autograd.grad(h.square().sum(), inputs)
    assert all(x.isfinite().all() for x in (h, *gradients))
    with pytest.raises(ValueError, match="eps must be .*1e-15"):
        NewtonSchulzRead(eps=1e-16)


@pytest.mark.parametrize("form", ["chunkwise", "recurrent", "parallel"])
@pytest.mark.parametrize("kind", [NewtonSchulzRead, MesaRead, WriteBack, DeltaWrite, FullDeltaWrite])
def test_the_largest_floor_of_a_norm_is_still_a_number_of_float32(kind, form):
    inputs = [x.float() for x in inputs_of("random")]
    part = {"write" if issubclass(kind, Write) else "read": kind(eps=1e15)}
    assert mlstm_sequence(*inputs, form=form, **part).isfinite().all()
    with pytest.raises(ValueError, match=r"^eps must be .*1e\+15"):
        kind(eps=1e16)


@every_read
def test_settings_survive_json(name):
    read = READS[name]
    again = variant_from_settings("read", Read, json.loads(json.dumps(variant_settings(read))))
    assert again == read and hash(again) == hash(read)
    config = RunConfig(read=read)
    again = RunConfig.from_settings(json.loads(json.dumps(config.settings())))
    assert again == config and again.identity == config.identity


def test_identities_differ():
    reads = [*READS.values(), RawRead(), BlendRead(alpha=0.4), StraightThroughRead(RawRead(), RawRead())]
    assert len({RunConfig(read=read).identity for read in reads}) == len(reads)
    assert RunConfig(read=BlendRead(alpha=1)).identity == RunConfig(read=BlendRead(alpha=1.0)).identity


def test_settings_of_recorded_reads_stay_as_they_are():
    assert variant_settings(RawRead()) == {"name": "RawRead"}
    wanted = {"name": "NewtonSchulzRead", "eps": 1e-6, "tolerance": None, "steps": 5}
    assert variant_settings(NewtonSchulzRead()) == wanted


def test_recorded_runs_keep_their_identities():
    records = RunStore(ROOT / "results").records()
    assert records
    for record in records:
        assert RunConfig.from_settings(record.settings).identity == record.identity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "Soft"}, "there is no 'Soft', only .*BlendRead.*RawRead"),
        ({"name": "FilterRead"}, "there is no 'FilterRead'"),
        ({"name": "CompositeRead"}, "there is no 'CompositeRead'"),
        ({}, "there is no None"),
        ({"name": "PolarRead", "cutof": 0.1}, "PolarRead has no setting cutof"),
        ({"name": "BlendRead", "one": {"name": "RawRead", "steps": 5}}, "RawRead has no setting steps"),
        ({"name": "BlendRead", "one": {"name": "Soft"}}, "there is no 'Soft'"),
        ({"name": "BlendRead", "other": "Raw"}, "other: there is no 'Raw'"),
        ({"name": "BlendRead", "one": {"name": "MuonRead", "steps": -1}}, "steps must"),
    ],
    ids=str,
)
def test_impossible_settings_are_named(settings, message):
    with pytest.raises(ValueError, match=message):
        variant_from_settings("read", Read, settings)


def test_reads_are_frozen():
    for read in READS.values():
        with pytest.raises((AttributeError, TypeError)):
            read.anything = 1.0


def example_of_the_page() -> str:
    """The Python block of the section on adding a read."""
    section = (ROOT / "docs" / "reads.md").read_text().split("## Adding a read\n")[1]
    return section.split("```python\n")[1].split("```")[0]


def test_a_read_is_added_as_its_page_says():
    code = example_of_the_page()
    assert len(code.splitlines()) < 20
    names = {"__name__": "page"}
    exec(compile(code, "reads.md", "exec"), names)
    read = names["TanhRead"]()
    assert isinstance(read, Read)

    inputs = hostile_inputs("opposite_every_pair_random", length=36, size=9)
    wanted = run_with_grads(cell(read, "parallel"), inputs)
    by_hand = mlstm_by_hand(inputs, matrix=lambda c: mapped(c, lambda s: np.tanh(s / 0.1)))[0]
    assert norm(wanted[0] - torch.from_numpy(by_hand)) <= 1e-9 * norm(by_hand)
    assert max(relative_errors(*run_with_grads(cell(read), inputs), wanted).values()) <= 1e-8
    assert_accurate(cell(read), cell(read, "parallel"), inputs, wanted)

    config = RunConfig(read=read)
    again = RunConfig.from_settings(json.loads(json.dumps(config.settings())))
    assert again == config and again.identity == config.identity


def test_every_read_is_in_the_table():
    table = (ROOT / "docs" / "reads.md").read_text()
    for kind in {type(read) for read in READS.values()} | {RawRead}:
        assert f"| `{kind.__name__}(" in table


def test_scale_of_the_parts_of_a_blend():
    """Both numerators are in the frame of m_t: the raw one has the scale of C, the other none."""
    q = torch.tensor([[[[1.0, 0.0]]]]).double()
    one = torch.ones(1, 1, 1).double()
    # one write of k = v = (1, 0) sqrt(2): C = diag(sqrt 2, 0), its normalised form diag(1, 0), n . q = 1, m = 1
    x = q, math.sqrt(2) * q, math.sqrt(2) * q, one, 50 * one
    for alpha in (0.0, 0.25, 1.0):
        h = mlstm_sequence(*x, read=BlendRead(alpha=alpha))
        wanted = alpha + (1 - alpha) * math.sqrt(2)
        torch.testing.assert_close(h[0, 0, 0], torch.tensor([wanted, 0.0]).double(), rtol=1e-5, atol=1e-9)


# What is not finite


@every_read
@pytest.mark.parametrize("form", ["parallel", "chunkwise", "chunkwise without Numba"])
def test_what_is_not_finite_spoils_nothing_before_it(name, form, monkeypatch):
    """Among writes that cancel, which are read in another way; a run that diverges ends so, and not in an error."""
    if "without" in form:
        monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    inputs = inputs_of("opposite_every_pair_open")
    read = cell(READS[name], form.split()[0])
    wanted = read(*inputs)[:, :, :20]
    for spoilt, value in (("k", math.nan), ("v", math.inf)):
        tensor = getattr(inputs, spoilt).clone()
        tensor[:, :, 20] = value
        h, _ = run_with_grads(read, inputs._replace(**{spoilt: tensor}))
        torch.testing.assert_close(h[:, :, :20], wanted, rtol=1e-9, atol=1e-12)
        assert not h[:, :, 20].isfinite().all()


@every_read
def test_a_number_that_is_none_leaves_large_ones_as_they_are(name):
    """Where float32 would not do all is float64, whatever else is there: what other rows hold is not lost."""
    q, k, v, igate, fgate = (x.float() for x in inputs_of("random"))
    large = [torch.cat([x, x]) for x in (q, 1e11 * k, 1e11 * v, igate, fgate)]
    wanted = cell(READS[name], "chunkwise")(*large)
    large[1][0, :, 20] = math.nan
    h = cell(READS[name], "chunkwise")(*large)
    torch.testing.assert_close(h[0, :, :20], wanted[0, :, :20], rtol=1e-5, atol=0)
    assert wanted.isfinite().all() and torch.equal(h[1], wanted[1])


@every_read
def test_large_queries_are_read_as_by_the_plain_form(name):
    q, k, v, igate, fgate = (x.float() for x in inputs_of("random"))
    large = 1e20 * q, 1e5 * k, 1e5 * v, igate, fgate
    h, wanted = (cell(READS[name], form)(*large) for form in ("chunkwise", "parallel"))
    assert (h - wanted).norm() <= 1e-4 * wanted.norm() < math.inf


@pytest.mark.parametrize("name", [name for name, read in READS.items() if read.keys is not None])
def test_of_kept_keys_the_symmetric_part_counts(name):
    """As a learned start state comes to hold what no sum of k k^T is."""
    inputs, read = inputs_of("random"), READS[name]
    draws = torch.Generator().manual_seed(3)
    c, keys = (torch.randn(1, 2, 9, 9, generator=draws, dtype=torch.float64) for _ in range(2))
    skew, keys = (keys - keys.mT) / 3, keys @ keys.mT
    n_state, m_state = torch.randn(1, 2, 9, generator=draws, dtype=torch.float64), torch.zeros(1, 2).double()
    found = []
    for form in ("parallel", "recurrent", "chunkwise"):
        start = torch.cat([c, keys + skew], -1).requires_grad_()
        h = cell(read, form, initial_state=MLSTMState(start, n_state, m_state))(*inputs)
        found.append((h, *torch.autograd.grad(h.square().sum(), start)))
    for h, grad in found[1:]:
        assert (h - found[0][0]).norm() <= 1e-8 * h.norm() and (grad - found[0][1]).norm() <= 1e-8 * grad.norm()
    torch.testing.assert_close(found[0][1][..., 9:], found[0][1][..., 9:].mT)
    symmetric = MLSTMState(torch.cat([c, keys], -1), n_state, m_state)
    torch.testing.assert_close(found[0][0], cell(read, "parallel", initial_state=symmetric)(*inputs))
