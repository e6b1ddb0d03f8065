"""Time and memory of whole training steps of the study's model, the contenders side by side in one run.

    python -m benchmarks.training_step --rows abcd --repeats 5 --threads 2

A step is forward, loss at every position, backward, gradient norm clipped at 1, AdamW; float32, vocabulary 80, tokens
at random. Rows:

    a  the orthogonalized read, chunkwise against the plain form: time and extra peak memory, batch 4, length 512
    b  the orthogonalized read, chunkwise, against the raw read of the package `xlstm`: time, batch 4, length 1024
    c  the raw read, chunkwise, against the raw read of the package `xlstm`: time, batch 16, length 512
    d  both reads, chunkwise, at lengths 1024 to 16384, batch 1: time for each position, and how it grows

Contenders take turns, after steps that do not count; a ratio is one of medians. Memory is measured in a fresh process
for each contender: the most that was resident during three steps, less what was resident before the first.
"""

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch import nn

if not __package__:  # run as a file: the folder above it is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.stock import StockModel
from orthonar import NewtonSchulzRead, RawRead
from orthonar.model import MLSTMConfig, MLSTMModel

VOCAB_SIZE = 80
LENGTHS = (1024, 2048, 4096, 8192, 16384)
WARM_UP = 2
#: Contender: (read, form); the stock layer has neither.
CONTENDERS = {
    "orthogonalized": (NewtonSchulzRead(steps=5), "chunkwise"),
    "orthogonalized-plain": (NewtonSchulzRead(steps=5), "parallel"),
    "raw": (RawRead(), "chunkwise"),
    "stock": None,
}


def make_model(contender: str, length: int) -> nn.Module:
    """The study's model with this contender's layer, from a fixed seed."""
    torch.manual_seed(0)
    if CONTENDERS[contender] is None:
        return StockModel(MLSTMConfig(VOCAB_SIZE), length)
    read, form = CONTENDERS[contender]
    return MLSTMModel(MLSTMConfig(VOCAB_SIZE, read=read, form=form), generator=torch.Generator().manual_seed(0))


def make_step(contender: str, batch: int, length: int) -> Callable[[], None]:
    """A function that takes one whole training step, with its own model, optimizer and tokens."""
    model = make_model(contender, length)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.01)
    tokens = torch.randint(VOCAB_SIZE, (batch, length + 1), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:].flatten()

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return step


def time_in_turns(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, `repeats` times, A B A B ..., after `WARM_UP` rounds that do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(WARM_UP + repeats):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn >= WARM_UP:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def resident(field: str) -> int:
    """Bytes of this process's memory: VmRSS now, or VmHWM, the most there ever was.

    Where Linux does not tell, the second stands for both: what was in use before is then overestimated.
    """
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith(field + ":"))


def print_extra_memory(contender: str, batch: int, length: int) -> None:
    """Print the extra peak memory, in bytes, of three training steps in this process."""
    step = make_step(contender, batch, length)
    before = resident("VmRSS")
    for _ in range(3):
        step()
    print(resident("VmHWM") - before)


def extra_memory(contender: str, batch: int, length: int, threads: int) -> int:
    """What `print_extra_memory` prints in a fresh process."""
    what = [contender, str(batch), str(length)]
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", *what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def verdict(what: str, value: float, *, at_least: float | None = None, at_most: float | None = None) -> None:
    """Print one measured number beside the wanted bound."""
    bound, met = (f"at least {at_least}", value >= at_least) if at_least else (f"at most {at_most}", value <= at_most)
    print(f"    {what:58s} {value:8.3g}    wanted {bound:14s} {'met' if met else 'MISSED'}")


def print_seconds(name: str, seconds: list[float], more: str = "") -> None:
    """Print one line of timings, in milliseconds."""
    ms = [1e3 * s for s in seconds]
    print(f"    {name:36s} {statistics.median(ms):9.1f} ms   ({min(ms):.1f} .. {max(ms):.1f}){more}")


