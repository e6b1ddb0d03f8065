"""The study's model: embedding, one mLSTM layer between LayerNorms with a residual, linear head.

Every detail of the layer, its initialisation included, follows the package `xlstm` (Beck et al. 2024, arXiv 2405.04517;
`mLSTMLayer`), whose parameter names are kept, so that state dicts load both ways. Embedding and head are the study's:
plain `torch.nn.Embedding` and `torch.nn.Linear`. Reads and writes have no parameters: a baseline's state dict loads
into a model with any other.

Axes: B batch, S sequence, V vocabulary, E embedding, I inner width (192 for E = 94), NH heads, DH = I / NH.
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .mlstm.cell import MLSTMState, check_form, check_precision, mlstm_sequence
from .mlstm.writes import AdditiveWrite, Write, check_write
from .reads.base import RawRead, Read, check_read
from .settings import checked_integer, checked_positive


def small_init_std(width: int) -> float:
    """Standard deviation sqrt(2 / (5 width)) of small initial weights (Nguyen and Salazar 2019, arXiv 1910.05895).

    `xlstm` draws its projections so, and in language models the embedding too; the study's embedding is N(0, 1).

    Args:
        width: size of the residual stream; 94 gives 0.065.
    """
    return math.sqrt(2 / (5 * width))


@dataclass(frozen=True)
class MLSTMConfig:
    """Sizes of the model; the defaults are the study's at vocabulary 80.

    Args:
        vocab_size: number of tokens V.
        embedding_dim: width E of the residual stream.
        num_heads: heads NH of the memory.
        proj_factor: inner width over embedding width; see `inner_dim`.
        conv_kernel_size: taps of the causal convolution before queries and keys.
        qkv_block_size: size of the blocks of the block-diagonal query, key and value projections.
        embedding_std: standard deviation of the initial embedding. It decides the outcome on the study's task: what the
            layer adds to the residual stream starts small beside an embedding of 1 and large beside one of 0.065.
        read: how the memory is read.
        write: how it is written.
        form: form of the cell, see `orthonar.mlstm_sequence`.
        precision: of the products in the fused programs, likewise.

    Raises:
        ValueError: naming the setting that is impossible.
    """

    vocab_size: int = 80
    embedding_dim: int = 94
    num_heads: int = 4
    proj_factor: float = 2.0
    conv_kernel_size: int = 4
    qkv_block_size: int = 4
    embedding_std: float = 1.0
    read: Read = field(default_factory=RawRead)
    write: Write = field(default_factory=AdditiveWrite)
    form: str = "chunkwise"
    precision: str = "float32"

    def __post_init__(self):
        for name in ("vocab_size", "embedding_dim", "num_heads", "conv_kernel_size", "qkv_block_size"):
            object.__setattr__(self, name, checked_integer(name, getattr(self, name), 1))
        if not 0 < self.proj_factor < math.inf:
            raise ValueError(f"proj_factor must be positive and finite, not {self.proj_factor!r}")
        if self.inner_dim % self.num_heads:
            raise ValueError(f"num_heads must divide the inner width {self.inner_dim}, not be {self.num_heads}")
        if self.head_size % self.qkv_block_size:
            raise ValueError(f"qkv_block_size must divide the head size {self.head_size}, not be {self.qkv_block_size}")
        object.__setattr__(self, "embedding_std", checked_positive("embedding_std", self.embedding_std))
        check_read("read", self.read)
        check_write("write", self.write, self.read)
        check_form(self.form)
        check_precision(self.precision)

    @property
    def inner_dim(self) -> int:
        """Inner width I: proj_factor times embedding_dim, rounded up to a multiple of 64 as `xlstm` does."""
        return math.ceil(self.proj_factor * self.embedding_dim / 64) * 64

    @property
    def head_size(self) -> int:
        """Size DH of a head; its memory is DH x DH."""
        return self.inner_dim // self.num_heads


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

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], 1 + self.weight, eps=1e-5)


class HeadwiseNorm(nn.Module):
    """Normalises every head's read on its own, (B, NH, S, DH) to (B, S, I); weight stored as its difference from 1."""

    def __init__(self, size: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))

    def forward(self, h: Tensor) -> Tensor:
        # The cell's heads come first in memory: normalised as they lie there, they are moved once.
        h = F.layer_norm(h.transpose(0, 1), h.shape[-1:], eps=1e-5)
        return h.permute(1, 2, 0, 3).flatten(2) * (1 + self.weight)


