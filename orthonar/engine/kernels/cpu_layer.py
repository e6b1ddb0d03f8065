"""The mLSTM layer's own linear maps but the dense ones, compiled for CPUs by Numba: projections and the convolution.

Axes: B batch, S sequence, P = B S positions, I inner width, NH heads, DH = I / NH, K taps of the convolution.

Blocks of 4 x 4 are too small for a library's products of matrices: as one dense matrix a head, most of it zeros, they
take twelve times the arithmetic at DH = 48, and their results are moved to where the heads want them. Here a vector of
entries meets each of a block's columns once, and is stored where it stays. The convolution goes through a sequence as
it lies in memory, channels last, where a library's wants them first.

Gradients by weights are sums over all positions: of pieces of a sequence first, however many threads there are.
"""

import numpy as np
import torch
from torch import Tensor

from ..by_hand import HandWritten
from .loops import compiled, in_threads
from .vectors import add_block_outer_product, block_product

# Positions whose gradients by a weight are added up one after the other, in the dtype of the weight.
_PIECE = 256
# Fewer positions are done before another thread has begun.
_LEAST = 2048


def compiled_blocks(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """What a block-diagonal map makes of every position, by head. Differentiable once.

    Args:
        x: (B, S, I), float32 or float64.
        weight: the blocks, (I / size, size, size), of the same dtype; size divides 64 bytes, and these DH.
        heads: NH.

    Returns:
        (B, NH, S, DH), in memory heads first.
    """
    return _CompiledBlocks.of(x, weight, heads).transpose(0, 1)


def compiled_convolution(x: Tensor, taps: Tensor, bias: Tensor) -> Tensor:
    """A depthwise convolution over the current and the past positions. Differentiable once.

    Args:
        x: inputs, the K - 1 before the sequence first, (B, K - 1 + S, I), float32 or float64.
        taps: (I, K), of the same dtype; the last is the current position's.
        bias: (I,), of the same dtype.

    Returns:
        (B, S, I).
    """
    return _CompiledConvolution.of(x, taps, bias)


class _CompiledBlocks(HandWritten):
    operator = "compiled_blocks(Tensor x, Tensor weight, int heads) -> Tensor"

    @staticmethod
    def forward(x, weight, heads):
        batch, length, inner = x.shape
        y = x.new_empty(heads, batch, length, inner // heads)
        sizes = weight.shape[1] * (None,), inner // heads * (None,)
        of_positions = y.numpy().reshape(heads, batch * length, -1)
        operands = _by_position(x, heads), _columns(weight, heads)
        in_threads(_project, batch * length, *operands, of_positions, *sizes, least=_LEAST)
        return y

    @staticmethod
    def saved(args, outputs):
        return args[:2], args[2:]

    @staticmethod
    def outputs_like(x, weight, heads):
        return x.new_empty(heads, *x.shape[:2], x.shape[2] // heads)

    @staticmethod
    def gradients(tensors, other, needs, grad):
        (x, weight), (heads,) = tensors, other
        positions, size = x.shape[0] * x.shape[1], weight.shape[1]
        grad = grad.contiguous().numpy().reshape(heads, positions, -1)
        of_x = torch.empty(x.shape, dtype=x.dtype)
        pieces = -(-positions // _PIECE)
        of_columns = torch.zeros(pieces, heads, size, x.shape[2] // heads, dtype=x.dtype)
        sizes = size * (None,), x.shape[2] // heads * (None,)
        operands = _by_position(x, heads), _columns(weight.mT, heads), grad
        found = _by_position(of_x, heads), of_columns.numpy()
        in_threads(_project_back, pieces, *operands, *found, *sizes, least=_LEAST // _PIECE)
        # (NH, column, block and row) back to (blocks, row, column)
        of_weight = of_columns.sum(0).unflatten(2, (-1, size)).permute(0, 2, 3, 1).reshape(weight.shape)
        return of_x, of_weight, None


class _CompiledConvolution(HandWritten):
    operator = "compiled_convolution(Tensor x, Tensor taps, Tensor bias) -> Tensor"

    @staticmethod
    def forward(x, taps, bias):
        y = _CompiledConvolution.outputs_like(x, taps, bias)
        operands = x.contiguous().numpy(), taps.mT.contiguous().numpy(), bias.numpy()
        in_threads(_convolve, len(x), *operands, y.numpy(), least=-(-_LEAST // x.shape[1]))
        return y

    @staticmethod
    def saved(args, outputs):
        return args, ()

    @staticmethod
    def outputs_like(x, taps, bias):
        return x.new_empty(len(x), x.shape[1] - taps.shape[1] + 1, x.shape[2])

    @staticmethod
    def gradients(tensors, other, needs, grad):
        x, taps, bias = tensors
        pieces = -(-grad.shape[1] // _PIECE)
        of_x = torch.zeros(x.shape, dtype=x.dtype)
        of_taps, of_bias = x.new_zeros(len(x), pieces, *taps.mT.shape), x.new_zeros(len(x), pieces, len(bias))
        operands = (y.contiguous().numpy() for y in (x, taps.mT, grad))
        found = (y.numpy() for y in (of_x, of_taps, of_bias))
        in_threads(_convolve_back, len(x), *operands, *found, least=-(-_LEAST // x.shape[1]))
        return of_x, of_taps.sum((0, 1)).mT.contiguous(), of_bias.sum((0, 1))


def _by_position(x: Tensor, heads: int) -> np.ndarray:
    """(B, S, I) as (P, NH, DH): a view, where the positions are evenly spaced and the entries one after the other."""
    x = x if x.stride(2) == 1 else x.contiguous()
    return x.reshape(-1, x.shape[2]).unflatten(1, (heads, -1)).numpy()


def _columns(weight: Tensor, heads: int) -> np.ndarray:
    """Of all blocks of a head the first columns, then the second ones, ...: (NH, size, DH)."""
    return weight.unflatten(0, (heads, -1)).permute(0, 3, 1, 2).flatten(2).contiguous().numpy()


@compiled
def _project(start, stop, x, columns, y, blocked, sized):
    """The projections of the positions from start to stop."""
    for p in range(start, stop):
        for h in range(len(columns)):
            block_product(columns[h], x[p, h], y[h, p], blocked, sized)


@compiled
def _project_back(start, stop, x, rows, grad, grad_x, grad_columns, blocked, sized):
    """The gradients of `_project` in the pieces from start to stop; rows are the columns of the transposed blocks."""
    for piece in range(start, stop):
        for p in range(piece * _PIECE, min((piece + 1) * _PIECE, len(x))):
            for h in range(len(rows)):
                block_product(rows[h], grad[h, p], grad_x[p, h], blocked, sized)
                add_block_outer_product(grad_columns[piece, h], x[p, h], grad[h, p], blocked, sized)


@compiled
def _convolve(start, stop, x, taps, bias, y):
    """The convolutions of the sequences from start to stop; taps are (K, I)."""
    for b in range(start, stop):
        for s in range(y.shape[1]):
            out = y[b, s]
            for i in range(len(out)):
                out[i] = bias[i]
            for t in range(len(taps)):
                tap, before = taps[t], x[b, s + t]
                for i in range(len(out)):
                    out[i] += tap[i] * before[i]


@compiled
def _convolve_back(start, stop, x, taps, grad, grad_x, grad_taps, grad_bias):
    """The gradients of `_convolve`; those by x, taps and bias are added to what is there."""
    for b in range(start, stop):
        for s in range(grad.shape[1]):
            of_y, of_bias = grad[b, s], grad_bias[b, s // _PIECE]
            for i in range(len(of_y)):
                of_bias[i] += of_y[i]
            for t in range(len(taps)):
                tap, before = taps[t], x[b, s + t]
                of_before, of_tap = grad_x[b, s + t], grad_taps[b, s // _PIECE, t]
                for i in range(len(of_y)):
                    of_before[i] += tap[i] * of_y[i]
                    of_tap[i] += before[i] * of_y[i]
