"""How long a call takes, on a CPU or a GPU."""

import statistics
import time
from collections.abc import Callable

import torch


def median_seconds(function: Callable[[], object], repeats: int = 3, device: torch.device | str = "cpu") -> float:
    """The median wall-clock time of a call, after one call that is not counted.

    Args:
        function: what to time, called without arguments.
        repeats: calls that count, at least 1.
        device: where the work is done; on a GPU each call is waited for.

    Returns:
        Seconds.

    Raises:
        ValueError: fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, not {repeats!r}")
    function()
    return statistics.median(seconds_of(function, device) for _ in range(repeats))


def seconds_of(function: Callable[[], object], device: torch.device | str = "cpu", calls: int = 1) -> float:
    """Wall-clock seconds of a call, the mean of `calls` in a row; a GPU is waited for before and after them."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - start) / calls
