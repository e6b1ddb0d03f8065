"""The filter that Numba compiles for CPUs, against memory matrices written out; more in test_mlstm and test_transforms.

Axes: N chunks, L positions in a chunk, D head size.
"""

import os
import subprocess
import sys
import warnings

import numba
import pytest
import torch

import orthonar.engine.backends as backends
import orthonar.engine.kernels.cpu_filter as cpu_filter
import orthonar.engine.kernels.llvm_rows as llvm_rows
import orthonar.engine.kernels.loops as loops
from orthonar import NewtonSchulzRead, mlstm_sequence
from orthonar.engine.backends import compiled_filter

CHUNKS = 5
NAMES = ("y", "z", "k", "v", "log_input", "peak", "peak_start", "c_start")
FIVE_STEPS = NewtonSchulzRead(steps=5).coefficients(torch.float64)


def operands(length: int, size: int, dtype=torch.float64, seed: int = 0) -> list[torch.Tensor]:
    """z, k, v, the logs of the gates (here the peak is that of the inputs, as it is in a sequence) and C_0."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    z, k, v = (normal(CHUNKS, length, size) for _ in range(3))
    log_input, peak_start, c_start = normal(CHUNKS, length), normal(CHUNKS, 1), normal(CHUNKS, size, size)
    peak = torch.cat([peak_start, log_input], 1).cummax(1).values[:, 1:]
    found = [z, k.to(dtype), v.to(dtype), log_input, peak, peak_start, c_start]
    return [x.detach().clone().requires_grad_() for x in found]


def by_matrices(z, k, v, log_input, peak, peak_start, c_start, coefficients, eps) -> torch.Tensor:
    """sum_k c_k V_k(2 A - I) z / ||C|| with every C_t formed at once, from its definition; float64."""
    left = (peak_start - peak).exp()
    weights = (log_input[:, None, :] - peak[:, :, None]).tril().exp().tril()
    c_state = left[..., None, None] * c_start[:, None].double()
    c_state = c_state + torch.einsum("ntu,nud,nue->ntde", weights, k.double(), v.double())
    size = torch.linalg.vector_norm(c_state, dim=(-2, -1)).clamp_min(eps)[..., None]
    x = c_state / size[..., None]
    s = 2 * x.mT @ x - torch.eye(x.shape[-1], dtype=x.dtype)
    terms = [torch.eye(x.shape[-1], dtype=x.dtype).expand_as(s), 2 * s - torch.eye(x.shape[-1], dtype=x.dtype)]
    while len(terms) < len(coefficients):
        terms.append(2 * s @ terms[-1] - terms[-2])
    g = sum(c * term for c, term in zip(coefficients, terms))
    return (g @ (z.double() / size)[..., None])[..., 0]


def with_grads(function, tensors, *options) -> list[torch.Tensor]:
    y = function(*tensors, *options)
    weight = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    grads = torch.autograd.grad(y, tensors, weight, allow_unused=True, materialize_grads=True)
    return [x.detach().double() for x in (y, *grads)]


def assert_close(got, wanted, tolerance):
    for name, a, b in zip(NAMES, got, wanted, strict=True):
        assert (a - b).norm() <= tolerance * max(b.norm(), 1e-3), name


@pytest.mark.parametrize("limit", [16.0, 0.0], ids=["updated", "formed_anew"])
@pytest.mark.parametrize("eps", [1e-6, 1e3], ids=["normalised", "below_eps"])
@pytest.mark.parametrize("coefficients", [(0.7,), (0.7, -0.4), FIVE_STEPS], ids=["degree_0", "degree_1", "five_steps"])
@pytest.mark.parametrize(("length", "size"), [(1, 1), (7, 12), (16, 48)])
def test_outputs_and_gradients_are_those_of_memory_matrices(length, size, coefficients, eps, limit):
    tensors = operands(length, size)
    wanted = with_grads(by_matrices, tensors, coefficients, eps)
    assert_close(with_grads(compiled_filter, tensors, coefficients, eps, limit), wanted, 1e-11)


@pytest.mark.parametrize(("size", "registers"), [(40, 12), (112, 6), (112, 24)])
def test_float32_is_accurate(size, registers, monkeypatch, tmp_path):
    """With as many sums at once as processors with shorter registers keep, and with longer ones: a row of a matrix is
    one piece of them, or more."""
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))  # not what was compiled for this processor
    monkeypatch.setattr(llvm_rows, "_REGISTERS_FOR_SUMS", registers)
    for name in ("_read", "_read_back"):
        monkeypatch.setattr(cpu_filter, name, loops.compiled(getattr(cpu_filter, name).py_func))
    tensors = operands(9, size, torch.float32)
    wanted = with_grads(by_matrices, tensors, FIVE_STEPS, 1e-6)
    assert_close(with_grads(compiled_filter, tensors, FIVE_STEPS, 1e-6, 16.0), wanted, 1e-5)


@pytest.mark.parametrize("shut", [False, True], ids=["open", "shut"])
def test_gradients_of_forget_gates_do_not_add_up_rounding(shut):
    """They are sums over all later positions; where nothing is left of what was before, of numbers that cancel."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 200, 12, generator=generator) for _ in range(3))
    forget = torch.full((1, 2, 200), -50.0) if shut else 3 + torch.randn(1, 2, 200, generator=generator)

    def of_forget_gates(dtype):
        inputs = (x.to(dtype).requires_grad_() for x in (q, k, v, torch.zeros_like(forget), forget))
        found = with_grads(lambda *x: mlstm_sequence(*x, read=NewtonSchulzRead(steps=8)), list(inputs))
        return found[-1], max(x.norm() for x in found[1:])

    got, _ = of_forget_gates(torch.float32)
    wanted, largest = of_forget_gates(torch.float64)
    assert (got - wanted).norm() <= 2e-6 * largest


