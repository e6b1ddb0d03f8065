"""Sweeps: what is run, in which order, and that nothing is lost or repeated, whatever is killed."""

import concurrent.futures as cf
import math
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from tiny import SETTINGS, TASKS, TINY, record_of

from orthonar import NewtonSchulzRead, RawRead, RunConfig, paths
from orthonar.model import SequenceModel
from orthonar.study import rescue
from orthonar.study.executors import local_executor
from orthonar.study.presets import PRESETS, RATES, find_study
from orthonar.study.recorder import Recorder
from orthonar.study.records import RunStore
from orthonar.study.runs import Estimates, describe_end
from orthonar.study.sweep import Sweep, run_preset
from orthonar.study.weights import packed, save_weights, weights_path
from orthonar.study.worker import train_group
from orthonar.sweep import main, summary


@pytest.fixture(autouse=True)
def temporary_files(tmp_path_factory, monkeypatch):
    """Where a fallback goes."""
    folder = tmp_path_factory.mktemp("temporary")
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    return folder


class Inline(cf.Executor):
    """Runs a stand-in for training at once, in this thread."""

    def __init__(self, work=record_of):
        self.work, self.seen = work, []

    def submit(self, _, group, keep_weights):
        self.seen += group
        future = cf.Future()
        try:
            future.set_result([(self.work(config), b"weights" if keep_weights else None) for config in group])
        except Exception as error:
            future.set_exception(error)
        return future


def sweep(store, executor=None, study=TINY, **options):
    executor = executor or Inline()
    said = []
    options = {"slots": 1, "say": said.append} | options
    progress = Sweep(study, "tiny", store, lambda: executor, **options).run()
    return progress, getattr(executor, "seen", None), said


# What is run


def test_weights_are_kept_where_a_study_says_so_and_never_at_a_records_cost(tmp_path):
    study = replace(TINY, tasks=TASKS[:1], keep_weights=True)
    progress, _, _ = sweep(RunStore(tmp_path / "a"), study=study)
    assert {p.name for p in (tmp_path / "a" / "weights").iterdir()} == {f"{r.identity}.pt" for r in progress.done}
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "weights").write_text("a file where the folder belongs")
    progress, _, said = sweep(RunStore(tmp_path / "b"), study=study)
    assert len(progress.done) == study.size() and not progress.missing
    assert any("weights not kept" in line for line in said)
    sweep(RunStore(tmp_path / "c"))
    assert not (tmp_path / "c" / "weights").exists()


def test_presets_are_the_studys():
    study = PRESETS["headline"]["paper"]
    assert [(t["vocab_size"], t["seq_len"]) for t in study.tasks] == [(80, 512), (96, 768), (96, 1024)]
    assert study.rates == RATES == (3e-4, 1e-3, 3e-3, 1e-2)
    assert len(study.seeds) == 24
    config = study.run(study.tasks[1], "orthogonalized", 3e-3, 0)
    assert config == RunConfig(read=NewtonSchulzRead(steps=5), vocab_size=96, seq_len=768)


@pytest.mark.parametrize(("name", "scale"), [(name, scale) for name in PRESETS for scale in PRESETS[name]])
def test_every_preset_expands_without_repeats(name, scale):
    study = PRESETS[name][scale]
    first = study.runs([])
    best = {side: study.rates[i % len(study.rates)] for i, side in enumerate(study.sides)}

    def accuracy(config):
        side = next(
            s for s, own in study.sides.items() if all(getattr(config, k, None) == v for k, v in own.settings.items())
        )
        return 0.9 if config.lr == best[side] else 0.1

    runs = study.runs([record_of(c, accuracy(c)) for c in first])
    assert runs[: len(first)] == first
    assert len({c.identity for c in runs}) == len(runs) == study.size()
    later = runs[len(first) :]
    assert all(accuracy(c) == 0.9 for c in later)
    assert not {c.seed for c in runs[len(first) :]} & set(study.rate_seeds), "judged on seeds that it was chosen on"


def test_the_order_keeps_cells_even():
    runs = TINY.runs([record_of(c) for c in TINY.runs([])])
    choice, seeds = runs[:16], runs[16:]
    assert [c.seed for c in choice] == 8 * [100] + 8 * [101]
    assert [c.seed for c in seeds] == 4 * [0] + 4 * [1] + 4 * [2]
    assert [(c.vocab_size, type(c.read)) for c in seeds[:4]] == [
        (16, RawRead), (16, NewtonSchulzRead), (20, RawRead), (20, NewtonSchulzRead),
    ]  # fmt: skip