def compare(first: str, second: str, batch: int, length: int, repeats: int) -> float:
    """Time two contenders in turns and print them; the ratio of the medians, first over second."""
    seconds = time_in_turns({name: make_step(name, batch, length) for name in (first, second)}, repeats)
    for name, values in seconds.items():
        print_seconds(name, values)
    return statistics.median(seconds[first]) / statistics.median(seconds[second])


def row_a(repeats: int, threads: int) -> None:
    """The orthogonalized read, chunkwise against the plain form."""
    print("(a) orthogonalized chunkwise against the plain form, batch 4, length 512")
    plain, fast = "orthogonalized-plain", "orthogonalized"
    memory = {name: extra_memory(name, 4, 512, threads) for name in (plain, fast)}
    ratio = compare(plain, fast, 4, 512, repeats)
    for name, extra in memory.items():
        print(f"    {name:36s} {extra / 2**20:9.1f} MiB extra peak memory")
    verdict("time, plain form / chunkwise", ratio, at_least=15)
    verdict("extra peak memory, chunkwise / plain form", memory[fast] / memory[plain], at_most=0.2)


def row_b(repeats: int, threads: int) -> None:
    """The orthogonalized read against the stock layer's raw read."""
    print("(b) orthogonalized chunkwise against the stock layer's raw read, batch 4, length 1024")
    verdict("time, orthogonalized / stock", compare("orthogonalized", "stock", 4, 1024, repeats), at_most=0.7)


def row_c(repeats: int, threads: int) -> None:
    """The raw read against the stock layer's."""
    print("(c) raw chunkwise against the stock layer's raw read, batch 16, length 512")
    verdict("time, stock / raw", compare("stock", "raw", 16, 512, repeats), at_least=5)


def row_d(repeats: int, threads: int) -> None:
    """Growth with the length."""
    print(f"(d) chunkwise at lengths {LENGTHS[0]} to {LENGTHS[-1]}, batch 1")
    for contender in ("orthogonalized", "raw"):
        steps = {str(length): make_step(contender, 1, length) for length in LENGTHS}
        medians = []
        for length, seconds in time_in_turns(steps, repeats).items():
            medians.append(statistics.median(seconds))
            each = f"   {1e6 * medians[-1] / int(length):7.2f} us a position"
            print_seconds(f"{contender}, length {length}", seconds, each)
        exponent = np.polyfit(np.log(LENGTHS), np.log(medians), 1)[0]
        verdict(f"{contender}: exponent p of time ~ length^p", exponent, at_most=1.1)


ROWS = {"a": row_a, "b": row_b, "c": row_c, "d": row_d}


def processor() -> str:
    """The CPU's own name, if the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def print_setting() -> None:
    """Print what the numbers depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "xlstm", "numpy"))
    print(f"python {platform.python_version()}, {packages}")
    print(f"{processor()}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}")
    print(f"{torch.get_num_threads()} threads, float32; load of the machine before: {os.getloadavg()[0]:.1f}")
    parameters = sum(p.numel() for p in make_model("raw", 1).parameters())
    print(f"whole training steps, {parameters:,} parameters; median (min .. max)")


def main() -> None:
    """Parse the command line, measure, print."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--rows", default="abcd", help="which rows, by their letters")
    parser.add_argument("--repeats", type=int, default=5, help="steps of each contender that count")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    parser.add_argument("--memory-of", nargs=3, metavar=("CONTENDER", "BATCH", "LENGTH"), help="used by row a")
    args = parser.parse_args()
    if args.repeats < 1 or args.threads < 1 or not set(args.rows) <= set(ROWS):
        parser.error(f"--rows takes letters of {''.join(ROWS)}; --repeats and --threads are at least 1")

    torch.set_num_threads(args.threads)
    if args.memory_of:
        contender, batch, length = args.memory_of
        return print_extra_memory(contender, int(batch), int(length))
    print_setting()
    for row in args.rows:
        print(flush=True)
        ROWS[row](args.repeats, args.threads)


if __name__ == "__main__":
    main()
