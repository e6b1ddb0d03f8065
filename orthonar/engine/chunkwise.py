"""The mLSTM a chunk at a time: states at the chunks' starts, dense products inside, no memory matrix per position.

Axes: B batch, NH heads, S sequence, DH head size; R rows (heads times batch), NC chunks, L positions in a chunk, D head
size (padded), N = R NC.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .backends import can_compile, can_fuse, compiled_memory, fused_states, why_unsupported
from .chunk import Chunk, KeyMemory, Reading
from .chunk_memory import chunk_writes
from .chunk_states import chunk_states
from .gates import ChunkGates, gate_logs, in_chunks, normaliser
from .keys import unit_keys
from .looking import is_exporting

# Chosen by measurement on CPUs. A filter multiplies with every chunk's start state some fifty times and wants it spread
# over few positions; the raw read multiplies with it once, and compiled loops not at all.
_CHUNK_FOR_FILTER, _CHUNK_FOR_REST = 16, 32
# Matrix products of sizes that are multiples of this run up to three times faster.
_LANES = 16


class Additions(NamedTuple):
    """What a write adds to the memory, position by position.

    C_t = f' C_{t-1} + a_t k_t v_t^T and n_t = f' n_{t-1} + a_t k_t x_t, stored as `orthonar.engine.gates` says. Gated,
    a_t = exp(i_t - m_t) / sqrt(DH): the input gate, and the factor of keys as they were projected. Else a_t = 1.
    """

    k: Tensor  #: (B, NH, S, DH).
    v: Tensor  #: (B, NH, S, DH).
    n_value: Tensor | None = None  #: x, (B, NH, S), any floating dtype; None is 1.
    gated: bool = True
    spoilt: Tensor | None = None  #: where v or x was not a number, and is 0 now, (B, NH, S); None is nowhere.


def chunkwise(
    q: Tensor,
    added: Additions,
    igate_preact: Tensor,
    fgate_preact: Tensor,
    read,
    chunk_size: int | None,
    initial_state: tuple[Tensor, Tensor, Tensor],
    fused: bool | None = None,
    precision: str = "float32",
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The chunkwise form of `orthonar.mlstm_sequence`, on checked arguments.

    Args:
        q: queries, (B, NH, S, DH).
        added: what is added to the memory.
        igate_preact: input gate pre-activation (the log of the gate), (B, NH, S).
        fgate_preact: forget gate pre-activation (before the sigmoid), (B, NH, S).
        read: the read; its leaves are given a `Chunk`.
        chunk_size: L; None chooses by the read.
        initial_state: C or [C, K], n and m, as of `orthonar.MLSTMState`.
        fused: whether the kernels of `orthonar.engine.kernels` compute it, which nothing that is exported does; None is
            wherever they can.
        precision: of float32 products in the fused kernels.

    Returns:
        h (B, NH, S, DH), c_state (B, NH, DH, DH) or (B, NH, DH, 2 DH), n_state (B, NH, DH), m_state (B, NH).

    Raises:
        ValueError: fused kernels were asked for and cannot run.
    """
    # Rows are (head, batch): a layer that projects head by head has them so in memory.
    q, k, v, igate_preact, fgate_preact = (x.transpose(0, 1) for x in (q, added.k, added.v, igate_preact, fgate_preact))
    c_initial, n_initial, m_initial = (x.transpose(0, 1) for x in initial_state)
    heads, batch, length, size = q.shape
    dtype = q.dtype
    chunk_size = _chunk_size(read, q.device, size, length, chunk_size)
    missing = (length + chunk_size - 1) // chunk_size * chunk_size - length
    trial = q.device, size, chunk_size, read.precise, precision
    if fused is None:
        fused = can_fuse(*trial)
    elif fused and (reason := why_unsupported(*trial)) is not None:
        raise ValueError(f"form: the fused kernels cannot run here: {reason}")
    fused = fused and not is_exporting()  # as of `can_fuse`
    scan = fused_states if fused else None

    def chunks(x: Tensor) -> Tensor:
        """(NH, B, S) in chunks, (N, L)."""
        return _pad(x, (0, missing)).reshape(-1, chunk_size)

    logs = gate_logs(igate_preact, fgate_preact, m_initial)
    # The keys' factor 1/sqrt(DH) goes to the weights of their writes: it only ever meets them as a product.
    log_input = logs.log_input - 0.5 * math.log(size) if added.gated else logs.peak
    if added.spoilt is not None:
        log_input = log_input.masked_fill(added.spoilt.transpose(0, 1), torch.nan)
    by_row = in_chunks(log_input, logs.peak, m_initial, chunk_size)
    decay = (by_row.peak_start[..., 0] - by_row.peak[..., -1]).exp().flatten(0, 1)
    gates = ChunkGates(*(x.flatten(0, 2) for x in by_row))

    padded = -(-size // _LANES) * _LANES if dtype == torch.float32 else size
    grown = 0, padded - size
    q, k, v = (_pad(x, (*grown, 0, missing)).reshape(-1, chunk_size, padded) for x in (q, k, v))
    n_value = None if added.n_value is None else chunks(added.n_value.transpose(0, 1))

    # The filters must know to the last digit how far writes cancel.
    c_dtype = torch.float64 if read.precise else dtype
    memories = [_pad(x, (*grown, *grown)).flatten(0, 1) for x in c_initial.split(size, -1)]
    n_initial = _pad(n_initial.flatten(0, 1), grown).double()
    initial, raw = (memories[0].to(c_dtype), n_initial), None
    if not fused and n_value is None and can_compile(q.device, padded):
        peak_initial = m_initial.double().reshape(-1, 1)
        *raw, c_start, n_start, c_end, n_end = compiled_memory(q, k, v, *gates[:2], peak_initial, *initial)
    else:
        c_start, n_start, c_end, n_end = _states(k, v, n_value, gates, decay, *initial, scan)

    keys, ends = None, [c_end]
    if read.keys is not None:
        keys, k_end = _key_memory(read.keys, k, size, gates, decay, memories[1].double(), scan)
        ends.append(k_end)
    chunk = Chunk(q, k, v, gates, c_start, n_start, size, n_value, keys, fused, precision)
    if raw is not None:
        chunk.remember(Reading(*raw))
    numerator, n_dot_q = read.evaluate(lambda leaf: leaf.read_chunk(chunk))

    scale = chunks(logs.scale)
    h = numerator * normaliser(n_dot_q, scale).reciprocal().to(dtype)[..., None]
    h = _pad(h.reshape(heads, batch, -1, padded), (0, size - padded, 0, -missing))
    shrunk = 0, size - padded
    c_end = torch.cat([_pad(x, (*shrunk, *shrunk)).to(dtype) for x in ends], -1).unflatten(0, (heads, batch))
    n_end = _pad(n_end, shrunk).unflatten(0, (heads, batch)).to(dtype)
    m_end = logs.scale[..., -1].to(dtype, copy=True)
    return h.transpose(0, 1), c_end.transpose(0, 1), n_end.transpose(0, 1), m_end.transpose(0, 1)


def needs_host_sync(read, device: torch.device, head_size: int, length: int, precision: str) -> bool:
    """Whether the host must learn, on the way, which chunks' writes cancel: in filters, but for the fused kernels.

    Args:
        read: the read.
        device: where to compute.
        head_size: DH.
        length: S.
        precision: of float32 products in the fused kernels.
    """
    return read.precise and not can_fuse(
        device, head_size, _chunk_size(read, device, head_size, length), True, precision
    )


def _states(k, v, n_value, gates, decay, c_initial, n_initial, scan) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """C and n at the chunks' starts, (N, D, D) and (N, D), and after the last, (R, D, D) and (R, D)."""
    log_to_end = gates.log_input - gates.peak[:, -1:]
    c_added, n_added = chunk_writes(k, v, log_to_end, c_initial.dtype)
    if n_value is not None:
        n_added = ((log_to_end.exp() * n_value)[:, None] @ k.double())[:, 0]
    c_start, c_end = chunk_states(decay, c_added, c_initial, scan)
    n_start, n_end = chunk_states(decay, n_added, n_initial, scan)
    return c_start, n_start, c_end, n_end


def _key_memory(kind, k, size, gates, decay, initial, scan) -> tuple[KeyMemory, Tensor]:
    """What is kept of the keys, in float64, and how it stands at the end, (R, D, D); see `orthonar.reads.base.Read`."""
    if kind == "gated":
        left, right = k.double(), k.double() / math.sqrt(size)  # what is solved cancels: no rounding between the two
    else:
        left = right = unit_keys(k.double())[0]
        gates, decay = ChunkGates(*map(torch.zeros_like, gates)), torch.ones_like(decay)
    added, _ = chunk_writes(left, right, gates.log_input - gates.peak[:, -1:], torch.float64)
    start, end = chunk_states(decay, added, initial, scan)
    return KeyMemory(left, right, gates, start), end


def _chunk_size(read, device: torch.device, head_size: int, length: int, asked: int | None = None) -> int:
    if asked is None:
        asked = _CHUNK_FOR_FILTER if read.precise and not can_compile(device, head_size) else _CHUNK_FOR_REST
    return asked if length >= asked else length  # no `min`: `torch.compile` would carry it through all shapes


def _pad(x: Tensor, amounts: tuple[int, ...]) -> Tensor:
    """PyTorch's pad by zeros (negative amounts cut), without the copy that it makes where there is nothing to do."""
    return F.pad(x, amounts) if any(amounts) else x
