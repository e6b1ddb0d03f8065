"""Ask the kept weights of recorded runs what their memories hold: `python -m orthonar.contents`.

Every run whose weights lie in DIR/weights and that was not asked yet, neither at the end of its training nor here, is
asked how much a decoder finds in its memory and how well it recalls when read in another way; with --what occurrences,
how well it recalls keys that were shown so often; with --what delays, if it is solved, how well after up to 100,000
distractors; with --what stock, if its read was taken down in training, how well in the layer of the package `xlstm`.
Each answer is appended at once to DIR/weights/contents.jsonl. It may be stopped at any moment and called again. Exit
status:

    0    all that can be asked is asked
    1    some weights cannot be asked: see what was printed
    2    the folder cannot be read or written, or holds no records
    130  interrupted by Ctrl-C; what was answered is recorded
"""

import argparse
import sys
import time
from pathlib import Path

from . import paths
from .study.contents import ASKINGS, MEMORY, Asking, add_answer, answers_path, ask, read_answers, unasked
from .study.jsonl import Damage, check_writable
from .study.records import RunStore
from .study.runs import describe
from .training.config import RunConfig


def ask_all(results: Path, asking: Asking = MEMORY) -> int:
    """Ask every run of a folder that was not asked this yet; returns the exit status."""
    store, damaged = RunStore(results), list[Damage]()
    records = store.records()
    if not records and not store.damaged:
        raise FileNotFoundError(f"there are no records in {results.resolve()}")
    read_answers(results, damaged)
    for damage in store.damaged + damaged:
        print(f"damaged: {damage}")
    missing = unasked(results, records, asking)
    if missing:
        check_writable(answers_path(results))
    asked = failed = 0
    for record in missing:
        name, since = f"run {record.identity}", time.time()
        try:
            name = describe(RunConfig.of_record(record))
            answer = ask(results, record, asking)
        except (ValueError, FileNotFoundError) as error:
            failed += 1
            print(f"{name}: not asked: {error}", flush=True)
            continue
        asked += add_answer(results, answer)
        shares = answer.numbers.items()
        shown = ", ".join(f"{key} unknown" if share is None else f"{key} {100 * share:.0f} %" for key, share in shares)
        print(f"{name}: {shown} ({time.time() - since:.0f} s)", flush=True)
    print(f"{asked} runs asked, {len(read_answers(results, [], asking))} answers in {answers_path(results)}")
    return 1 if failed else 0


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orthonar.contents", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder of the records; default: results/")
    parser.add_argument("--what", choices=ASKINGS, default=MEMORY.name, help="what to ask; default: %(default)s")
    args = parser.parse_args(argv)
    try:
        return ask_all(args.results or paths.results_dir(), ASKINGS[args.what])
    except OSError as error:
        print(f"stopped: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was answered is recorded", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
