"""What it means to write to the memory: how C_t comes from C_{t-1}, a key, a value and the gates.

A write is a small frozen object. It says what is added at every position, given what was in the memory before, and,
if it wants that, what the memory is replaced by now and then. The forms of the cell in `orthonar.mlstm.cell` do the
rest, so that every form and every read that is a function of C goes with every write. All writes share the gates, m
and the frame exp(-m).

A class that derives from `Write` is a write: nothing has to be registered.

Axes: B batch, NH heads, S sequence, DH head size, NC chunks, L positions in a chunk.
"""

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from ..engine.chunkwise import Additions
from ..engine.gates import gate_logs, in_chunks
from ..engine.keys import LEAST_EPS, MOST_EPS, SHORTEST_KEY, unit_keys
from ..reads.base import Read
from ..reads.newton_schulz import newton_schulz
from ..settings import Settings, described, integer, number, settings

# Positions whose corrections are solved for together. Rounding does not depend on it.
_CHUNK = 16


class Write(Settings, ABC):
    """How the memory is written: what the cell, the model and the run records take for a write."""

    #: Whether keys can be kept beside C, for reads that want the memory [C, K].
    takes_keys: ClassVar[bool] = False
    #: Whether `torch.compile` can trace `additions`, without steps that depend on the length.
    traceable: ClassVar[bool] = False

    @abstractmethod
    def additions(self, k: Tensor, v: Tensor, igate_preact: Tensor, fgate_preact: Tensor, state) -> Additions:
        """What is added to the memory at every position until it is next replaced.

        Args:
            k: keys, unscaled, (B, NH, S, DH).
            v: values, (B, NH, S, DH).
            igate_preact: input gate pre-activation (the log of the gate), (B, NH, S).
            fgate_preact: forget gate pre-activation (before the sigmoid), (B, NH, S).
            state: the `orthonar.MLSTMState` before the first of these positions.
        """

    @property
    def period(self) -> int | None:
        """Positions from one replacement of the memory to the next; None if it is never replaced."""
        return None

    def replacement(self, c_state: Tensor) -> Tensor:
        """What the memory is replaced by after every `period`-th position; by itself here.

        Args:
            c_state: C as stored, (..., DH, DH).

        Returns:
            (..., DH, DH).
        """
        return c_state

    @property
    def sequential(self) -> bool:
        """Whether the memory is another one after every single position, so that no two can be treated together."""
        return self.period == 1


@settings
class AdditiveWrite(Write):
    """The mLSTM's own write, C_t = f_t C_{t-1} + i_t k_t v_t^T (Beck et al. 2024, arXiv 2405.04517, equation 19)."""

    takes_keys: ClassVar[bool] = True
    traceable: ClassVar[bool] = True

    def additions(self, k, v, igate_preact, fgate_preact, state):
        return Additions(k, v)


@settings
class WriteBack(Write):
    """The orthogonalized memory replaces the memory, after every ``every``-th position.

    C_t = f_t C_{t-1} + i_t k_t v_t^T is written and read as always; then, if t is a multiple of ``every``, C_t is
    replaced by NS_steps(C_t), that is X <- X (3 I - X^T X) / 2, ``steps`` times from X = C_t / ||C_t||_F. With
    `NewtonSchulzRead` of as many steps and ``every=1``, the matrix that is read is the matrix that is kept: the
    variant of which Tambde ("Matrix Orthogonalization Improves Memory in Recurrent Models", June 2026) says that it
    degrades performance.

    The scale. What is orthogonalized, and what is replaced, is the memory as it is stored, C_t exp(-m_t), just as the
    reads see it; n_t and m_t go on as if nothing had happened. The stored memory's old scale is forgotten, and each
    singular value becomes a number in [0, 1]. In the frame of m_t 1 is the weight of the strongest write that is left
    (the scale's initial 0 counts as one), so a replaced memory weighs about as much as that write in every one of its
    directions, however weak their writes were. In any other frame the result would depend on a constant added to all
    input gates. A memory with ||C_t exp(-m_t)||_F <= eps has nothing to orthogonalize and stays as it is. (The reads
    divide it by eps instead. Done again and again that would multiply gradients by 10^6 at every position of an empty
    memory.)

    The cost. The memory is no linear function of the past any more, and no scan exists: with ``every=1`` each position
    takes ``steps`` iterations of two products DH x DH by DH x DH, one position after the other, forward and backward,
    and all matrices are kept for the backward pass; the chunkwise form becomes the recurrent one. With a larger
    ``every``, positions between two replacements are treated together in whatever form was asked for.

    Accuracy. The map's slope at a singular value of 0 is 1.5^steps / ||C||_F, and it is applied again and again: while
    the memory uses fewer than DH directions, rounding in the others grows by up to that factor at each replacement
    until it fills them. With ``every=1`` and five steps the result is therefore what rounding makes of it: for random
    keys and DH = 48, outputs in float32 are off by 20 to 40 % from position 47 on (in float64, by 3e-9). In the study's
    untrained model, on 256 random tokens, changing the embedding by 1e-15 in float64 changes the gradients by their own
    size; in float32 they are off by 220 %, with three steps 140 %, two 37 %, one 0.06 %, none 1e-6, and with five steps
    and ``every`` 4 by 83 %, 16 by 7e-5, 64 by 7e-7. Keys times values are short there, with norms far below 1, and so
    each write is small beside a memory that was replaced.

    Args:
        steps: number of iterations, at least 0. 0 only normalises: ||C||_F becomes 1.
        every: positions from one replacement to the next, at least 1.
        eps: largest Frobenius norm of the stored memory that counts as empty.
    """

    steps: int = integer(5, least=0)
    every: int = integer(1, least=1)
    eps: float = number(1e-6, least=LEAST_EPS, most=MOST_EPS)

    def additions(self, k, v, igate_preact, fgate_preact, state):
        return Additions(k, v)

    @property
    def period(self) -> int:
        return self.every

    def replacement(self, c_state: Tensor) -> Tensor:
        empty = torch.linalg.vector_norm(c_state, dim=(-2, -1), keepdim=True) <= self.eps
        return torch.where(empty, c_state, newton_schulz(c_state, self.steps, self.eps))


