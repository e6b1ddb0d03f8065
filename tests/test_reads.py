"""A read's three faces, matrix, vector and coefficients, must show the same map."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from orthonar import (
    BlendRead,
    MatrixStraightThroughRead,
    MesaRead,
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
    mlstm_sequence,
    newton_schulz,
)
from orthonar.reads.base import Read, check_read
from orthonar.reads.filter_read import FilterRead
from orthonar.reads.newton_schulz import newton_schulz_scalar
from orthonar.settings import settings

STEPS = [0, 1, 2, 3, 5, 8]


@dataclasses.dataclass(frozen=True)
class HalvedRead(FilterRead):
    """A read of one's own, as the base class promises it to be possible: s -> s - s^3 / 2."""

    def scalar_map(self, s):
        return s - s**3 / 2

    def matrix(self, c_state):
        norm = torch.linalg.vector_norm(c_state, dim=(-2, -1), keepdim=True).clamp_min(self.eps)
        x = c_state / norm
        return x - x @ x.mT @ x / 2


@dataclasses.dataclass(frozen=True)
class SineRead(FilterRead):
    """The least that a read of one's own must give."""

    def scalar_map(self, s):
        return torch.sin(3 * s)


@settings
class TanhInStepsPlace(NewtonSchulzRead):
    """Another map for a ready-made read, which has a matrix of its own."""

    def scalar_map(self, s):
        return torch.tanh(2 * s)


@settings
class TanhInPolynomialsPlace(SteepRead):
    """The same for one that has its own coefficients too."""

    def scalar_map(self, s):
        return torch.tanh(2 * s)


@settings
class OddPolynomialRead(FilterRead):
    """A setting that JSON has no word for."""

    c: tuple = (1.5, -0.5)

    def scalar_map(self, s):
        return sum(a * s ** (2 * n + 1) for n, a in enumerate(self.c))


@settings
class FunctionRead(FilterRead):
    """Settings that JSON has no words for at all."""

    function: Callable = torch.tanh
    scale: Any = 2.0

    def scalar_map(self, s):
        return self.function(self.scale * s)


READS = {"raw": RawRead(), "halved": HalvedRead(), "sine": SineRead(), "odd": OddPolynomialRead()}
READS |= {"tanh": TanhInStepsPlace(), "tanh_in_steep": TanhInPolynomialsPlace(4)}
READS |= {f"ns{n}": NewtonSchulzRead(steps=n) for n in STEPS}
READS |= {"polar": PolarRead(), "muon2": MuonRead(steps=2), "muon3": MuonRead(steps=3), "ridge": RidgeRead()}
READS |= {"steep6": SteepRead(6), "short": ShortNewtonSchulzRead(5), "short_muon": ShortMuonRead()}
OTHERS = [MesaRead(), RLSRead(), MatrixStraightThroughRead(), MatrixStraightThroughRead(RawRead(), NewtonSchulzRead())]


