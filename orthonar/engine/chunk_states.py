"""The states at the chunks' starts: s_{c+1} = decay_c s_c + update_c, a scan over chunks.

Axes: R rows (batch times heads), NC chunks, N = R NC.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .by_hand import HandWritten


def chunk_states(decay: Tensor, update: Tensor, initial: Tensor, scan: Callable | None = None) -> tuple[Tensor, Tensor]:
    """States at the start of every chunk, and at the end of the last: s_{c+1} = decay_c s_c + update_c.

    Args:
        decay: (R, NC), float64.
        update: (N, ...).
        initial: s_0, (R, ...), in the dtype of update.
        scan: does it for decay (R, NC), update (R, NC, K) and initial (R, K); None is PyTorch's operators.

    Returns:
        starts (N, ...) and end (R, ...), in the dtype of update.
    """
    rows, chunks = decay.shape
    scan = _Loop.of if scan is None else scan
    starts, end = scan(decay.to(update.dtype), update.reshape(rows, chunks, -1), initial.reshape(rows, -1))
    return starts.reshape(update.shape), end.reshape(initial.shape)


class Scan(HandWritten):
    """What is kept of a scan, however it is computed: one copy of the states and none of its steps."""

    results = 2

    @staticmethod
    def saved(args, outputs):
        return (args[0], outputs[0]), ()

    @staticmethod
    def outputs_like(decay, update, initial):
        return update, initial

    @staticmethod
    def gradients_like(tensors, other):
        decay, starts = tensors
        return decay, starts, starts[:, 0]


class _Loop(Scan):
    """A loop over chunks."""

    operator = "chunk_states(Tensor decay, Tensor update, Tensor initial) -> (Tensor, Tensor)"

    @staticmethod
    def forward(decay, update, initial):
        starts = torch.empty_like(update)
        starts[:, 0] = initial
        for c in range(update.shape[1] - 1):
            torch.addcmul(update[:, c], starts[:, c], decay[:, c, None], out=starts[:, c + 1])
        return starts, torch.addcmul(update[:, -1], starts[:, -1], decay[:, -1, None])

    @staticmethod
    def gradients(tensors, other, needs, grad_starts, grad_end):
        decay, starts = tensors
        grad_update = torch.empty_like(starts)
        grad_update[:, -1] = grad_end
        for c in range(starts.shape[1] - 1, 0, -1):
            torch.addcmul(grad_starts[:, c], grad_update[:, c], decay[:, c, None], out=grad_update[:, c - 1])
        grad = torch.addcmul(grad_starts[:, 0], grad_update[:, 0], decay[:, 0, None])
        return (grad_update[..., None, :] @ starts[..., None])[..., 0, 0], grad_update, grad