def test_a_rate_is_chosen_when_all_of_its_runs_are_there():
    runs = TINY.rate_runs(TASKS[0], "baseline")
    accuracies = {(1e-3, 100): 0.9, (1e-3, 101): 0.1, (1e-2, 100): 0.6, (1e-2, 101): 0.5}
    records = {c.identity: record_of(c, accuracies[c.lr, c.seed]) for c in runs}
    assert TINY.chosen_rate(TASKS[0], "baseline", records) == 1e-2
    records[runs[0].identity] = record_of(runs[0], None)
    assert TINY.chosen_rate(TASKS[0], "baseline", records) == 1e-2
    del records[runs[0].identity]
    assert TINY.chosen_rate(TASKS[0], "baseline", records) is None
    assert TINY.seed_runs(TASKS[0], "baseline", records) == []


def test_presets_by_name():
    assert find_study("headline-pocket") == ("headline-pocket", PRESETS["headline"]["pocket"])
    assert find_study("headline", "pocket") == find_study("headline-pocket", "pocket") == find_study("headline-pocket")
    assert find_study("learning-rate") == ("learning-rate", PRESETS["learning-rate"]["paper"])
    for arguments, message in (
        (("headlines",), "preset"),
        (("headline", "big"), "scale"),
        (("headline-pocket", "paper"), "scale"),
    ):
        with pytest.raises(ValueError, match=message):
            find_study(*arguments)


# Nothing lost, nothing repeated


def test_everything_runs_once_and_is_found_again(tmp_path):
    progress, seen, _ = sweep(RunStore(tmp_path))
    assert len(seen) == len(progress.done) == TINY.size() == 28
    assert not progress.missing and not progress.failed and not progress.out_of_time
    assert len((tmp_path / "tiny.jsonl").read_text().splitlines()) == 28
    progress, seen, _ = sweep(RunStore(tmp_path))
    assert (seen, progress.done) == ([], [])


def test_runs_go_in_groups(tmp_path):
    class Grouped(Inline):
        sizes = []

        def submit(self, work, group, keep_weights):
            self.sizes.append(len(group))
            return super().submit(work, group, keep_weights)

    progress, seen, _ = sweep(RunStore(tmp_path), Grouped(), together=3)
    assert len(progress.done) == len({c.identity for c in seen}) == 28
    assert Grouped.sizes == [3] * 9 + [1]


def test_runs_that_failed_together_are_tried_alone(tmp_path):
    bad = TINY.runs([])[1]

    def work(config):
        if config == bad:
            raise RuntimeError("no memory left")
        return record_of(config)

    progress, _, said = sweep(RunStore(tmp_path), Inline(work), together=4)
    assert list(progress.failed) == [bad.identity]
    # Its cell's rate cannot be chosen: 3 seeds of one cell are not known to be missing.
    assert len(progress.done) == 28 - 1 - 3
    assert any("4 runs failed together" in line for line in said)


def test_impossible_numbers_of_runs(tmp_path):
    for name in ("slots", "together", "max_worker_deaths"):
        for value in (0, 1.5, True, "2"):
            with pytest.raises(ValueError, match=f"{name} must be an integer of at least 1, not {value!r}"):
                sweep(RunStore(tmp_path), **{name: value})
    for seconds in (0, math.nan, "60"):
        with pytest.raises(ValueError, match="time_budget must be a finite number above 0"):
            sweep(RunStore(tmp_path), time_budget=seconds)


def test_a_run_recorded_in_another_file_is_found(tmp_path):
    store = RunStore(tmp_path)
    for config in TINY.runs([])[:5]:
        store.add(record_of(config), "elsewhere")
    assert len(sweep(store)[1]) == 23


def test_what_two_sweeps_did_at_once_is_recorded_once(tmp_path):
    store = RunStore(tmp_path)

    def other_is_faster(config):
        store.add(record_of(config, 0.7), "tiny")
        return record_of(config, 0.5)

    progress, _, _ = sweep(store, Inline(other_is_faster))
    assert progress.done == []
    assert len(store.records()) == TINY.size() == len((tmp_path / "tiny.jsonl").read_text().splitlines())
    assert {r.accuracy for r in store.records()} == {0.7}


