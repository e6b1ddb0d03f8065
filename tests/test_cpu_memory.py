"""The memory that Numba compiles for CPUs, against states written out; more in test_mlstm and test_transforms.

Axes: R rows, NC chunks, L positions in a chunk, D head size.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from orthonar import NewtonSchulzRead, mlstm_sequence
from orthonar.engine.backends import compiled_memory

ROWS, CHUNKS = 2, 3
NAMES = ("y", "n_dot_q", "c_start", "n_start", "c_end", "n_end")
NAMES += tuple(
    f"gradient by {x}" for x in ("q", "k", "v", "log_input", "peak", "peak_initial", "c_initial", "n_initial")
)


def operands(length: int, size: int, dtype=torch.float64, kept=torch.float64, rows: int = ROWS) -> list[torch.Tensor]:
    """q, k, v, the logs of the gates, the peak before the sequence, and the states before it."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(rows * CHUNKS, length, size).to(dtype) for _ in range(3))
    log_input, peak_initial = normal(rows, CHUNKS * length), normal(rows, 1)
    # Not quite the running maximum: a gradient that only holds there would not be noticed.
    peak = torch.cat([peak_initial, log_input], 1).cummax(1).values[:, 1:] + 0.1 * normal(*log_input.shape).abs()
    gates = log_input.reshape(-1, length), peak.reshape(-1, length), peak_initial
    found = [q, k, v, *gates, normal(rows, size, size).to(kept), normal(rows, size)]
    return [x.detach().clone().requires_grad_() for x in found]


def by_states(q, k, v, log_input, peak, peak_initial, c_initial, n_initial) -> list[torch.Tensor]:
    """The same six with C and n formed at every position, from their definition; float64."""
    rows, (_, length, size) = len(n_initial), q.shape
    q, k, v = (x.double().reshape(rows, -1, size) for x in (q, k, v))
    log_input, peak = log_input.reshape(rows, -1), peak.reshape(rows, -1)
    weights = (log_input[:, None, :] - peak[:, :, None]).tril().exp().tril()
    left = (peak_initial - peak).exp()
    c = left[..., None, None] * c_initial[:, None].double() + torch.einsum("rtu,rud,rue->rtde", weights, k, v)
    n = left[..., None] * n_initial[:, None] + torch.einsum("rtu,rud->rtd", weights, k)
    y, n_dot_q = torch.einsum("rtde,rtd->rte", c, q), (n * q).sum(-1)
    starts = (
        torch.cat([initial[:, None].double(), x[:, length - 1 : -1 : length]], 1).flatten(0, 1)
        for initial, x in ((c_initial, c), (n_initial, n))
    )
    return [y.reshape(-1, length, size), n_dot_q.reshape(-1, length), *starts, c[:, -1], n[:, -1]]


def with_grads(function, tensors) -> list[torch.Tensor]:
    """The results, and the gradients of a fixed combination of them."""
    results = function(*tensors)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in results]
    total = sum((y.double() * w).sum() for y, w in zip(results, weights, strict=True))
    return [x.detach() for x in (*results, *torch.autograd.grad(total, tensors))]


def assert_close(got, wanted, tolerance):
    for name, a, b in zip(NAMES, got, wanted, strict=True):
        assert a.shape == b.shape and (a.double() - b).norm() <= tolerance * b.norm(), name


@pytest.mark.parametrize(("length", "size"), [(1, 1), (7, 12), (16, 48)])
def test_float64(length, size):
    tensors = operands(length, size)
    assert_close(with_grads(compiled_memory, tensors), with_grads(by_states, tensors), 1e-13)


@pytest.mark.parametrize("kept", [torch.float32, torch.float64])
def test_float32(kept):
    tensors = operands(16, 48, torch.float32, kept)
    got, wanted = with_grads(compiled_memory, tensors), with_grads(by_states, tensors)
    assert_close(got, wanted, 3e-6)
    # n is float64 whatever the rest is: n . q passes through zero, and something is divided by it.
    exact = ["n_dot_q", "n_start", "n_end", *(["c_start", "c_end"] if kept == torch.float64 else [])]
    for name, a, b in zip(NAMES, got, wanted, strict=True):
        if name in exact:
            assert a.dtype == torch.float64 and (a - b).norm() <= 1e-14 * b.norm(), name


