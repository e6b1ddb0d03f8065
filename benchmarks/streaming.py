"""Time and memory of a model that reads a million tokens, in blocks and token by token.

    python -m benchmarks.streaming                          # in blocks: two minutes on a CPU
    python -m benchmarks.streaming --tokens 10000 1000000 --forms steps --reads raw    # half an hour

A model reads one stream of random tokens; at each number of tokens given, the seconds so far (those that the CPU was at
work too) and the resident memory (then, and at most so far) are noted, and, with --check, the logits there are compared
with those of the same stream in blocks of another length. Every form and read runs in a fresh process. The run is
appended as one line of JSON to streaming.jsonl in results/benchmarks.
"""

import argparse
import multiprocessing
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from benchmarks.record import begin, keep
from benchmarks.steps import resident, verdict
from orthonar import MLSTM, ModelConfig, NewtonSchulzRead, RawRead, SequenceModel
from orthonar.paths import results_dir
from orthonar.study.jsonl import check_writable
from orthonar.training.streaming import stream

READS = {"raw": RawRead(), "orthogonalized": NewtonSchulzRead(steps=5)}
FORMS = ("blocks", "steps")
#: Tokens that are read before anything is noted, so that all that is set up on first use is set up.
_WARM_UP = 5_000


def make_model(read: str, vocab_size: int, width: int, heads: int) -> SequenceModel:
    """A model with this read, from a fixed seed, whose forget gates are its initial ones."""
    config = model_config(read, vocab_size, width, heads)
    return SequenceModel(config, generator=torch.Generator().manual_seed(0)).eval()


def model_config(read: str, vocab_size: int, width: int, heads: int) -> ModelConfig:
    """Its settings; ValueError naming the one that is impossible."""
    return ModelConfig(vocab_size, width, mixer=MLSTM(num_heads=heads, read=READS[read]))


def token_blocks(vocab_size: int, stops: list[int], size: int):
    """The tokens of the stream, block by block, such that a block ends at every stop; the same for every size."""
    draws, done = torch.Generator().manual_seed(1), 0
    waiting = torch.empty(1, 0, dtype=torch.int64)
    for stop in stops:
        while done < stop:
            count = min(size, stop - done)
            while waiting.shape[1] < count:  # always drawn 1,000 at once, whatever the size
                waiting = torch.cat([waiting, torch.randint(vocab_size, (1, 1000), generator=draws)], 1)
            yield waiting[:, :count]
            waiting, done = waiting[:, count:], done + count


def measure(form: str, read: str, stops: list[int], size: int, sizes: dict, threads: int) -> list[dict]:
    """One line a stop: tokens, seconds, resident bytes, bytes of the state, and the logits there."""
    torch.set_num_threads(threads)
    model, vocab_size = make_model(read, **sizes), sizes["vocab_size"]
    _read_on(form, model, token_blocks(vocab_size, [_WARM_UP], size), None)
    rows, state, done, seconds, cpu_seconds = [], None, 0, 0.0, 0.0
    tokens = token_blocks(vocab_size, stops, size)
    for stop in stops:
        begin, begin_cpu = time.perf_counter(), time.process_time()
        while done < stop:
            block = next(tokens)
            logits, state = _read_on(form, model, [block], state)
            done += block.shape[1]
        seconds += time.perf_counter() - begin
        cpu_seconds += time.process_time() - begin_cpu
        held = sum(x.untyped_storage().nbytes() for x in (state.conv, *state.memory))
        row = {"tokens": stop, "seconds": seconds, "cpu_seconds": cpu_seconds, "state": held}
        row |= {"resident": resident("VmRSS"), "peak": resident("VmHWM")}
        rows.append(row | {"logits": logits[0].tolist()})
        spent, held = (
            f"{seconds:8.1f} s ({cpu_seconds:.1f} of CPU)",
            f"{row['resident'] / 2**20:.1f} MiB, at most {row['peak'] / 2**20:.1f}",
        )
        print(f"    {form}, {read}: {stop:9,d} tokens, {spent}, {held}", flush=True)
    return rows


@torch.no_grad()
def _read_on(form, model, blocks, state):
    """The logits (B, V) after some blocks, and the state."""
    for block in blocks:
        if form == "blocks":
            [(logits, state)] = stream(model, block, state, block_size=block.shape[1])
            logits = logits[:, -1].clone()
        else:
            for token in block.unbind(1):
                logits, state = model.step(token, state)
    return logits, state


def fresh(*arguments) -> list[dict]:
    """`measure`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure, *arguments).result()


def difference(rows: list[dict], others: list[dict]) -> float:
    """Largest difference of the logits at any stop, relative to the largest logit there."""
    pairs = [(torch.tensor(a["logits"]), torch.tensor(b["logits"])) for a, b in zip(rows, others, strict=True)]
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], help="where to note")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=["blocks"])
    parser.add_argument("--reads", nargs="+", choices=READS, default=list(READS))
    parser.add_argument("--block-size", type=int, default=1024)
    parser.add_argument("--check", action="store_true", help="compare with blocks of another length")
    parser.add_argument("--vocab-size", type=int, default=56)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--results", type=Path, default=results_dir() / "benchmarks", help="folder of the records")
    settings = parser.parse_args(arguments)
    stops = sorted(set(settings.tokens))
    if stops[0] < 1 or settings.block_size < 1 or settings.threads < 1:
        parser.error("--tokens, --block-size and --threads are at least 1")
    path = settings.results / "streaming.jsonl"
    sizes = {"vocab_size": settings.vocab_size, "width": settings.width, "heads": settings.heads}
    try:
        for read in settings.reads:
            SequenceModel(model_config(read, **sizes))
        check_writable(path)
    except (OSError, ValueError) as error:
        parser.error(str(error))

    record, rows = begin(), []
    for form in settings.forms:
        for read in settings.reads:
            found = fresh(form, read, stops, settings.block_size, sizes, settings.threads)
            rows += [{"form": form, "read": read} | {k: v for k, v in row.items() if k != "logits"} for row in found]
            if len(stops) > 1:
                grown = found[-1]["peak"] / found[0]["peak"]
                verdict(f"{form}, {read}: most memory until {stops[-1]:,} over {stops[0]:,}", grown, at_most=1.01)
            if settings.check:
                length = 1000 if settings.block_size != 1000 else 500
                other = fresh("blocks", read, stops, length, sizes, settings.threads)
                apart = difference(found, other)
                verdict(f"{form}, {read}: logits beside blocks of {length:,}", apart, at_most=1e-4)
                rows[-1]["difference"] = apart
    of = {"settings": sizes | {"block_size": settings.block_size, "threads": settings.threads}, "rows": rows}
    keep(record | of | {"device": record["device_name"]}, path)


if __name__ == "__main__":
    main()
