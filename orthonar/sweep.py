"""Run what is missing of a preset, a slice at a time: `python -m orthonar.sweep headline-pocket`.

What was finished is recorded, whenever and however it is stopped; called again, it goes on with what is missing. Exit
status: 0 all done or out of time, 1 a run failed, 2 nothing was run, 130 interrupted.
"""

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from . import paths
from .study.presets import Study, find_study, preset_names
from .study.records import RunStore
from .study.sweep import describe, estimate, run_preset


def print_list(study: Study, store: RunStore) -> None:
    """Print every run that is known by now, in order, with what came of it or how long it may take."""
    records = store.records()
    recorded = {r.identity: r for r in records}
    runs = study.runs(records)
    for config in runs:
        record = recorded.get(config.identity)
        if record is not None:
            state = f"{record.outcome}, {record.wall_seconds:.0f} s"
        else:
            seconds = estimate(config, records)
            state = "missing" + (f", about {seconds:.0f} s" if seconds else "")
        print(f"{describe(config):70s}  {state}")
    for damage in store.damaged:
        print(f"damaged: {damage}")
    later = study.size() - len(runs)
    print(f"{sum(c.identity in recorded for c in runs)} of {study.size()} runs are recorded", end="")
    print(f"; {later} follow when learning rates are chosen" if later else "")


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m orthonar.sweep", description=__doc__.split("\n")[0])
    parser.add_argument("preset", help=", ".join(preset_names()))
    parser.add_argument("--scale", help="paper (the default) or pocket")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda (every GPU) or cuda:0")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS", help="stop within this time")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder of the records; default: results/")
    parser.add_argument("--workers", type=int, help="processes; default: one a GPU or CPU core")
    parser.add_argument("--together", type=int, default=1, help="runs that each trains side by side, for large GPUs")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on a Dask cluster; needs orthonar[cluster]")
    parser.add_argument("--list", action="store_true", help="show the runs and run nothing")
    args = parser.parse_args(argv)
    try:
        if args.list:
            print_list(find_study(args.preset, args.scale)[1], RunStore(args.results or paths.results_dir()))
            return 0
        options = {"device": args.device, "workers": args.workers, "together": args.together, "dask": args.dask}
        options["time_budget"] = args.time_budget
        progress = run_preset(args.preset, args.scale, results=args.results, say=_line, **options)
    except (ValueError, ImportError, OSError) as error:
        print(f"nothing was run: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; what was finished is recorded", file=sys.stderr)
        return 130
    print(f"{len(progress.done)} runs recorded, {len(progress.missing)} known to be missing", end="")
    print(", out of time" if progress.out_of_time else "")
    return 1 if progress.failed else 0


def _line(text: str) -> None:
    tqdm.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
