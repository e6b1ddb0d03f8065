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

from ..engine.backends import PRECISIONS
from ..engine.chunkwise import needs_host_sync
from ..mixer import Mixer, MixerLayer
from ..reads.base import RawRead, Read
from ..settings import choice, integer, number, settings, variant
from .cell import FORMS, MLSTMState, mlstm_sequence
from .writes import AdditiveWrite, Write, check_write


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
    """What the layer carries from token to token."""

    conv: Tensor  #: the last inputs of the convolution, (B, conv_kernel_size - 1, I).
    memory: MLSTMState
    position: int = 0  #: how many tokens it has read.


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

    def forward(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """Filter x (B, S, I) that follows past (B, kernel_size - 1, I); also returns the past of what comes next."""
        x = torch.cat([past, x], 1)
        past = x[:, x.shape[1] - past.shape[1] :]
        # As an image of height 1: PyTorch's two-dimensional depthwise convolution is several times faster on a CPU.
        image, taps = x.mT[:, :, None], self.conv.weight[:, :, None]
        return F.conv2d(image, taps, self.conv.bias, groups=x.shape[-1])[:, :, 0].mT, past


class BlockDiagonal(nn.Module):
    """Linear map without bias whose matrix is block-diagonal; the weight holds the blocks."""

    def __init__(self, size: int, block_size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size // block_size, block_size, block_size))

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

    def forward(self, q, k, v, igate_preact, fgate_preact, form: str, state: MLSTMState | None, position: int):
        """Normalised reads (B, S, I), and the state after them; arguments as of `orthonar.mlstm_sequence`."""
        h, state = mlstm_sequence(
            q, k, v, igate_preact, fgate_preact,
            read=self.mixer.read, write=self.mixer.write, form=form, precision=self.mixer.precision,
            initial_state=state, position=position, return_state=True,
        )  # fmt: skip
        return self.outnorm(h), state


class MLSTMLayer(MixerLayer):
    """The mLSTM layer: up-projection, convolution, cell with skip, output gate, down-projection.

    Args:
        mixer: its settings.
        width: width E of the residual stream.
        generator: source of the initial weights; None is PyTorch's own.
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

    def forward(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        return self._advance(x, self.mixer.form, state)

    def step(self, x: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        return self._advance(x, "recurrent", state)

    def _advance(self, x: Tensor, form: str, state: LayerState | None) -> tuple[Tensor, LayerState]:
        x, z = self.proj_up(x).chunk(2, dim=-1)
        past = x.new_zeros(len(x), self.mixer.conv_kernel_size - 1, x.shape[-1]) if state is None else state.conv
        convolved, conv_state = self.conv1d(x, past)
        convolved = F.silu(convolved)
        of_q, of_k, of_v = (p.by_head(self.mixer.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = _headwise(convolved, of_q), _headwise(convolved, of_k), _headwise(x, of_v)
        gates = self.mlstm_cell.gates(convolved, x, of_q, of_k, of_v)
        memory, position = (None, 0) if state is None else (state.memory, state.position)
        h, memory = self.mlstm_cell(q, k, v, *gates, form, memory, position)
        h = (h + self.learnable_skip * convolved) * F.silu(z)
        return self.proj_down(h), LayerState(conv_state, memory, position + q.shape[2])


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
    return module(*args, **options, device="meta").to_empty(device=torch.get_default_device())