def memories(dtype=torch.float64, size: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    """Memories of full rank, of rank 1, of rank 1 with one singular vector pair read, almost zero and zero."""
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(5, 2, size, size, generator=generator, dtype=torch.float64)
    q = torch.randn(5, 2, size, generator=generator, dtype=torch.float64)
    c[1] = c[1, :, :, :1] * c[1, :, :1, :]
    c[2] = torch.eye(size, dtype=torch.float64)[:1].T @ torch.eye(size, dtype=torch.float64)[:1]
    c[3] *= 1e-8
    c[4] = 0
    return c.to(dtype), q.to(dtype)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 5e-6)], ids=["float64", "float32"]
)
@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_vector_is_the_matrix_times_the_query(read, dtype, tolerance):
    c_state, q = memories(dtype)
    wanted = (q[..., None, :] @ read.matrix(c_state))[..., 0, :]
    got = read.vector(c_state, q)
    assert got.dtype == dtype and got.shape == q.shape
    torch.testing.assert_close(got, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize("read", [*READS.values(), *OTHERS], ids=str)
def test_leading_axes_of_memories_and_queries_broadcast(read):
    """Filters once paired five memories and five queries, and the solver took queries for the columns of a matrix."""
    size = 6
    keys = torch.randn(5, 3, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    c, queries = memories()[0][:, 0], memories()[1].flatten(0, 1)
    whole = c if read.keys is None else torch.cat([c, keys.mT @ keys], -1)
    wanted = torch.einsum("ide,jd->ije", read.matrix(whole), queries)
    for q, memory, expected in (
        (queries[None, :5], whole[:, None], wanted[:, :5]),
        (queries[None, :size], whole[:, None], wanted[:, :size]),
        (queries, whole[0], wanted[0]),
        (queries[0], whole, wanted[:, 0]),
        (queries.unflatten(0, (5, 2)), whole[:, None], torch.stack([wanted[i, 2 * i : 2 * i + 2] for i in range(5)])),
    ):
        torch.testing.assert_close(read.vector(memory, q), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_gradients_of_vector_and_matrix_agree(read):
    c_state, q = (x[:3].clone().requires_grad_() for x in memories())
    weight = torch.randn(q.shape, generator=torch.Generator().manual_seed(1), dtype=q.dtype)
    by_vector = torch.autograd.grad((read.vector(c_state, q) * weight).sum(), (c_state, q))
    by_matrix = torch.autograd.grad(((q[..., None, :] @ read.matrix(c_state))[..., 0, :] * weight).sum(), (c_state, q))
    for a, b in zip(by_vector, by_matrix):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("read", [r for r in READS.values() if isinstance(r, FilterRead)], ids=str)
def test_coefficients_are_those_of_the_scalar_map(read, dtype):
    s = np.linspace(0, 1, 1001)
    got = sum(c * np.cos((2 * k + 1) * np.arccos(s)) for k, c in enumerate(read.coefficients(dtype)))
    np.testing.assert_allclose(
        got, read.scalar_map(torch.from_numpy(s)), atol=max(4.04 * torch.finfo(dtype).eps, 1e-12)
    )


@pytest.mark.parametrize("read", [r for r in READS.values() if isinstance(r, FilterRead)], ids=str)
def test_matrix_maps_singular_values(read):
    c_state, _ = memories()
    u, s, vh = torch.linalg.svd(c_state / torch.linalg.matrix_norm(c_state, keepdim=True).clamp_min(read.eps))
    wanted = u @ torch.diag_embed(read.scalar_map(s)) @ vh
    torch.testing.assert_close(read.matrix(c_state), wanted, rtol=0, atol=1e-12)


def test_raw_read_is_the_memory_itself():
    c_state, q = memories()
    read = RawRead()
    assert read.matrix(c_state) is c_state
    torch.testing.assert_close(read.vector(c_state, q), torch.einsum("...de,...d->...e", c_state, q))


def test_newton_schulz_read_is_the_iteration():
    c_state, _ = memories()
    for steps in STEPS:
        assert torch.equal(NewtonSchulzRead(steps=steps).matrix(c_state), newton_schulz(c_state, steps))
    read = NewtonSchulzRead(steps=3, eps=0.5)
    assert torch.equal(read.matrix(c_state), newton_schulz(c_state, 3, 0.5))
    assert read.scalar_map(0.3) == newton_schulz_scalar(0.3, 3)


def test_no_steps_is_normalisation():
    c_state, q = memories()
    read = NewtonSchulzRead(steps=0)
    norm = torch.linalg.matrix_norm(c_state).clamp_min(1e-6)
    torch.testing.assert_close(read.matrix(c_state), c_state / norm[..., None, None])
    torch.testing.assert_close(read.vector(c_state, q), RawRead().vector(c_state, q) / norm[..., None])
    assert read.coefficients(torch.float64) == pytest.approx((1.0,))


@pytest.mark.parametrize("read", READS.values(), ids=READS)
def test_reads_are_frozen_and_hashable(read):
    assert hash(read) == hash(dataclasses.replace(read)) and read == dataclasses.replace(read)
    with pytest.raises(dataclasses.FrozenInstanceError):
        read.eps = 1.0
    with pytest.raises((AttributeError, TypeError)):
        read.anything = 1.0


def test_kinds_of_reads_cannot_be_made():
    for kind in (Read, FilterRead):
        with pytest.raises(TypeError, match="abstract"):
            kind()


@pytest.mark.parametrize("no_read", [None, "raw", RawRead, {"name": "RawRead"}, 5], ids=str)
def test_what_is_no_read_is_named(no_read):
    with pytest.raises(ValueError, match="^inner must be a read"):
        check_read("inner", no_read)
    for read in (RawRead(), SineRead(), BlendRead()):
        check_read("inner", read)


def test_different_reads_differ():
    assert len(set(READS.values())) == len(READS)
    assert NewtonSchulzRead(steps=5) != NewtonSchulzRead(steps=5, eps=1e-3)
    assert NewtonSchulzRead() == NewtonSchulzRead(steps=5)


def test_tolerance_chooses_the_number_of_terms():
    reads = [NewtonSchulzRead(tolerance=tolerance) for tolerance in (1e-2, 1e-4, 1e-7, 1e-12)]
    terms = [len(read.coefficients(torch.float32)) for read in reads]
    assert terms == sorted(terms) and len(set(terms)) == 4
    by_dtype = [len(NewtonSchulzRead().coefficients(dtype)) for dtype in (torch.float32, torch.float64)]
    assert by_dtype[0] < by_dtype[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", -1),
        ("steps", 2.5),
        ("steps", True),
        ("steps", "5"),
        ("eps", 0.0),
        ("eps", -1e-6),
        ("eps", float("inf")),
        ("eps", 1e300),
        ("eps", float("nan")),
        ("tolerance", 0.0),
        ("tolerance", 1.0),
        ("tolerance", float("nan")),
    ],
    ids=str,
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must"):
        NewtonSchulzRead(**{name: value})


def read_of(scalar_map) -> FilterRead:
    kind = type("OwnRead", (FilterRead,), {"scalar_map": lambda self, s: scalar_map(s)})
    return dataclasses.dataclass(frozen=True)(kind)()


@pytest.mark.parametrize(
    ("scalar_map", "said"),
    [
        (lambda s: s**2, "must be odd"), (lambda s: s.clamp(min=0), "must be odd"), (torch.ones_like, "must be odd"),
        (torch.sign, "not smooth enough"), (lambda s: torch.tanh(1000 * s), "not smooth enough"),
        (lambda s: s / s.abs(), "not a finite number at 0"), (lambda s: s.float(), "float64 of its argument's shape"),
        (lambda s: s[:3], "float64 of its argument's shape"), (lambda s: 0.5, "not float"),
        (lambda s: torch.from_numpy(np.sin(s.detach().numpy())), "must have a derivative"),
    ],
)  # fmt: skip
def test_a_map_of_which_no_filter_can_be_made_is_refused(scalar_map, said):
    """The even part of a map has no place in a series of odd terms, and was once left out without a word."""
    read = read_of(scalar_map)
    for refusing in (read.check, lambda: RunConfig(read=read), lambda: mlstm_sequence(*3 * [T4], T3, T3, read=read)):
        with pytest.raises(ValueError, match=f"^read: the map of .*{said}"):
            refusing()


@pytest.mark.parametrize(
    "held", [torch.nn.Parameter(torch.ones(())), torch.tensor(0.5), torch.nn.Tanh(), (1.0, torch.ones(()))], ids=repr
)
def test_a_filter_holds_nothing_that_could_be_learnt(held):
    """Its series is computed once, without gradients: it went on as it was first, whatever became of the setting."""
    with pytest.raises(ValueError, match="^scale must be a constant, not "):
        FunctionRead(scale=held)


T4, T3 = torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3)
