"""The mLSTM layer of the package `xlstm` (Beck et al. 2024, arXiv 2405.04517; `mLSTMLayer`), with any read and write.

Every detail, its initialisation included, follows the package, whose parameter names are kept, so that state dicts load
both ways. Reads and writes have no parameters.

Axes: B batch, S sequence, E width of the residual stream, I inner width (192 for E = 94), NH heads, DH = I / NH.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.serialization import add_safe_globals

from ..engine.backends import PRECISIONS
from ..engine.by_hand import autocast_is_on
from ..engine.chunkwise import needs_host_sync
from ..mixer import Mixer, MixerLayer
from ..reads.base import RawRead, Read
from ..settings import checked_integer, choice, integer, number, settings, variant
from .cell import FORMS, MLSTMState, mlstm_sequence
from .writes import AdditiveWrite, Write, check_write

# Pre-activations of forget gates that keep nothing and all: the exponential of either log gate is exactly 0 or 1.
_CLOSED, _OPEN = -1e4, 1e4


def small_init_std(width: int) -> float:
    """Standard deviation sqrt(2 / (5 width)) of small initial weights (Nguyen and Salazar 2019, arXiv 1910.05895).

    `xlstm` draws its projections so, and in language models the embedding too; the study's embedding is N(0, 1).

    Args:
        width: width of the residual stream; 94 gives 0.065.
    """
    return math.sqrt(2 / (5 * width))


@settings
class MLSTM(Mixer):
    """Settings of an mLSTM layer; the defaults are the study's.

    Args:
        num_heads: heads NH of the memory.
        proj_factor: inner width over the width of the residual stream; see `inner_dim`.
        conv_kernel_size: taps of the causal convolution before queries and keys.
        qkv_block_size: size of the blocks of the block-diagonal query, key and value projections.
        read: how the memory is read.
        write: how it is written.
        form: form of the cell, see `orthonar.mlstm_sequence`.
        precision: of the products in the fused kernels, likewise.

    Raises:
        ValueError: naming the setting that is impossible.
    """

    num_heads: int = integer(4, least=1)
    proj_factor: float = number(2.0, above=0, most=64)
    conv_kernel_size: int = integer(4, least=1)
    qkv_block_size: int = integer(4, least=1)
    read: Read = variant(RawRead, Read)
    write: Write = variant(AdditiveWrite, Write)
    form: str = choice("chunkwise", FORMS)
    precision: str = choice("float32", PRECISIONS)

    def __post_init__(self):
        super().__post_init__()
        check_write("write", self.write, self.read)

    def inner_dim(self, width: int) -> int:
        """Inner width I: proj_factor times the width, rounded up to a multiple of 64 as `xlstm` does."""
        return math.ceil(self.proj_factor * width / 64) * 64

    def head_size(self, width: int) -> int:
        """Size DH of a head; its memory is DH x DH."""
        return self.inner_dim(width) // self.num_heads

    def check(self, width: int) -> None:
        inner, size = self.inner_dim(width), self.head_size(width)
        if inner % self.num_heads:
            raise ValueError(f"num_heads must divide the inner width {inner}, not be {self.num_heads}")
        if size % self.qkv_block_size:
            raise ValueError(f"qkv_block_size must divide the head size {size}, not be {self.qkv_block_size}")

    def build(self, width: int, generator: torch.Generator | None = None) -> "MLSTMLayer":
        return MLSTMLayer(self, width, generator=generator)

    def needs_host_sync(self, width: int, length: int, device: torch.device) -> bool:
        # The plain form checks its decompositions.
        if self.form == "parallel" or any(leaf.waits_for_host for leaf in self.read.leaves):
            return True
        by_token = self.form == "recurrent" or self.write.sequential
        sizes = self.head_size(width), length, self.precision
        return not by_token and needs_host_sync(self.read, device, *sizes)


class LayerState(NamedTuple):
    """What the layer carries from token to token, or from one segment of a sequence to the next.

    `torch.save` writes it and `torch.load` reads it as it does tensors, once `orthonar` is imported.
    """

    conv: Tensor  #: the last inputs of the convolution, (B, conv_kernel_size - 1, I).
    memory: MLSTMState
    position: int = 0  #: how many tokens it has read, padding included.

    def detach(self) -> "LayerState":
        """The same state, through which no gradient flows: for truncated backpropagation."""
        return LayerState(self.conv.detach(), MLSTMState(*(x.detach() for x in self.memory)), self.position)

    def to(self, *args, **options) -> "LayerState":
        """The same state on another device or of another dtype; arguments as of `torch.Tensor.to`."""
        memory = MLSTMState(*(x.to(*args, **options) for x in self.memory))
        return LayerState(self.conv.to(*args, **options), memory, self.position)


add_safe_globals([LayerState, MLSTMState])


class LayerNorm(nn.Module):
    """LayerNorm without bias; its weight is stored as the difference from 1, as in `xlstm`.

    So weight decay pulls the weight towards 1, not towards 0.
    """

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def reset_parameters(self) -> None:
        """Set the weight to 1."""
        nn.init.zeros_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (..., size)."""
        return F.layer_norm(x, x.shape[-1:], 1 + self.weight, eps=1e-5)


