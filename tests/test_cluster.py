"""Sweeps on real Dask clusters of worker processes on this machine."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from dataclasses import replace
from unittest import mock

import psutil
import pytest
from tiny import TASKS, TINY

from orthonar import paths
from orthonar.study import executors
from orthonar.study.records import RunStore
from orthonar.study.sweep import Sweep, run_preset
from orthonar.sweep import main, summary

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
            killed.append(psutil.Process(local.workers[0].process.pid))
            killed[0].kill()

    progress = Sweep(STUDY, "tiny", RunStore(tmp_path), make_executor, slots, say=kill_one).run()
    assert killed
    assert not progress.failed and not progress.missing
    assert len(progress.done) == STUDY.size() == len((tmp_path / "tiny.jsonl").read_text().splitlines())
    assert len(RunStore(tmp_path).records()) == STUDY.size()
    assert not local.scheduler.clients.keys() - {"fire-and-forget"}, "no client is left at the scheduler"


def test_a_client_that_gives_its_scheduler_up_in_mid_sweep_loses_nothing(local, tmp_path):
    make, slots = executors.dask_executor(local.scheduler_address)
    clients, said = [], []

    def make_executor():
        executor = make()
        clients.append(executor._client)
        return executor

    def close_the_first(line):
        said.append(line)
        if "accuracy" in line and len(clients) == 1:
            clients[0].close()

    progress = Sweep(STUDY, "tiny", RunStore(tmp_path), make_executor, slots, say=close_the_first).run()
    assert len(clients) == 2 and any("start again" in line for line in said)
    assert not progress.failed and not progress.missing and progress.stopped is None
    assert len(progress.done) == STUDY.size() == len((tmp_path / "tiny.jsonl").read_text().splitlines())


def test_an_executor_whose_client_is_closed_says_that_runs_are_cancelled_and_ends_quietly(local):
    make_executor, _ = executors.dask_executor(local.scheduler_address)
    executor = make_executor()
    assert executor.submit(divmod, 7, 2).result(60) == (3, 1)
    going = executor.submit(time.sleep, 60)
    executor._client.close()
    with pytest.raises(CancelledError, match="scheduler is closed"):
        executor.submit(divmod, 7, 2)
    executor.shutdown(wait=False)
    with pytest.raises(CancelledError):
        going.result(10)


CLUSTER = """
import sys, distributed
if __name__ == "__main__":
    options = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 50}
    print(distributed.LocalCluster(**options).scheduler_address, flush=True)
    sys.stdin.read()
"""


def test_a_scheduler_that_dies_in_mid_sweep_loses_nothing_that_was_recorded(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "_TIMEOUT", 5)
    monkeypatch.setattr("orthonar.study.sweep.find_study", lambda *_: ("tiny", STUDY))
    (tmp_path / "cluster.py").write_text(CLUSTER)
    options = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    options |= {"cwd": tmp_path, "env": os.environ | {"PYTHONPATH": str(paths.project_root())}}
    cluster = subprocess.Popen([sys.executable, "cluster.py"], start_new_session=True, **options)
    said = []

    def kill_it(line):
        said.append(line)
        if "accuracy" in line and cluster.poll() is None:
            os.killpg(cluster.pid, signal.SIGKILL)
            cluster.wait()
            monkeypatch.setattr(executors, "_TIMEOUT", 1)

    try:
        address = cluster.stdout.readline().strip()
        progress = run_preset("tiny", results=tmp_path, dask=address, say=kill_it)
    finally:
        cluster.communicate()
    text, status = summary(progress)
    assert status == 5, said
    assert text.endswith(f"stopped: there are no workers (no Dask scheduler answers at {address})")
    assert len(RunStore(tmp_path).records()) == len(progress.done) >= 1 and not progress.failed
    assert len(progress.missing) >= 1 and not any("FAILED" in line for line in said)


def test_no_scheduler_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(executors, "_TIMEOUT", 1)
    assert main(["headline-pocket", "--dask", "tcp://127.0.0.1:9", "--results", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "nothing was run: no Dask scheduler answers at tcp://127.0.0.1:9\n"


def test_the_wait_for_a_scheduler_is_part_of_the_time_budget(tmp_path, capsys, monkeypatch):
    waited = []

    def client(address, timeout, **options):
        waited.append(timeout)
        raise TimeoutError

    monkeypatch.setattr("distributed.Client", client)
    for budget in ("3", "1000"):
        options = ["--dask", "tcp://127.0.0.1:9", "--time-budget", budget, "--results", str(tmp_path)]
        assert main(["headline-pocket", *options]) == 2
    assert waited == [3, 20] and "no Dask scheduler answers" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["nonsense", "tcp://nowhere", "tcp://host:port"])
def test_what_is_no_address_is_named_before_anything_is_tried(address, tmp_path, capsys):
    assert main(["headline-pocket", "--dask", address, "--results", str(tmp_path)]) == 2
    assert f"nothing was run: dask: '{address}' is no scheduler's address" in capsys.readouterr().err


def test_without_the_extra(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "distributed", None)
    assert main(["headline-pocket", "--dask", "tcp://127.0.0.1:9", "--results", str(tmp_path)]) == 2
    assert "orthonar[cluster]" in capsys.readouterr().err
