"""Run what is missing of a preset, a slice at a time: `python -m orthonar.sweep headline-pocket`.

What was finished is recorded, whenever and however it is stopped; called again, it goes on with what is missing. A run
that is finished but cannot be recorded in the results is kept in a file elsewhere, whose path is printed;
`python -m orthonar.sweep --adopt FILE` adds it later. Exit status:

    0    all is done, or as much as the time budget allowed
    1    a run failed
    2    nothing was run
    3    something could not be written into the results: see what was printed, and --adopt
    4    out of time before a single run was recorded
    5    no more runs could be started: the workers or the cluster are gone, or the records cannot be read any more
    130  interrupted by Ctrl-C; 143 ended by SIGTERM, 129 by SIGHUP: 128 and the signal's number
"""

import argparse
import contextlib
import os
import signal
import sys
import threading
from pathlib import Path

from tqdm import tqdm

from . import paths
from .study.presets import Study, find_study, preset_names
from .study.records import RunStore
from .study.rescue import adopt
from .study.runs import Estimates, describe, describe_end
from .study.sweep import Progress, check_arguments, run_preset
from .study.weights import weights_path


def print_list(study: Study, store: RunStore, device: str) -> None:
    """Print every run that is known by now, in order, with what came of it or how long it may take on this device."""
    records = store.records()
    recorded = {r.identity: r for r in records}
    runs = study.runs(records)
    finished, estimates = Estimates(records, device), []
    for config in runs:
        record = recorded.get(config.identity)
        if record is not None:
            state = describe_end(record)
        else:
            estimates.append(seconds := finished.seconds(config))
            state = "missing" + (f", about {seconds:.0f} s" if seconds else "")
        print(f"{describe(config):70s}  {state}")
    for damage in store.damaged:
        print(f"damaged: {damage}")
    later = study.size() - len(runs)
    there = [recorded[c.identity] for c in runs if c.identity in recorded]
    print(f"{len(there)} of {study.size()} runs are recorded", end="")
    print(f"; {later} follow when learning rates are chosen" if later else "")
    if estimated := [seconds for seconds in estimates if seconds]:
        several = f"{len(estimated)} of " if len(estimated) < len(estimates) else ""
        hours = sum(estimated) / 3600
        print(f"by recorded ones, {several}{len(estimates)} missing runs take {hours:.2g} hours, one after the other")
    without = sum(not weights_path(store.folder, r).exists() for r in there if r.outcome != "diverged")
    if study.keep_weights and without:
        print(f"{without} of those recorded kept no weights, since another preset ran them, or they were lost")


def adopt_file(file: Path, preset: str | None, scale: str | None, results: Path) -> int:
    """Add the records of a file to the results and print how many; returns the exit status."""
    name = None if preset is None else find_study(preset, scale)[0]
    adopted = adopt(file, RunStore(results), name)
    for damage in adopted.damaged:
        print(f"damaged: {damage}")
    weights = f", {adopted.weights} with weights" if adopted.weights else ""
    print(f"{adopted.added} runs added to {results}{weights}; {adopted.known} were there already")
    return 1 if adopted.damaged else 0


class Ended(KeyboardInterrupt):
    """A signal asks this process to end, as Ctrl-C does."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def ended_by_signals():
    """What ends a batch job or a session ends this block as Ctrl-C would; what is ignored, as by nohup, stays so."""

    def end(number, _):
        raise Ended(number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signals = []  # only there a signal can be handled
    signals = [number for number in signals if signal.getsignal(number) is signal.SIG_DFL]
    for number in signals:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)


def summary(progress: Progress) -> tuple[str, int]:
    """What a sweep came to, in a line of text, and its exit status."""
    text = f"{len(progress.done)} runs recorded, {len(progress.missing)} known to be missing"
    if not (progress.done or progress.missing or progress.failed or progress.rescued):
        text = (
            "nothing to do: all that is known is recorded; to run it again elsewhere, name another folder by --results"
        )
    if progress.out_of_time:
        text += ", out of time" + ("" if progress.done else " before a single run was finished: nothing was recorded")
    if progress.stopped:
        text += f"; stopped: {progress.stopped}"
    for path in sorted({path for path in progress.rescued.values() if path is not None}):
        text += f"\nadd what is in {path} later: python -m orthonar.sweep --adopt {path}"
    status = 3 if progress.rescued else 5 if progress.stopped else 1 if progress.failed else 0
    return text, status or (4 if progress.out_of_time and not progress.done else 0)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m orthonar.sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", nargs="?", help=", ".join(preset_names()))
    parser.add_argument("--scale", help="paper (the default) or pocket")
    parser.add_argument("--device", default="cpu", help="cpu (the default), cuda (every GPU) or cuda:0")
    parser.add_argument("--time-budget", type=float, metavar="SECONDS", help="stop within this time")
    parser.add_argument("--results", type=Path, metavar="DIR", help="folder of the records; default: results/")
    parser.add_argument("--workers", type=int, help="processes; default: one a GPU or CPU core")
    parser.add_argument("--together", type=int, default=1, help="runs that each trains side by side, for large GPUs")
    parser.add_argument("--dask", metavar="ADDRESS", help="run on a Dask cluster; needs orthonar[cluster]")
    parser.add_argument("--sides", nargs="+", metavar="NAME", help="run these sides of the comparison alone")
    parser.add_argument("--tasks", type=int, metavar="N", help="run the first N tasks alone")
    parser.add_argument("--list", action="store_true", help="show the runs and run nothing")
    parser.add_argument("--adopt", type=Path, metavar="FILE", help="add the records of this file and run nothing")
    args = parser.parse_args(argv)
    if args.preset is None and args.adopt is None:
        parser.error("name a preset")
    results = args.results or paths.results_dir()
    try:
        with ended_by_signals():
            if args.adopt:
                return adopt_file(args.adopt, args.preset, args.scale, results)
            if args.list:
                check_arguments(args.device, args.workers, args.together, args.time_budget, args.dask)
                study = find_study(args.preset, args.scale)[1]
                print_list(study.only(args.sides, args.tasks), RunStore(results), args.device)
                return 0
            options = {"device": args.device, "workers": args.workers, "together": args.together, "dask": args.dask}
            options |= {"time_budget": args.time_budget, "sides": args.sides, "tasks": args.tasks}
            progress = run_preset(args.preset, args.scale, results=results, say=_line, **options)
    except BrokenPipeError:  # whoever reads the list has read enough
        return 0
    except (ValueError, ImportError, OSError) as error:
        _line(f"{'not adopted' if args.adopt else 'nothing was run'}: {error}", sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        number = getattr(interrupt, "number", signal.SIGINT)
        how = "interrupted" if number == signal.SIGINT else f"ended by {signal.Signals(number).name}"
        _line(f"{how}; what was finished is recorded", sys.stderr)
        return 128 + number
    text, status = summary(progress)
    _line(text)
    return status


def _line(text: str, file=None) -> None:
    """Print a line past the progress bar; where nobody listens or the disk is full, it is lost and nothing else is."""
    file = file or sys.stdout
    with contextlib.suppress(OSError):
        tqdm.write(text, file=file)
        file.flush()


def _flush() -> None:
    """Let what could not be printed go, or Python would try again at its end and exit with a status of its own."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    exit_status = main()
    _flush()
    sys.exit(exit_status)
