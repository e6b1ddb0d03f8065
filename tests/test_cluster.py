"""Sweeps on a real Dask cluster of two worker processes on this machine."""

import os
import signal
from dataclasses import replace
from unittest import mock

import pytest
from tiny import TASKS, TINY

from orthonar.study import executors
from orthonar.study.records import RunStore
from orthonar.study.sweep import Sweep
from orthonar.sweep import main

distributed = pytest.importorskip("distributed", reason="needs the extra orthonar[cluster]")
STUDY = replace(TINY, tasks=TASKS[:1], seeds=(0, 1, 2))


@pytest.fixture
def local():
    # It sets OMP_NUM_THREADS in this process for its workers; the notebooks replayed after these tests must not see it.
    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    with mock.patch.dict(os.environ), distributed.LocalCluster(**options, silence_logs=50) as started:
        yield started


def test_a_worker_killed_in_mid_sweep_loses_nothing(local, tmp_path):
    make_executor, slots = executors.dask_executor(local.scheduler_address)
    assert slots == 2
    killed = []

    def kill_one(line):
        if "accuracy" in line and not killed:
            killed.append(local.workers[0].process.pid)
            os.kill(killed[0], signal.SIGKILL)

    progress = Sweep(STUDY, "tiny", RunStore(tmp_path), make_executor, slots, say=kill_one).run()
    assert killed
    assert not progress.failed and not progress.missing
    assert len(progress.done) == STUDY.size() == len((tmp_path / "tiny.jsonl").read_text().splitlines())
    assert len(RunStore(tmp_path).records()) == STUDY.size()


def test_no_scheduler_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(executors, "_TIMEOUT", 1)
    assert main(["headline-pocket", "--dask", "tcp://127.0.0.1:9", "--results", str(tmp_path)]) == 2
    assert "nothing was run" in capsys.readouterr().err


def test_without_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    assert main(["headline-pocket", "--dask", "tcp://127.0.0.1:9", "--results", str(tmp_path)]) == 2
    assert "orthonar[cluster]" in capsys.readouterr().err
