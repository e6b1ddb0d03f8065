"""Time, memory and operations of whole training steps on the device that is there, the contenders side by side.

    python -m benchmarks.cost                     # a CPU: about five minutes on two cores
    python -m benchmarks.cost --device cuda       # a GPU
    python -m benchmarks.cost --list              # what would be measured

A step draws a batch on the device, goes forward and backward, clips the gradient and takes one AdamW step; float32, the
study's model. Contenders: the orthogonalized read in its plain form, the raw read of the package `xlstm` (stock), and
both reads in the chunkwise form. At every length all are timed with five Newton-Schulz steps; at the length nearest
below 768 also with the other numbers of steps. Beside them: drawing the batch alone (on a GPU as a graph too, as it is
in training), the reads alone, forward and backward, and, on a GPU where `fla` can be imported, MesaNet's
conjugate-gradient read. Whatever is timed at a length takes turns, after rounds that do not count.

Peak memory is what three steps need beyond what was in use before: allocated on a GPU; on a CPU resident, in a fresh
process. The device's peak is the fastest of a few large float32 matrix products, in the same run. What does not fit or
cannot be imported is left out with its reason. The run is appended as one line of JSON to cost-cpu.jsonl or
cost-cuda.jsonl in results/benchmarks.
"""

import argparse
import dataclasses
import gc
import multiprocessing
import os
import signal
import statistics
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from benchmarks import operations
from benchmarks.record import begin, keep
from benchmarks.steps import (
    CONTENDERS,
    extra_resident,
    make_model,
    make_step,
    print_seconds,
    seconds_of,
    time_in_turns,
    verdict,
)
from orthonar import MLSTMConfig, NewtonSchulzRead, RawRead, RunConfig, mlstm_sequence
from orthonar.engine.backends import can_compile
from orthonar.report.tables import cost
from orthonar.study.jsonl import check_writable
from orthonar.training.config import usable_device
from orthonar.training.step import make_training_step

#: Newton-Schulz steps of the study.
STUDY_STEPS = 5
#: Longer sequences come in smaller batches, of as many tokens in all; the plain form, which loops over positions, and
#: the stock layer, whose memory grows with the square, stop here.
LONGEST_IN_FULL = 1024
#: Numbers of Newton-Schulz steps are compared at the greatest length up to this.
LONGEST_FOR_STEPS = 768
#: MesaNet's conjugate-gradient iterations: the difference of the two times is that of the iterations between.
ITERATIONS = (10, 30)
#: What a record keeps of the command line.
SETTINGS = ("batch", "lengths", "steps_of_newton_schulz", "vocab_size", "repeats", "warm_up", "together")
DEFAULTS = {
    "cpu": {"batch": 4, "vocab_size": 80, "lengths": [128, 256, 512, 1024], "repeats": 3, "warm_up": 1, "together": 1},
    "cuda": {
        "batch": 64, "vocab_size": 96, "lengths": [512, 768, 1024, 4096, 16384], "repeats": 5, "warm_up": 2,
        "together": 5,
    },
}  # fmt: skip


