"""Run what is missing of a study, a slice at a time.

Every finished run is recorded at once. Stopped at any moment, by its time budget, Ctrl-C, a kill or a power cut, a
sweep loses the runs in progress and nothing else; called again, it goes on with what is missing. A finished run that
cannot be recorded where it belongs is recorded elsewhere, see `orthonar.study.recorder`.
"""

import concurrent.futures as cf
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from .. import paths
from ..settings import checked_integer, checked_number
from ..training.config import RunConfig, usable_device
from ..training.record import RunRecord
from .executors import (
    dask_executor,
    default_workers,
    end_at_once,
    local_executor,
    lost_its_worker,
    signals_held_back,
)
from .presets import Study, find_study
from .recorder import Recorder
from .records import RunStore
from .runs import Estimates, describe, describe_end
from .worker import train_group

_MARGIN = 1.1  # a run is started if this many times its estimate fits
_GRACE = 10  # seconds for what ended together with a worker to be told
_LISTENING = 1.0  # seconds between looks for a signal
#: How often a run may be in progress when a worker dies before it is tried alone.
_MAX_SHARED_DEATHS = 2
#: How often in a row, with no run finished between, everything in progress may be cancelled from outside.
_MAX_CANCELLATIONS = 3


@dataclass
class Progress:
    """What a sweep did.

    Args:
        done: records added, in the order they came.
        failed: what went wrong, by run.
        missing: runs that are neither recorded nor rescued at the end, as far as they are known.
        out_of_time: whether the time budget kept some from being started or finished.
        rescued: by run, the file outside the results that its record or its weights are in; None if it was printed.
        stopped: why no more runs were started, in one sentence; None if nothing stood in the way.
    """

    done: list[RunRecord] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[RunConfig] = field(default_factory=list)
    out_of_time: bool = False
    rescued: dict[str, Path | None] = field(default_factory=dict)
    stopped: str | None = None


