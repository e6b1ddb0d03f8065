"""Run what is missing of a study, a slice at a time.

Every finished run is recorded at once. Stopped at any moment, by its time budget, Ctrl-C, a kill or a power cut, a
sweep loses the runs in progress and nothing else; called again, it goes on with what is missing.
"""

import concurrent.futures as cf
import dataclasses
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

import torch
from tqdm import tqdm

from .. import paths
from ..mlstm.writes import AdditiveWrite
from ..training.config import RunConfig
from ..training.record import RunRecord, identifying_settings
from ..training.schedules import Constant
from ..training.train import train_models
from .executors import dask_executor, default_workers, local_executor
from .presets import Study, find_study
from .records import RunStore
from .weights import packed, save_weights

#: How often a run may be taken down with its worker before it is given up.
_LIVES = 3
_MARGIN = 1.1  # a run is started if this many times its estimate fits


@dataclass
class Progress:
    """What a sweep did.

    Args:
        done: records added, in the order they came.
        failed: what went wrong, by run.
        missing: runs that are not recorded at the end, as far as they are known.
        out_of_time: whether the time budget kept some from being started or finished.
    """

    done: list[RunRecord] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    missing: list[RunConfig] = field(default_factory=list)
    out_of_time: bool = False


def describe(config: RunConfig) -> str:
    """A run in a few words: read, what else is not the study's, task, learning rate, seed."""
    model, task = config.model, config.task
    words = [_in_words(model.mixer.read)]
    words += [_in_words(model.mixer.write)] if model.mixer.write != AdditiveWrite() else []
    words += [] if model.embedding_std == 1 else [f"embedding std {model.embedding_std:.2g}"]
    words += ["constant lr"] if config.schedule == Constant() else []
    words += [f"{config.steps} steps"]
    words += ["frozen keys"] if config.frozen_keys else []
    words += [f"queries and keys lr x {config.qk_lr_factor:g}"] if config.qk_lr_factor != 1 else []
    words += [f"vocabulary {task.vocab_size}, length {task.seq_len}"]
    return f"{', '.join(words)}, lr {config.optimizer.lr:g}, seed {config.seed}"


def _in_words(variant) -> str:
    """A read or write: its name, the number of its steps, its parts."""
    name = type(variant).__name__.removesuffix("Read")
    values = [getattr(variant, f.name) for f in dataclasses.fields(variant)]
    parts = [_in_words(v) for v in values if dataclasses.is_dataclass(v)]
    steps = getattr(variant, "steps", None)
    return name + ("" if steps is None else f" {steps}") + (f" ({', '.join(parts)})" if parts else "")


def estimate(config: RunConfig, records: list[RunRecord]) -> float | None:
    """Seconds that a run will take, from finished ones; None if there is nothing to go by.

    The median of runs that differ in seed and learning rate alone; else of those with the same read and model, by the
    number of tokens. The caller passes records that were made where this one will be.
    """

    def kind(settings: dict) -> tuple:
        return tuple(sorted((k, str(v)) for k, v in identifying_settings(settings).items() if k not in ("seed", "lr")))

    def tokens(settings: dict) -> int:
        return settings["steps"] * settings["batch_size"] * settings["seq_len"]

    mine = identifying_settings(config.settings())
    complete = [r for r in records if r.outcome != "diverged"]
    if same := [r.wall_seconds for r in complete if kind(r.settings) == kind(mine)]:
        return statistics.median(same)
    alike = ("read", "write", "embedding_dim", "num_heads", "form")
    near = [r for r in complete if all(identifying_settings(r.settings).get(k) == mine.get(k) for k in alike)]
    if near:
        return statistics.median(r.wall_seconds / tokens(r.settings) for r in near) * tokens(mine)
    return None