class CausalConv(nn.Module):
    """Depthwise convolution over the current and the past positions."""

    def __init__(self, size: int, kernel_size: int):
        super().__init__()
        self.conv = nn.Conv1d(size, size, kernel_size, groups=size, device="meta").to_empty(device="cpu")

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

    def __init__(self, config: MLSTMConfig):
        super().__init__()
        self.config = config
        self.igate = nn.Linear(3 * config.inner_dim, config.num_heads, device="meta").to_empty(device="cpu")
        self.fgate = nn.Linear(3 * config.inner_dim, config.num_heads, device="meta").to_empty(device="cpu")
        self.outnorm = HeadwiseNorm(config.inner_dim)

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
        preacts = F.linear(convolved, of_convolved.transpose(0, 1).flatten(1), bias)
        preacts = preacts + F.linear(x, of_x.transpose(0, 1).flatten(1))
        return preacts.transpose(1, 2).chunk(2, dim=1)

    def forward(self, q, k, v, igate_preact, fgate_preact, form: str, state: MLSTMState | None, position: int):
        """Normalised reads (B, S, I), and the state after them; arguments as of `orthonar.mlstm_sequence`."""
        h, state = mlstm_sequence(
            q, k, v, igate_preact, fgate_preact,
            read=self.config.read, write=self.config.write, form=form, precision=self.config.precision,
            initial_state=state, position=position, return_state=True,
        )  # fmt: skip
        return self.outnorm(h), state


