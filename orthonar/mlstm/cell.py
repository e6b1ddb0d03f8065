"""The mLSTM cell, with any read: parallel (the plain reference), recurrent, and chunkwise (the fast form).

Axes: B batch, NH heads, S sequence, DH head size. With gates i_t = exp(igate_preact_t), f_t = sigmoid(fgate_preact_t)
and keys divided by sqrt(DH), the cell of Beck et al. 2024 (arXiv 2405.04517, equations 19 to 27) keeps

    C_t = f_t C_{t-1} + i_t k_t v_t^T        n_t = f_t n_{t-1} + i_t k_t
    h_t = read(C_t)^T q_t / (max(|n_t . q_t|, 1) + 1e-6)

stored multiplied by exp(-m_t) (see `orthonar.engine.gates`), so that the 1 becomes exp(-m_t) and the small constant
counts in that frame. The read sees the stored C_t. What a read returns is never written back, unless the write is
another one: the recurrence above is the write of the mLSTM, `orthonar.mlstm.writes` holds others. A read may also put
a vector of its own in the place of n_t.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ..engine.backends import PRECISIONS
from ..engine.by_hand import autocast_is_on, without_autocast
from ..engine.chunkwise import Additions, chunkwise
from ..engine.gates import log_forget, max_ties_to_first, normaliser
from ..engine.keys import unit_keys
from ..engine.looking import is_exporting, largest
from ..reads.base import RawRead, Read, check_read
from ..settings import checked_integer
from .writes import AdditiveWrite, Write, check_write

#: Forms of the cell, see `mlstm_sequence`.
FORMS = ("chunkwise", "fused", "parallel", "recurrent")

# What is computed in float32 and returned as it came.
_NARROW = (torch.bfloat16, torch.float16)
# Entries of a memory beyond which their squares, summed, might overflow float32.
_LARGEST_IN_FLOAT32 = 1e12
# The same of a query times two entries: filters multiply queries by the memory's Gram matrix before its norm divides.
_LARGEST_READ = 1e30
# Of keys and values whose largest entry lies between this and 1 over it, float32 holds sums of squares.
_LEAST_SQUARED = 1e-15


class MLSTMState(NamedTuple):
    """What an mLSTM layer remembers; its size does not depend on how much it has read."""

    #: C exp(-m), (B, NH, DH, DH), rows keys, columns values; [C exp(-m), K], (B, NH, DH, 2 DH), for reads that want
    #: keys too: K is stored multiplied by exp(-m) if they are kept under the gates.
    c_state: Tensor
    n_state: Tensor  #: n exp(-m), (B, NH, DH).
    m_state: Tensor  #: the log-scale m, (B, NH).

    def detach(self) -> "MLSTMState":
        """The same state, through which no gradient flows: for truncated backpropagation."""
        return MLSTMState(*(x.detach() for x in self))

    def to(self, *args, **options) -> "MLSTMState":
        """The same state on another device or of another dtype; arguments as of `torch.Tensor.to`."""
        return MLSTMState(*(x.to(*args, **options) for x in self))

    @classmethod
    def zeros(
        cls, batch: int, heads: int, head_size: int, *, read: Read | None = None, dtype=torch.float32, device=None
    ) -> "MLSTMState":
        """The state before anything was written: C = 0, n = 0, m = 0.

        Args:
            batch: B.
            heads: NH.
            head_size: DH.
            read: the read that it is for, which may want keys kept beside C; None: one that wants C alone.
            dtype: of all three.
            device: likewise; None for torch's default device.

        Raises:
            ValueError: read is none.
        """
        new = {"dtype": dtype, "device": device}
        if read is not None:
            check_read("read", read)
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

    A forget gate pre-activation of -inf at a position empties the memory before that position is written, m included:
    the way to mark where an episode or a document starts. What follows is read as if the sequence began there with that
    gate. Finite masks of -10,000 and below do the same. (All count as -10,000: a write whose input gate pre-activation
    is larger than the next ones' by thousands outlives them. Keys that a read has kept whatever the gates, as `RLSRead`
    does, stay.) An input gate pre-activation of -inf writes nothing; but `FullDeltaWrite` erases under that key all the
    same, `RLSRead` counts it, and `WriteBack` the position: zero keys are what leaves these as they are. Beside input
    gate pre-activations beyond 1e9 the chunkwise form loses digits of what else it knows in their logarithms. What is
    not a number at one position spoils no position before it; on a GPU, where nothing looks for it, it spoils its
    chunk.

    The chunkwise and fused forms can be differentiated once, in reverse, `torch.func` and `torch.vmap` included; they
    say so where more is asked for. `torch.export` takes any form, for inference: what it exports has no gradients.
    In the chunkwise form that is of one batch size and number of chunks, so of one length or, declared dynamic, the few
    that have as many; in the parallel and recurrent forms of one length, while the batch may be dynamic.
    `torch.compile` takes them into its graph, for all lengths, with the additive write and with reads that are
    `traceable` (raw, filters, and what is made of those); and the recurrent form for one position. All else it calls
    between two graphs. `torch.func.grad` goes around a compiled function, not into one.

    Numbers are float32 inside, or float64 if q is, and autocast is off; bfloat16 and float16 are converted on the way
    in and out, so that their results are float32's, rounded once. Where entries of the memory might pass 1e12, or
    a query times two of them 1e30, it is float64 all through, on a CPU and not in a graph; likewise where squares of
    keys or values leave float32's range.

    Args:
        q: queries, (B, NH, S, DH), float32, float64, bfloat16 or float16.
        k: keys, unscaled, (B, NH, S, DH).
        v: values, (B, NH, S, DH).
        igate_preact: input gate pre-activation (the log of the gate), (B, NH, S); where q is bfloat16 or float16 it is
            better float32.
        fgate_preact: forget gate pre-activation (before the sigmoid), (B, NH, S); likewise.
        read: `RawRead()`, `NewtonSchulzRead(steps)` or any other read.
        write: `AdditiveWrite()`, the mLSTM's own, or any other write; every write goes with every form.
        form: "chunkwise" (no memory matrix per position is formed; time linear in S), "fused" (the same, an error
            where the fused kernels, which "chunkwise" uses on GPUs that can run them, cannot run), "parallel" (the
            plain reference: forms every C_t) or "recurrent" (token by token).
        chunk_size: positions that share a start state in the chunkwise form; None chooses by the read.
        precision: of the products in the fused kernels: "float32", or "tf32", a third of the work with 10 bits of
            mantissa instead of 23 on GPUs that have it; the other forms compute in the dtype of q either way.
        initial_state: the state to start from; None is the empty memory. Of the keys that a read has kept beside C the
            symmetric part counts, (K + K^T) / 2.
        position: how many positions came before, for writes that count them (`WriteBack`).
        return_state: also return the state after the last position.

    Returns:
        h, (B, NH, S, DH), in the dtype of q, under autocast in autocast's; with return_state a pair (h, MLSTMState),
        the state in float32, or float64 if q is.

    Raises:
        ValueError: naming the argument whose shape, dtype or value does not fit.
    """
    apart = torch.compiler.is_dynamo_compiling() and not _traceable(q, read, write, form)
    run = _run_between_graphs if apart else _run
    arguments = (read, write, form, chunk_size, precision, initial_state, position)
    h, state = run(q, k, v, igate_preact, fgate_preact, *arguments)
    return (h, state) if return_state else h


