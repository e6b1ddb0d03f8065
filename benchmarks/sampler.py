"""Time the vectorised sampler against the plain per-token loop, side by side in one run.

    python benchmarks/sampler.py --threads 2

prints tokens a second of three ways to make one batch (64 x 1024 unless told otherwise): a loop that calls
`numpy.random.Generator.choice` for every token, as mad-lab's generator does; `NoisyRecall.generate`, which
draws the same tokens; and `NoisyRecall.sample`. Each is the median of several batches, the ways taking turns.
"""

import argparse
import platform
import statistics
import time

import numpy as np
import torch

from orthonar.data.base import IGNORE_INDEX
from orthonar.data.noisy_recall import NoisyRecall
from orthonar.training.config import usable_device


def choice_loop(task: NoisyRecall, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw one sequence the plain way: the draws that define the task, each made by `choice`.

    Args:
        task: the task.
        rng: source of all randomness.

    Returns:
        The whole sequence of shape (num_tokens,), and its labels, aligned with it: the token itself where it
        is scored, elsewhere `IGNORE_INDEX`.

    Raises:
        ValueError: no key was shown before the query; `NoisyRecall.generate` says what it does then.
    """
    keys, values, distractors = (np.array(kind) for kind in (task.keys, task.values, task.distractors))
    tokens, labels, memory = [], [], {}
    never_noise = rng.choice(task.num_pairs)
    for pair in range(task.num_pairs - 1):
        may_be_noise = pair != never_noise and task.frac_noise > 0
        if may_be_noise and rng.random() < task.frac_noise:
            tokens.extend(rng.choice(distractors, size=2))
            labels.extend([IGNORE_INDEX, IGNORE_INDEX])
            continue
        key = rng.choice(keys)
        seen = key in memory
        if not seen:
            memory[key] = rng.choice(values)
        tokens.extend([key, memory[key]])
        labels.extend([IGNORE_INDEX, memory[key] if seen and task.multi_query else IGNORE_INDEX])
    if not memory:
        raise ValueError("no key was shown that could be queried")
    query = rng.choice(list(memory))
    ending = [query, memory[query]] if task.prefix is None else [task.prefix, query, memory[query]]
    labels.extend([IGNORE_INDEX] * (len(ending) - 1) + [memory[query]])
    return np.array(tokens + ending, dtype=np.int64), np.array(labels, dtype=np.int64)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, time, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=64, help="sequences in a batch")
    parser.add_argument("--seq-len", type=int, default=1024, help="tokens in a sequence")
    parser.add_argument("--vocab-size", type=int, default=96)
    parser.add_argument("--device", default="cpu", help="where `sample` draws, cpu or cuda")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch's CPU threads")
    parser.add_argument("--rounds", type=int, default=5, help="batches of each loop")
    parser.add_argument("--repeats", type=int, default=200, help="batches of `sample` in each round")
    args = parser.parse_args(arguments)
    if min(args.batch_size, args.threads, args.rounds, args.repeats) < 1:
        parser.error("--batch-size, --threads, --rounds and --repeats are at least 1")
    try:
        task = NoisyRecall(vocab_size=args.vocab_size, seq_len=args.seq_len)
        device = usable_device(args.device)
    except ValueError as error:
        parser.error(str(error))

    torch.set_num_threads(args.threads)
    rng, generator = np.random.default_rng(0), torch.Generator(device).manual_seed(0)
    on_gpu = device.type == "cuda"

    def wait():
        if on_gpu:
            torch.cuda.synchronize(device)

    def seconds(draw_batch) -> float:
        wait()
        start = time.perf_counter()
        draw_batch()
        wait()
        return time.perf_counter() - start

    def by_choice():
        for _ in range(args.batch_size):
            choice_loop(task, rng)

    def by_generate():
        for _ in range(args.batch_size):
            task.generate(rng, training=True)

    def by_sample():
        task.sample(args.batch_size, generator)

    for _ in range(10):
        by_sample()  # warm up: memory, threads, kernels
    times = {"loop of choice()": [], "generate": [], "sample": []}
    for _ in range(args.rounds):
        times["loop of choice()"].append(seconds(by_choice))
        times["generate"].append(seconds(by_generate))
        times["sample"].extend(seconds(by_sample) for _ in range(args.repeats))

    if on_gpu:
        hardware = torch.cuda.get_device_name(device)
    else:
        hardware = f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"
    print(f"device {device} ({hardware}), {torch.get_num_threads()} CPU threads")
    print(f"python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}")
    print(f"batch {args.batch_size} x {args.seq_len}, vocabulary {args.vocab_size}; medians")
    num_tokens = args.batch_size * (task.num_tokens - 1)
    slowest = statistics.median(times["loop of choice()"])
    print(f"{'':18s}{'ms a batch':>12s}{'million tokens/s':>18s}{'ratio':>9s}")
    for way, measured in times.items():
        median = statistics.median(measured)
        print(f"{way:18s}{median * 1e3:12.2f}{num_tokens / median / 1e6:18.2f}{slowest / median:9.1f}")


if __name__ == "__main__":
    main()
