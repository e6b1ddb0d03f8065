"""Time and memory of attention beside both mLSTMs against the length: a training pass, and one token at a time.

    python -m benchmarks.attention                # a CPU, one thread: about ten minutes

A training pass is forward, loss and backward of the pocket scale's model, one sequence, float32, without the optimizer.
One token at a time is `model.step` after so many tokens: the mLSTM's state is that after as many random tokens, while
attention's cache is filled with random keys and values, whose time and size are those of any. Memory of a training pass
is the peak of three beyond what was in use before, resident, in a fresh process; of a token the bytes of the state that
is carried on. All memory is measured first; then, at each length, the contenders take turns. The run is appended as one
line of JSON to attention-cpu.jsonl in results/benchmarks.
"""

import argparse
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch import nn

from benchmarks.record import begin, keep
from benchmarks.steps import extra_resident, print_seconds, time_in_turns
from orthonar import Attention, ModelConfig, SequenceModel
from orthonar.mixers.attention import AttentionState
from orthonar.report.tables import attention as tables
from orthonar.report.tables.cost import folder
from orthonar.study.jsonl import check_writable
from orthonar.study.presets import PRESETS
from orthonar.study.sides import ATTENTION, BASELINE, ORTHOGONALIZED
from orthonar.training.streaming import stream

SIDES = {side.name: side for side in (BASELINE, ORTHOGONALIZED, ATTENTION)}
_STUDY = PRESETS["attention"]["pocket"]
#: Lengths of a training pass, and numbers of tokens before the one that is timed.
TRAINING, TOKENS = (256, 1024, 4096, 16384, 32768), (64, 256, 1024, 4096, 16384, 65536, 262144)
#: Steps are short: so many timings for one of a training pass.
_STEPS_A_TIMING = 17


def model_config(contender: str) -> ModelConfig:
    """The pocket scale's model of a side."""
    return _STUDY.run(_STUDY.tasks[0], contender, _STUDY.rates[0], 0).model


def make_model(contender: str) -> SequenceModel:
    """The model, from a fixed seed."""
    return SequenceModel(model_config(contender), generator=torch.Generator().manual_seed(0))


def random_tokens(length: int, vocab_size: int) -> torch.Tensor:
    """One row of tokens, always the same."""
    return torch.randint(vocab_size, (1, length), generator=torch.Generator().manual_seed(1))


def training_pass(contender: str, length: int) -> Callable[[], None]:
    """A function that goes forward and backward once."""
    model = make_model(contender)
    tokens = random_tokens(length + 1, model.config.vocab_size)

    def call() -> None:
        model.zero_grad(set_to_none=True)
        logits = model(tokens[:, :-1])
        nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()

    return call


@torch.no_grad()
def state_after(model: SequenceModel, length: int):
    """The state after so many tokens; a cache is as large as it would be, of random numbers."""
    if not isinstance(model.config.mixer, Attention):
        *_, (_, state) = stream(model, random_tokens(length, model.config.vocab_size))
        return state
    _, state = model.step(torch.zeros(1, dtype=torch.int64))
    draws = torch.Generator().manual_seed(2)
    shape = (*state.keys.shape[:2], length, state.keys.shape[3])
    return AttentionState(state.conv, *(torch.randn(shape, generator=draws) for _ in range(2)))


def state_bytes(state) -> int:
    """Bytes of the tensors in a state."""
    if isinstance(state, torch.Tensor):
        return state.untyped_storage().nbytes()
    return sum(map(state_bytes, state)) if isinstance(state, tuple) else 0


def one_token(contender: str, length: int) -> tuple[Callable[[], None], int]:
    """A function that reads one token more, always the same, and the bytes of the state that it starts from."""
    model = make_model(contender).eval()
    state, token = state_after(model, length), torch.zeros(1, dtype=torch.int64)

    def call() -> None:
        with torch.no_grad():
            model.step(token, state)

    return call, state_bytes(state)


def pass_memory(contender: str, length: int, threads: int) -> int:
    """Extra peak resident memory, in bytes, of three training passes in a fresh process."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_extra_memory, contender, length, threads).result()


def _extra_memory(contender: str, length: int, threads: int) -> int:
    torch.set_num_threads(threads)
    training_pass(contender, 16)()  # what is loaded on first use is no part of it
    return extra_resident(training_pass(contender, length))


def measure(settings: argparse.Namespace) -> list[dict]:
    """Every row: first the memory of training passes, then all times."""
    memory = {}
    for length in settings.training:
        for contender in SIDES:
            memory[contender, length] = pass_memory(contender, length, settings.threads)
            print(f"    length {length:7,d}, {contender:15s} {memory[contender, length] / 2**20:9.1f} MiB", flush=True)
    print("times: median (min .. max)", flush=True)
    rows = []
    for what, lengths in (("training", settings.training), ("token", settings.tokens)):
        for length in lengths:
            calls, bytes_of = {}, {}
            for contender in SIDES:
                if what == "training":
                    calls[contender], bytes_of[contender] = training_pass(contender, length), memory[contender, length]
                else:
                    calls[contender], bytes_of[contender] = one_token(contender, length)
            repeats = settings.repeats * (1 if what == "training" else _STEPS_A_TIMING)
            seconds = time_in_turns(calls, repeats, warm_up=1)
            for contender in SIDES:
                print_seconds(f"{what}, {length:,}, {contender}", seconds[contender])
                row = {"what": what, "contender": contender, "length": length}
                rows.append(row | {"seconds": seconds[contender], "memory": bytes_of[contender]})
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--training", type=int, nargs="+", default=TRAINING, help="lengths of a training pass")
    parser.add_argument("--tokens", type=int, nargs="+", default=TOKENS, help="tokens before the one that is timed")
    parser.add_argument(
        "--repeats", type=int, default=3, help=f"timings of a pass; of a step {_STEPS_A_TIMING} times that"
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--results", type=Path, default=folder(), help="folder of the records")
    settings = parser.parse_args(arguments)
    if min(*settings.training, *settings.tokens, settings.repeats, settings.threads) < 1:
        parser.error("lengths, --repeats and --threads are at least 1")
    path = settings.results / tables.FILE
    try:
        check_writable(path)
    except OSError as error:
        parser.error(str(error))
    torch.set_num_threads(settings.threads)
    record = {
        "schema": tables.SCHEMA,
        **begin(),
        "settings": {
            "vocab_size": _STUDY.tasks[0]["vocab_size"],
            "width": model_config(BASELINE.name).embedding_dim,
            "heads": model_config(BASELINE.name).mixer.num_heads,
            "batch": 1,
            "threads": settings.threads,
            "repeats": settings.repeats,
        },
    }
    print(f"{record['device_name']}; load of the machine before: {record['load_before']}", flush=True)
    record["rows"] = measure(settings)
    keep(record, path)


if __name__ == "__main__":
    main()