def _run(
    q, k, v, igate_preact, fgate_preact, read, write, form, chunk_size, precision, initial_state, position
) -> tuple[Tensor, MLSTMState]:
    """`mlstm_sequence`, which has the arguments; h and the state after the last position."""
    if initial_state is not None:
        initial_state = _state_of(initial_state)
    _check(q, k, v, igate_preact, fgate_preact, read, write, form, chunk_size, precision, initial_state, position)
    returned = torch.get_autocast_dtype(q.device.type) if _autocast(q) else q.dtype
    if initial_state is None:
        batch, heads, _, size = q.shape
        initial_state = MLSTMState.zeros(batch, heads, size, read=read, dtype=_inside(q.dtype), device=q.device)
    if write.sequential and form == "chunkwise":
        form = "recurrent"  # chunks of one position would share nothing
    with without_autocast(q.device):
        tensors = [x.to(_inside(q.dtype)) for x in (q, k, v, igate_preact, fgate_preact)]
        state = MLSTMState(*(x.to(_inside(q.dtype)) for x in initial_state))
        if read.keys is not None:
            state = state._replace(c_state=_with_symmetric_keys(state.c_state))
        if is_exporting():
            tensors = [x.detach() for x in tensors]  # what is exported has no gradients
        tensors, state = _safe(tensors, state, form, read.keys is not None)
        parts = []
        for start, stop in _segments(q.shape[2], position, write.period):
            here = (x[:, :, start:stop] for x in tensors)
            part, state = _segment(*here, state, read, write, form, chunk_size, precision)
            if write.period is not None and (position + stop) % write.period == 0:
                state = state._replace(c_state=write.replacement(state.c_state))
            parts.append(part)
        h = (parts[0] if len(parts) == 1 else torch.cat(parts, 2)).to(returned)
        return h, MLSTMState(*(x.to(_inside(q.dtype)) for x in state))


