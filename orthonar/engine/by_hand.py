"""Functions whose gradient is written by hand, and all the ways in which PyTorch may ask for it.

A gradient written by hand is right once. `torch.autograd.function.once_differentiable` does not see to that: what it
returns leads nowhere, so that a second derivative that is asked for by `torch.autograd.grad` with inputs leaves out,
without a word, all that passes through here. `HandWritten` makes the gradient a function of its own, of everything
that it depends on, and that function's gradient is one clear error.

`torch.compile` can look into no such function, and tensors without numbers, as traces use them, have nothing to compute
with. What is to work there is an operator of PyTorch's besides, and so is its gradient: `torch.ops.orthonar` has them,
made of the same methods.
"""

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.library import custom_op

from .looking import is_exporting

_WHERE = "the chunkwise and fused forms, straight-through reads, and reads that decompose the memory"
_ELSEWHERE = "form='parallel' and form='recurrent' with another read"


class HandWritten(torch.autograd.Function):
    """A function with a gradient written by hand, right under every transform that PyTorch has or refused in words.

    Reverse mode, `torch.func.grad`, `jacrev` and `vmap` work (`vmap` goes through its axis one by one), as do gradient
    checkpointing and hooks on saved tensors. Second derivatives and forward mode are refused. The gradient is computed
    outside autocast.

    It is called by `of`. A subclass gives three static methods, of which none may return a tensor that it was given:

        forward(*args)          its results, and after them tensors that only the gradient wants
        saved(args, outputs)    the tensors that the gradient depends on, and a tuple of whatever else it needs. Every
                                argument must be among them or lead to one that is: one of the results will do.
        gradients(tensors, other, needs, *grads)
                                the gradients by every argument, from what was saved; None, or anything, where `needs`
                                is false

    One that `torch.compile` is to take says how, by `operator`; then tensors come first among its arguments, it always
    has as many outputs, `other` is its arguments that are no tensors, and it gives

        outputs_like(*args)     tensors of the shapes and dtypes of the outputs
        gradients_like(tensors, other)
                                tensors of those of the gradients, from what was saved; here the first of what was saved
    """

    #: How many of the outputs are results.
    results: ClassVar[int] = 1
    #: Its schema, "name(Tensor x, float y) -> Tensor"; see `torch.library.custom_op`. None: it is in no graph.
    operator: ClassVar[str | None] = None
    saved: ClassVar[Callable]
    gradients: ClassVar[Callable]
    outputs_like: ClassVar[Callable]
    _operator: ClassVar[Callable]

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        made: Any = cls
        if "forward" in vars(cls):
            made.forward = staticmethod(_where_its_tensors_are(cls.forward))
        made.setup_context = staticmethod(lambda ctx, args, outputs: _remember(cls, ctx, args, outputs))
        made.backward = staticmethod(lambda ctx, *grads: _pulled_back(cls, ctx, grads))
        made.vmap = staticmethod(lambda info, in_dims, *args: _one_by_one(cls.apply, info, in_dims, args))
        if cls.operator is not None:
            cls._operator = staticmethod(_operator_of(cls, cls.operator))

    @classmethod
    def of(cls, *args) -> Any:
        """What `apply` returns, in whatever way suits the moment."""
        if torch.jit.is_tracing():
            raise RuntimeError(
                f"orthonar: {_WHERE} cannot be traced by torch.jit; torch.export and torch.compile take them"
            )
        exported = is_exporting()  # made of PyTorch's own operators, to be run without this package
        traced = torch.compiler.is_dynamo_compiling() or not exported and _is_traced(args)
        return cls._operator(*args) if cls.operator is not None and traced else cls.apply(*args)

    @staticmethod
    def gradients_like(tensors, other):
        return tensors

    @staticmethod
    def jvp(ctx, *tangents):
        raise NotImplementedError(
            f"orthonar: {_WHERE} have no forward-mode derivatives (jvp); reverse mode has, and {_ELSEWHERE}"
        )


def _is_traced(args: tuple) -> bool:
    """Whether operators are written down or tensors only stand for others, outside of `torch.compile`."""
    plain = Tensor, torch.nn.Parameter
    written_down = torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.PROXY) is not None
    return written_down or any(isinstance(x, Tensor) and type(x) not in plain for x in args)


class _Gradient(torch.autograd.Function):
    """The gradient of a `HandWritten` function, as a function of all that it depends on."""

    @staticmethod
    def forward(function: type[HandWritten], other: tuple, needs: tuple[bool, ...], count: int, *tensors: Tensor):
        with without_autocast(tensors[0].device), on(tensors[0].device):
            grads = function.gradients(tensors[:count], other, needs, *tensors[count:])
        return tuple(grad for grad, need in zip(grads, needs) if need)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, *grads):
        _refuse()

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