def test_gradient_of_the_numerator_alone():
    """Its way needs none of the vectors that the others' do."""
    z, *rest = operands(7, 12)
    rest = [x.detach() for x in rest]
    (got,) = torch.autograd.grad(compiled_filter(z, *rest, FIVE_STEPS, 1e-6, 16.0).square().sum(), z)
    (wanted,) = torch.autograd.grad(by_matrices(z, *rest, FIVE_STEPS, 1e-6).square().sum(), z)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-12)


def test_threads_change_nothing():
    tensors, before = operands(7, 12, torch.float32), torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3, 8):  # of 5 chunks
            torch.set_num_threads(threads)
            results.append(with_grads(compiled_filter, tensors, FIVE_STEPS, 1e-6, 16.0))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(result, results[0], strict=True))


def test_an_error_in_any_thread_is_raised(monkeypatch):
    def loop(start, stop):
        if start:
            raise MemoryError("in a thread of its own")

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(MemoryError, match="of its own"):
        loops.in_threads(loop, 4)


def add_one(x):
    return x + 1


def test_what_was_compiled_from_other_parts_is_not_found(monkeypatch, tmp_path):
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))

    def found():
        """Whether it was compiled before."""
        loop = loops.compiled(add_one)
        assert loop(1) == 2
        return bool(loop.stats.cache_hits)

    assert [found(), found()] == [False, True]
    monkeypatch.setattr(loops, "_PARTS", "of an update")
    assert [found(), found()] == [False, True]


def test_no_chunks_are_no_work():
    empty = [x[:0] for x in operands(7, 12)]
    assert compiled_filter(*empty, FIVE_STEPS, 1e-6, 16.0).shape == (0, 7, 12)


def inputs(size: int = 8, device: str = "cpu") -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = 3 * [(1, 2, 40, size)] + 2 * [(1, 2, 40)]
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def test_is_used_where_it_can_be_and_not_where_it_cannot(monkeypatch):
    calls, original = [], compiled_filter
    monkeypatch.setattr("orthonar.engine.chunk_filter.compiled_filter", lambda *a: calls.append(1) or original(*a))
    used = mlstm_sequence(*inputs(), read=NewtonSchulzRead())
    assert len(calls) == 1
    monkeypatch.setenv("ORTHONAR_NUMBA", "0")
    torch.testing.assert_close(mlstm_sequence(*inputs(), read=NewtonSchulzRead()), used, rtol=1e-4, atol=1e-5)
    assert mlstm_sequence(*inputs(device="meta"), read=NewtonSchulzRead()).is_meta
    monkeypatch.delenv("ORTHONAR_NUMBA")
    mlstm_sequence(*inputs(size=136), read=NewtonSchulzRead())  # a head too large for it
    assert len(calls) == 1


def test_numba_that_fails_is_said_once_and_done_without(monkeypatch):
    monkeypatch.setattr(backends, "_numba_version", backends._numba_version.__wrapped__)
    monkeypatch.setattr(backends, "_warn_once", lambda message: warnings.warn(message, RuntimeWarning, stacklevel=2))
    monkeypatch.setattr(backends.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "numba", None)  # importing it is an error now
    with pytest.warns(RuntimeWarning, match="Numba is installed but cannot be used"):
        assert mlstm_sequence(*inputs(), read=NewtonSchulzRead()).isfinite().all()


def test_numba_is_not_loaded_before_it_is_needed():
    """It takes a second, which only the chunkwise form is worth."""
    code = (
        "import sys, torch, orthonar; x = torch.randn(1, 1, 5, 8); g = torch.randn(1, 1, 5);"
        "orthonar.mlstm_sequence(x, x, x, g, g, form='recurrent'); assert 'numba' not in sys.modules;"
        "orthonar.mlstm_sequence(x, x, x, g, g); assert 'numba' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ)