def test_states_that_nobody_asks_for_have_no_gradient():
    tensors = operands(7, 12)
    got = torch.autograd.grad(compiled_memory(*tensors)[0].square().sum(), tensors)
    wanted = torch.autograd.grad(by_states(*tensors)[0].square().sum(), tensors, allow_unused=True)
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, torch.zeros_like(a) if b is None else b, rtol=1e-11, atol=1e-11)


def test_the_arguments_are_left_alone():
    tensors = operands(7, 16)  # whole vectors: nothing is copied on the way in
    before = [x.detach().clone() for x in tensors]
    with_grads(compiled_memory, tensors)
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


@pytest.mark.parametrize("shut", [True, False], ids=["shut", "open"])
def test_gradients_of_forget_gates_do_not_add_up_rounding(shut):
    """They are sums over all later positions; where nothing is left of what was before, of numbers that cancel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 2000, 12, generator=generator) for _ in range(3))
    forget = torch.full((1, 2, 2000), -50.0) if shut else 3 + torch.randn(1, 2, 2000, generator=generator)

    def of_forget_gates(dtype):
        inputs = [x.to(dtype).requires_grad_() for x in (q, k, v, torch.zeros_like(forget), forget)]
        h = mlstm_sequence(*inputs)
        weight = torch.randn(h.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        return [x.double() for x in torch.autograd.grad((h.double() * weight).sum(), inputs)]

    got, wanted = of_forget_gates(torch.float32), of_forget_gates(torch.float64)
    assert (got[-1] - wanted[-1]).norm() <= 2e-7 * max(x.norm() for x in wanted)


def test_threads_change_nothing():
    tensors, before = operands(7, 12, torch.float32, torch.float32, rows=5), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3, 8):
            torch.set_num_threads(threads)
            results.append(with_grads(compiled_memory, tensors))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_compiled_anew_or_found_compiled_it_gives_the_same_numbers(tmp_path):
    """Memory, filter and the layer's maps; else a run could not be repeated."""
    code = (
        "import hashlib, test_cpu_filter as f, test_cpu_layer as l, test_cpu_memory as m, torch;"
        "found = m.with_grads(m.compiled_memory, m.operands(9, 48, torch.float32, torch.float32));"
        "of_filter = f.operands(9, 48, torch.float32), f.FIVE_STEPS, 1e-6, 16.0;"
        "found += f.with_grads(f.compiled_filter, *of_filter);"
        "found += l.with_grads(l.of_blocks, l.blocks_operands(3, 300, 96, 4, torch.float32));"
        "found += l.with_grads(l.compiled_convolution, l.convolution_operands(3, 300, 20, 4, torch.float32));"
        "print(*(hashlib.sha256(x.numpy().tobytes()).hexdigest() for x in found))"
    )
    places = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    printed = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | places, stdout=subprocess.PIPE)
        printed.append(run.stdout)
    assert list(tmp_path.rglob("*.nbc")) and printed[0] == printed[1]


def test_is_used_where_it_can_be_and_not_where_it_cannot(monkeypatch):
    calls = []
    monkeypatch.setattr("orthonar.engine.chunkwise.compiled_memory", lambda *a: calls.append(1) or compiled_memory(*a))

    def calls_of(size=8, **options):
        generator = torch.Generator().manual_seed(0)
        inputs = [torch.randn(1, 2, 40, size, generator=generator) for _ in range(3)]
        inputs += [torch.randn(1, 2, 40, generator=generator) for _ in range(2)]
        calls.clear()
        return mlstm_sequence(*inputs, **options), len(calls)

    for options in ({}, {"read": NewtonSchulzRead()}):
        assert calls_of(**options)[1] == 1
    used, _ = calls_of()
    assert calls_of(size=136)[1] == 0  # a head too large for it
    monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    without, count = calls_of()
    assert count == 0
    torch.testing.assert_close(without, used, rtol=1e-4, atol=1e-5)