def _traceable(q: Tensor, read: Read, write: Write, form: str) -> bool:
    """Whether the cell can be a part of a graph, and of one for all lengths; the plain forms go through positions."""
    known = isinstance(q, Tensor) and q.ndim == 4 and isinstance(read, Read) and isinstance(write, Write)
    if not known or not (form in ("chunkwise", "fused") or (form == "recurrent" and q.shape[2] == 1)):
        return False
    return write.traceable and all(leaf.traceable for leaf in read.leaves)


def _between_graphs(function: Callable) -> Callable:
    """The function as it is, for `torch.compile` to call between two graphs: a break, but one alone.

    What `torch.compiler.disable` makes of a function would import the compiler, seconds of it, with this package.
    """
    return torch._disable_dynamo(function)


_run_between_graphs = _between_graphs(_run)


def _state_of(parts) -> MLSTMState:
    """The state that a tuple of its parts is meant for."""
    if not isinstance(parts, tuple | list) or len(parts) != 3 or not all(isinstance(x, Tensor) for x in parts):
        raise ValueError(f"initial_state must be an MLSTMState, or its tensors (C, n, m), not {type(parts).__name__}")
    return MLSTMState(*parts)


def _inside(dtype: torch.dtype) -> torch.dtype:
    """What is computed in where queries have this dtype."""
    return torch.float32 if dtype in _NARROW else dtype


def _autocast(q: Tensor) -> bool:
    """Whether autocast is on and is for queries like these."""
    return autocast_is_on(q.device) and q.dtype != torch.float64


def _safe(tensors: list[Tensor], state: MLSTMState, form: str, keeps_keys: bool) -> tuple[list[Tensor], MLSTMState]:
    """The five tensors and the state, such that what is extreme at one position does no harm at others.

    keeps_keys: whether the memory holds products of keys with keys, too.
    """
    q, k, v, igate_preact, fgate_preact = tensors
    of_q, of_k, of_v, of_state = largest(q), largest(k), largest(v), largest(state.c_state)
    looked = of_k is not None and of_v is not None
    if of_k is not None and of_v is not None:
        written = of_k * max(of_k, of_v) if keeps_keys else of_k * of_v
        extreme = any(math.isfinite(x) and x > 0 and not _LEAST_SQUARED < x < 1 / _LEAST_SQUARED for x in (of_k, of_v))
        if of_q is not None and of_state is not None and (extreme or not _fits_float32(of_q, written, of_state)):
            tensors, state = [x.double() for x in tensors], MLSTMState(*(x.double() for x in state))
            q, k, v, igate_preact, fgate_preact = tensors
        if math.isfinite(of_k) and math.isfinite(of_v):
            return tensors, state
    if form in ("parallel", "recurrent"):
        return tensors, state
    if not looked and q.device.type == "cuda" and not torch.compiler.is_compiling():
        return tensors, state  # looking costs a GPU more than it is worth
    # A product of matrices over a chunk multiplies what is not a number by zero, and hands it to all positions.
    spoilt = ~(k.isfinite().all(-1) & v.isfinite().all(-1))
    k, v = (x.masked_fill(spoilt[..., None], 0.0) for x in (k, v))
    return [q, k, v, igate_preact.masked_fill(spoilt, torch.nan), fgate_preact], state


def _fits_float32(of_q: float, written: float, of_state: float) -> bool:
    """Whether float32 holds the squares of a memory and a query times them; not what may be anything, beside a NaN."""
    entries = written, of_state
    return all(entry <= _LARGEST_IN_FLOAT32 and of_q * entry * entry <= _LARGEST_READ for entry in entries)


def _segments(length: int, position: int, period: int | None) -> Iterator[tuple[int, int]]:
    """Where to start and stop, so that every position whose number is a multiple of the period ends a segment."""
    start = 0
    while start < length:
        stop = length if period is None else min(start + period - (position + start) % period, length)
        yield start, stop
        start = stop


def _segment(q, k, v, igate_preact, fgate_preact, state, read, write, form, chunk_size, precision):
    """What is read, and the last state, for positions between which the memory is not replaced."""
    added = write.additions(k, v, igate_preact, fgate_preact, state)
    gates = igate_preact, fgate_preact
    if form in ("chunkwise", "fused"):
        added = added if added.v is v else _spoilt_apart(added)
        fused = form == "fused" or None
        h, *state = chunkwise(q, added, *gates, read, chunk_size, state, fused, precision)
        return h, MLSTMState(*state)
    states = _states(added, *gates, read.keys, state)
    return _parallel(q, states, read) if form == "parallel" else _recurrent(q, states, read)


