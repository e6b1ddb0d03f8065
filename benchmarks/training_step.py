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
import statistics
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

if not __package__:  # run as a file: the folder above it is not on the path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import steps
from benchmarks.steps import extra_resident, make_model, print_seconds, time_in_turns, verdict
from orthonar.training.environment import device_name

VOCAB_SIZE = 80
LENGTHS = (1024, 2048, 4096, 8192, 16384)


def make_step(contender: str, batch: int, length: int) -> Callable[[], None]:
    """A function that takes one whole training step, with its own model, optimizer and tokens."""
    tokens = torch.randint(VOCAB_SIZE, (batch, length + 1), generator=torch.Generator().manual_seed(1))
    inputs, targets = tokens[:, :-1].contiguous(), tokens[:, 1:]
    return steps.make_step(make_model(contender, length, VOCAB_SIZE), lambda: (inputs, targets))


def extra_memory(contender: str, batch: int, length: int, threads: int) -> int:
    """Extra peak memory, in bytes, of three training steps in a fresh process."""
    what = [contender, str(batch), str(length)]
    command = [sys.executable, __file__, "--threads", str(threads), "--memory-of", *what]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def compare(first: str, second: str, batch: int, length: int, repeats: int) -> float:
    """Time two contenders in turns and print them; the ratio of the medians, first over second."""
    seconds = time_in_turns({name: make_step(name, batch, length) for name in (first, second)}, repeats)
    for name, values in seconds.items():
        print_seconds(name, values)
    return statistics.median(seconds[first]) / statistics.median(seconds[second])


def row_a(repeats: int, threads: int) -> None:
    """The orthogonalized read, chunkwise against the plain form."""
    print("(a) orthogonalized chunkwise against the plain form, batch 4, length 512")
    plain, fast = "plain", "orthogonalized"
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
        contenders = {str(length): make_step(contender, 1, length) for length in LENGTHS}
        medians = []
        for length, seconds in time_in_turns(contenders, repeats).items():
            medians.append(statistics.median(seconds))
            each = f"   {1e6 * medians[-1] / int(length):7.2f} us a position"
            print_seconds(f"{contender}, length {length}", seconds, each)
        exponent = np.polyfit(np.log(LENGTHS), np.log(medians), 1)[0]
        verdict(f"{contender}: exponent p of time ~ length^p", exponent, at_most=1.1)


ROWS = {"a": row_a, "b": row_b, "c": row_c, "d": row_d}


def print_setting() -> None:
    """Print what the numbers depend on."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "xlstm", "numpy"))
    print(f"python {platform.python_version()}, {packages}")
    print(f"{device_name(torch.device('cpu'))}, {os.cpu_count()} CPUs, {torch.backends.cpu.get_cpu_capability()}")
    print(f"float32; load of the machine before: {os.getloadavg()[0]:.1f}")
    parameters = sum(p.numel() for p in make_model("raw", 1, VOCAB_SIZE).parameters())
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
        return print(extra_resident(make_step(contender, int(batch), int(length))))
    print_setting()
    for row in args.rows:
        print(flush=True)
        ROWS[row](args.repeats, args.threads)


if __name__ == "__main__":
    main()
