"""Sweeps: what is run, in which order, and that nothing is lost or repeated, whatever is killed."""

import concurrent.futures as cf
import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tiny import SETTINGS, TASKS, TINY, record_of

from orthonar import NewtonSchulzRead, RawRead, RunConfig, paths
from orthonar.study.executors import local_executor
from orthonar.study.presets import PRESETS, RATES, find_study
from orthonar.study.records import RunStore
from orthonar.study.sweep import Sweep, estimate
from orthonar.sweep import main


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
            s for s, own in study.sides.items() if all(getattr(config, k) == v for k, v in own.settings.items())
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


def test_company_of_a_run_that_fails_is_tried_alone(tmp_path):
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
    for name in ("slots", "together"):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, not 0"):
            sweep(RunStore(tmp_path), **{name: 0})


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
    assert estimate(mine, []) is None
    assert estimate(mine, alike) == 7
    assert estimate(replace(mine, steps=12), alike) == 21, "by tokens where no run has these settings"
    assert estimate(replace(mine, read=NewtonSchulzRead()), alike) is None
    assert estimate(mine, [record_of(TINY.run(task, "baseline", 1e-3, 9), None, seconds=0.1)]) is None


def test_a_run_that_does_not_fit_is_not_started(tmp_path):
    store = RunStore(tmp_path)
    for config in TINY.runs([])[:8]:
        store.add(record_of(config, seconds=50.0), "tiny")
    progress, seen, _ = sweep(store, time_budget=30.0)
    assert seen == [] and progress.out_of_time and len(progress.missing) == 8


def test_the_time_budget_ends_a_run_that_takes_longer_than_thought(tmp_path):
    study = replace(TINY, settings=SETTINGS | {"steps": 10_000_000})
    start = time.monotonic()
    progress, _, said = sweep(RunStore(tmp_path), local_executor(1), study, time_budget=12.0)
    assert time.monotonic() - start < 40
    assert progress.out_of_time and progress.done == []
    assert any("not finished" in line for line in said)


@pytest.mark.parametrize("options", [{"time_budget": 0.0}, {"time_budget": -1.0}, {"slots": 0}])
def test_impossible_options(tmp_path, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        sweep(RunStore(tmp_path), **options)


# Workers


def test_local_processes(tmp_path):
    study = replace(TINY, tasks=TASKS[:1], rate_seeds=(100,), seeds=(0,))
    progress, _, _ = sweep(RunStore(tmp_path), local_executor(2), study, slots=2)
    assert len(progress.done) == study.size() == 6
    assert all("1 thread" in r.device for r in progress.done)
    again, _, _ = sweep(RunStore(tmp_path / "again"), local_executor(1), study, slots=1)
    first, second = (
        {r.identity: [(e.step, e.accuracy, e.loss) for e in r.trace] for r in p.done} for p in (progress, again)
    )
    assert first == second, "the same settings give the same numbers"


def test_workers_that_are_killed_are_replaced(tmp_path):
    study = replace(TINY, tasks=TASKS[:1], rate_seeds=(100,), seeds=(0,))
    executors = []

    def make():
        executors.append(local_executor(2))
        return executors[-1]

    def kill_one(line):
        if "accuracy" in line and len(executors) == 1:
            os.kill(next(iter(executors[0]._processes)), signal.SIGKILL)

    progress = Sweep(study, "tiny", RunStore(tmp_path), make, 2, say=kill_one).run()
    assert len(executors) == 2
    assert not progress.failed and not progress.missing
    assert len((tmp_path / "tiny.jsonl").read_text().splitlines()) == study.size()


def test_a_run_that_takes_its_worker_down_is_given_up(tmp_path):
    def dies(config):
        if config.seed == 0 and config.model.mixer.read == RawRead():
            raise cf.process.BrokenProcessPool("gone")
        return record_of(config)

    progress, seen, _ = sweep(RunStore(tmp_path), Inline(dies))
    assert len(progress.failed) == 2 and all("died 3 times" in f for f in progress.failed.values())
    assert len(progress.done) == TINY.size() - 2


SCRIPT = """
from orthonar.study.records import RunStore
from orthonar.study.executors import local_executor
from orthonar.study.sweep import Sweep
from tests.tiny import TINY
if __name__ == "__main__":
    Sweep(TINY, "tiny", RunStore({folder!r}), lambda: local_executor(2), 2).run()
"""


def begin(folder: Path) -> subprocess.Popen:
    (folder / "go.py").write_text(SCRIPT.format(folder=str(folder)))
    root = str(paths.project_root())
    environment = os.environ | {"PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, "go.py"], cwd=folder, env=environment, stdout=subprocess.DEVNULL)


def test_kill_at_any_moment_loses_nothing_that_was_recorded(tmp_path):
    random_moment = random.Random(0)
    path = tmp_path / "tiny.jsonl"
    kept: list[str] = []
    for _ in range(3):  # benchmarks/kill_sweep.py does it twenty times
        process = begin(tmp_path)
        waited = time.monotonic() + 60
        while not path.exists() or len(path.read_bytes().splitlines()) <= len(kept):
            assert process.poll() is None and time.monotonic() < waited
            time.sleep(0.01)
        time.sleep(random_moment.uniform(0, 0.3))
        process.kill()
        process.wait()
        lines = path.read_text().splitlines()
        assert lines[: len(kept)] == kept, "nothing recorded is ever changed"
        kept = lines
    assert begin(tmp_path).wait(300) == 0
    store = RunStore(tmp_path)
    identities = [json.loads(line)["settings"] for line in path.read_text().splitlines()]
    assert len(store.records()) == len(identities) == TINY.size()
    assert not store.damaged


# The command line


def test_list_runs_nothing(tmp_path, capsys):
    assert main(["headline-pocket", "--list", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "0 of 108 runs are recorded; 72 follow" in out and "missing" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "preset"),
        (["headline", "--scale", "huge"], "scale"),
        (["headline", "--time-budget", "-3"], "time_budget"),
        (["headline", "--workers", "-1"], "workers"),
        (["headline", "--device", "cuda:77"], "device"),
    ],
)
def test_bad_arguments_run_nothing(tmp_path, capsys, arguments, message):
    assert main([*arguments, "--results", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
