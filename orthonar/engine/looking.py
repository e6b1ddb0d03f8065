"""Looking at numbers on the way: what cannot be done where tensors only stand for others, traced or under `vmap`."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor


def called_while_traced(function: Callable) -> Callable:
    """The function, which `torch.compile` calls with what it is given, no tensors, and whose result is a constant.

    What `torch.compiler.assume_constant_result` makes of it, which would import the compiler, seconds of it.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


def is_exporting() -> bool:
    """Whether `torch.export` is at work.

    `torch.compiler.is_exporting` says so of every graph of `torch.compile` too, from PyTorch 2.7 to 2.11.
    """
    return getattr(torch.compiler, "_is_exporting_flag", False)


def computed_apart(function: Callable) -> Any:
    """The result of a function that is to compute with numbers whatever the caller traces, exports or differentiates.

    All that PyTorch puts in the way of numbers belongs to a thread. What is kept of a read must not hold any of it.
    """
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(torch.no_grad()(function)).result()


def known(flag: Tensor) -> bool | None:
    """Whether a flag is set; None where tensors have no numbers yet. On a GPU the host waits for it."""
    if torch.compiler.is_compiling():
        return None
    try:
        return bool(flag)
    except RuntimeError:  # of vmap, of a tensor without data
        return None


def has_numbers(x: Tensor) -> bool:
    """Whether the host need not wait for a tensor's numbers, nor they for a graph to run."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def extremes(x: Tensor) -> tuple[float, float] | None:
    """The smallest and the largest value, NaN if there is a NaN; None unless it `has_numbers`, or as of `known`."""
    if not has_numbers(x):
        return None
    try:
        low, high = torch.aminmax(x.detach())
        return float(low.item()), float(high.item())  # not symbols of a trace
    except RuntimeError:
        return None


def largest(x: Tensor) -> float | None:
    """The largest absolute value, NaN if there is a NaN; None as of `extremes`."""
    found = extremes(x)
    return None if found is None else max(-found[0], found[1])