def _spoilt_apart(added: Additions) -> Additions:
    """What is added, such that what a write made of something that is no number does no harm at positions before it."""
    parts = [added.v] if added.n_value is None else [added.v, added.n_value[..., None]]
    if all((of := largest(x)) is not None and math.isfinite(of) for x in parts) or added.v.device.type == "cuda":
        return added
    spoilt = ~torch.stack([x.isfinite().all(-1) for x in parts]).all(0)
    n_value = None if added.n_value is None else added.n_value.masked_fill(spoilt, 0.0)
    return added._replace(v=added.v.masked_fill(spoilt[..., None], 0.0), n_value=n_value, spoilt=spoilt)


def _with_symmetric_keys(c_state: Tensor) -> Tensor:
    """[C, (K + K^T) / 2]: a sum of k k^T is symmetric, and each form would take another half of what is not."""
    c, keys = c_state.chunk(2, -1)
    return torch.cat([c, (keys + keys.mT) / 2], -1)


def _columns(head_size: int, read: Read | None) -> int:
    """Columns of the memory: C, or [C, K]."""
    return 2 * head_size if read is not None and read.keys is not None else head_size


def _states(
    added: Additions, igate_preact: Tensor, fgate_preact: Tensor, keys: str | None, state: MLSTMState
) -> Iterator[MLSTMState]:
    """The state after every position, one after the other."""
    size = added.k.shape[-1]
    scaled = added.k / math.sqrt(size) if added.gated else added.k
    for t in range(added.k.shape[2]):
        i_t, k_t, v_t = igate_preact[:, :, t], scaled[:, :, t], added.v[:, :, t]
        carried = log_forget(fgate_preact[:, :, t]) + state.m_state
        m_state = max_ties_to_first(i_t, carried)
        forget = (carried - m_state).exp()[..., None]
        weighted = (i_t - m_state).exp()[..., None] * k_t if added.gated else k_t
        n_added = weighted if added.n_value is None else weighted * added.n_value[:, :, t, None].to(k_t.dtype)

        c_state, k_state = state.c_state[..., :size], state.c_state[..., size:]
        c_state = forget[..., None] * c_state + _outer(weighted, v_t)
        if keys == "gated":
            c_state = torch.cat([c_state, forget[..., None] * k_state + _outer(weighted, k_t)], -1)
        elif keys == "ungated":
            unit, _ = unit_keys(added.k[:, :, t])
            c_state = torch.cat([c_state, k_state + _outer(unit, unit)], -1)
        state = MLSTMState(c_state, forget * state.n_state + n_added, m_state)
        yield state


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left[..., :, None] * right[..., None, :]


def _recurrent(q: Tensor, states: Iterator[MLSTMState], read: Read) -> tuple[Tensor, MLSTMState]:
    h = []
    for q_t, state in zip(q.unbind(2), states, strict=True):
        at = state.c_state, state.n_state, q_t
        reading = read.evaluate(lambda leaf: leaf.read_token(*at))  # noqa: B023 (called at once)
        h.append(_normalised(*reading, state.m_state))
    return torch.stack(h, 2), state


def _parallel(q: Tensor, states: Iterator[MLSTMState], read: Read) -> tuple[Tensor, MLSTMState]:
    all_states = list(states)
    c_state, n_state, m_state = (torch.stack(parts, 2) for parts in zip(*all_states, strict=True))
    reading = read.evaluate(lambda leaf: leaf.read_plainly(c_state, n_state, q))
    return _normalised(*reading, m_state), all_states[-1]


def _normalised(numerator: Tensor, n_dot_q: Tensor, m_state: Tensor) -> Tensor:
    return numerator / normaliser(n_dot_q, m_state)[..., None]


def _check(
    q, k, v, igate_preact, fgate_preact, read, write, form, chunk_size, precision, initial_state, position
) -> None:
    tensors = {"q": q, "k": k, "v": v, "igate_preact": igate_preact, "fgate_preact": fgate_preact}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise ValueError(f"{name} must be a tensor, not {type(tensor).__name__}")
    if q.ndim != 4 or 0 in q.shape:
        raise ValueError(f"q must be (B, NH, S, DH), none of them 0, not {tuple(q.shape)}")
    if q.dtype not in (torch.float32, torch.float64, *_NARROW):
        raise ValueError(f"q must be float32, float64, bfloat16 or float16, not {q.dtype}")
    check_read("read", read)
    check_write("write", write, read)
    gate = q.shape[:3]
    wanted = {name: (tensors[name], q.shape if name in ("k", "v") else gate) for name in list(tensors)[1:]}
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
        allowed = {q.dtype} if name in ("k", "v") else {q.dtype, _inside(q.dtype)}
        if _autocast(q):
            allowed = {torch.float32, *_NARROW}
        if tensor.dtype not in allowed or tensor.device != q.device:
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
