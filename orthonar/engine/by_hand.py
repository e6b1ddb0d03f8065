"""Functions whose gradient is written by hand, and all the ways in which PyTorch may ask for it.

A gradient written by hand is right once. `torch.autograd.function.once_differentiable` does not see to that: what it
returns leads nowhere, so that a second derivative that is asked for by `torch.autograd.grad` with inputs leaves out,
without a word, all that passes through here. `HandWritten` makes the gradient a function of its own, of everything
that it depends on, and that function's gradient is one clear error.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor

_WHERE = "the chunkwise and fused forms, straight-through reads, and reads that decompose the memory"
_ELSEWHERE = "form='parallel' and form='recurrent' with another read"


class HandWritten(torch.autograd.Function):
    """A function with a gradient written by hand, right under every transform that PyTorch has or refused in words.

    Reverse mode, `torch.func.grad`, `jacrev` and `vmap` work (`vmap` goes through its axis one by one), as do gradient
    checkpointing and hooks on saved tensors. Second derivatives and forward mode are refused. The gradient is computed
    outside autocast.

    A subclass gives three static methods, of which none may return a tensor that it was given:

        forward(*args)          its results, and after them tensors that only the gradient wants
        saved(args, outputs)    the tensors that the gradient depends on, and a tuple of whatever else it needs. Every
                                argument must be among them or lead to one that is: one of the results will do.
        gradients(tensors, other, needs, *grads)
                                the gradients by every argument, from what was saved; None, or anything, where `needs`
                                is false
    """

    #: How many of the outputs are results.
    results: ClassVar[int] = 1

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        cls.setup_context = staticmethod(lambda ctx, args, outputs: _remember(cls, ctx, args, outputs))
        cls.backward = staticmethod(lambda ctx, *grads: _pulled_back(cls, ctx, grads))
        cls.vmap = staticmethod(lambda info, in_dims, *args: _one_by_one(cls.apply, info, in_dims, args))

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(
            f"orthonar: {_WHERE} have no forward-mode derivatives (jvp); reverse mode has, and {_ELSEWHERE}"
        )


class _Gradient(torch.autograd.Function):
    """The gradient of a `HandWritten` function, as a function of all that it depends on."""

    @staticmethod
    def forward(function: type[HandWritten], other: tuple, needs: tuple[bool, ...], count: int, *tensors: Tensor):
        with without_autocast(tensors[0].device):
            grads = function.gradients(tensors[:count], other, needs, *tensors[count:])
        return tuple(grad for grad, need in zip(grads, needs) if need)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        raise RuntimeError(
            f"orthonar: {_WHERE} can be differentiated once, not twice; {_ELSEWHERE} as often as you like"
        )

    @staticmethod
    def jvp(ctx, *tangents):
        return HandWritten.jvp(ctx, *tangents)

    @staticmethod
    def vmap(info, in_dims, *args):
        return _one_by_one(_Gradient.apply, info, in_dims, args)


def autocast_is_on(device: torch.device) -> bool:
    """Whether autocast is on for tensors of a device."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def without_autocast(device: torch.device):
    """A context in which autocast is off for tensors of a device."""
    return torch.autocast(device.type, enabled=False) if autocast_is_on(device) else nullcontext()


def _remember(function: type[HandWritten], ctx, args: tuple, outputs: Any) -> None:
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    tensors, ctx.other = function.saved(args, outputs)
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(*outputs[function.results :])
    # Else zeros would be made in the place of the gradients by what was only kept.
    ctx.set_materialize_grads(False)
    ctx.likes = [(x.shape, x.dtype, x.device) for x in outputs[: function.results]]


def _pulled_back(function: type[HandWritten], ctx, grads: tuple) -> tuple:
    tensors = ctx.saved_tensors  # asked for once: checkpointing gives them once
    given = (
        torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
        for grad, (shape, dtype, device) in zip(grads, ctx.likes)
    )
    needs = tuple(ctx.needs_input_grad)
    found = iter(_Gradient.apply(function, ctx.other, needs, len(tensors), *tensors, *given))
    return tuple(next(found) if need else None for need in needs)


def _one_by_one(apply: Callable, info, in_dims: tuple, args: tuple) -> tuple:
    """The rule for `torch.vmap`: the function itself for each element, put together."""
    outputs = []
    for i in range(info.batch_size):
        here = (
            x.select(dim, i) if isinstance(x, Tensor) and dim is not None else x
            for x, dim in zip(args, in_dims, strict=True)
        )
        outputs.append(apply(*here))
    if isinstance(outputs[0], Tensor):
        return torch.stack(outputs), 0
    stacked = tuple(torch.stack(parts) for parts in zip(*outputs, strict=True))
    return stacked, (0,) * len(stacked)