def filter_degree(steps: int) -> int:
    """Products with A that stand for so many Newton-Schulz steps in float32."""
    return len(NewtonSchulzRead(steps=steps).coefficients(torch.float32)) - 1


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Args:
        what: "step", "sampling" or "read" (alone).
        contender: one of `CONTENDERS`, or "mesanet".
        steps: of Newton-Schulz; for "mesanet" iterations.
        length: tokens in a sequence.
        batch: sequences.
    """

    what: str
    contender: str | None
    steps: int | None
    length: int
    batch: int

    def __str__(self) -> str:
        words = [self.contender or "", self.what if self.what != "step" else ""]
        if self.steps is not None:
            words.append(f"{'iterations' if self.contender == 'mesanet' else 'NS steps'}: {self.steps}")
        return ", ".join(word for word in words if word)

    @property
    def degree(self) -> int | None:
        """Products with A in the filter, where there is one."""
        return filter_degree(self.steps) if self.contender == "orthogonalized" else None

    def operations(self, vocab_size: int, device: str) -> int | None:
        """Floating-point operations by formula on a device, None where there is no formula."""
        config = MLSTMConfig(vocab_size)
        head_size = config.mixer.head_size(config.embedding_dim)
        compiled = can_compile(torch.device(device), head_size)
        if self.what == "step":  # the last token of a sequence is a target only
            sizes = self.batch, self.length - 1
            return operations.step_operations(self.contender, config, *sizes, self.degree, self.steps, compiled)
        if self.what == "read" and self.contender != "mesanet":
            cell = operations.compiled_cell if compiled else operations.chunkwise_cell
            return cell(self.batch, self.length, config.mixer.num_heads, head_size, self.degree)
        return None


def cases(settings: argparse.Namespace) -> dict[int, list[Case]]:
    """What is measured together, by length."""
    in_full = [length for length in settings.lengths if length <= LONGEST_FOR_STEPS] or [min(settings.lengths)]
    groups = {}
    for length in settings.lengths:
        at = {"length": length, "batch": max(1, settings.batch * LONGEST_IN_FULL // max(length, LONGEST_IN_FULL))}
        steps = [STUDY_STEPS]
        if length == max(in_full):
            steps += [k for k in settings.steps_of_newton_schulz if k != STUDY_STEPS]
        group = []
        for contender in CONTENDERS:
            several = contender in ("plain", "orthogonalized")
            group += [Case("step", contender, k, **at) for k in (steps if several else [None])]
        group.append(Case("sampling", None, None, **at))
        group += [Case("read", "raw", None, **at), Case("read", "orthogonalized", STUDY_STEPS, **at)]
        if settings.device.startswith("cuda"):
            group += [Case("read", "mesanet", iterations, **at) for iterations in ITERATIONS]
        groups[length] = group
    return groups


def left_out(case: Case) -> str | None:
    """Why a case is not even tried."""
    if case.what == "step" and case.contender in ("plain", "stock") and case.length > LONGEST_IN_FULL:
        return f"not measured beyond length {LONGEST_IN_FULL}"
    return None


def make_call(case: Case, vocab_size: int, device: str) -> Callable[[], object]:
    """The function whose call is measured."""
    task = RunConfig(vocab_size=vocab_size, seq_len=case.length, batch_size=case.batch).task
    generator = torch.Generator(device).manual_seed(1)

    def draw_batch():
        return task.sample(case.batch, generator, device)

    if case.what == "sampling":
        return captured(draw_batch, generator) if device.startswith("cuda") else draw_batch
    if case.what == "step" and device.startswith("cuda") and case.contender in ("raw", "orthogonalized"):
        # As `orthonar.train` takes it there: captured as a graph, which the others could not be.
        read = RawRead() if case.contender == "raw" else NewtonSchulzRead(steps=case.steps)
        settings = {"vocab_size": vocab_size, "seq_len": case.length, "batch_size": case.batch, "steps": 100_000}
        config = RunConfig(read=read, device=device, **settings)
        return make_training_step(config, torch.device(device)).step
    if case.what == "step":
        model = make_model(case.contender, case.length, vocab_size, case.steps or 0)
        return make_step(model.to(device), draw_batch)
    if case.contender == "mesanet":
        return mesanet_call(case, generator)
    config = MLSTMConfig()
    shape = (case.batch, config.mixer.num_heads, case.length, config.mixer.head_size(config.embedding_dim))
    new = {"generator": generator, "device": device}
    x = [torch.randn(s, **new).requires_grad_() for s in (*[shape] * 3, *[shape[:3]] * 2)]
    probe = torch.randn(shape, **new)
    read = RawRead() if case.contender == "raw" else NewtonSchulzRead(steps=case.steps)
    return lambda: torch.autograd.grad(mlstm_sequence(*x, read=read), x, probe)


def captured(call: Callable[[], object], generator: torch.Generator) -> Callable[[], None]:
    """The call as the replay of a CUDA graph, which it is a part of in training: without the host's launches."""
    aside = torch.cuda.Stream(generator.device)
    aside.wait_stream(torch.cuda.current_stream(generator.device))
    with torch.cuda.stream(aside):
        call()  # what is set up on first use must not be captured
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph, stream=aside):
        call()
    return graph.replay


def mesanet_call(case: Case, generator: torch.Generator) -> Callable[[], object]:
    """MesaNet's read, forward and backward, at the shapes of the study's model, in the bfloat16 that it asks for."""
    from fla.ops.mesa_net import chunk_mesa_net

    config, device = MLSTMConfig(), generator.device
    shape = (case.batch, case.length, config.mixer.num_heads, config.mixer.head_size(config.embedding_dim))
    new = {"generator": generator, "device": device}
    q, k, v, probe = (torch.randn(shape, **new).bfloat16() for _ in range(4))
    k = torch.nn.functional.normalize(k, dim=-1)
    g = torch.nn.functional.logsigmoid(3 + torch.randn(shape[:3], **new))
    beta = torch.rand(shape[:3], **new).bfloat16()
    lamb = torch.rand(shape[2:], **new).bfloat16() + 0.25
    x = [tensor.requires_grad_() for tensor in (q, k, v, g, beta, lamb)]
    return lambda: torch.autograd.grad(chunk_mesa_net(*x, max_CG_iteration=case.steps)[0], x, probe)