def test_damage_is_told_and_the_run_done_again(tmp_path):
    store = RunStore(tmp_path)
    sweep(store)
    path = tmp_path / "tiny.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:3], lines[3][:99], *lines[4:]]) + "\n")
    progress, seen, said = sweep(store)
    assert len(seen) == len(progress.done) == 1
    assert any("tiny.jsonl, line 4" in line for line in said)
    assert path.read_text().splitlines()[3] == lines[3][:99], "damage is reported, not removed"


def test_a_failing_run_does_not_stop_the_others(tmp_path):
    def fails_once(config):
        if config.seed == 1 and config.model.mixer.read == RawRead() and config.task.vocab_size == 16:
            raise MemoryError("too large")
        return record_of(config)

    progress, seen, said = sweep(RunStore(tmp_path), Inline(fails_once))
    assert len(seen) == TINY.size()
    assert len(progress.done) == TINY.size() - 1
    [failed] = progress.failed.values()
    assert "MemoryError: too large" in failed and "vocabulary 16" in failed
    assert any(line.startswith("FAILED") for line in said)


# Time


def test_estimates():
    task = TASKS[0]
    mine = TINY.run(task, "baseline", 1e-3, 5)
    alike = [
        record_of(TINY.run(task, "baseline", lr, s), seconds=t)
        for lr, s, t in ((1e-3, 0, 5), (1e-2, 1, 7), (1e-3, 2, 9))
    ]
    assert Estimates([]).seconds(mine) is None
    assert Estimates(alike).seconds(mine) == 7
    assert Estimates(alike).seconds(replace(mine, steps=12)) == 21, "by tokens where no run has these settings"
    assert Estimates(alike).seconds(replace(mine, read=NewtonSchulzRead())) is None
    assert Estimates([record_of(TINY.run(task, "baseline", 1e-3, 9), None, seconds=0.1)]).seconds(mine) is None
    elsewhere = [replace(record, settings=record.settings | {"device": "cuda:1"}) for record in alike[:1]]
    assert Estimates(elsewhere).seconds(mine) is None, "a GPU's time says nothing about this machine's"
    assert Estimates(elsewhere + alike[1:], "cuda").seconds(mine) == 5
    ours = TINY.run(task, "orthogonalized", 1e-3, 5)
    read = dict(sorted(ours.settings()["read"].items()))
    stored = [replace(record_of(ours, seconds=3), settings=ours.settings() | {"read": read})]
    assert Estimates(stored).seconds(ours) == 3, "in whatever order its settings were stored"


def test_a_run_below_80_percent_is_called_not_solved():
    run = TINY.run(TASKS[0], "baseline", 1e-3, 5)
    found = [describe_end(record_of(run, accuracy, 12.3)) for accuracy in (0.784, 0.8, None)]
    assert found == ["accuracy 78.4 %, not solved (12 s)", "accuracy 80.0 %, solved (12 s)", "loss not finite (12 s)"]


def test_a_run_that_does_not_fit_is_not_started(tmp_path):
    store = RunStore(tmp_path)
    for config in TINY.runs([])[:8]:
        store.add(record_of(config, seconds=50.0), "tiny")
    progress, seen, _ = sweep(store, time_budget=30.0)
    assert seen == [] and progress.out_of_time and len(progress.missing) == 8


class Endless(Inline):
    """Never comes to an end with anything after the first few runs."""

    def __init__(self, good: int):
        super().__init__()
        self.good = good

    def submit(self, work, group, keep_weights):
        if len(self.seen) < self.good:
            return super().submit(work, group, keep_weights)
        self.seen += group
        return cf.Future()


def test_the_time_budget_ends_a_run_that_takes_longer_than_thought(tmp_path):
    progress, seen, said = sweep(RunStore(tmp_path), Endless(1), time_budget=1.5)
    assert len(seen) == 2 and len(progress.done) == 1 and progress.out_of_time
    assert any("not finished" in line for line in said)
    assert summary(progress)[1] == 0


def test_out_of_time_with_nothing_recorded_is_said(tmp_path):
    progress, _, _ = sweep(RunStore(tmp_path), Endless(0), time_budget=0.1)
    text, status = summary(progress)
    assert status == 4 and "nothing was recorded" in text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [{"time_budget": 0.0}, {"time_budget": -1.0}, {"slots": 0}])