def train_group(configs: list[RunConfig], keep_weights: bool) -> list[tuple[RunRecord, bytes | None]]:
    """What a worker does: train some runs side by side.

    Args:
        configs: their settings.
        keep_weights: whether their final weights are wanted too.

    Returns:
        For each run its record and its weights, see `orthonar.study.weights.packed`; None for a run that diverged.
    """
    return [
        (record, packed(model) if keep_weights and record.outcome != "diverged" else None)
        for record, model in train_models(configs)
    ]


class Sweep:
    """One study's missing runs, on one executor.

    Args:
        study: what to run.
        name: the file, without .jsonl, that records go to.
        store: where records are looked for and added.
        make_executor: makes the executor, a `concurrent.futures.Executor`; called again if its workers die.
        slots: tasks in progress at a time.
        together: runs that a task trains side by side, see `orthonar.training.train.train_together`.
        device: device that each run is asked to use.
        time_budget: seconds after which nothing runs any more; None for no end.
        say: takes lines of text about what happens.
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
    ):
        if time_budget is not None and not time_budget > 0:
            raise ValueError(f"time_budget must be positive, in seconds, not {time_budget!r}")
        if slots < 1:
            raise ValueError(f"slots must be at least 1, not {slots!r}")
        if together < 1:
            raise ValueError(f"together must be at least 1, not {together!r}")
        self.study, self.name, self.store, self.slots, self.device, self.say = study, name, store, slots, device, say
        self.make_executor, self.together = make_executor, together
        self.deadline = None if time_budget is None else time.monotonic() + time_budget
        self.progress = Progress()
        self._deaths: Counter[str] = Counter()
        self._alone: set[str] = set()  # runs that go by themselves, since company of theirs failed
        self._running: dict[cf.Future, list[RunConfig]] = {}
        self._executor: cf.Executor | None = None

    def missing(self) -> list[RunConfig]:
        """What is neither recorded nor given up, in order; the store is read anew, others may add to it."""
        records = self.store.records()
        self.recorded = {r.identity: r for r in records}
        known = self.study.runs(records, self.device)
        return [c for c in known if c.identity not in self.recorded and c.identity not in self.progress.failed]

    def run(self) -> Progress:
        """Run until nothing is missing, or the time is over."""
        missing = self.missing()
        for damage in self.store.damaged:
            self.say(f"damaged: {damage}")
        known = self.study.runs(self.recorded.values(), self.device)
        have = sum(c.identity in self.recorded for c in known)
        self.say(f"{self.name}: {have} of {self.study.size()} runs are recorded")
        bar = {"file": sys.stderr, "dynamic_ncols": True, "disable": not sys.stderr.isatty()}
        try:
            with tqdm(total=self.study.size(), initial=have, desc=self.name, unit="run", **bar) as self._bar:
                self._loop(missing)
        finally:
            self._stop()
        self.progress.missing = self.missing()
        return self.progress

    def _loop(self, missing: list[RunConfig]) -> None:
        while True:
            running = {c.identity for group in self._running.values() for c in group}
            for group in self._groups([c for c in missing if c.identity not in running]):
                if len(self._running) >= self.slots:
                    break
                if self._fits(group):
                    self._start(group)
                else:
                    self.progress.out_of_time = True
            self._bar.set_postfix(running=sum(map(len, self._running.values())), refresh=True)
            if not self._running:
                return
            wait = None if self.deadline is None else max(0.0, self.deadline - time.monotonic())
            finished, _ = cf.wait(self._running, timeout=wait, return_when=cf.FIRST_COMPLETED)
            if not finished:
                self.progress.out_of_time = True
                for config in (c for group in self._running.values() for c in group):
                    self.say(f"out of time, not finished: {describe(config)}")
                return
            for future in finished:
                self._finish(future, self._running.pop(future))
            missing = self.missing()

    def _groups(self, missing: list[RunConfig]) -> list[list[RunConfig]]:
        """The missing runs in order, as many together as are to go side by side."""
        alone = [c for c in missing if c.identity in self._alone]
        others = [c for c in missing if c.identity not in self._alone]
        size = self.together
        return [[c] for c in alone] + [others[i : i + size] for i in range(0, len(others), size)]

    def _fits(self, group: list[RunConfig]) -> bool:
        if self.deadline is None:
            return True
        left = self.deadline - time.monotonic()
        # What this sweep itself has run is the best guide: same machine, same company.
        here = self._records_here()
        estimates = (estimate(config, self.progress.done) or estimate(config, here) for config in group)
        return left > 0 and all(seconds is None or _MARGIN * seconds < left for seconds in estimates)

    def _records_here(self) -> list[RunRecord]:
        here = torch.device(self.device).type
        return [r for r in self.recorded.values() if torch.device(r.settings["device"]).type == here]

    def _start(self, group: list[RunConfig]) -> None:
        if self._executor is None:
            self._executor = self.make_executor()
        try:
            self._running[self._executor.submit(train_group, group, self.study.keep_weights)] = group
        except (BrokenProcessPool, RuntimeError):  # it broke between two looks at it
            self._stop()
            self._executor = self.make_executor()
            self._running[self._executor.submit(train_group, group, self.study.keep_weights)] = group

    def _finish(self, future: cf.Future, group: list[RunConfig]) -> None:
        try:
            trained = future.result()
        except (cf.BrokenExecutor, cf.CancelledError) as error:
            # The whole pool is gone: all that was in progress starts again, at most _LIVES times.
            for config in group:
                self._deaths[config.identity] += 1
                if self._deaths[config.identity] >= _LIVES:
                    self._fail(config, f"its worker died {_LIVES} times ({type(error).__name__})")
                else:
                    self.say(f"a worker died, started again: {describe(config)}")
            self._drop_executor()
        except Exception as error:
            if len(group) == 1:
                self._fail(group[0], f"{type(error).__name__}: {error}")
            else:
                self._alone |= {c.identity for c in group}
                self.say(f"{len(group)} runs failed together, each is tried alone: {type(error).__name__}: {error}")
        else:
            for config, (record, weights) in zip(group, trained, strict=True):
                self._record(config, record, weights)

    def _record(self, config: RunConfig, record: RunRecord, weights: bytes | None) -> None:
        if weights is not None:
            try:  # before the record: a run that is recorded is never trained again
                save_weights(self.store.folder, record, weights)
            except OSError as error:
                self.say(f"weights not kept ({error}): {describe(config)}")
        if self.store.add(record, self.name):
            self.progress.done.append(record)
        accuracy = "loss not finite" if record.accuracy is None else f"accuracy {100 * record.accuracy:.1f} %"
        self._bar.update()
        self.say(f"{describe(config)}: {accuracy}, {record.outcome} ({record.wall_seconds:.0f} s)")

    def _fail(self, config: RunConfig, reason: str) -> None:
        self.progress.failed[config.identity] = f"{describe(config)}: {reason}"
        self.say(f"FAILED {describe(config)}: {reason}")

    def _drop_executor(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=False)
            self._executor = None

    def _stop(self) -> None:
        """End what is in progress: nothing of it is recorded."""
        for future in self._running:
            future.cancel()
        executor, self._executor = self._executor, None
        self._running = {}
        if isinstance(executor, cf.ProcessPoolExecutor):
            for process in list((executor._processes or {}).values()):
                process.kill()
        if executor is not None:
            executor.shutdown(wait=False)


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
        say: takes lines of text about what happens.

    Raises:
        ValueError: naming the argument that is impossible; before anything is run.
    """
    name, study = find_study(preset, scale)
    RunConfig(device=device)
    if workers is not None and workers < 1:
        raise ValueError(f"workers must be at least 1, not {workers!r}")
    if together < 1:
        raise ValueError(f"together must be at least 1, not {together!r}")
    if dask:
        make_executor, slots = dask_executor(dask)
    else:
        slots = workers or default_workers(device)

        def make_executor() -> cf.Executor:
            return local_executor(slots, device)

    store = RunStore(results or paths.results_dir())
    return Sweep(study, name, store, make_executor, workers or slots, device, time_budget, say, together).run()
