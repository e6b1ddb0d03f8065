"""The mLSTM layer of the package `xlstm` (Beck et al. 2024, arXiv 2405.04517; `mLSTMLayer`), with any read and write.

Every detail, its initialisation included, follows the package, whose parameter names are kept, so that state dicts load
both ways. Reads and writes have no parameters.

Axes: B batch, S sequence, E width of the residual stream, I inner width (192 for E = 94), NH heads, DH = I / NH.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.serialization import add_safe_globals

from ..engine.backends import PRECISIONS
from ..engine.chunkwise import needs_host_sync
from ..mixer import Mixer, MixerLayer
from ..reads.base import RawRead, Read
from ..settings import checked_integer, checked_kind, choice, integer, number, settings, variant
from .cell import FORMS, MLSTMState, mlstm_sequence
from .parts import (
    BlockDiagonal,
    CausalConv,
    HeadwiseNorm,
    narrow,
    small_init_std,
    unset,
    untouched,
)
from .rows import OPEN, check_inputs, check_mask, check_part, emptied, in_front, kind_of, moved, pieces
from .writes import AdditiveWrite, Write, check_write


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
        for leaf in self.read.leaves:
            leaf.check()

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
        return LayerState(self.conv.detach(), self.memory.detach(), self.position)

    def to(self, *args, **options) -> "LayerState":
        """The same state on another device or of another dtype; arguments as of `torch.Tensor.to`."""
        return LayerState(self.conv.to(*args, **options), self.memory.to(*args, **options), self.position)


add_safe_globals([LayerState, MLSTMState])


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
        preacts = narrow(convolved, of_convolved.transpose(0, 1).flatten(1), bias)
        preacts = preacts + narrow(x, of_x.transpose(0, 1).flatten(1))
        igate_preact, fgate_preact = preacts.transpose(1, 2).chunk(2, dim=1)
        return igate_preact, fgate_preact

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
            fgate_preact = fgate_preact.masked_fill(padding[:, None], OPEN)
        if reset is not None and self.mixer.read.keys is None:
            k, igate_preact, fgate_preact = emptied(k, igate_preact, fgate_preact, reset[:, None])
            reset = None
        h: list[Tensor] = []
        for start, stop, rows in pieces(reset, q.shape[2]):
            if rows is not None and state is not None:
                state = MLSTMState(*(x.masked_fill(rows.view(-1, *[1] * (x.ndim - 1)), 0) for x in state))
            part, state = mlstm_sequence(
                *(x[:, :, start:stop] for x in (q, k, v, igate_preact, fgate_preact)),
                read=self.mixer.read, write=self.mixer.write, form=form, precision=self.mixer.precision,
                initial_state=state, position=position + start, return_state=True,
            )  # fmt: skip
            h.append(part)
        assert state is not None  # there is at least one piece
        return self.outnorm(h[0] if len(h) == 1 else torch.cat(h, 2)), state


class MLSTMLayer(MixerLayer):
    """The mLSTM layer: up-projection, convolution, cell with skip, output gate, down-projection.

    With (x', z) = W_up x and c = SiLU(conv(x')): queries and keys are projected from c, values from x', gates from all
    three; y = W_down ((norm(h) + skip c) SiLU(z)), where h is what the cell reads (Beck et al. 2024, arXiv 2405.04517,
    figure 11). It has neither residual nor norm of its own: `x = x + layer(norm(x))[0]` is a block.

    Its parts are what they seem: a hook, a wrapper or a parametrization on any of them has its effect. Where q_proj,
    k_proj, v_proj and both gates are exactly as they were built, `forward` multiplies their small matrices with each
    other first instead, and so is the convolution done another way; see `untouched`.

    Args:
        mixer: its settings.
        width: width E of the residual stream.
        generator: source of the initial weights; None is PyTorch's own.

    Raises:
        ValueError: mixer or width is none, or the settings do not go with this width.
    """

    def __init__(self, mixer: MLSTM, width: int, *, generator: torch.Generator | None = None):
        super().__init__()
        mixer, width = checked_kind("mixer", mixer, MLSTM), checked_integer("width", width, 1)
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
        """The same for one position, by the recurrence.

        Args:
            x: input, (B, 1, E).
            state: as of `forward`.
            reset: whether the position begins a sequence of its own, (B, 1), boolean; None: it does not.
        """
        return self._advance(x, "recurrent", state, reset, None)

    def _advance(
        self, x: Tensor, form: str, state: LayerState | None, reset: Tensor | None, padding: Tensor | None
    ) -> tuple[Tensor, LayerState]:
        state = self._checked(x, state, reset, padding)
        sequence = None if reset is None else reset.cumsum(1)
        back = lengths = None
        if padding is not None:
            lengths = (~padding).sum(1)
            x, padding, sequence, back = in_front(x, padding, sequence)
            if sequence is not None:
                reset = sequence.diff(dim=1, prepend=torch.zeros_like(sequence[:, :1])) > 0
        x, z = self.proj_up(x).chunk(2, dim=-1)
        past = x.new_zeros(len(x), self.mixer.conv_kernel_size - 1, x.shape[-1]) if state is None else state.conv
        # What no form can differentiate twice need not be made of what can be.
        once = form == "chunkwise" and not self.mixer.write.sequential
        options = {"once": True} if once and isinstance(self.conv1d, CausalConv) else {}
        convolved, conv_state = self.conv1d(x, past, sequence, lengths, **options)
        convolved = F.silu(convolved)
        q, k, v, *gates = self._projected(convolved, x, form, once)
        memory, position = (None, 0) if state is None else (state.memory, state.position)
        h, memory = self.mlstm_cell(q, k, v, *gates, form, memory, position, reset, padding)
        h = (h + self.learnable_skip * convolved) * F.silu(z)
        y, state = self.proj_down(h), LayerState(conv_state, memory, position + q.shape[2])
        return (y if back is None else moved(y, back)), state

    def _projected(self, convolved: Tensor, x: Tensor, form: str, once: bool) -> tuple[Tensor, ...]:
        """Queries, keys and values (B, NH, S, DH), gate pre-activations (B, NH, S); once as of `CausalConv.forward`."""
        heads, cell = self.mixer.num_heads, self.mlstm_cell
        projections = self.q_proj, self.k_proj, self.v_proj
        # The small matrices cost more to multiply with each other than with a single token.
        plain = form != "recurrent" and all(untouched(p, BlockDiagonal) for p in projections)
        if plain and all(untouched(gate, nn.Linear) and gate.bias is not None for gate in (cell.igate, cell.fgate)):
            q, k, v = (p.projected(y, heads, once) for p, y in zip(projections, (convolved, convolved, x)))
            return q, k, v, *cell.gates(convolved, x, *(p.by_head(heads) for p in projections))
        q, k, v = self.q_proj(convolved), self.k_proj(convolved), self.v_proj(x)
        of_all = torch.cat([q, k, v], -1)
        gates = (gate(of_all).mT for gate in (cell.igate, cell.fgate))
        return *(y.unflatten(-1, (heads, -1)).transpose(1, 2) for y in (q, k, v)), *gates

    def _checked(
        self, x: Tensor, state: LayerState | None, reset: Tensor | None, padding: Tensor | None
    ) -> LayerState | None:
        """The state, as a `LayerState`; ValueError naming the argument that does not fit."""
        exact = check_inputs(x, self.width, self.learnable_skip)
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
            raise ValueError(f"{wanted}, not {kind_of(state)}")
        conv, memory, position = (*state, 0)[:3]
        parts = memory if isinstance(memory, tuple | list) else ()
        if len(parts) != 3 or not all(isinstance(part, Tensor) for part in (conv, *parts)):
            raise ValueError(f"{wanted}, not {kind_of(state)} of {', '.join(map(kind_of, state))}")
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
            # A memory may be kept more exactly than 16 bits.
            dtypes = {x.dtype} if name == "conv" or x.dtype.itemsize > 2 else {x.dtype, torch.float32}
            check_part(name, part, shape, x, dtypes if exact else None)
        return LayerState(conv, MLSTMState(*parts), checked_integer("state.position", position, 0))