def test_impossible_options(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sweep(RunStore(tmp_path), **options)


# Workers


SMALL = replace(TINY, tasks=TASKS[:1], rate_seeds=(100,), seeds=(0,))


def test_a_worker_that_is_killed_is_replaced(tmp_path):
    executors = []

    def make():
        executors.append(local_executor(1))
        return executors[-1]

    def kill_one(line):
        if "accuracy" in line and len(executors) == 1 and not executors[0]._broken:
            psutil.Process(min(executors[0]._processes)).kill()
            while not executors[0]._broken:  # until the executor has seen it
                time.sleep(0.01)

    progress = Sweep(SMALL, "tiny", RunStore(tmp_path), make, 2, say=kill_one).run()
    assert len(executors) == 2
    assert not progress.failed and not progress.missing
    assert len((tmp_path / "tiny.jsonl").read_text().splitlines()) == SMALL.size() == 6
    assert all("1 thread" in r.device for r in progress.done)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker: of 40 seeds 5 come out otherwise on two threads, with any read
    try:
        ((here, _),) = train_group([RunConfig.from_settings(progress.done[-1].settings)], False)
    finally:
        torch.set_num_threads(threads)
    first, second = ([(e.step, e.accuracy, e.loss) for e in r.trace] for r in (progress.done[-1], here))
    assert first == second, "the same settings give the same numbers in any process"


def test_a_run_that_takes_its_worker_down_is_given_up(tmp_path):
    class KilledWorker(Exception):
        """What a Dask cluster raises."""

    for error in (cf.process.BrokenProcessPool("gone"), KilledWorker("gone")):

        def dies(config, error=error):
            if config.seed == 0 and config.read == RawRead():
                raise error
            return record_of(config)

        progress, seen, _ = sweep(RunStore(tmp_path / type(error).__name__), Inline(dies))
        assert len(progress.failed) == 2 and all("died 3 times" in f for f in progress.failed.values())
        assert len(seen) == TINY.size() + 2 * 2
        assert len(progress.done) == TINY.size() - 2


class Pool(Inline):
    """Takes all that is in progress down with it where a run is a killer, as a pool of processes does."""

    def __init__(self, is_killer):
        super().__init__()
        self.is_killer, self.pending, self.broken, self.lock = is_killer, [], False, threading.Lock()

    def submit(self, _, group, keep_weights):
        if self.broken:
            raise cf.process.BrokenProcessPool("broken")
        future = cf.Future()
        with self.lock:
            self.pending.append((future, group))
        threading.Timer(0.005, self._end, [future, group]).start()
        if any(map(self.is_killer, group)):
            self._end(future, group)
        return future

    def _end(self, future, group):
        with self.lock:
            if any(map(self.is_killer, group)):
                self.broken = True
                for lost, _ in self.pending:
                    lost.set_exception(cf.process.BrokenProcessPool("gone"))
                self.pending = []
            elif (future, group) in self.pending:
                self.pending.remove((future, group))
                future.set_result([(record_of(config), None) for config in group])


@pytest.mark.parametrize("together", [1, 2])
def test_a_run_is_blamed_only_for_what_it_did_alone(tmp_path, together):
    killers = [TINY.runs([])[i] for i in (1, 6)]
    make = lambda: Pool(lambda config: config in killers)  # noqa: E731
    progress = Sweep(TINY, "tiny", RunStore(tmp_path), make, 3, say=lambda _: None, together=together).run()
    assert progress.failed.keys() == {c.identity for c in killers}
    assert all("died 3 times while nothing else ran" in reason for reason in progress.failed.values())
    # Two cells have no rate: six runs are not known to be missing.
    assert not progress.missing and len(progress.done) == TINY.size() - 2 - 6


def test_a_record_of_other_settings_fails_its_run_and_is_not_made_forever(tmp_path):
    def other(config):
        return record_of(replace(config, weight_decay=0.5) if config.seed == 1 else config)

    progress, seen, _ = sweep(RunStore(tmp_path), Inline(other))
    assert len(seen) == TINY.size() and len(progress.failed) == 4
    assert all("other settings" in reason for reason in progress.failed.values())


def test_a_record_that_cannot_be_one_fails_its_run_and_is_not_made_forever(tmp_path):
    progress, seen, _ = sweep(RunStore(tmp_path), Inline(lambda c: replace(record_of(c), outcome="fine", trace=[])))
    assert len(seen) == len(progress.failed) == 16 and not progress.done


# Where records go


@pytest.fixture(params=["a file system", "a limit"])
def disk(request, tmp_path):
    """A folder on a disk, with what fills the disk and what makes room again."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    if request.param == "a file system":
        folder = request.getfixturevalue("small_disk")

        def fill():
            with open(folder / "filler", "wb", buffering=0) as filler:
                while filler.write(bytes(1 << 12)) == 1 << 12:
                    pass

        yield folder, fill, (folder / "filler").unlink
    else:

        def fill():
            size = (tmp_path / "results" / "tiny.jsonl").stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, hard))

        yield tmp_path / "results", fill, lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_costs_no_run(disk, temporary_files, capsys):
    folder, fill, free = disk
    store = RunStore(folder)

    def work(config):
        if len(executor.seen) == 7:
            try:
                fill()
            except OSError:
                pass
        return record_of(config)

    executor = Inline(work)
    progress, seen, said = sweep(store, executor, slots=2)
    free()
    recorded = {r.identity for r in store.records()}
    assert recorded == {r.identity for r in progress.done} and not store.damaged
    assert progress.rescued and recorded | progress.rescued.keys() == {c.identity for c in seen}
    assert not recorded & progress.rescued.keys() and len(seen) < TINY.size()
    text, status = summary(progress)
    assert status == 3 and "stopped" in text
    (path,) = set(progress.rescued.values())
    assert path.is_relative_to(temporary_files) and f"--adopt {path}" in text
    assert any("not recorded (" in line and str(path) in line for line in said)
    for added in (len(progress.rescued), 0):
        assert main(["--adopt", str(path), "--results", str(folder)]) == 0
        assert f"{added} runs added" in capsys.readouterr().out
    assert {r.identity for r in RunStore(folder).records()} == {c.identity for c in seen}
    _, later, _ = sweep(store)
    assert len(later) == TINY.size() - len(seen)
    assert len((folder / "tiny.jsonl").read_text().splitlines()) == TINY.size() and not store.damaged


def test_a_folder_that_vanishes_under_a_sweep_costs_no_run(tmp_path):
    store = RunStore(tmp_path / "results")

    def work(config):
        if config == TINY.runs([])[3]:
            store.folder.rename(tmp_path / "elsewhere")
            store.folder.write_text("a file where the folder was")
        return record_of(config)

    progress, seen, _ = sweep(store, Inline(work))
    assert len(seen) == 4 and len(RunStore(tmp_path / "elsewhere").records()) == 3
    assert progress.rescued.keys() == {seen[3].identity} and summary(progress)[1] == 3


def test_what_can_be_written_nowhere_is_printed(tmp_path, monkeypatch):
    monkeypatch.setattr(rescue, "_places", lambda: [])
    store = RunStore(tmp_path)
    monkeypatch.setattr(store, "add", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    progress, seen, said = sweep(store)
    assert record_of(seen[0]).to_json() in said
    assert len(seen) == 1 and summary(progress)[1] == 3


def test_a_second_place_that_fills_up_is_followed_by_another(tmp_path, monkeypatch):
    places = [tmp_path / name for name in ("first", "second")]
    for place in places:
        place.mkdir()
    monkeypatch.setattr(rescue, "_places", lambda: places)
    records = [record_of(config) for config in TINY.runs([])[:3]]
    fallback = rescue.Fallback()
    assert fallback.save(records[0], "runs").is_relative_to(places[0])
    add = RunStore.add

    def full(store, *arguments):
        if store.folder.is_relative_to(places[0]):
            raise OSError(28, "No space left on device")
        return add(store, *arguments)

    monkeypatch.setattr(RunStore, "add", full)
    assert all(fallback.save(record, "runs").is_relative_to(places[1]) for record in records[1:])
    assert [len(list(place.iterdir())) for place in places] == [2, 1], "one folder a place, and the trial that failed"


def test_weights_that_cannot_be_kept_here_are_kept_elsewhere(tmp_path, capsys):
    study = replace(TINY, tasks=TASKS[:1], keep_weights=True)
    (tmp_path / "weights").write_text("a file where the folder belongs")
    progress, seen, _ = sweep(RunStore(tmp_path), study=study)
    assert len(progress.done) == len(progress.rescued) == study.size() and summary(progress)[1] == 3
    (tmp_path / "weights").unlink()
    (path,) = set(progress.rescued.values())
    assert main(["--adopt", str(path), "--results", str(tmp_path)]) == 0
    assert f"0 runs added to {tmp_path}, {study.size()} with weights" in capsys.readouterr().out
    assert all(weights_path(tmp_path, r).read_bytes() == b"weights" for r in progress.done)


def test_weights_are_of_the_training_that_was_recorded(tmp_path):
    """What a killed sweep left is written over; of a run recorded elsewhere by then the weights stay."""
    study = replace(TINY, tasks=TASKS[:1], keep_weights=True)
    left = record_of(study.runs([])[0])
    save_weights(RunStore(tmp_path), left, b"of no record")
    progress, seen, _ = sweep(RunStore(tmp_path), study=study)
    assert weights_path(tmp_path, left).read_bytes() == b"weights"

    elsewhere, of_theirs = tmp_path / "elsewhere", packed(SequenceModel(study.runs([])[0].model))
    theirs = replace(left, wall_seconds=2.0)
    mine = replace(left, trace=[replace(left.trace[0], loss=2.0)])
    RunStore(elsewhere).add(theirs, "runs")
    save_weights(RunStore(elsewhere), theirs, of_theirs)
    for number, (record, kept) in enumerate(((mine, False), (theirs, True), (left, True))):
        store = RunStore(tmp_path / f"store-{number}")
        store.add(record, "runs")
        adopted = rescue.adopt(elsewhere / "runs.jsonl", store)
        assert (adopted.added, adopted.known, adopted.weights) == (0, 1, kept)
        assert weights_path(store.folder, left).exists() == kept
    assert not save_weights(store, theirs, b"again")
    assert rescue.adopt(elsewhere / "runs.jsonl", store).weights == 0
    assert weights_path(store.folder, left).read_bytes() == of_theirs, "what is there stays"
    store = RunStore(tmp_path / "store-of-leftovers")
    save_weights(store, mine, b"of no record")
    assert rescue.adopt(elsewhere / "runs.jsonl", store) == rescue.Adopted(1, 0, 1, [])
    assert weights_path(store.folder, left).read_bytes() == of_theirs, "not what another training left"


def test_of_two_sweeps_that_share_a_run_one_records_it_with_its_weights(tmp_path):
    """Each under a name of its own, as two presets do that ask for the same run."""
    [config, *_] = TINY.runs([])
    records = [replace(record_of(config), wall_seconds=seconds) for seconds in (1.0, 2.0)]
    first, second = (packed(SequenceModel(config.model)) for _ in records)
    keepers = [Recorder(RunStore(tmp_path), name, print, {}) for name in ("b", "a")]
    kept = [keeper.keep(record, name, "a run") for keeper, record, name in zip(keepers, records, (first, second))]
    assert kept == [True, False] and RunStore(tmp_path).records() == records[:1]
    assert weights_path(tmp_path, records[0]).read_bytes() == first != second


def test_a_record_that_was_read_can_be_written_again(tmp_path):
    """Of a probe that is not finite a record holds null."""
    record = record_of(TINY.runs([])[0])
    line = replace(record.trace[0], probes={"decode1": 0.5, "decode1_wrong_key": math.nan})
    first, second = RunStore(tmp_path / "first"), RunStore(tmp_path / "second")
    first.add(replace(record, trace=[line, *record.trace[1:]]), "runs")
    assert rescue.adopt(first.path("runs"), second).added == 1
    assert second.path("runs").read_text() == first.path("runs").read_text()


def test_a_record_is_kept_whose_weights_do_not_fit():
    config = RunConfig(**TASKS[0], **SETTINGS, embedding_std=1e5)
    with pytest.warns(UserWarning, match="not finite in float16.*not kept"):
        ((record, weights),) = train_group([config], True)
    assert weights is None and record.identity == config.identity


def test_adopting_under_an_impossible_name_writes_nothing(tmp_path):
    record = record_of(TINY.runs([])[0])
    RunStore(tmp_path / "first").add(record, "runs")
    save_weights(RunStore(tmp_path / "first"), record, b"weights")
    with pytest.raises(ValueError, match="^name must be that of a file"):
        rescue.adopt(tmp_path / "first" / "runs.jsonl", RunStore(tmp_path / "second"), "a/b")
    assert not (tmp_path / "second").exists()


def test_adopting_names_damage_and_what_is_no_file(tmp_path, capsys):
    good = record_of(TINY.runs([])[0])
    (tmp_path / "some.jsonl").write_text(good.to_json() + "\n{}\n")
    results = tmp_path / "results"
    assert main(["--adopt", str(tmp_path / "some.jsonl"), "--results", str(results)]) == 1
    assert "some.jsonl, line 2" in capsys.readouterr().out
    assert RunStore(results).records() == [good] and (results / "some.jsonl").exists()
    assert main(["--adopt", str(tmp_path / "none.jsonl"), "--results", str(results)]) == 2
    assert "not adopted: there is no file" in capsys.readouterr().err


def test_nothing_is_lost_where_nobody_listens(tmp_path):
    def deaf(line):
        raise BrokenPipeError(32, "Broken pipe")

    progress = Sweep(TINY, "tiny", RunStore(tmp_path), Inline, 1, say=deaf).run()
    assert len(progress.done) == TINY.size()


def test_what_is_finished_when_a_sweep_is_interrupted_is_recorded(tmp_path):
    """The interruption comes while the first of three finished runs is looked at."""

    def interrupt(line):
        if "accuracy" in line:
            raise KeyboardInterrupt

    executor = Inline()
    with pytest.raises(KeyboardInterrupt):
        Sweep(TINY, "tiny", RunStore(tmp_path), lambda: executor, 3, say=interrupt).run()
    assert len(executor.seen) == 3
    assert len(RunStore(tmp_path).records()) >= 2


@pytest.mark.parametrize("where", ["/proc/x", "file", "file/below", "read-only", "read-only file"])
def test_impossible_results_run_nothing(tmp_path, capsys, monkeypatch, where):
    def none(*_):
        raise AssertionError("something was run")

    monkeypatch.setattr("orthonar.study.sweep.local_executor", none)
    (tmp_path / "file").write_text("not a folder")
    folder = Path("/proc/x") if where == "/proc/x" else tmp_path / where
    if where.startswith("read-only"):
        folder.mkdir()
        (folder / "headline-pocket.jsonl").write_text("")
        refuse = "open" if where == "read-only file" else "mkdir"
        real = getattr(os, refuse)

        def refused(path, *arguments, **options):  # root may write everywhere
            if str(path).startswith(str(folder)):
                raise PermissionError(13, "Permission denied", str(path))
            return real(path, *arguments, **options)

        monkeypatch.setattr(os, refuse, refused)
    assert main(["headline-pocket", "--results", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("nothing was run: ") and err.count("\n") == 1 and "Traceback" not in err


def test_complete_results_need_not_be_written(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    sweep(store)
    monkeypatch.setattr(store, "check_writable", lambda _: (_ for _ in ()).throw(OSError("read-only")))
    assert sweep(store)[0].missing == []


# Signals, from processes of their own

SCRIPT = """
import signal, sys
from dataclasses import replace
from orthonar.study import sweep
from orthonar.sweep import _flush, main
from tests.tiny import SETTINGS, TINY
if __name__ == "__main__":
    for name in ("SIGTERM", "SIGHUP"):  # which nohup, say, has ignored
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    sweep.find_study = lambda *_: ("tiny", replace(TINY, settings=SETTINGS | {changes}))
    status = main(["tiny", "--workers", "1", "--results", {folder!r}])
    _flush()
    sys.exit(status)
"""


def begin(folder: Path, **changes) -> subprocess.Popen:
    (folder / "go.py").write_text(SCRIPT.format(folder=str(folder), changes=changes))
    root = str(paths.project_root())
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # As a session of its own: a signal to one process is no signal to this one's group.
    return subprocess.Popen([sys.executable, "go.py"], cwd=folder, env=environment, start_new_session=True, **pipes)


def test_kill_loses_nothing_that_was_recorded(tmp_path):
    """Once; benchmarks/kill_sweep.py does it twenty times."""
    process = begin(tmp_path)
    for line in process.stdout:
        if "accuracy" in line:
            process.kill()
            break
    process.communicate()
    store = RunStore(tmp_path)
    kept = (tmp_path / "tiny.jsonl").read_text().splitlines()
    assert 1 <= len(store.records()) == len(kept) < TINY.size() and not store.damaged
    sweep(store)
    lines = (tmp_path / "tiny.jsonl").read_text().splitlines()
    assert lines[: len(kept)] == kept, "nothing recorded is ever changed"
    assert len(store.records()) == len(lines) == TINY.size() and not store.damaged


@pytest.mark.parametrize(("number", "paused"), [(signal.SIGTERM, True), (signal.SIGHUP, False)], ids=str)
def test_a_batch_systems_signal_ends_a_sweep_as_ctrl_c_does(tmp_path, number, paused):
    process = begin(tmp_path, steps=10_000_000)
    try:
        assert "0 of 28" in process.stdout.readline()
        workers = []
        while not workers:  # the one that tracks resources goes by itself
            workers = [c for c in psutil.Process(process.pid).children() if "spawn_main" in " ".join(c.cmdline())]
            assert process.poll() is None
            time.sleep(0.01)
        if paused:
            time.sleep(1)  # it waits for its workers by then
            process.send_signal(signal.SIGSTOP)
            time.sleep(0.5)
        process.send_signal(number)
        if paused:
            process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert err == f"ended by {number.name}; what was finished is recorded\n", "and nothing of leaked semaphores"
    assert not any(worker.is_running() for worker in workers)


# The command line


def test_list_runs_nothing(tmp_path, capsys):
    assert main(["headline", "--list", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0 of 288 runs are recorded; 144 follow" in out and "missing" in out and "hours" not in out
    assert not list(tmp_path.iterdir())


def test_a_list_says_how_long_what_is_missing_takes(tmp_path, capsys, monkeypatch):
    study, store = replace(TINY, tasks=TASKS[:1], rate_seeds=(), rates=TINY.rates[:1]), RunStore(tmp_path)
    first, *others = study.runs([])
    store.add(replace(record_of(first), wall_seconds=5400.0), "tiny")
    alike = sum(config.read == first.read for config in others)
    monkeypatch.setattr("orthonar.sweep.find_study", lambda *_: ("tiny", study))
    assert main(["tiny", "--list", "--results", str(tmp_path)]) == 0
    said = f"{alike} of {len(others)} missing runs take {1.5 * alike:.2g} hours, one after the other"
    assert alike < len(others) and said in capsys.readouterr().out


def test_a_list_says_how_many_runs_kept_no_weights(tmp_path, capsys, monkeypatch):
    study, store = replace(TINY, tasks=TASKS[:1], keep_weights=True), RunStore(tmp_path)
    first, second, *_ = map(record_of, study.runs([]))
    for record in (first, second):
        store.add(record, "another")
    save_weights(store, second, b"its own")
    monkeypatch.setattr("orthonar.sweep.find_study", lambda *_: ("tiny", study))
    assert main(["tiny", "--list", "--results", str(tmp_path)]) == 0
    assert "\n1 of those recorded kept no weights" in capsys.readouterr().out


def test_some_sides_and_tasks_alone(tmp_path, capsys):
    some = ["--sides", "baseline", "--tasks", "1"]
    assert main(["headline-pocket", *some, "--list", "--results", str(tmp_path)]) == 0
    assert "0 of 24 runs are recorded" in capsys.readouterr().out
    study = TINY.only(["orthogonalized"])
    assert {c.identity for c in study.runs([])} < {c.identity for c in TINY.runs([])}
    assert all(c.read == NewtonSchulzRead(steps=5) for c in study.runs([]))


@pytest.mark.parametrize(
    ("name", "value"),
    [("tasks", 1.5), ("tasks", "1"), ("tasks", True), ("sides", "baseline"), ("sides", []), ("sides", 1)],
)
def test_sides_and_tasks_are_looked_through(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"^{name} must be .*not {re.escape(repr(value))}$"):
        run_preset("headline-pocket", results=tmp_path / "none", **{name: value})
    assert not list(tmp_path.iterdir())
    assert TINY.without() == TINY


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "preset"),
        (
            ["headline", "--sides", "baseline", "sideways"],
            "sides: there is no 'sideways', only baseline, orthogonalized",
        ),
        (["headline", "--tasks", "4"], "tasks must be an integer of from 1 to 3, not 4"),
        (["headline", "--scale", "huge"], "scale"),
        (["headline", "--scale", ""], "scale: headline has paper, pocket, not ''"),
        (["headline", "--dask", ""], "dask must be the address of a scheduler, not ''"),
        (["headline", "--time-budget", "-3"], "time_budget"),
        (["headline", "--workers", "0"], "workers"),
        (["headline", "--together", "0"], "together"),
        (["headline", "--device", "nowhere"], "device"),
    ],
)
@pytest.mark.parametrize("listing", [[], ["--list"]], ids=["run", "list"])
def test_bad_arguments_run_nothing(tmp_path, capsys, arguments, message, listing):
    assert main([*arguments, *listing, "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_runs_are_listed_for_a_device_that_is_not_here_but_not_begun(tmp_path, capsys):
    some = ["headline", "--device", "cuda:77", "--results", str(tmp_path)]
    assert main([*some, "--list"]) == 0 and main(some) == 2
    assert "device" in capsys.readouterr().err