@settings
class DeltaWrite(Write):
    """The delta rule: what the memory holds under a key is taken out as the key is written anew.

    With u_t = k_t / max(||k_t||, eps), k_t already divided by sqrt(DH), and beta_t = erase i_t exp(-m_t),

        C_t = f_t (I - beta_t u_t u_t^T) C_{t-1} + i_t k_t v_t^T

    For erase = 1 this is, in the stored frame, C <- f C + beta u (||k|| v - (f C)^T u)^T: a step of size beta towards
    the value that the additive write would put under the key in an empty memory. It is the gated delta rule (Yang et
    al. 2024, arXiv 2412.06464; without gates Widrow and Hoff 1960, for linear attention Schlag et al. 2021, arXiv
    2102.11174) but for two things: there beta is a sigmoid of its own, and the key that is written has length 1. Here
    no parameter is added. beta_t, the weight with which the write is stored, is 1 where the write is as strong as the
    strongest that is left (the scale's initial 0 counts as one) and falls to 0 with the input gate, so that what is
    hardly written hardly erases. As 0 <= beta_t <= 1 and u_t has at most unit length, erasing never lengthens a vector:
    the memory stays below the sum of the norms of what was written under the gates, as the additive one does. n_t is
    the additive write's, n_t = f_t n_{t-1} + i_t k_t (in the sources there is none; a norm follows there as it does
    here). Like an orthogonalized read, beta depends on m_t, and gradients flow through it.

    The cost. C_t = f_t C_{t-1} + i_t k_t w_t^T with w_t = v_t - erase (f_t C_{t-1})^T k_t / max(||k_t||, eps)^2, C in
    the stored frame, so once the w_t are known the additive write does the rest, in any form. Over a chunk they solve a
    unit lower triangular system (the UT transform of Joffrain et al. 2006; Yang et al. 2024, arXiv 2406.06484): in
    float64, for all chunks at once one solution with 2 DH right-hand sides, then chunk after chunk two products, with
    the state and with the chunk's keys. That is exact, and linear in S.

    Args:
        erase: the share of the full correction, 0 to 1; with 0 it is the additive write.
        eps: smallest length of a key divided by.
    """

    erase: float = number(1.0, least=0, most=1)
    eps: float = number(1e-6, least=LEAST_EPS, most=MOST_EPS)

    def additions(self, k, v, igate_preact, fgate_preact, state):
        unit, length = unit_keys(k.double() / math.sqrt(k.shape[-1]), self.eps)
        # Solved for length_t w_t, in which no number is larger than what it stands for in the memory.
        logs = gate_logs(igate_preact, fgate_preact, state.m_state)
        gates, c_state = (logs.log_input, logs.peak, state.m_state), state.c_state.double()
        corrected = _corrected(unit, length * v.double(), *gates, c_state, self.erase)
        return Additions(k, (corrected / length).to(v.dtype))