class Sweep:
    """One study's missing runs, on one executor.

    Args:
        study: what to run.
        name: the file, without .jsonl, that records go to.
        store: where records are looked for and added.
        make_executor: makes the executor, a `concurrent.futures.Executor`; called again if its workers die. An OSError
            or RuntimeError of it says that there are no workers any more.
        slots: tasks in progress at a time.
        together: runs that a task trains side by side, see `orthonar.training.train.train_together`.
        device: device that each run is asked to use.
        time_budget: seconds after which nothing runs any more; None for no end.
        say: takes lines of text about what happens.
        max_worker_deaths: how often a run's worker may die while nothing else runs before the run is given up.
    """

    def __init__(
        self,
        study: Study,
        name: str,
        store: RunStore,
        make_executor: Callable[[], cf.Executor],
        slots: int,
        device: str = "cpu",
        time_budget: float | None = None,
        say: Callable[[str], None] = print,
        together: int = 1,
        max_worker_deaths: int = 3,
    ):
        _check_time_budget(time_budget)
        for argument, value in (("slots", slots), ("together", together), ("max_worker_deaths", max_worker_deaths)):
            checked_integer(argument, value, 1)
        self.study, self.name, self.store, self.slots, self.device = study, name, store, slots, device
        self.make_executor, self.together, self.max_worker_deaths = make_executor, together, max_worker_deaths
        self.deadline = None if time_budget is None else time.monotonic() + time_budget
        self.progress = Progress()
        self.recorded: dict[str, RunRecord] = {}
        self._known: list[RunConfig] = []  # runs that are asked for, as far as learning rates are chosen
        self._say = say
        self._recorder = Recorder(store, name, self.say, self.progress.rescued)
        self._settled: set[str] = set()  # runs that were trained here, whatever can be read of them
        self._singly: set[str] = set()  # runs that share no task, since one that they were part of failed
        self._shared_deaths: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()  # while nothing else was running
        self._cancellations = 0
        self._running: dict[cf.Future, list[RunConfig]] = {}
        self._executor: cf.Executor | None = None
        # How long runs take, and of how many finished ones that was learnt.
        self._estimates: tuple[tuple[int, int], list[Estimates]] | None = None

    def say(self, text: str) -> None:
        """Pass on a line of text; a full disk or a closed pipe behind it costs the line and nothing else."""
        try:
            self._say(text)
        except OSError:
            pass

    def missing(self) -> list[RunConfig]:
        """What is neither recorded nor given up, in order; the store is read anew, others may add to it.

        Raises:
            OSError: the store's folder cannot be read.
        """
        records = self.store.records()
        self.recorded = {r.identity: r for r in records}
        self._known = self.study.runs(records, self.device)
        ended = self.recorded.keys() | self.progress.failed.keys() | self._settled
        return [c for c in self._known if c.identity not in ended]

    def run(self) -> Progress:
        """Run until nothing is missing, the time is over, or there is no place for records or no worker any more.

        Raises:
            OSError: records cannot be read or added; nothing was run.
        """
        missing = self.missing()
        for damage in self.store.damaged:
            self.say(f"damaged: {damage}")
        if missing:
            self.store.check_writable(self.name)
        have = sum(c.identity in self.recorded for c in self._known)
        self.say(f"{self.name}: {have} of {self.study.size()} runs are recorded")
        bar = {"file": sys.stderr, "dynamic_ncols": True, "disable": not sys.stderr.isatty()}
        try:
            with tqdm(total=self.study.size(), initial=have, desc=self.name, unit="run", **bar) as self._bar:
                try:
                    self._loop(missing)
                finally:
                    self._harvest()
        finally:
            self._stop()
        self.progress.missing = self._look(missing)
        return self.progress

    def _loop(self, missing: list[RunConfig]) -> None:
        while True:
            self._fill(missing)
            self._bar.set_postfix(running=sum(map(len, self._running.values())), refresh=True)
            if not self._running:
                return
            finished = self._first_finished()
            if not finished:
                self.progress.out_of_time = True
                for config in (c for group in self._running.values() for c in group):
                    self.say(f"out of time, not finished: {describe(config)}")
                return
            for future in finished:
                self._finish(future)
            missing = self._look(missing)

    def _first_finished(self) -> set[cf.Future]:
        """What finished first; nothing when the time is over."""
        while True:
            # A signal that reaches another thread of this process, as it may after a pause, does not end a wait.
            left = math.inf if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            finished, _ = cf.wait(self._running, min(left, _LISTENING), cf.FIRST_COMPLETED)
            if finished or left <= _LISTENING:
                return finished

    def _look(self, known: list[RunConfig]) -> list[RunConfig]:
        """What is missing; as far as it was known if the records cannot be read any more, which ends the sweep."""
        try:
            return self.missing()
        except OSError as error:
            self._start_no_more(f"the records cannot be read any more ({error.strerror or error})")
            return [c for c in known if c.identity not in self._settled]

    def _start_no_more(self, reason: str) -> None:
        if self.progress.stopped is None:
            self.progress.stopped = reason
            going = "; the runs in progress end first" if self._running else ""
            self.say(f"no more runs are started: {reason}{going}")

    # Starting

    def _fill(self, missing: list[RunConfig]) -> None:
        """Start what fits into the slots and the time."""
        running = [c.identity for group in self._running.values() for c in group]
        if any(self._is_suspect(identity) for identity in running):
            return  # nothing beside it: should its worker die, it was alone
        waiting = [c for c in missing if c.identity not in running]
        for group in self._groups([c for c in waiting if not self._is_suspect(c.identity)]):
            if self.progress.stopped or len(self._running) >= self.slots:
                return
            if self._fits(group):
                self._start(group)
            else:
                self.progress.out_of_time = True
        for config in (c for c in waiting if self._is_suspect(c.identity)):
            if self.progress.stopped or self._running:
                return
            if self._fits([config]):
                self._start([config])
            else:
                self.progress.out_of_time = True

    def _is_suspect(self, identity: str) -> bool:
        """Whether a run was so often in progress when a worker died that it is to run alone."""
        return self._shared_deaths[identity] >= _MAX_SHARED_DEATHS

    def _groups(self, missing: list[RunConfig]) -> list[list[RunConfig]]:
        """The missing runs in order, as many together as are to go side by side."""
        singly = [c for c in missing if c.identity in self._singly]
        others = [c for c in missing if c.identity not in self._singly]
        size = self.together
        return [[c] for c in singly] + [others[i : i + size] for i in range(0, len(others), size)]

    def _fits(self, group: list[RunConfig]) -> bool:
        if self.deadline is None:
            return True
        left = self.deadline - time.monotonic()
        # What this sweep itself has run is the best guide: same machine, as many concurrent runs.
        known = len(self.progress.done), len(self.recorded)
        if self._estimates is None or self._estimates[0] != known:
            finished = self.progress.done, self.recorded.values()
            self._estimates = known, [Estimates(records, self.device) for records in finished]
        of_this_sweep, of_any = self._estimates[1]
        estimates = (of_this_sweep.seconds(config) or of_any.seconds(config) for config in group)
        return left > 0 and all(seconds is None or _MARGIN * seconds < left for seconds in estimates)

    def _start(self, group: list[RunConfig]) -> None:
        try:
            try:
                future = self._submit(group)
            except (RuntimeError, cf.CancelledError) as error:  # it broke between two looks at it
                self._lose_everything(error)
                future = self._submit(group)
        except (OSError, RuntimeError, cf.CancelledError) as error:
            self._start_no_more(f"there are no workers ({error})")
        else:
            self._running[future] = group

    def _submit(self, group: list[RunConfig]) -> cf.Future:
        with signals_held_back():  # a process that is half begun would be left behind, to complain
            if self._executor is None:
                self._executor = self.make_executor()
            return self._executor.submit(train_group, group, self.study.keep_weights)

    # Finishing

    def _finish(self, future: cf.Future) -> None:
        group = self._running.get(future)
        if group is None:
            return  # it went down with others and was seen to
        try:
            future.result()
        except (cf.BrokenExecutor, cf.CancelledError) as error:
            self._lose_everything(error)
        except Exception as error:
            del self._running[future]
            if lost_its_worker(error):
                self._lose([group], error)
            elif len(group) == 1:
                self._fail(group[0], f"{type(error).__name__}: {error}")
            else:
                self._singly |= {c.identity for c in group}
                self.say(f"{len(group)} runs failed together, each is tried alone: {type(error).__name__}: {error}")
        else:
            self._take(future, group)

    def _take(self, future: cf.Future, group: list[RunConfig]) -> None:
        """Record what a task made; only then it counts as taken, so that a signal meanwhile loses nothing."""
        self._cancellations = 0
        for config, (record, weights) in zip(group, future.result(), strict=True):
            if config.identity not in self._settled | self.progress.failed.keys():
                self._record(config, record, weights)
        del self._running[future]

    def _harvest(self) -> None:
        """Record what was finished and not yet looked at when the sweep was stopped."""
        for future, group in list(self._running.items()):
            if future.done() and not future.cancelled() and future.exception() is None:
                self._take(future, group)

    def _lose_everything(self, error: Exception) -> None:
        """The executor is gone, and with it what was in progress, save what was finished just before."""
        cf.wait(self._running, timeout=_GRACE)
        self._harvest()
        lost, self._running = list(self._running.values()), {}
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.shutdown(wait=False)
        if not isinstance(error, cf.CancelledError):
            self._lose(lost, error)
            return
        # Nobody's fault: it was not its worker that a run lost, but whoever deals out the work.
        self._cancellations += 1
        self.say(f"{sum(map(len, lost))} runs in progress were cancelled from outside, they start again")
        if self._cancellations >= _MAX_CANCELLATIONS:
            self._start_no_more(f"all runs were cancelled from outside {self._cancellations} times")

    def _lose(self, lost: list[list[RunConfig]], error: Exception) -> None:
        """Some runs died with a worker: one that was alone is blamed, of several nobody knows which it was."""
        runs = [config for group in lost for config in group]
        alone = len(runs) == 1 and not self._running
        for config in runs:
            (self._deaths if alone else self._shared_deaths)[config.identity] += 1
            self._singly.add(config.identity)
            if self._deaths[config.identity] >= self.max_worker_deaths:
                deaths = f"{self._deaths[config.identity]} times"
                self._fail(config, f"its worker died {deaths} while nothing else ran ({type(error).__name__})")
            else:
                how = " alone" if self._is_suspect(config.identity) else ""
                self.say(f"a worker died, started again{how}: {describe(config)}")

    def _record(self, config: RunConfig, record: RunRecord, weights: bytes | None) -> None:
        try:
            added = self._recorder.keep(record, weights, describe(config))
        except ValueError as error:
            self._fail(config, str(error))
            return
        if added:
            self.progress.done.append(record)
        if self._recorder.obstacle is not None:
            self._start_no_more(self._recorder.obstacle)
        if record.identity != config.identity:
            self._fail(config, "its record is one of other settings; do the workers have another version of orthonar?")
            return
        self._settled.add(config.identity)
        self._bar.update()
        self.say(f"{describe(config)}: {describe_end(record)}")

    def _fail(self, config: RunConfig, reason: str) -> None:
        self.progress.failed[config.identity] = f"{describe(config)}: {reason}"
        self.say(f"FAILED {describe(config)}: {reason}")

    def _stop(self) -> None:
        """End what is in progress: nothing of it is recorded."""
        for future in self._running:
            future.cancel()
        executor, self._executor = self._executor, None
        self._running = {}
        if executor is not None:
            end_at_once(executor)