def peaks(device: str) -> dict[str, float]:
    """Operations a second of the fastest large float32 matrix product; on a GPU also with TF32 allowed."""
    on_gpu = device.startswith("cuda")
    before = torch.get_float32_matmul_precision()
    found = {}
    for name, precision in {"float32": "highest", **({"tf32": "high"} if on_gpu else {})}.items():
        torch.set_float32_matmul_precision(precision)
        for size in (4096, 8192) if on_gpu else (512, 1024, 2048):
            a, b = torch.randn(2, size, size, device=device)
            out = a @ b
            calls = 10 if on_gpu else 1
            best = min(seconds_of(lambda: torch.mm(a, b, out=out), device, calls) for _ in range(5))  # noqa: B023
            found[name] = max(found.get(name, 0.0), 2 * size**3 / best)
    torch.set_float32_matmul_precision(before)
    return found


def gpu_memory(call: Callable[[], object], before: int, device: str) -> int:
    """Extra peak memory, in bytes, of some calls, over what was allocated `before` the call was made.

    Five, since the fourth call of a training step is the one that captures it.
    """
    for _ in range(5):
        call()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def cpu_memory(case: Case, vocab_size: int, threads: int) -> int:
    """Extra peak resident memory, in bytes, of three steps in a fresh process."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.steps", "orthonar.report.tables.cost"])  # imported once for all of them
    with ProcessPoolExecutor(1, context) as pool:
        try:
            return pool.submit(_extra_memory, case, vocab_size, threads).result()
        except BrokenProcessPool:
            raise MemoryError("its process was killed, most likely for want of memory") from None


def _extra_memory(case: Case, vocab_size: int, threads: int) -> int:
    torch.set_num_threads(threads)
    # What is loaded on first use is no part of a step.
    make_call(Case("step", "raw", None, 16, 1), vocab_size, "cpu")()
    return extra_resident(make_call(case, vocab_size, "cpu"))


def prepare(case: Case, settings: argparse.Namespace) -> tuple[Callable[[], object], int | None]:
    """The call of a case, once made, and the peak memory of a step; any exception says why there is none."""
    if not settings.device.startswith("cuda"):
        # The memory first: what does not fit must not take this process with it.
        wanted = case.what == "step" and case.steps in (None, STUDY_STEPS)
        memory = cpu_memory(case, settings.vocab_size, settings.threads) if wanted else None
        return make_call(case, settings.vocab_size, settings.device), memory
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(settings.device)
    before = torch.cuda.memory_allocated(settings.device)
    call = make_call(case, settings.vocab_size, settings.device)
    memory = gpu_memory(call, before, settings.device)
    return call, memory if case.what == "step" else None


def measure_group(group: list[Case], settings: argparse.Namespace) -> list[dict]:
    """Measure the cases of one length in turns, print them, and return their rows."""
    calls, memory, skipped = {}, {}, {}
    for case in group:
        skipped[case] = left_out(case)
        if skipped[case] is None:
            try:
                calls[case], memory[case] = prepare(case, settings)
            except Exception as error:  # one contender's trouble must not cost the others' measurements
                skipped[case] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        if skipped[case] is not None:
            gc.collect()
            print(f"    {str(case):36s} left out: {skipped[case]}", flush=True)
    seconds = time_in_turns(calls, settings.repeats, settings.warm_up, settings.device, settings.together)
    rows = []
    for case in group:
        if case in calls:
            extra = memory[case]
            print_seconds(str(case), seconds[case], "" if extra is None else f"   {extra / 2**20:9.1f} MiB")
        row = dataclasses.asdict(case) | {
            "degree": case.degree,
            "operations": case.operations(settings.vocab_size, settings.device),
        }
        rows.append(row | {"seconds": seconds.get(case), "memory": memory.get(case), "skipped": skipped[case]})
    return rows


def unmeasured(settings: argparse.Namespace) -> dict:
    """A record with everything but what is measured."""
    packages = {}
    for name in ("xlstm", "flash-linear-attention", "triton"):
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            pass
    device = torch.device(settings.device)
    record = begin(settings.device)
    record["versions"] |= packages | ({"cuda": torch.version.cuda} if device.type == "cuda" else {})
    return record | {
        "schema": cost.SCHEMA,
        "device": device.type,
        "threads": torch.get_num_threads(),
        "settings": {name: value for name, value in vars(settings).items() if name in SETTINGS},
    }


def measure(settings: argparse.Namespace, record: dict) -> None:
    """Measure everything, length after length, into the record."""
    print(f"{record['device_name']}; load of the machine before: {record['load_before']}")
    print(", ".join(f"{name} {number}" for name, number in record["versions"].items()))
    record["peaks"] = peaks(settings.device)
    for name, peak in record["peaks"].items():
        print(f"fastest matrix product, {name}: {peak / 1e9:,.0f} Gflop/s")
    print("median (min .. max), extra peak memory", flush=True)
    record["rows"] = []
    for length, group in cases(settings).items():
        print(f"\nlength {length}, batch {group[0].batch}", flush=True)
        record["rows"] += measure_group(group, settings)


def print_summary(record: dict) -> None:
    """Print the table of a record, and on a GPU what is wanted beside what was measured."""
    print()
    print(cost.summary([record]).to_string())
    if record["device"] != "cuda":
        return
    rows = {(r["contender"], r["steps"], r["length"], r["what"]): r for r in record["rows"] if r["seconds"]}

    def ms(*key) -> float | None:
        return 1e3 * statistics.median(rows[key]["seconds"]) if key in rows else None

    at = (768, "step")
    fast, plain, raw = ms("orthogonalized", STUDY_STEPS, *at), ms("plain", STUDY_STEPS, *at), ms("raw", None, *at)
    drawn, long = ms(None, None, 768, "sampling"), rows.get(("orthogonalized", STUDY_STEPS, 1024, "step"))
    if (record["settings"]["batch"], record["settings"]["vocab_size"]) == (64, 96):
        print("\nwanted on an H100, at length 768:")
        if fast is not None:
            verdict("orthogonalized step (ms)", fast, at_most=15)
        if fast is not None and drawn is not None:
            verdict("sampling, share of the step", drawn / fast, at_most=0.01)
        if fast is not None and plain is not None:
            verdict("plain form / orthogonalized", plain / fast, at_least=30)
        if raw is not None:
            verdict("raw step (ms)", raw, at_most=2.5)
        if long is not None:
            verdict("extra peak memory at length 1024 (GB)", long["memory"] / 1e9, at_most=3)
    for length in record["settings"]["lengths"]:
        few, many = (ms("mesanet", k, length, "read") for k in ITERATIONS)
        ours = ms("orthogonalized", STUDY_STEPS, length, "read")
        if few is not None and many is not None and ours is not None:
            one, count = (many - few) / (ITERATIONS[1] - ITERATIONS[0]), operations.passes(filter_degree(STUDY_STEPS))
            text = f"MesaNet {1e3 * one:.1f} us an iteration, ours {1e3 * ours / count:.1f} us a pass of {count}"
            print(f"    length {length}: {text}, forward and backward")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """The command line as settings; one error that names what is wrong, before anything is computed."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--batch", type=int, help="sequences; 4, on a GPU 64")
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens in a sequence, even")
    parser.add_argument("--steps-of-newton-schulz", type=int, nargs="+", default=[1, 3, 5, 8], metavar="K")
    parser.add_argument("--vocab-size", type=int, help="of task and model; 80, on a GPU 96")
    parser.add_argument("--repeats", type=int, help="timings that count")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="CPU threads")
    parser.add_argument("--results", type=Path, default=cost.folder(), help="folder of the records")
    parser.add_argument("--list", action="store_true", help="print what would be measured, and stop")
    settings = parser.parse_args(arguments)
    kind = settings.device.split(":")[0]
    if kind not in DEFAULTS:
        parser.error(f"--device must be cpu or cuda, not {settings.device!r}")
    for name, value in DEFAULTS[kind].items():
        if getattr(settings, name, None) is None:
            setattr(settings, name, value)
    try:
        for name in ("repeats", "threads"):
            if getattr(settings, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(settings, name)}")
        for name in ("lengths", "steps_of_newton_schulz"):
            values = getattr(settings, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names one twice: {values}")
        for length in settings.lengths:
            size = {"batch_size": settings.batch, "vocab_size": settings.vocab_size}
            _ = RunConfig(seq_len=length, device=settings.device, **size)
        for steps in settings.steps_of_newton_schulz:
            filter_degree(steps)
        usable_device(settings.device)
        if not settings.list:
            check_writable(settings.results / f"cost-{kind}.jsonl")
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return settings


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print, record."""
    settings = parse(arguments)
    torch.set_num_threads(settings.threads)
    if settings.list:
        for length, group in cases(settings).items():
            print(f"length {length}, batch {group[0].batch}")
            for case in group:
                print(f"    {case}" + (f": {left_out(case)}" if left_out(case) else ""))
        return
    record = unmeasured(settings)
    try:
        measure(settings, record)
    except KeyboardInterrupt:
        if not record.get("rows"):
            sys.exit("interrupted before a length was measured: nothing to append")
        print("interrupted: the lengths measured so far are kept")
    keep(record, settings.results / f"cost-{record['device']}.jsonl")
    print_summary(record)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # who has no more time says so; it ends as by Ctrl-C
    main()
