"""What the mLSTM layer is built of: norms, the convolution, block-diagonal projections; how small matrices multiply.

Their parameters have the names and shapes of those in the package `xlstm` (Beck et al. 2024, arXiv 2405.04517).

Axes: B batch, S sequence, I inner width, NH heads, DH head size.
"""

import math
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..engine.backends import can_compile_blocks, can_compile_maps, compiled_blocks, compiled_convolution

_Module = TypeVar("_Module", bound=nn.Module)


def small_init_std(width: int) -> float:
    """Standard deviation sqrt(2 / (5 width)) of small initial weights (Nguyen and Salazar 2019, arXiv 1910.05895).

    `xlstm` draws its projections so, and in language models the embedding too; the study's embedding is N(0, 1).

    Args:
        width: width of the residual stream; 94 gives 0.065.
    """
    return math.sqrt(2 / (5 * width))


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
        assert self.conv.bias is not None  # as it is built
        nn.init.uniform_(self.conv.bias, -bound, bound, generator)

    def forward(
        self,
        x: Tensor,
        past: Tensor,
        sequence: Tensor | None = None,
        lengths: Tensor | None = None,
        once: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Filter the inputs of a row and those before them.

        Args:
            x: inputs, (B, S, I).
            past: the inputs before them, (B, kernel_size - 1, I); zeros at the start.
            sequence: number of the sequence that each input belongs to, (B, S), never decreasing; those before belong
                to number 0. An output sees the inputs of its own sequence alone. None: all are of one.
            lengths: how many of a row's inputs, the first ones, there really are, (B,); None is all.
            once: whether all this is differentiated once at most, so that compiled loops may do it.

        Returns:
            (B, S, I), and the past of what comes next, of the last sequence alone.

        Raises:
            ValueError: a module in the convolution's place gives another shape.
        """
        x, length = torch.cat([past, x], 1), x.shape[1]
        before = past.shape[1]
        if sequence is not None:
            sequence = torch.cat([sequence.new_zeros(len(x), before), sequence], 1)
        return self._filtered(x, sequence, length, once), self._last(x, sequence, lengths, before)

    def _filtered(self, x: Tensor, sequence: Tensor | None, length: int, once: bool) -> Tensor:
        if sequence is not None:
            # Every output has a window of its own, in which inputs of other sequences are zero.
            size = x.shape[1] - length + 1
            windows, of = x.unfold(1, size, 1), sequence.unfold(1, size, 1)
            windows = windows.where((of == of[..., -1:])[:, :, None], 0)
            if self._is_depthwise(*windows.shape[-2:]):
                filtered = (windows * self.conv.weight[:, 0]).sum(-1)
                return filtered if self.conv.bias is None else filtered + self.conv.bias
            return self._called(windows.flatten(0, 1), 1).reshape(len(x), length, -1)
        if not self._is_depthwise(x.shape[-1], x.shape[1] - length + 1):
            return self._called(x.mT, length).mT
        taps, bias = self.conv.weight[:, 0], self.conv.bias
        if length == 1:  # a token: a convolution's call costs more than its arithmetic
            filtered = (x * taps.mT).sum(1, keepdim=True)
            return filtered if bias is None else filtered + bias
        if once and bias is not None and can_compile_maps(x, taps, bias):
            return compiled_convolution(x, taps, bias)
        # As an image of height 1: PyTorch's two-dimensional depthwise convolution is several times faster on a CPU.
        return F.conv2d(x.mT[:, :, None], taps[:, None, None], bias, groups=x.shape[-1])[:, :, 0].mT

    def _is_depthwise(self, size: int, kernel_size: int) -> bool:
        """Whether the convolution is `untouched`, and of the kind that was built: its taps can be used without it."""
        conv = self.conv
        return (
            untouched(conv, nn.Conv1d)
            and conv.in_channels == conv.out_channels == conv.groups == size
            and conv.kernel_size == (kernel_size,)
            and conv.stride == conv.dilation == (1,)
            and conv.padding == (0,)
        )

    def _called(self, x: Tensor, length: int) -> Tensor:
        """What a module in the convolution's place makes of (N, I, length + kernel_size - 1), (N, I, length)."""
        filtered, wanted = self.conv(x), (*x.shape[:2], length)
        if filtered.shape != wanted:
            raise ValueError(f"conv1d.conv must make {wanted} of {tuple(x.shape)}, not {tuple(filtered.shape)}")
        return filtered

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

    def projected(self, x: Tensor, heads: int, once: bool) -> Tensor:
        """Project x (B, S, size) to (B, NH, S, DH), in memory heads first, by the fastest way there is.

        Args:
            x: what is projected.
            heads: NH.
            once: whether it is differentiated once at most, so that compiled loops may do it.
        """
        if once and can_compile_blocks(x, self.weight, heads):
            return compiled_blocks(x, self.weight, heads)
        return headwise(x, self.by_head(heads))

    def by_head(self, heads: int) -> Tensor:
        """The matrix of every head, (NH, DH, DH): a few dense products are faster than many 4 x 4 ones."""
        blocks = self.weight.unflatten(0, (heads, -1))
        _, count, block_size, _ = blocks.shape
        place = torch.eye(count, dtype=blocks.dtype, device=blocks.device)
        return (blocks[..., None, :] * place[:, None, :, None]).reshape(heads, count * block_size, -1)


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


def narrow(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """What a linear map to few numbers makes of every position.

    Args:
        x: (B, S, I).
        weight: (O, I).
        bias: (O,); None is none.

    Returns:
        (B, S, O).
    """
    if not by_sequence(x.device):
        return F.linear(x, weight, bias)
    y = x @ weight.mT.expand(len(x), -1, -1)
    return y if bias is None else y + bias


def headwise(x: Tensor, maps: Tensor) -> Tensor:
    """What every head's own linear map makes of its part of every position.

    Args:
        x: (B, S, I).
        maps: (NH, DH, DH).

    Returns:
        (B, NH, S, DH), in memory heads first.
    """
    if by_sequence(x.device):
        return (x.unflatten(-1, (len(maps), -1)).permute(2, 0, 1, 3) @ maps.mT[:, None]).transpose(0, 1)
    heads = x.flatten(0, 1).unflatten(-1, (len(maps), -1)).transpose(0, 1)
    return (heads @ maps.mT).unflatten(1, x.shape[:2]).transpose(0, 1)


def unset(module: type[_Module], *args, **options) -> _Module:
    """A PyTorch module on the device and dtype in force whose weights are yet to be drawn.

    Args:
        module: its class.
        args, options: of its constructor.
    """
    built = module(*args, **options, device="meta")
    for name, parameter in list(built.named_parameters(recurse=False)):
        setattr(built, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype)))
    return built
