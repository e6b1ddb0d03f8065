"""The mLSTM cell, with any read: parallel (the plain reference), recurrent, and chunkwise (the fast form).

Axes: B batch, NH heads, S sequence, DH head size. With gates i_t = exp(igate_preact_t), f_t = sigmoid(fgate_preact_t)
and keys divided by sqrt(DH), the cell of Beck et al. 2024 (arXiv 2405.04517, equations 19 to 27) keeps

    C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t
    h_t = read(C_t)^T q_t / (max(|n_t . q_t|, 1) + 1e-6)

stored multiplied by exp(-m_t) (see `orthonar.engine.gates`), so that the 1 becomes exp(-m_t) and the small constant
counts in that frame. The read sees the stored C_t. What a read returns is never written back, unless the write is
another one: the recurrence above is the write of the mLSTM, `orthonar.mlstm.writes` holds others.
"""

import math
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from ..engine.backends import PRECISIONS
from ..engine.chunkwise import chunkwise
from ..engine.gates import newest_max, normaliser
from ..reads.base import RawRead, Read, check_read
from ..settings import checked_integer
from .writes import AdditiveWrite, Write, check_write

#: Forms of the cell, see `mlstm_sequence`.
FORMS = ("chunkwise", "fused", "parallel", "recurrent")


class MLSTMState(NamedTuple):
    """What an mLSTM layer remembers; its size does not depend on how much it has read."""

    #: C exp(-m), (B, NH, DH, DH), rows keys, columns values; [C, H] exp(-m), (B, NH, DH, 2 DH), for reads that want it.
    c_state: Tensor
    n_state: Tensor  #: n exp(-m), (B, NH, DH).
    m_state: Tensor  #: the log-scale m, (B, NH).

    @classmethod
    def zeros(
        cls, batch: int, heads: int, head_size: int, *, read: Read | None = None, dtype=torch.float32, device=None
    ) -> "MLSTMState":
        """The state before anything was written, for this read (None: one that wants C alone): C = 0, n = 0, m = 0."""
        new = {"dtype": dtype, "device": device}
        c_state = torch.zeros(batch, heads, head_size, _columns(head_size, read), **new)
        return cls(c_state, torch.zeros(batch, heads, head_size, **new), torch.zeros(batch, heads, **new))


def mlstm_sequence(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    igate_preact: Tensor,
    fgate_preact: Tensor,
    *,
    read: Read = RawRead(),  # noqa: B008 (frozen)
    write: Write = AdditiveWrite(),  # noqa: B008 (frozen)
    form: str = "chunkwise",
    chunk_size: int | None = None,
    precision: str = "float32",
    initial_state: MLSTMState | None = None,
    position: int = 0,
    return_state: bool = False,
) -> Tensor | tuple[Tensor, MLSTMState]:
    """Run the mLSTM over a sequence and return what it reads at every position.

    h_t = read(C_t)^T q_t / (max(|n_t . q_t|, exp(-m_t)) + 1e-6), before the per-head normalisation of the layer; the
    module's docstring has the recurrence and its source. The factor 1/sqrt(DH) is put on the keys: the raw read would
    be the same with it on the queries, a normalised read would not. All forms give the same, outputs and gradients.

    Args:
        q: queries, (B, NH, S, DH).
        k: keys, unscaled, (B, NH, S, DH).
        v: values, (B, NH, S, DH).
        igate_preact: input gate pre-activation (the log of the gate), (B, NH, S).
        fgate_preact: forget gate pre-activation (before the sigmoid), (B, NH, S).
        read: `RawRead()`, `NewtonSchulzRead(steps)` or any other read.
        write: `AdditiveWrite()`, the mLSTM's own, or any other write; every write goes with every form.
        form: "chunkwise" (no memory matrix per position is formed; time linear in S), "fused" (the same, an error
            where the fused programs, which "chunkwise" uses on GPUs that can run them, cannot run), "parallel" (the
            plain reference: forms every C_t) or "recurrent" (token by token).
        chunk_size: positions that share a start state in the chunkwise form; None chooses by the read.
        precision: of the products in the fused programs: "float32", or "tf32", a third of the work with 10 bits of
            mantissa instead of 23 on GPUs that have it; the other forms compute in the dtype of q either way.
        initial_state: the state to start from; None is the empty memory.
        position: how many positions came before, for writes that count them (`WriteBack`).
        return_state: also return the state after the last position.

    Returns:
        h, (B, NH, S, DH), in the dtype of q; with return_state a pair (h, MLSTMState).

    Raises:
        ValueError: naming the argument whose shape, dtype or value does not fit.
    """
    _check(q, k, v, igate_preact, fgate_preact, read, write, form, chunk_size, precision, initial_state, position)
    if initial_state is None:
        batch, heads, _, size = q.shape
        initial_state = MLSTMState.zeros(batch, heads, size, read=read, dtype=q.dtype, device=q.device)
    if write.sequential and form == "chunkwise":
        form = "recurrent"  # chunks of one position would share nothing
    cell = partial(_additive, read=read, form=form, chunk_size=chunk_size, precision=precision)
    h, state = write.run(cell, (q, k, v, igate_preact, fgate_preact), initial_state, position)
    return (h, state) if return_state else h