def check_arguments(
    device: str, workers: int | None, together: int, time_budget: float | None, dask: str | None = None
) -> None:
    """Look through what `run_preset` is to run with; nothing is asked of a device or a scheduler.

    Args:
        device, workers, together, time_budget, dask: as of `run_preset`.

    Raises:
        ValueError: naming the argument that is impossible on any machine.
    """
    RunConfig(device=device)
    for argument, value in (("workers", workers), ("together", together)):
        if value is not None:
            checked_integer(argument, value, 1)
    _check_time_budget(time_budget)
    if dask is not None and not (isinstance(dask, str) and dask.strip()):
        raise ValueError(f"dask must be the address of a scheduler, not {dask!r}")


def _check_time_budget(seconds: float | None) -> None:
    if seconds is not None and seconds != math.inf:
        checked_number("time_budget", seconds, above=0)


def run_preset(
    preset: str,
    scale: str | None = None,
    *,
    results: str | os.PathLike | None = None,
    device: str = "cpu",
    workers: int | None = None,
    together: int = 1,
    dask: str | None = None,
    time_budget: float | None = None,
    sides: Sequence[str] | None = None,
    tasks: int | None = None,
    say: Callable[[str], None] = print,
) -> Progress:
    """Run what is missing of a preset and record it; what the command line does.

    Args:
        preset: its name, see `find_study`.
        scale: its scale, see `find_study`.
        results: folder of the records; None for `orthonar.paths.results_dir()`.
        device: "cpu", "cuda" (every GPU) or "cuda:0".
        workers: processes; None for one a GPU or CPU core, or what the cluster has.
        together: runs that each trains side by side; more than 1 is for GPUs that one run does not fill.
        dask: address of a Dask scheduler; None runs in processes of this machine.
        time_budget: seconds after which nothing runs any more; None for no end.
        sides: names of the sides to run; None for all.
        tasks: how many of the tasks to run, the first ones; None for all.
        say: takes lines of text about what happens.

    Raises:
        ValueError: naming the argument that is impossible; before anything is run.
        OSError: records cannot be read or written there, or no scheduler answers; before anything is run.
    """
    name, study = find_study(preset, scale)
    study = study.only(sides, tasks)
    check_arguments(device, workers, together, time_budget, dask)
    if results == "":
        raise ValueError("results must be a folder, not ''")
    if dask is not None:
        make_executor, slots = dask_executor(dask, device, time_budget)
    else:
        usable_device(device)
        slots = workers or default_workers(device)

        def make_executor() -> cf.Executor:
            return local_executor(slots, device)

    store = RunStore(paths.results_dir() if results is None else results)
    return Sweep(study, name, store, make_executor, workers or slots, device, time_budget, say, together).run()