@settings
class FullDeltaWrite(Write):
    """The delta rule at full strength, for C and n alike: what a key holds is gone before the key is written anew.

    With k^_t = k_t / max(||k_t||, eps),

        C_t = f_t (I - k^_t k^_t^T) C_{t-1} + i_t (k_t / sqrt(DH)) v_t^T
        n_t = f_t (I - k^_t k^_t^T) n_{t-1} + i_t k_t / sqrt(DH)

    stored multiplied by exp(-m_t), with the m_t of the additive write. It is the delta write of the follow-up
    (Aquino-Michaels 2026, arXiv 2607.19390): `DeltaWrite` erases only as far as it writes, and not in n.

    The cost. In the stored frame C_t = f' C_{t-1} + k^_t x_t^T, x_t = i' ||k_t|| / sqrt(DH) v_t - (f' C_{t-1})^T k^_t,
    and n is such a memory too, whose values are all 1. The x_t are solved for as `DeltaWrite` does, with DH + 1 columns
    of values; the rest is an additive write without an input gate. That is exact, and linear in S.

    Args:
        eps: smallest length of a key divided by, before the factor 1 / sqrt(DH).
    """

    eps: float = number(SHORTEST_KEY, least=LEAST_EPS, most=MOST_EPS)

    def additions(self, k, v, igate_preact, fgate_preact, state):
        unit, length = unit_keys(k.double(), self.eps)
        logs = gate_logs(igate_preact, fgate_preact, state.m_state)
        gate = (logs.log_input - logs.peak).exp()[..., None]
        value = gate * length / math.sqrt(k.shape[-1]) * F.pad(v.double(), (0, 1), value=1.0)
        memory = torch.cat([state.c_state, state.n_state[..., None]], -1).double()
        corrected = _corrected(unit, value, logs.peak, logs.peak, state.m_state, memory, erase=1.0)
        return Additions(unit.to(v.dtype), corrected[..., :-1].to(v.dtype), corrected[..., -1], gated=False)


def _corrected(
    unit: Tensor, value: Tensor, log_input: Tensor, peak: Tensor, m_initial: Tensor, c_state: Tensor, erase: float
) -> Tensor:
    """x_t = value_t - erase (f'_t C_{t-1})^T u_t for the memory C_t = f'_t C_{t-1} + w_tt u_t x_t^T that the x_t make.

    With w_tu = exp(G_u - peak_t) and a_t what is left of C_0, the x_t of a chunk solve the unit lower triangular system

        x_t + erase sum_{u < t} w_tu (u_t . u_u) x_u = value_t - erase a_t C_0^T u_t

    Args:
        unit: u, of at most unit length, (B, NH, S, DH).
        value: (B, NH, S, E).
        log_input: G, (B, NH, S).
        peak: (B, NH, S).
        m_initial: the log-scale of C_0, (B, NH).
        c_state: C_0, (B, NH, DH, E).
        erase: the share of the full correction.

    Returns:
        x, (B, NH, S, E); all tensors are in float64.
    """
    length = unit.shape[2]
    chunk = min(_CHUNK, length)
    missing = -length % chunk

    gates = in_chunks(log_input, peak, m_initial, chunk)
    a, w = gates.log_decay.exp()[..., None], gates.log_weights.exp()

    unit, value = (F.pad(x, (0, 0, 0, missing)).unflatten(2, (-1, chunk)) for x in (unit, value))
    system = torch.eye(chunk, dtype=unit.dtype, device=unit.device) + erase * (w * (unit @ unit.mT)).tril(-1)
    sides = torch.cat([value, erase * a * unit], -1)
    solved = torch.linalg.solve_triangular(system, sides, upper=False, unitriangular=True)
    by_value, by_start = solved.split([value.shape[-1], unit.shape[-1]], -1)

    added = (w[..., -1, :, None] * unit).mT
    corrected = []
    # Unbound, not indexed: the gradient of an index is a whole tensor of zeros.
    for a_end, from_value, from_start, to_end in zip(
        *(x.unbind(2) for x in (a[..., -1:, :], by_value, by_start, added))
    ):
        corrected.append(from_value - from_start @ c_state)
        c_state = a_end * c_state + to_end @ corrected[-1]
    return torch.stack(corrected, 2).flatten(2, 3)[:, :, :length]


def check_write(name: str, write: Write, read: Read) -> None:
    """Raise a ValueError naming the setting if it is not a write, or not one that can serve this read."""
    if not isinstance(write, Write):
        raise ValueError(f"{name} must be a write of orthonar.mlstm.writes, not {described(write, Write)}")
    if read.keys is not None and not write.takes_keys:
        raise ValueError(f"{name} must be AdditiveWrite() for a read that has keys kept too, {read!r}, not {write!r}")
