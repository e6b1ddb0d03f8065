"""Reads that say no more than they must, their matrix, in every form of the cell: right before they are fast."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from benchmarks.oracle import assert_accurate, hostile_inputs, mlstm_by_hand, relative_errors, run_with_grads
from orthonar import BlendRead, MLSTMState, NewtonSchulzRead, RawRead, mlstm_sequence
from orthonar.reads.base import LeafRead, Read
from orthonar.settings import variant_from_settings, variant_settings


@dataclass(frozen=True)
class DoubledRead(LeafRead):
    """2 C: the chunkwise form once made C of it."""

    def matrix(self, memory):
        return 2 * memory


@dataclass(frozen=True)
class ShiftedRead(LeafRead):
    """C C^T C / DH + 3 I: depends on the head size, so that padding must not be seen."""

    def matrix(self, memory):
        size = memory.shape[-1]
        return memory @ memory.mT @ memory / size + 3 * torch.eye(size, dtype=memory.dtype)


@dataclass(frozen=True)
class KeyedRead(LeafRead):
    """C + K C, with the keys kept under the gates."""

    keys = "gated"

    def matrix(self, memory):
        c, k = memory.chunk(2, -1)
        return c + k @ c


READS = {"doubled": DoubledRead(), "shifted": ShiftedRead(), "keyed": KeyedRead()}
BY_HAND = {
    "doubled": lambda c: 2 * c,
    "shifted": lambda c: c @ c.T @ c / len(c) + 3 * np.eye(len(c)),
    "keyed": lambda ck: ck[:, : len(ck)] + ck[:, len(ck) :] @ ck[:, : len(ck)],
}
every_read = pytest.mark.parametrize("name", READS)


def cell(read, form: str = "chunkwise", **options):
    return lambda *tensors: mlstm_sequence(*tensors, read=read, form=form, **options)


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
@every_read
def test_every_form_is_the_definition(name, form):
    """Outputs with a state carried over in the middle of a chunk, gradients as of the plain form."""
    inputs = hostile_inputs("random", batch=2, length=35, size=5)
    wanted, _ = mlstm_by_hand(inputs, matrix=BY_HAND[name], keys=name == "keyed")

    def in_parts(*tensors):
        first, state = cell(READS[name], form, return_state=True)(*(x[:, :, :21] for x in tensors))
        rest = cell(READS[name], form, initial_state=state)(*(x[:, :, 21:] for x in tensors))
        return torch.cat([first, rest], 2)

    h, grads = run_with_grads(in_parts, inputs)
    torch.testing.assert_close(h, torch.from_numpy(wanted), rtol=1e-9, atol=1e-9)
    plain = run_with_grads(cell(READS[name], "parallel"), inputs)
    assert max(relative_errors(h, grads, plain).values()) <= 1e-9


@every_read
def test_float32_is_accurate(name):
    """DH = 5 is padded to 16 in float32."""
    inputs, read = hostile_inputs("gates_within_50", length=35, size=5), READS[name]
    plain = cell(read, "parallel")
    assert_accurate(cell(read), plain, inputs, run_with_grads(plain, inputs))


def test_in_a_blend():
    inputs = hostile_inputs("random", length=35, size=5)
    blended = run_with_grads(cell(BlendRead(0.25, DoubledRead(), RawRead())), inputs)
    h, grads = run_with_grads(cell(RawRead()), inputs)
    torch.testing.assert_close(blended[0], 1.25 * h, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(blended[1][2], 1.25 * grads[2], rtol=1e-12, atol=1e-12)


def test_state_of_a_read_that_wants_keys():
    state = MLSTMState.zeros(1, 2, 5, read=KeyedRead())
    assert state.c_state.shape == (1, 2, 5, 10)


def another(module: str) -> type[Read]:
    """A second class called DoubledRead, as if it were defined in that module."""
    kind = type("DoubledRead", (RawRead,), {"__module__": module, "__qualname__": "DoubledRead"})
    return dataclass(frozen=True)(kind)


def test_two_reads_of_one_name_are_told_apart():
    settings = variant_settings(DoubledRead())
    assert variant_from_settings("read", Read, settings) == DoubledRead()
    second = another("elsewhere")
    with pytest.raises(
        ValueError, match=r"read: 'DoubledRead' is the name of elsewhere\.DoubledRead and .*test_leaf_reads"
    ):
        variant_from_settings("read", Read, settings)
    del second


def test_a_read_defined_anew_in_its_place_is_the_same():
    namespaces = []
    for factor in (2, 3):
        code = f"""
from dataclasses import dataclass
from orthonar.reads.base import LeafRead

@dataclass(frozen=True)
class ScaledByCellRead(LeafRead):
    def matrix(self, memory):
        return {factor} * memory
"""
        namespaces.append({"__name__": "notebook"})
        exec(code, namespaces[-1])
    assert type(variant_from_settings("read", Read, {"name": "ScaledByCellRead"})) is namespaces[-1]["ScaledByCellRead"]


def test_a_normaliser_of_ones_own_holds_in_every_form():
    """A fast form that is inherited knows of n alone."""

    @dataclass(frozen=True)
    class WiderRead(NewtonSchulzRead):
        def normaliser_state(self, memory, n_state):
            return 2 * n_state

    inputs = hostile_inputs("random", batch=1, length=20, size=5)
    plain, *others = (cell(WiderRead(), form)(*inputs) for form in ("parallel", "recurrent", "chunkwise"))
    for other in others:
        torch.testing.assert_close(other, plain, rtol=2e-5, atol=2e-5)
    assert (cell(NewtonSchulzRead())(*inputs) - plain).abs().max() > 0.01


@pytest.mark.parametrize("form", ["parallel", "recurrent", "chunkwise"])
def test_a_matrix_of_another_kind_is_named(form):
    for matrix, said in (
        (lambda self, c: c.float(), "torch.float32$"),
        (lambda self, c: c.tolist(), "a tensor, not list"),
    ):
        read = dataclass(frozen=True)(type("OwnRead", (LeafRead,), {"matrix": matrix}))()
        with pytest.raises(ValueError, match=rf"^read: the matrix of OwnRead\(\) must be .*{said}"):
            cell(read, form)(*hostile_inputs("random", batch=1, length=9, size=5))


def test_what_a_leaf_must_not_say_is_named():
    with pytest.raises(TypeError, match="keys must be None, 'gated' or 'ungated', not 'both'"):
        type("BothRead", (LeafRead,), {"keys": "both", "matrix": lambda self, memory: memory})
    narrow = dataclass(frozen=True)(type("NarrowRead", (LeafRead,), {"matrix": lambda self, memory: memory[..., :2]}))
    for form in ("parallel", "recurrent", "chunkwise"):
        with pytest.raises(ValueError, match=r"^read: the matrix of NarrowRead\(\) must be \(..., 5, 5\), .*, not"):
            cell(narrow(), form)(*hostile_inputs("random", batch=1, length=9, size=5))