def on(device: torch.device) -> AbstractContextManager:
    """A context in which a GPU is the current one: kernels are launched on that, wherever their tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _where_its_tensors_are(forward: Callable) -> Callable:
    @functools.wraps(forward)
    def there(*args):
        # What is traced is made of operators, which see to that themselves.
        place = None if torch.compiler.is_compiling() else next(x.device for x in args if isinstance(x, Tensor))
        with nullcontext() if place is None else on(place):
            return forward(*args)

    return there


def _remember(function: type[HandWritten], ctx, args: tuple, outputs: Any) -> None:
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    tensors, ctx.other = function.saved(args, outputs)
    ctx.save_for_backward(*tensors)
    ctx.mark_non_differentiable(*outputs[function.results :])
    # Else zeros would be made in the place of the gradients by what was only kept.
    ctx.set_materialize_grads(False)
    ctx.likes = [(x.shape, x.dtype, x.device) for x in outputs[: function.results]]


def _pulled_back(function: type[HandWritten], ctx, grads: tuple, operator: Callable | None = None) -> tuple:
    """The gradients by every argument, by `_Gradient` or by the operator that does the same."""
    if any(grad is not None and torch._C._functorch.is_legacy_batchedtensor(grad) for grad in grads):
        raise RuntimeError(f"orthonar: {_WHERE} take no batches of gradients (vectorize=True): torch.func.jacrev does")
    tensors = ctx.saved_tensors  # asked for once: checkpointing gives them once
    given = [
        torch.zeros(shape, dtype=dtype, device=device) if grad is None else grad
        for grad, (shape, dtype, device) in zip(grads, ctx.likes)
    ]
    needs = tuple(ctx.needs_input_grad)
    if operator is None:
        found = _Gradient.apply(function, ctx.other, needs, len(tensors), *tensors, *given)
    else:
        found = operator(tensors, given, needs, *ctx.other)
    found = iter(found)
    return tuple(next(found) if need else None for need in needs)


def _refuse(*_) -> None:
    raise RuntimeError(f"orthonar: {_WHERE} can be differentiated once, not twice; {_ELSEWHERE} as often as you like")


def _operator_of(function: type[HandWritten], schema: str) -> Callable:
    """The function as an operator of PyTorch's, whose gradient is another one."""
    name, rest = schema.split("(", 1)
    arguments, _ = rest.split(") -> ")
    others = "".join(f", {x}" for x in arguments.split(", ") if not x.startswith("Tensor "))

    def forward(*args):
        with without_autocast(args[0].device):
            outputs = function.forward(*map(_plain, args))
        return outputs.contiguous() if isinstance(outputs, Tensor) else tuple(x.contiguous() for x in outputs)

    def gradients(tensors, grads, needs, *other):
        with without_autocast(grads[0].device), on(grads[0].device):
            found = function.gradients(tuple(tensors), tuple(map(_plain, other)), tuple(needs), *grads)
        return [grad.contiguous() for grad, need in zip(found, needs) if need]

    def gradients_like(tensors, grads, needs, *other):
        likes = function.gradients_like(tensors, other)
        return [_new_like(like) for like, need in zip(likes, needs) if need]

    def outputs_like(*args):
        likes = function.outputs_like(*args)
        return _new_like(likes) if isinstance(likes, Tensor) else tuple(map(_new_like, likes))

    schema = f"(Tensor[] tensors, Tensor[] grads, bool[] needs{others}) -> Tensor[]"
    gradient = custom_op(f"orthonar::{name}_gradient", gradients, mutates_args=(), schema=schema)
    gradient.register_fake(gradients_like)
    gradient.register_autograd(_refuse)
    whole = custom_op(f"orthonar::{name}", forward, mutates_args=(), schema=f"({rest}")
    whole.register_fake(outputs_like)
    whole.register_autograd(
        lambda ctx, *grads: _pulled_back(function, ctx, grads, gradient),
        setup_context=lambda ctx, inputs, output: _remember(function, ctx, inputs, output),
    )
    whole.register_vmap(lambda info, in_dims, *args: _one_by_one(whole, info, in_dims, args))
    return getattr(torch.ops.orthonar, name).default


def _plain(value: Any) -> Any:
    """An argument as `apply` is given it: an operator's lists are tuples there."""
    return tuple(value) if isinstance(value, list) else value


def _new_like(x: Tensor) -> Tensor:
    """As operators return it: contiguous, whatever the other is."""
    return x.new_empty(x.shape)


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
