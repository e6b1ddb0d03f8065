"""What the benchmarks of training steps share: the contenders' models, a step of one, taking turns, memory in use."""

import resource
import statistics
import sys
import time
from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from torch import Tensor, nn

from orthonar import NewtonSchulzRead, RawRead
from orthonar.model import MLSTMConfig, MLSTMModel

#: The orthogonalized read in its plain form, the package `xlstm`, and both reads in the chunkwise form.
CONTENDERS = ("plain", "stock", "raw", "orthogonalized")

# Seconds of a call that is not timed several in a row.
_LONG = 0.1


def make_model(contender: str, length: int, vocab_size: int, steps: int = 5) -> nn.Module:
    """The study's model with this contender's layer, from a fixed seed; with so many Newton-Schulz steps, if any."""
    torch.manual_seed(0)
    if contender == "stock":
        from orthonar.xlstm import StockModel  # nothing else wants the package `xlstm`

        return StockModel(MLSTMConfig(vocab_size), length)
    read = RawRead() if contender == "raw" else NewtonSchulzRead(steps=steps)
    config = MLSTMConfig(vocab_size, read=read, form="parallel" if contender == "plain" else "chunkwise")
    return MLSTMModel(config, generator=torch.Generator().manual_seed(0))


def make_step(model: nn.Module, draw_batch: Callable[[], tuple[Tensor, Tensor]]) -> Callable[[], None]:
    """A function that takes one whole training step, with its own optimizer.

    Forward, loss at every position, backward, gradient norm clipped at 1, AdamW.

    Args:
        model: the model, on the device that it is to run on.
        draw_batch: gives tokens and targets (B, S) on that device; called once a step.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01, fused=True)

    def step() -> None:
        tokens, targets = draw_batch()
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten())
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def seconds_of(function: Callable[[], object], device: torch.device | str = "cpu", calls: int = 1) -> float:
    """Wall-clock seconds of a call, the mean of `calls` in a row; a GPU is waited for before and after them."""
    wait = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    wait()
    return (time.perf_counter() - start) / calls


def time_in_turns(
    calls: dict[Hashable, Callable[[], object]], repeats: int, warm_up: int = 2, device: str = "cpu", together: int = 1
) -> dict[Hashable, list[float]]:
    """Seconds of each call, `repeats` times, A B A B ..., after `warm_up` rounds that do not count.

    Args:
        calls: what to time.
        repeats: timings of each that count.
        warm_up: rounds before.
        device: waited for before and after each timing.
        together: calls in a row that make up one timing; a device that works ahead of the host is timed as in training.
            What takes longer than a tenth of a second is called once: nothing is hidden behind it.
    """
    seconds: dict[Hashable, list[float]] = {name: [] for name in calls}
    in_a_row = dict.fromkeys(calls, together)
    for turn in range(warm_up + repeats):
        for name, call in calls.items():
            here = seconds_of(call, device, in_a_row[name])
            if here > _LONG:
                in_a_row[name] = 1
            if turn >= warm_up:
                seconds[name].append(here)
    return seconds


def print_seconds(name: str, seconds: list[float], more: str = "") -> None:
    """Print one line of timings, in milliseconds."""
    ms = [1e3 * s for s in seconds]
    print(f"    {name:36s} {statistics.median(ms):9.1f} ms   ({min(ms):.1f} .. {max(ms):.1f}){more}", flush=True)


def verdict(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print one measured number beside the wanted bound."""
    bound, met = (f"at least {at_least}", value >= at_least) if at_least else (f"at most {at_most}", value <= at_most)
    print(f"    {what:58s} {value:8.3g}    wanted {bound:14s} {'met' if met else 'MISSED'}")


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, or VmHWM, the most there ever was.

    Where Linux does not tell, the second stands for both: what was in use before is then overestimated.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field + ":"))


def extra_resident(step: Callable[[], None]) -> int:
    """Extra peak memory, in bytes, of three training steps in this process, which should be a fresh one."""
    before = resident("VmRSS")
    for _ in range(3):
        step()
    return resident("VmHWM") - before