class MLSTMLayer(nn.Module):
    """The mLSTM layer: up-projection, convolution, cell with skip, output gate, down-projection."""

    def __init__(self, config: MLSTMConfig):
        super().__init__()
        inner = config.inner_dim
        self.config = config
        self.proj_up = nn.Linear(config.embedding_dim, 2 * inner, bias=False, device="meta").to_empty(device="cpu")
        self.q_proj = BlockDiagonal(inner, config.qkv_block_size)
        self.k_proj = BlockDiagonal(inner, config.qkv_block_size)
        self.v_proj = BlockDiagonal(inner, config.qkv_block_size)
        self.conv1d = CausalConv(inner, config.conv_kernel_size)
        self.mlstm_cell = MLSTMCell(config)
        self.learnable_skip = nn.Parameter(torch.ones(inner))
        self.proj_down = nn.Linear(inner, config.embedding_dim, bias=False, device="meta").to_empty(device="cpu")

    def forward(self, x: Tensor, form: str, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Outputs (B, S, E) for inputs (B, S, E), and the state after them."""
        x, z = self.proj_up(x).chunk(2, dim=-1)
        past = x.new_zeros(len(x), self.config.conv_kernel_size - 1, x.shape[-1]) if state is None else state.conv
        convolved, conv_state = self.conv1d(x, past)
        convolved = F.silu(convolved)
        of_q, of_k, of_v = (p.by_head(self.config.num_heads) for p in (self.q_proj, self.k_proj, self.v_proj))
        q, k, v = _headwise(convolved, of_q), _headwise(convolved, of_k), _headwise(x, of_v)
        gates = self.mlstm_cell.gates(convolved, x, of_q, of_k, of_v)
        memory, position = (None, 0) if state is None else (state.memory, state.position)
        h, memory = self.mlstm_cell(q, k, v, *gates, form, memory, position)
        h = (h + self.learnable_skip * convolved) * F.silu(z)
        return self.proj_down(h), LayerState(conv_state, memory, position + q.shape[2])


def _headwise(x: Tensor, maps: Tensor) -> Tensor:
    """Project x (B, S, I) head by head with maps (NH, DH, DH); (B, NH, S, DH), in memory heads first."""
    heads = x.flatten(0, 1).unflatten(-1, (len(maps), -1)).transpose(0, 1)
    return (heads @ maps.mT).unflatten(1, x.shape[:2]).transpose(0, 1)


class MLSTMModel(nn.Module):
    """The study's one-block model: 77,716 parameters with the defaults, the same for every read and write.

    logits = head(post_norm(x + layer(norm(x)))), x = embedding(tokens).

    Args:
        config: sizes, read, write and form.
        generator: source of the initial weights; None draws a fresh seed. The global random state is left alone.
    """

    def __init__(self, config: MLSTMConfig | None = None, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config = MLSTMConfig() if config is None else config
        width = config.embedding_dim
        self.embedding = nn.Embedding(config.vocab_size, width, device="meta").to_empty(device="cpu")
        self.norm = LayerNorm(width)
        self.layer = MLSTMLayer(config)
        self.post_norm = LayerNorm(width)
        self.head = nn.Linear(width, config.vocab_size, device="meta").to_empty(device="cpu")
        self.reset_parameters(generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, S, V) for tokens (B, S)."""
        return self._advance(tokens, self.config.form, None)[0]

    def step(self, token: Tensor, state: LayerState | None = None) -> tuple[Tensor, LayerState]:
        """Logits after one more token, from a state whose size does not depend on how many came before.

        Args:
            token: the next token of every row, (B,).
            state: what `step` returned before; None at the start.

        Returns:
            logits (B, V) and the new state; the same logits as `forward` gives at this position.
        """
        if token.ndim != 1:
            raise ValueError(f"token must be (B,), one token a row, not {tuple(token.shape)}")
        logits, state = self._advance(token[:, None], "recurrent", state)
        return logits[:, 0], state

    def state_after(self, tokens: Tensor) -> LayerState:
        """What the model carries on from tokens (B, S), to `step` or to be looked at."""
        return self._advance(tokens, self.config.form, None)[1]

    def _advance(self, tokens: Tensor, form: str, state: LayerState | None) -> tuple[Tensor, LayerState]:
        x = self.embedding(tokens)
        y, state = self.layer(self.norm(x), form, state)
        return self.head(self.post_norm(x + y)), state

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew, the layer as `xlstm` does, embedding and head as the study does."""
        if generator is None:
            generator = torch.Generator()
            generator.seed()
        width, layer = self.config.embedding_dim, self.layer
        cell = layer.mlstm_cell
        small = small_init_std(width)
        self.embedding.weight.normal_(0, self.config.embedding_std, generator=generator)
        for weight in (
            layer.proj_up.weight,
            layer.q_proj.weight,
            layer.k_proj.weight,
            layer.v_proj.weight,
        ):
            weight.normal_(0, small, generator=generator)
        layer.proj_down.weight.normal_(0, 2 / math.sqrt(width), generator=generator)  # Wang and Komatsuzaki 2021
        conv = 1 / math.sqrt(self.config.conv_kernel_size)
        for parameter in (layer.conv1d.conv.weight, layer.conv1d.conv.bias):
            parameter.uniform_(-conv, conv, generator=generator)
        cell.igate.weight.zero_()
        cell.igate.bias.normal_(0, 0.1, generator=generator)
        cell.fgate.weight.zero_()
        cell.fgate.bias.copy_(torch.linspace(3, 6, self.config.num_heads))
        layer.learnable_skip.fill_(1)
        for norm in (self.norm, self.post_norm, cell.outnorm):
            norm.weight.zero_()
        head = 1 / math.sqrt(width)
        for parameter in (self.head.weight, self.head.bias):
            parameter.uniform_(-head, head, generator=generator)
