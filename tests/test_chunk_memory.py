"""What chunks write and read, against memory matrices written out, one for every position.

Axes: N chunks, L positions in a chunk, D head size.
"""

import pytest
import torch

from orthonar.engine import blocks
from orthonar.engine.chunk_memory import chunk_reads, chunk_writes

CHUNKS, LENGTH, SIZE = 7, 5, 4


def operands(dtype=torch.float64) -> dict[str, torch.Tensor]:
    """q, k, v in dtype, log gates as of running maxima and a start state, all requiring gradients."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    q, k, v = (normal(CHUNKS, LENGTH, SIZE).to(dtype) for _ in range(3))
    log_input = 3 * normal(CHUNKS, LENGTH)
    peak_start = normal(CHUNKS, 1)
    # Not quite the running maximum: a gradient that only holds there would not be noticed.
    peak = torch.maximum(log_input.cummax(1).values, peak_start) + 0.1 * normal(CHUNKS, LENGTH).abs()
    tensors = {"q": q, "k": k, "v": v, "log_input": log_input, "peak": peak, "peak_start": peak_start}
    tensors |= {"c_start": normal(CHUNKS, SIZE, SIZE).to(dtype), "n_start": normal(CHUNKS, SIZE)}
    return {name: x.requires_grad_() for name, x in tensors.items()}


def plain_reads(q, k, v, log_input, peak, peak_start, c_start, n_start):
    """C_t^T q_t and n_t . q_t from explicit states."""
    causal = torch.ones(LENGTH, LENGTH).tril().bool()
    w = (log_input[:, None, :] - peak[:, :, None]).masked_fill(~causal, -torch.inf).exp()
    a = (peak_start - peak).exp()
    c = a[..., None, None] * c_start[:, None] + torch.einsum("ntu,nud,nue->ntde", w, k, v)
    n = a[..., None] * n_start[:, None] + torch.einsum("ntu,nud->ntd", w, k)
    return torch.einsum("ntde,ntd->nte", c, q), (n * q).sum(-1)


def plain_writes(k, v, log_w):
    """sum_u w_u k_u v_u^T and sum_u w_u k_u."""
    w = log_w.exp()
    return torch.einsum("nu,nud,nue->nde", w, k, v), torch.einsum("nu,nud->nd", w, k)


def results(function, tensors):
    """Both outputs, and the gradients of a fixed combination of them."""
    tensors = [x.detach().clone().requires_grad_() for x in tensors]
    outputs = function(*tensors)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(y.shape, generator=generator, dtype=torch.float64) for y in outputs]
    total = sum((y.double() * w.to(y.device)).sum() for y, w in zip(outputs, weights, strict=True))
    return [*outputs, *torch.autograd.grad(total, tensors)]


@pytest.fixture(params=[1, 3, 64], ids="blocks_of_{}".format)
def per_block(request, monkeypatch):
    monkeypatch.setitem(blocks._BYTES, "cpu", request.param * LENGTH * SIZE * 8)


def test_reads(per_block):
    tensors = operands().values()
    for got, wanted in zip(results(chunk_reads, tensors), results(plain_reads, tensors), strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.needs_triton
@pytest.mark.parametrize(("dtype", "kept", "tolerance"), [
    (torch.float64, torch.float64, 1e-12), (torch.float32, torch.float64, 1e-5), (torch.float32, torch.float32, 1e-5)
])  # fmt: skip
def test_fused_reads(dtype, kept, tolerance):
    from orthonar.engine.kernels.chunk_reads import fused_chunk_reads

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x = operands(dtype)
    exact = [value.detach().double() for value in x.values()]
    x["c_start"] = x["c_start"].detach().to(kept)
    mine = results(fused_chunk_reads, [value.to(device) for value in x.values()])
    assert mine[0].dtype == kept and mine[1].dtype == torch.float64
    for got, wanted in zip(mine, results(plain_reads, exact), strict=True):
        assert torch.linalg.vector_norm(got.cpu() - wanted) <= tolerance * torch.linalg.vector_norm(wanted)


@pytest.mark.needs_triton
@pytest.mark.parametrize("size", [3, 700])
def test_fused_states(size):
    from orthonar.engine.kernels.states import fused_scan

    def scanned(decay, update, initial):
        states = [initial]
        for c in range(update.shape[1]):
            states.append(decay[:, c, None] * states[-1] + update[:, c])
        return torch.stack(states[:-1], 1), states[-1]

    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator().manual_seed(2)
    shapes = (3, 4), (3, 4, size), (3, size)
    tensors = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    mine = results(fused_scan, [x.to(device) for x in tensors])
    for got, wanted in zip(mine, results(scanned, tensors), strict=True):
        torch.testing.assert_close(got.cpu(), wanted, rtol=1e-12, atol=1e-12)


def test_writes(per_block):
    x = operands()
    tensors = x["k"], x["v"], x["log_input"]
    got = results(lambda *t: chunk_writes(*t, torch.float64), tensors)
    for mine, wanted in zip(got, results(plain_writes, tensors), strict=True):
        torch.testing.assert_close(mine, wanted, rtol=1e-12, atol=1e-12)


def test_the_arguments_are_left_alone():
    tensors = list(operands().values())
    before = [x.detach().clone() for x in tensors]
    results(chunk_reads, tensors)
    results(lambda *t: chunk_writes(*t, torch.float64), (tensors[1], tensors[2], tensors[3]))
    assert all(torch.equal(x, y) for x, y in zip(tensors, before, strict=True))


def test_n_dot_q_keeps_what_is_left_of_cancelling_terms():
    # Two writes whose keys differ by rounding only, with opposite signs: float32 sums would lose the difference.
    x = {name: value.detach() for name, value in operands(torch.float32).items()}
    x["k"][:, 1] = -x["k"][:, 0] * (1 + 2**-20)
    x["k"][:, 2:] = 0
    x["log_input"][:, 1] = x["log_input"][:, 0]
    x["n_start"] = torch.zeros_like(x["n_start"])
    wanted = plain_reads(*(value.double() for value in x.values()))[1]
    torch.testing.assert_close(chunk_reads(*x.values())[1], wanted, rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtypes(dtype):
    x = operands(torch.float32)
    x["c_start"] = x["c_start"].detach().to(dtype).requires_grad_()
    numerator, n_dot_q = chunk_reads(*x.values())
    assert (numerator.dtype, n_dot_q.dtype) == (torch.float32, torch.float64)
    c_added, n_added = chunk_writes(x["k"], x["v"], x["log_input"], dtype)
    assert (c_added.dtype, n_added.dtype) == (dtype, torch.float64)
    (numerator.sum() + n_dot_q.sum() + c_added.sum() + n_added.sum()).backward()
    assert all(value.grad.dtype == value.dtype for value in x.values())