class HeadwiseNorm(LayerNorm):
    """Normalises every head's read on its own, (B, NH, S, DH) to (B, S, I)."""

    def forward(self, h: Tensor) -> Tensor:
        """Normalise h (B, NH, S, DH)."""
        # The cell's heads come first in memory: normalised as they lie there, they are moved once.
        h = F.layer_norm(h.transpose(0, 1), h.shape[-1:], eps=1e-5)
        return h.permute(1, 2, 0, 3).flatten(2) * (1 + self.weight)


class CausalConv(nn.Module):
    """Depthwise convolution over the current and the past positions."""

    def __init__(self, size: int, kernel_size: int):
        super().__init__()
        self.conv = unset(nn.Conv1d, size, size, kernel_size, groups=size)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw taps and biases as PyTorch's convolution does, U(-b, b) with b = 1 / sqrt(kernel size)."""
        bound = 1 / math.sqrt(self.conv.kernel_size[0])
        nn.init.uniform_(self.conv.weight, -bound, bound, generator)
        nn.init.uniform_(self.conv.bias, -bound, bound, generator)

    def forward(
        self, x: Tensor, past: Tensor, sequence: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Filter the inputs of a row and those before them.

        Args:
            x: inputs, (B, S, I).
            past: the inputs before them, (B, kernel_size - 1, I); zeros at the start.
            sequence: number of the sequence that each input belongs to, (B, S), never decreasing; those before belong
                to number 0. An output sees the inputs of its own sequence alone. None: all are of one.
            lengths: how many of a row's inputs, the first ones, there really are, (B,); None is all.

        Returns:
            (B, S, I), and the past of what comes next, of the last sequence alone.
        """
        x, length = torch.cat([past, x], 1), x.shape[1]
        before = past.shape[1]
        if sequence is not None:
            sequence = torch.cat([sequence.new_zeros(len(x), before), sequence], 1)
        return self._filtered(x, sequence, length), self._last(x, sequence, lengths, before)

    def _filtered(self, x: Tensor, sequence: Tensor | None, length: int) -> Tensor:
        if sequence is not None:
            # Every output has a window of its own, in which inputs of other sequences are zero.
            size = x.shape[1] - length + 1
            windows, of = x.unfold(1, size, 1), sequence.unfold(1, size, 1)
            windows = windows.where((of == of[..., -1:])[:, :, None], 0)
            if untouched(self.conv, nn.Conv1d):
                return (windows * self.conv.weight[:, 0]).sum(-1) + self.conv.bias
            return self.conv(windows.flatten(0, 1)).reshape(len(x), length, -1)
        if not untouched(self.conv, nn.Conv1d):
            return self.conv(x.mT).mT
        # As an image of height 1: PyTorch's two-dimensional depthwise convolution is several times faster on a CPU.
        image, taps = x.mT[:, :, None], self.conv.weight[:, :, None]
        return F.conv2d(image, taps, self.conv.bias, groups=x.shape[-1])[:, :, 0].mT

    @staticmethod
    def _last(x: Tensor, sequence: Tensor | None, lengths: Tensor | None, count: int) -> Tensor:
        """The last `count` real inputs of every row, (B, count, I)."""
        if sequence is None and lengths is None:
            return x[:, x.shape[1] - count :].clone()  # a view would keep the whole segment alive
        end = x.shape[1] - count if lengths is None else lengths[:, None]
        at = (end + torch.arange(count, device=x.device)).expand(len(x), -1)
        last = x.gather(1, at[..., None].expand(-1, -1, x.shape[-1]))
        return last if sequence is None else last.where((sequence.gather(1, at) == sequence[:, -1:])[..., None], 0)


class BlockDiagonal(nn.Module):
    """Linear map without bias whose matrix is block-diagonal; the weight holds the blocks."""

    def __init__(self, size: int, block_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size // block_size, block_size, block_size))

    def forward(self, x: Tensor) -> Tensor:
        """Project x (..., size), block by block."""
        count, _, block_size = self.weight.shape
        return torch.einsum("...ni,noi->...no", x.unflatten(-1, (count, block_size)), self.weight).flatten(-2)

    def by_head(self, heads: int) -> Tensor:
        """The matrix of every head, (NH, DH, DH): a few dense products are faster than many 4 x 4 ones."""
        blocks = self.weight.unflatten(0, (heads, -1))
        _, count, block_size, _ = blocks.shape
        place = torch.eye(count, dtype=blocks.dtype, device=blocks.device)
        return (blocks[..., None, :] * place[:, None, :, None]).reshape(heads, count * block_size, -1)


class MLSTMCell(nn.Module):
    """Gates, memory and per-head normalisation."""

    def __init__(self, mixer: MLSTM, width: int):
        super().__init__()
        self.mixer, inner = mixer, mixer.inner_dim(width)
        self.igate = unset(nn.Linear, 3 * inner, mixer.num_heads)
        self.fgate = unset(nn.Linear, 3 * inner, mixer.num_heads)
        self.outnorm = HeadwiseNorm(inner)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Zero weights; input gate biases N(0, 0.1), forget gate biases from 3 to 6 over the heads, as in `xlstm`."""
        nn.init.zeros_(self.igate.weight)
        nn.init.normal_(self.igate.bias, 0, 0.1, generator)
        nn.init.zeros_(self.fgate.weight)
        bias = self.fgate.bias
        with torch.no_grad():
            bias.copy_(torch.linspace(3, 6, len(bias), dtype=bias.dtype, device=bias.device))
        self.outnorm.reset_parameters()

    def gates(self, convolved: Tensor, x: Tensor, of_q: Tensor, of_k: Tensor, of_v: Tensor) -> tuple[Tensor, Tensor]:
        """Gate pre-activations (B, NH, S) each.

        They are linear in q, k and v, and these in the convolved x and x: the small matrices are multiplied first.

        Args:
            convolved: what queries and keys are projected from, (B, S, I).
            x: what values are projected from, (B, S, I).
            of_q, of_k, of_v: the projections by head, each (NH, DH, DH).
        """
        weight, bias = torch.cat([self.igate.weight, self.fgate.weight]), torch.cat([self.igate.bias, self.fgate.bias])
        by_q, by_k, by_v = weight.unflatten(1, (3, len(of_q), -1)).permute(1, 2, 0, 3)
        of_convolved, of_x = by_q @ of_q + by_k @ of_k, by_v @ of_v
        preacts = _narrow(convolved, of_convolved.transpose(0, 1).flatten(1), bias)
        preacts = preacts + _narrow(x, of_x.transpose(0, 1).flatten(1))
        return preacts.transpose(1, 2).chunk(2, dim=1)

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        igate_preact: Tensor,
        fgate_preact: Tensor,
        form: str,
        state: MLSTMState | None,
        position: int,
        reset: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, MLSTMState]:
        """Normalised reads and the state after them.

        Args:
            q, k, v, igate_preact, fgate_preact, form, position: as of `orthonar.mlstm_sequence`.
            state: as its initial_state.
            reset: positions before which the memory is emptied, (B, S); None is nowhere.
            padding: positions that leave the memory as it is, (B, S); None is nowhere.

        Returns:
            (B, S, I), and the state.
        """
        if padding is not None:
            k = k.masked_fill(padding[:, None, :, None], 0)
            igate_preact = igate_preact.masked_fill(padding[:, None], -torch.inf)
            fgate_preact = fgate_preact.masked_fill(padding[:, None], _OPEN)
        if reset is not None and self.mixer.read.keys is None:
            k, igate_preact, fgate_preact = _emptied(k, igate_preact, fgate_preact, reset[:, None])
            reset = None
        h = []
        for start, stop, emptied in _pieces(reset, q.shape[2]):
            if emptied is not None and state is not None:
                state = MLSTMState(*(x.masked_fill(emptied.view(-1, *[1] * (x.ndim - 1)), 0) for x in state))
            part, state = mlstm_sequence(
                *(x[:, :, start:stop] for x in (q, k, v, igate_preact, fgate_preact)),
                read=self.mixer.read, write=self.mixer.write, form=form, precision=self.mixer.precision,
                initial_state=state, position=position + start, return_state=True,
            )  # fmt: skip
            h.append(part)
        return self.outnorm(h[0] if len(h) == 1 else torch.cat(h, 2)), state


