"""What a training step of each side of a study takes on a quiet machine, evaluations left out.

    python -m benchmarks.pace                     # the reads of `frontier-pocket`, one thread: about two minutes

How long recorded runs took says as much of what ran beside them, and of the revision that they were made with, as of
their reads. Here the sides take turns, a step each, so that all of them see the same machine. The run is appended as
one line of JSON to pace-cpu.jsonl in results/benchmarks; notebooks 00, 07 and 10 to 13 turn steps into seconds with it.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.record import begin, keep
from benchmarks.steps import print_seconds, time_in_turns
from orthonar.report.tables import pace as tables
from orthonar.report.tables.cost import folder
from orthonar.study.jsonl import check_writable
from orthonar.study.presets import Study, find_study, preset_names
from orthonar.training.step import make_training_step


def steps(study: Study) -> dict[str, Callable[[], object]]:
    """A training step of each side on the study's first task, by the identity of the run that it is a step of."""
    runs = [study.run(task, side, study.rates[0], tables.SEED) for task, side in study.only(tasks=1).cells()]
    return {config.identity: make_training_step(config, torch.device("cpu")).step for config in runs}


def main(arguments: list[str] | None = None) -> None:
    """Parse the command line, measure, print, record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=preset_names(), default="frontier-pocket", help="whose sides, by name")
    parser.add_argument("--sides", nargs="+", metavar="NAME", help="some of them, by name; default: all")
    parser.add_argument("--repeats", type=int, default=61, help="timings of each side")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--results", type=Path, default=folder(), help="folder of the records")
    settings = parser.parse_args(arguments)
    if min(settings.repeats, settings.threads) < 1:
        parser.error("--repeats and --threads are at least 1")
    path = settings.results / tables.FILE
    try:
        study = find_study(settings.preset)[1].only(settings.sides)
        check_writable(path)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    torch.set_num_threads(settings.threads)
    record = {
        "schema": tables.SCHEMA,
        **begin(),
        "settings": {"preset": settings.preset, "threads": settings.threads, "repeats": settings.repeats},
    }
    print(f"{record['device_name']}; load of the machine before: {record['load_before']}", flush=True)
    seconds = time_in_turns(steps(study), settings.repeats, warm_up=3)
    record["rows"] = [
        {"side": side, "identity": str(identity), "seconds": of_side}
        for side, (identity, of_side) in zip(study.sides, seconds.items(), strict=True)
    ]
    for row in record["rows"]:
        print_seconds(row["side"], row["seconds"])
    keep(record, path)


if __name__ == "__main__":
    main()