def _additive(q, k, v, igate_preact, fgate_preact, state, *, read, form, chunk_size, precision):
    """What is read, and the last state, with the mLSTM's own write."""
    if form in ("chunkwise", "fused"):
        fused = form == "fused" or None
        h, *state = chunkwise(q, k, v, igate_preact, fgate_preact, read, chunk_size, state, fused, precision)
        return h, MLSTMState(*state)
    k = k / math.sqrt(k.shape[-1])
    v = torch.cat([v, k], -1) if read.writes_keys else v
    run = _parallel if form == "parallel" else _recurrent
    return run(q, k, v, igate_preact, fgate_preact, read, state)


def _columns(head_size: int, read: Read | None) -> int:
    """Columns of the memory: C, or [C, H]."""
    return 2 * head_size if read is not None and read.writes_keys else head_size


def _write(state: MLSTMState, k: Tensor, v: Tensor, igate_preact: Tensor, fgate_preact: Tensor) -> MLSTMState:
    """The state after one more token; keys already scaled, (B, NH, DH), gates (B, NH)."""
    carried = logsigmoid(fgate_preact) + state.m_state
    m_state = newest_max(igate_preact, carried)
    forget, write = (carried - m_state).exp()[..., None], (igate_preact - m_state).exp()[..., None]
    c_state = forget[..., None] * state.c_state + (write * k)[..., :, None] * v[..., None, :]
    return MLSTMState(c_state, forget * state.n_state + write * k, m_state)


def _recurrent(q, k, v, igate_preact, fgate_preact, read, state):
    h = []
    for t in range(q.shape[2]):
        state = _write(state, k[:, :, t], v[:, :, t], igate_preact[:, :, t], fgate_preact[:, :, t])
        q_t = q[:, :, t]
        n_dot_q = (state.n_state * q_t).sum(-1)
        numerator = read.evaluate(lambda leaf, c=state.c_state, q=q_t: leaf.vector(leaf.of(c), q))
        h.append(numerator / normaliser(n_dot_q, state.m_state)[..., None])
    return torch.stack(h, 2), state


def _parallel(q, k, v, igate_preact, fgate_preact, read, state):
    states = []
    for t in range(q.shape[2]):
        state = _write(state, k[:, :, t], v[:, :, t], igate_preact[:, :, t], fgate_preact[:, :, t])
        states.append(state)
    c_state, n_state, m_state = (torch.stack(parts, 2) for parts in zip(*states, strict=True))
    numerator = read.evaluate(lambda leaf: torch.einsum("bhtde,bhtd->bhte", leaf.matrix(leaf.of(c_state)), q))
    return numerator / normaliser((n_state * q).sum(-1), m_state)[..., None], state


def _check(
    q, k, v, igate_preact, fgate_preact, read, write, form, chunk_size, precision, initial_state, position
) -> None:
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"q must be (B, NH, S, DH), none of them 0, not {tuple(q.shape)}")
    if q.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"q must be float32 or float64, not {q.dtype}: the gates and filters need that accuracy")
    check_read("read", read)
    check_write("write", write, read)
    gate = q.shape[:3]
    wanted = {
        "k": (k, q.shape),
        "v": (v, q.shape),
        "igate_preact": (igate_preact, gate),
        "fgate_preact": (fgate_preact, gate),
    }
    if initial_state is not None:
        batch, heads, _, size = q.shape
        wanted |= {
            "initial_state.c_state": (initial_state[0], (batch, heads, size, _columns(size, read))),
            "initial_state.n_state": (initial_state[1], (batch, heads, size)),
            "initial_state.m_state": (initial_state[2], (batch, heads)),
        }
    for name, (tensor, shape) in wanted.items():
        if tensor.shape != shape:
            raise ValueError(f"{name} must have the shape {tuple(shape)}, not {tuple(tensor.shape)}")
        if (tensor.dtype, tensor.device) != (q.dtype, q.device):
            raise ValueError(f"{name} must be {q.dtype} on {q.device} like q, not {tensor.dtype} on {tensor.device}")
    check_form(form)
    check_precision(precision)
    if chunk_size is not None:
        checked_integer("chunk_size", chunk_size, 1)
    checked_integer("position", position, 0)


def check_form(form: str) -> None:
    """ValueError if there is no such form."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(map(repr, FORMS))}, not {form!r}")


def check_precision(precision: str) -> None:
    """ValueError if there is no such precision."""
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be one of {', '.join(map(repr, PRECISIONS))}, not {precision!r}")