def _emptied(k: Tensor, igate_preact: Tensor, fgate_preact: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and gates under which the memory is empty before some positions.

    A closed forget gate empties it. An empty memory also has the log-scale 0, which orthogonalized reads depend on: m
    becomes max(log f, i) and not i. So the input gate is that, and the key so much smaller.

    Args:
        k: (B, NH, S, DH).
        igate_preact, fgate_preact: (B, NH, S).
        reset: (B, 1, S).
    """
    kept = F.logsigmoid(fgate_preact)
    scale = torch.where(igate_preact >= kept, igate_preact, kept)  # as the cell decides where both are equal
    k = torch.where(reset[..., None], k * (igate_preact - scale).exp()[..., None], k)
    return k, torch.where(reset, scale, igate_preact), fgate_preact.masked_fill(reset, _CLOSED)


def _pieces(reset: Tensor | None, length: int) -> Iterator[tuple[int, int, Tensor | None]]:
    """Where to start and stop so that resets stand at starts alone, and the rows that are reset there, (B,).

    For reads that keep keys, which gates do not empty; the host must wait for where the resets are.
    """
    starts = [] if reset is None else reset.any(0).nonzero().flatten().tolist()
    bounds = sorted({0, *starts, length})
    for start, stop in zip(bounds, bounds[1:]):
        yield start, stop, None if reset is None else reset[:, start]


class MLSTMLayer(MixerLayer):
    """The mLSTM layer: up-projection, convolution, cell with skip, output gate, down-projection.

    With (x', z) = W_up x and c = SiLU(conv(x')): queries and keys are projected from c, values from x', gates from all
    three; y = W_down ((norm(h) + skip c) SiLU(z)), where h is what the cell reads (Beck et al. 2024, arXiv 2405.04517,
    figure 11). It has neither residual nor norm of its own: `x = x + layer(norm(x))[0]` is a block.

    Its parts are what they seem: a hook, a wrapper or a parametrization on any of them has its effect. Where q_proj,
    k_proj, v_proj and both gates are exactly as they were built, their small matrices are multiplied with each other
    first instead, and so is the convolution done another way; see `untouched`.

    Args:
        mixer: its settings.
        width: width E of the residual stream.
        generator: source of the initial weights; None is PyTorch's own.

    Raises:
        ValueError: the settings do not go with this width.
    """

    def __init__(self, mixer: MLSTM, width: int, *, generator: torch.Generator | None = None):
        super().__init__()
        mixer.check(width)
        inner = mixer.inner_dim(width)
        self.mixer, self.width = mixer, width
        self.proj_up = unset(nn.Linear, width, 2 * inner, bias=False)
        self.q_proj = BlockDiagonal(inner, mixer.qkv_block_size)
        self.k_proj = BlockDiagonal(inner, mixer.qkv_block_size)
        self.v_proj = BlockDiagonal(inner, mixer.qkv_block_size)
        self.conv1d = CausalConv(inner, mixer.conv_kernel_size)
        self.mlstm_cell = MLSTMCell(mixer, width)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = unset(nn.Linear, inner, width, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, as `xlstm` does."""
        small = small_init_std(self.width)
        for projection in (self.proj_up, self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(projection.weight, 0, small, generator)
        # Wang and Komatsuzaki 2021, for one block
        nn.init.normal_(self.proj_down.weight, 0, 2 / math.sqrt(self.width), generator)
        self.conv1d.reset_parameters(generator)
        self.mlstm_cell.reset_parameters(generator)
        nn.init.ones_(self.learnable_skip)

    def forward(
        self,
        x: Tensor,
        state: LayerState | None = None,
        *,
        reset: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """Outputs for a segment of any length, and the state after it.

        Args:
            x: inputs, (B, S, E).
            state: what this or `step` returned for what came before, or a plain tuple of its parts; None at the start.
            reset: True where a sequence starts, (B, S): what follows comes out as it does alone, neither memory nor
                convolution knowing what was before. None: nowhere.
            padding: True at positions that are not there, (B, S), anywhere in a row: the others come out as if alone.
                A reset there holds for what follows. None: nowhere.

        Returns:
            (B, S, E) and the new state.

        Raises:
            ValueError: naming the argument whose shape, dtype or kind does not fit.
        """
        return self._advance(x, self.mixer.form, state, reset, padding)

    def step(
        self, x: Tensor, state: LayerState | None = None, *, reset: Tensor | None = None
    ) -> tuple[Tensor, LayerState]:
        """The same for one position, x (B, 1, E), by the recurrence; reset (B, 1)."""
        return self._advance(x, "recurrent", state, reset, None)

    def _advance(
        self, x: Tensor, form: str, state: LayerState | None, reset: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        state = self._checked(x, state, reset, padding)
        sequence = None if reset is None else reset.cumsum(1)
        back = lengths = None
        if padding is not None:
            # What is there moves to the front of each row, so that it follows the state, and back in the end.
            order = padding.byte().argsort(dim=1, stable=True)
            back = order.argsort(1)
            x = _moved(x.masked_fill(padding[..., None], 0), order)
            padding, lengths = padding.gather(1, order), (~padding).sum(1)
            if sequence is not None:
                sequence = torch.where(padding, sequence[:, -1:], sequence.gather(1, order))
                reset = sequence.diff(dim=1, prepend=torch.zeros_like(sequence[:, :1])) > 0
        x, z = self.proj_up(x).chunk(2, dim=-1)
        past = x.new_zeros(len(x), self.mixer.conv_kernel_size - 1, x.shape[-1]) if state is None else state.conv
        convolved, conv_state = self.conv1d(x, past, sequence, lengths)
        convolved = F.silu(convolved)
        q, k, v, *gates = self._projected(convolved, x)
        memory, position = (None, 0) if state is None else (state.memory, state.position)
        h, memory = self.mlstm_cell(q, k, v, *gates, form, memory, position, reset, padding)
        h = (h + self.learnable_skip * convolved) * F.silu(z)
        y, state = self.proj_down(h), LayerState(conv_state, memory, position + q.shape[2])
        return (y if back is None else _moved(y, back)), state

    def _projected(self, convolved: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, NH, S, DH), gate pre-activations (B, NH, S)."""
        heads, cell = self.mixer.num_heads, self.mlstm_cell
        projections = self.q_proj, self.k_proj, self.v_proj
        plain = all(untouched(p, BlockDiagonal) for p in projections)
        if plain and untouched(cell.igate, nn.Linear) and untouched(cell.fgate, nn.Linear):
            of_q, of_k, of_v = (p.by_head(heads) for p in projections)
            q, k, v = _headwise(convolved, of_q), _headwise(convolved, of_k), _headwise(x, of_v)
            return q, k, v, *cell.gates(convolved, x, of_q, of_k, of_v)
        q, k, v = self.q_proj(convolved), self.k_proj(convolved), self.v_proj(x)
        of_all = torch.cat([q, k, v], -1)
        gates = (gate(of_all).mT for gate in (cell.igate, cell.fgate))
        return *(y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v)), *gates

    def _checked(
        self, x: Tensor, state: LayerState | None, reset: Tensor | None, padding: Tensor | None
    ) -> LayerState | None:
        """The state, as a `LayerState`; ValueError naming the argument that does not fit."""
        shape, like = f"(B, S, {self.width}), none of them 0", self.learnable_skip
        if not isinstance(x, Tensor):
            raise ValueError(f"x must be a tensor {shape}, not {_kind(x)}")
        if x.ndim != 3 or x.shape[2] != self.width or 0 in x.shape:
            raise ValueError(f"x must have the shape {shape}, not {tuple(x.shape)}")
        exact = not autocast_is_on(x.device)  # autocast changes dtypes as it likes
        if not x.is_floating_point() or (exact and x.dtype != like.dtype):
            raise ValueError(f"x must be {like.dtype} like the layer's weights, not {x.dtype}")
        if x.device != like.device:
            raise ValueError(f"x must be on {like.device} like the layer's weights, not on {x.device}")
        check_mask("reset", reset, x)
        check_mask("padding", padding, x)
        period = self.mixer.write.period
        if padding is not None and period is not None or reset is not None and period not in (None, 1):
            name = "reset" if padding is None else "padding"
            raise ValueError(f"{name}: {self.mixer.write} counts positions, the same ones in all rows")
        return None if state is None else self._checked_state(state, x, exact)

    def _checked_state(self, state: LayerState, x: Tensor, exact: bool) -> LayerState:
        wanted = "state must be a LayerState (conv, memory, position), as this layer returned it"
        if not isinstance(state, tuple | list) or not 2 <= len(state) <= 3:
            raise ValueError(f"{wanted}, not {_kind(state)}")
        conv, memory, position = (*state, 0)[:3]
        parts = memory if isinstance(memory, tuple | list) else ()
        if len(parts) != 3 or not all(isinstance(part, Tensor) for part in (conv, *parts)):
            raise ValueError(f"{wanted}, not {_kind(state)} of {', '.join(map(_kind, state))}")
        heads, inner, batch = self.mixer.num_heads, len(self.learnable_skip), len(x)
        size = inner // heads
        columns = size if self.mixer.read.keys is None else 2 * size
        shapes = {
            "conv": (batch, self.mixer.conv_kernel_size - 1, inner),
            "memory.c_state": (batch, heads, size, columns),
            "memory.n_state": (batch, heads, size),
            "memory.m_state": (batch, heads),
        }
        for (name, shape), part in zip(shapes.items(), (conv, *parts)):
            if part.shape != shape:
                raise ValueError(f"state.{name} must have the shape {shape}, not {tuple(part.shape)}")
            # A memory may be kept more exactly than 16 bits.
            dtypes = {x.dtype} if name == "conv" or x.dtype.itemsize > 2 else {x.dtype, torch.float32}
            if exact and part.dtype not in dtypes or part.device != x.device:
                raise ValueError(
                    f"state.{name} must be {x.dtype} on {x.device} like x, not {part.dtype} on {part.device}"
                )
        return LayerState(conv, MLSTMState(*parts), checked_integer("state.position", position, 0))


def check_mask(name: str, mask: Tensor | None, like: Tensor) -> None:
    """ValueError if a mask is neither None nor of booleans (B, S), on the device of a tensor (B, S, ...)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a tensor of torch.bool, not {_kind(mask)}")
    if mask.shape != like.shape[:2]:
        raise ValueError(f"{name} must have the shape {tuple(like.shape[:2])}, not {tuple(mask.shape)}")
    if mask.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, not on {mask.device}")


def _kind(value: object) -> str:
    """What a value is, for an error."""
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _moved(x: Tensor, order: Tensor) -> Tensor:
    """The positions of x (B, S, E) in the order (B, S) of each row."""
    return x.gather(1, order[..., None].expand_as(x))


def untouched(module: nn.Module, kind: type[nn.Module]) -> bool:
    """Whether a module does what its class does and nothing else, so that another way to the same may be taken.

    It is exactly of that class (a parametrization or a wrapper makes it another one) and has neither hooks (pruning and
    `weight_norm` are such) nor a forward of its own. Hooks that PyTorch holds for all modules at once do not count.

    Args:
        module: the module.
        kind: the class.
    """
    hooks = module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks
    return type(module) is kind and not any(hooks) and "forward" not in vars(module)


def by_sequence(device: torch.device) -> bool:
    """Whether small matrices are multiplied with each sequence by itself, here or on some device.

    Their gradients are sums over all positions of the batch. A CPU takes them in one product; a GPU, which gives every
    result to one of its processors, leaves the others idle, and takes a sum of one product a sequence: of a training
    step of the raw read on an H100 the one product was 40 %.
    """
    return device.type == "cuda"


def _narrow(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (B, S, I) times the transpose of a weight of few rows (O, I), and the bias (O)."""
    if not by_sequence(x.device):
        return F.linear(x, weight, bias)
    y = x @ weight.mT.expand(len(x), -1, -1)
    return y if bias is None else y + bias


def _headwise(x: Tensor, maps: Tensor) -> Tensor:
    """Project x (B, S, I) head by head with maps (NH, DH, DH); (B, NH, S, DH), in memory heads first."""
    if by_sequence(x.device):
        return (x.unflatten(-1, (len(maps), -1)).permute(2, 0, 1, 3) @ maps.mT[:, None]).transpose(0, 1)
    heads = x.flatten(0, 1).unflatten(-1, (len(maps), -1)).transpose(0, 1)
    return (heads @ maps.mT).unflatten(1, x.shape[:2]).transpose(0, 1)


def unset(module: type[nn.Module], *args, **options) -> nn.Module:
    """A PyTorch module on the device and dtype in force whose weights are yet to be drawn.

    Args:
        module: its class.
        args, options: of its constructor.
    """
    built = module(*args, **options, device="meta")
    for name, parameter in list(built.named_parameters(recurse=False)):
        setattr(built, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    return built
