"""Where sequences start and end within rows: resets, and positions that are not there.

Axes: B batch, S sequence, E width of the residual stream, NH heads, DH head size.
"""

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from ..engine.by_hand import autocast_is_on
from ..engine.gates import SMALLEST_LOG_FORGET, log_forget, max_ties_to_first

#: Pre-activations of forget gates that keep nothing and all: the exponential of either log gate is exactly 0 or 1.
CLOSED, OPEN = SMALLEST_LOG_FORGET, -SMALLEST_LOG_FORGET


def emptied(k: Tensor, igate_preact: Tensor, fgate_preact: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and gates under which the memory is empty before some positions.

    A closed forget gate empties it. An empty memory also has the log-scale 0, which orthogonalized reads depend on: m
    becomes max(log f, i) and not i. So the input gate is that, and the key so much smaller.

    Args:
        k: (B, NH, S, DH).
        igate_preact, fgate_preact: (B, NH, S).
        reset: the positions, (B, 1, S).

    Returns:
        The keys and both pre-activations, of the same shapes.
    """
    scale = max_ties_to_first(igate_preact, log_forget(fgate_preact))
    k = torch.where(reset[..., None], k * (igate_preact - scale).exp()[..., None], k)
    return k, torch.where(reset, scale, igate_preact), fgate_preact.masked_fill(reset, CLOSED)


def pieces(reset: Tensor | None, length: int) -> Iterator[tuple[int, int, Tensor | None]]:
    """Where to start and stop so that resets stand at starts alone, and the rows that are reset there.

    For reads that keep keys, which gates do not empty; the host must wait for where the resets are.

    Args:
        reset: where sequences start, (B, S); None is nowhere.
        length: S.

    Returns:
        Starts, stops and rows, (B,).
    """
    if reset is None:
        yield 0, length, None
        return
    bounds = sorted({0, *reset.any(0).nonzero().flatten().tolist(), length})
    for start, stop in zip(bounds, bounds[1:]):
        yield start, stop, reset[:, start]


def in_front(x: Tensor, padding: Tensor, sequence: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Move what is there to the front of each row, so that it follows on what came before the row.

    Args:
        x: inputs, (B, S, E); those that are not there become 0.
        padding: positions that are not there, (B, S).
        sequence: number of the sequence that each position belongs to, (B, S), never decreasing; None: all are of one.

    Returns:
        The three in the new order, what is not there belonging to the last sequence; and the order that `moved` takes
        back, (B, S).
    """
    order = padding.byte().argsort(dim=1, stable=True)
    x, padding = moved(x.masked_fill(padding[..., None], 0), order), padding.gather(1, order)
    if sequence is not None:
        sequence = torch.where(padding, sequence[:, -1:], sequence.gather(1, order))
    return x, padding, sequence, order.argsort(1)


def check_inputs(x: Tensor, width: int, like: Tensor) -> bool:
    """Whether inputs fit a layer.

    Args:
        x: inputs, which have to be (B, S, E).
        width: width E of the residual stream.
        like: one of the layer's weights.

    Returns:
        Whether dtypes count: autocast changes them as it likes.

    Raises:
        ValueError: x has another shape, dtype or device.
    """
    shape = f"(B, S, {width}), none of them 0"
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a tensor {shape}, not {kind_of(x)}")
    if x.ndim != 3 or x.shape[2] != width or 0 in x.shape:
        raise ValueError(f"x must have the shape {shape}, not {tuple(x.shape)}")
    exact = not autocast_is_on(x.device)
    if not x.is_floating_point() or (exact and x.dtype != like.dtype):
        raise ValueError(f"x must be {like.dtype} like the layer's weights, not {x.dtype}")
    if x.device != like.device:
        raise ValueError(f"x must be on {like.device} like the layer's weights, not on {x.device}")
    return exact


def check_part(name: str, part: Tensor, shape: tuple, x: Tensor, dtypes: Collection[torch.dtype] | None) -> None:
    """Raise a ValueError if a part of a layer's state does not fit its inputs.

    Args:
        name: of the part, for the message.
        part: the part.
        shape: the shape that it has to have.
        x: the inputs, whose device it has to be on.
        dtypes: what it may be; None for any.
    """
    if part.shape != shape:
        raise ValueError(f"state.{name} must have the shape {shape}, not {tuple(part.shape)}")
    if (dtypes is not None and part.dtype not in dtypes) or part.device != x.device:
        raise ValueError(f"state.{name} must be {x.dtype} on {x.device} like x, not {part.dtype} on {part.device}")


def check_mask(name: str, mask: Tensor | None, like: Tensor) -> None:
    """Raise a ValueError if a mask is neither None nor of booleans (B, S), on the device of a tensor (B, S, ...)."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise ValueError(f"{name} must be a tensor of torch.bool, not {kind_of(mask)}")
    if mask.shape != like.shape[:2]:
        raise ValueError(f"{name} must have the shape {tuple(like.shape[:2])}, not {tuple(mask.shape)}")
    if mask.device != like.device:
        raise ValueError(f"{name} must be on {like.device}, not on {mask.device}")


def moved(x: Tensor, order: Tensor) -> Tensor:
    """The positions of x, (B, S, E), in the order of each row, (B, S)."""
    return x.gather(1, order[..., None].expand_as(x))


def kind_of(value: object) -> str:
    """What a value is, for an error."""
    return f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
