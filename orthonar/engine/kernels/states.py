"""The states at the chunks' starts as one kernel per row and piece of the state: s_{c+1} = decay_c s_c + update_c."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..chunk_states import Scan

_PIECE = 512


def fused_scan(decay: Tensor, update: Tensor, initial: Tensor) -> tuple[Tensor, Tensor]:
    """States at the start of every chunk, and at the end of the last. Differentiable once.

    Args:
        decay: (R, NC).
        update: (R, NC, K), in the same dtype.
        initial: s_0, (R, K), in the same dtype.

    Returns:
        starts (R, NC, K) and end (R, K).
    """
    return _Scan.of(decay.contiguous(), update.contiguous(), initial.contiguous())


class _Scan(Scan):
    operator = "fused_chunk_states(Tensor decay, Tensor update, Tensor initial) -> (Tensor, Tensor)"

    @staticmethod
    def forward(decay, update, initial):
        starts, end = torch.empty_like(update), torch.empty_like(initial)
        rows, chunks, size = update.shape
        _forward[(rows, triton.cdiv(size, _PIECE))](decay, update, initial, starts, end, chunks, size, PIECE=_PIECE)
        return starts, end

    @staticmethod
    def gradients(tensors, other, needs, grad_starts, grad_end):
        decay, starts = tensors
        rows, chunks, size = starts.shape
        pieces = triton.cdiv(size, _PIECE)
        grad_update, grad_initial = (
            torch.empty_like(starts),
            torch.empty_like(grad_end, memory_format=torch.contiguous_format),
        )
        grad_decay = decay.new_empty(pieces, rows, chunks)
        given = grad_starts.contiguous(), grad_end.contiguous()
        results = grad_decay, grad_update, grad_initial
        _backward[(rows, pieces)](decay, starts, *given, *results, chunks, size, PIECE=_PIECE)
        return grad_decay.sum(0), grad_update, grad_initial


@triton.jit
def _forward(decay_ptr, update_ptr, initial_ptr, starts_ptr, end_ptr, chunks, size, PIECE: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * PIECE + tl.arange(0, PIECE)
    inside = at < size
    state = tl.load(initial_ptr + row * size + at, mask=inside, other=0.0)
    for c in range(chunks):
        here = (row * chunks + c) * size + at
        tl.store(starts_ptr + here, state, mask=inside)
        update = tl.load(update_ptr + here, mask=inside, other=0.0)
        state = state * tl.load(decay_ptr + row * chunks + c) + update
    tl.store(end_ptr + row * size + at, state, mask=inside)


@triton.jit
def _backward(
    decay_ptr, starts_ptr, grad_starts_ptr, grad_end_ptr, grad_decay_ptr, grad_update_ptr, grad_initial_ptr,
    chunks, size, PIECE: tl.constexpr,
):  # fmt: skip
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = piece * PIECE + tl.arange(0, PIECE)
    inside = at < size
    grad = tl.load(grad_end_ptr + row * size + at, mask=inside, other=0.0)
    for i in range(chunks):
        c = chunks - 1 - i
        here = (row * chunks + c) * size + at
        tl.store(grad_update_ptr + here, grad, mask=inside)
        of_decay = tl.sum(grad * tl.load(starts_ptr + here, mask=inside, other=0.0), 0)
        tl.store(grad_decay_ptr + (piece * tl.num_programs(0) + row) * chunks + c, of_decay)
        of_start = tl.load(grad_starts_ptr + here, mask=inside, other=0.0)
        grad = grad * tl.load(decay_ptr + row * chunks + c) + of_start
    tl.store(grad_initial_ptr + row * size + at, grad, mask=inside)
