"""The gates of the mLSTM in log space: how much of each write is left at each later position.

With log f_t = log sigmoid(fgate_preact_t), F_t = log f_1 + ... + log f_t and i_t = igate_preact_t, the write of
position u weighs exp(F_t - F_u + i_u) at position t. The running scale

    m_t = max(F_t + m_0, max_{u <= t} (F_t - F_u + i_u))

keeps everything at most 1: the cell stores C and n multiplied by exp(-m_t) (Beck et al. 2024, arXiv 2405.04517, section
2.3 and appendix A.3; m_0 = 0 without a state). Gradients flow through m_t: the raw read does not depend on it, an
orthogonalized one does. Where the maximum is reached twice, the gradient goes to the newest.

The sums are kept in float64: they grow with the length of the sequence, and what counts is their differences. For
those to be known to the last digits that count, no single log f is taken to be less than -10,000, which leaves nothing
of what was written before, as the true value would: a forget gate pre-activation of -inf, or one as masks have it,
empties the memory.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

#: No memory is scaled up by more than exp(80), so that float32 never overflows; what is scaled up there is below 1e-34.
_LARGEST_EXPONENT = 80.0
#: exp of it is 0 and stays so whatever input gates add, as long as these are within some thousands of each other.
SMALLEST_LOG_FORGET = -1e4


class GateLogs(NamedTuple):
    """Log-space gates of a whole sequence, float64, each (B, NH, S)."""

    log_input: Tensor  #: G_t = i_t - F_t; the weight of write u at position t is exp(G_u - peak_t).
    peak: Tensor  #: max(m_0, max_{u <= t} G_u), never decreasing.
    scale: Tensor  #: m_t = F_t + peak_t.


def gate_logs(igate_preact: Tensor, fgate_preact: Tensor, m_initial: Tensor) -> GateLogs:
    """Log weights of a sequence.

    Args:
        igate_preact: input gate pre-activations (log of the gate), (B, NH, S).
        fgate_preact: forget gate pre-activations (before the sigmoid), (B, NH, S).
        m_initial: log-scale of the state that the sequence starts from, (B, NH); zeros without one.

    Returns:
        GateLogs; the memory in the frame of m_t is exp(peak_0 - peak_t) C_0 + sum_u exp(G_u - peak_t) k_u v_u^T.
    """
    log_f = log_forget(fgate_preact.double()).cumsum(-1)
    log_input = igate_preact.double() - log_f
    m_initial = m_initial.double()[..., None]
    peak = max_ties_to_first(log_input.cummax(-1).values, m_initial)
    return GateLogs(log_input, peak, log_f + peak)


def log_forget(fgate_preact: Tensor) -> Tensor:
    """log f = log sigmoid(fgate_preact), element by element, at least -10,000: a gate that lets nothing through.

    Args:
        fgate_preact: forget gate pre-activations, any shape and floating dtype; -inf is a gate that is shut.
    """
    return logsigmoid(fgate_preact).clamp_min(SMALLEST_LOG_FORGET)


def max_ties_to_first(new: Tensor, old: Tensor) -> Tensor:
    """The larger of two tensors; where they are equal, the gradient goes to the first alone."""
    return torch.where(new >= old, new, old)


def normaliser(n_dot_q: Tensor, scale: Tensor) -> Tensor:
    """What every read is divided by, max(|n_t . q_t|, exp(-m_t)) + 1e-6, all in the frame of m_t.

    Args:
        n_dot_q: n_t . q_t, any shape and floating dtype.
        scale: m_t, of the same shape and dtype.

    Returns:
        Positive tensor of that shape and dtype.
    """
    floor = (-scale).clamp_max(_LARGEST_EXPONENT).exp()
    return torch.maximum(n_dot_q.abs(), floor) + 1e-6


class ChunkGates(NamedTuple):
    """Log-space gates of chunks: C_t = exp(peak_start - peak_t) C_0 + sum_{u <= t} exp(G_u - peak_t) k_u v_u^T."""

    log_input: Tensor  #: G, (..., L), float64.
    peak: Tensor  #: (..., L), float64.
    peak_start: Tensor  #: peak of the position before the chunk, (..., 1), float64.

    @property
    def log_decay(self) -> Tensor:
        """Log of what is left of the start state at each position, (..., L), float64."""
        return self.peak_start - self.peak

    @property
    def log_weights(self) -> Tensor:
        """Log of what is left of each write at each position, (..., L, L), rows t, float64; -inf where u > t.

        exp of it is the matrix D of the mLSTM's parallel form.
        """
        length = self.peak.shape[-1]
        future = torch.ones(length, length, dtype=torch.bool, device=self.peak.device).triu(1)
        return (self.log_input[..., None, :] - self.peak[..., :, None]).masked_fill(future, -torch.inf)


def in_chunks(log_input: Tensor, peak: Tensor, m_initial: Tensor, length: int) -> ChunkGates:
    """A sequence's log-space gates cut into chunks, the last filled with positions that write nothing and keep all.

    Args:
        log_input: G, (..., S), float64.
        peak: (..., S), float64.
        m_initial: log-scale of the state that the sequence starts from, (...).
        length: L.

    Returns:
        ChunkGates of shape (..., NC, L), NC = S / L rounded up.
    """
    count = (peak.shape[-1] + length - 1) // length
    if missing := count * length - peak.shape[-1]:
        log_input = pad(log_input, (0, missing), value=-torch.inf)
        # Repeated, not expanded: `torch.compile` would take one missing position for a case of its own.
        peak = torch.cat([peak, peak[..., -1:].repeat(*(1 for _ in peak.shape[:-1]), missing)], -1)
    log_input, peak = (x.unflatten(-1, (count, length)) for x in (log_input, peak))
    peak_start = torch.cat([m_initial.double()[..., None], peak[..., :-1, -1]], -1)
    return ChunkGates(log_input, peak, peak_start[..., None])
