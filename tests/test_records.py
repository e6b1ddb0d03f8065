"""Run records: a line each, never lost, never overwritten, damage reported."""

import json
import multiprocessing

import numpy as np
import pytest

from orthonar.study.jsonl import append_line
from orthonar.study.records import RunStore, read_records, run_table, trace_table
from orthonar.training.record import Evaluation, RunRecord, identity

SETTINGS = {"read": {"name": "RawRead"}, "embedding_dim": 32, "seed": 3, "lr": 0.01, "device": "cpu"}


def record(accuracies=(0.1, 0.5, 0.85, 0.7), **changes):
    trace = [Evaluation(100 * i, a, 2.5, 3.0, 1.0 * i) for i, a in enumerate(accuracies, 1)]
    fields = {
        "settings": SETTINGS,
        "trace": trace,
        "outcome": "plateau",
        "wall_seconds": 4.0,
        "device": "a CPU",
        "versions": {"torch": "2"},
        "revision": None,
        "started": "2026-07-01T00:00:00+00:00",
    }
    return RunRecord(**fields | changes)


def test_a_record_survives_its_line():
    assert RunRecord.from_json(record().to_json()) == record()
    diverged = record(accuracies=(0.1, None), outcome="diverged")
    assert RunRecord.from_json(diverged.to_json()) == diverged
    assert diverged.accuracy is None


def test_a_record_is_strict_json():
    with pytest.raises(ValueError, match="JSON"):
        record(accuracies=(float("nan"),)).to_json()


def test_escape_is_the_first_evaluation_at_80_percent():
    assert record().escape_step == 300
    assert record(accuracies=(0.1, 0.799)).escape_step is None


def test_an_evaluation_reads_as_one_line():
    assert (
        str(Evaluation(50, 0.123, 2.5, 3.25, 7.0))
        == "step    50: accuracy  12.3 %, loss 2.500, training loss 3.250 (7 s)"
    )
    assert "not finite" in str(Evaluation(50, None, None, None, 7.0))


def test_the_device_does_not_tell_runs_apart_and_all_else_does():
    assert identity(SETTINGS) == identity(SETTINGS | {"device": "cuda"})
    for name, other in (("seed", 4), ("lr", 0.02), ("read", {"name": "RawRead", "eps": 1})):
        assert identity(SETTINGS) != identity(SETTINGS | {name: other})


def test_saving_appends_and_makes_the_folder(tmp_path):
    path = tmp_path / "deep" / "runs.jsonl"
    first, second = record(), record(wall_seconds=5.0)
    append_line(path, first.to_json())
    append_line(path, second.to_json())
    assert list(read_records(path)) == [first, second]


def test_a_line_cut_short_is_kept_and_the_next_one_starts_on_its_own(tmp_path):
    path = tmp_path / "runs.jsonl"
    torn = record().to_json()[:40]
    path.write_text(torn)
    append_line(path, record().to_json())
    assert path.read_text() == torn + "\n" + record().to_json() + "\n"


def test_a_damaged_line_is_skipped_and_named_with_its_file_and_number(tmp_path):
    path = tmp_path / "runs.jsonl"
    other = record(settings=SETTINGS | {"seed": 4})
    append_line(path, record().to_json())
    with open(path, "ab") as file:
        file.write(b'{"schema": 1}\n\xff\xfe\r\n\n' + other.to_json()[:50].encode())
    append_line(path, other.to_json())
    damaged = []
    assert read_records(path, damaged) == [record(), other]
    assert [(d.file, d.line) for d in damaged] == [(str(path), n) for n in (2, 3, 4, 5)]
    assert "runs.jsonl, line 2: " in str(damaged[0])
    with pytest.warns(UserWarning) as warned:
        read_records(path)
    assert len(warned) == 4 and "line 5" in str(warned[3].message)


@pytest.mark.parametrize("line", ["", "null", "[]", "{", '{"schema": 99}', json.dumps({"schema": 1, "trace": 3})])
def test_what_is_no_record_is_refused(line):
    with pytest.raises(ValueError, match="not a run record|newer"):
        RunRecord.from_json(line)


def test_a_record_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="line"):
        append_line(tmp_path / "x", "a\nb")


def _append(path, letter):
    for _ in range(50):
        append_line(path, letter * 5000)


def test_two_processes_may_add_at_once(tmp_path):
    path = tmp_path / "lines"
    # Spawned: forking a process whose threads have run tensor operations may hang it.
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_append, args=(path, letter)) for letter in "ab"]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert sorted(path.read_text().splitlines()) == 50 * ["a" * 5000] + 50 * ["b" * 5000]


def test_the_store_finds_runs_in_any_file_and_the_first_of_two(tmp_path):
    store = RunStore(tmp_path / "results")
    assert store.records() == []
    first, second = record(), record(settings=SETTINGS | {"seed": 4})
    assert store.add(first, "b") and store.add(second, "a")
    again = record(wall_seconds=9.0, settings=SETTINGS | {"device": "cuda"})
    assert again.identity == first.identity
    assert not store.add(again, "b"), "the same run, on another device"
    assert store.add(again, "c"), "another file may hold it too"
    assert store.records() == [second, first]
    (tmp_path / "results" / "notes.txt").write_text("no records here")
    assert len(store.records()) == 2


def test_the_store_reports_damage_anew_at_every_reading(tmp_path):
    store = RunStore(tmp_path)
    store.add(record(), "a")
    (tmp_path / "b.jsonl").write_text("torn")
    for _ in range(2):
        assert store.records() == [record()]
        assert [(d.file, d.line) for d in store.damaged] == [(str(tmp_path / "b.jsonl"), 1)]


def test_adding_after_a_torn_line_keeps_both(tmp_path):
    store = RunStore(tmp_path)
    (tmp_path / "a.jsonl").write_text(record().to_json()[:70])
    assert store.add(record(), "a")
    assert store.records() == [record()]
    assert len(store.damaged) == 1


def test_tables_are_tidy():
    diverged = record(accuracies=(0.1, None), outcome="diverged", settings=SETTINGS | {"seed": 4})
    solved = record(
        accuracies=(0.5, 0.9), outcome="solved", settings=SETTINGS | {"read": {"name": "NewtonSchulzRead", "steps": 5}}
    )
    table = run_table([record(), diverged, solved]).set_index("identity")
    assert table["read"].tolist() == ["RawRead", "RawRead", "NewtonSchulzRead"]
    assert table["seed"].tolist() == [3, 4, 3]
    assert table["solved"].tolist() == [False, False, True]
    assert table["escape_step"].tolist()[2] == 200
    assert np.isnan(table.loc[diverged.identity, ["accuracy", "escape_step"]].astype(float)).all()
    assert table.loc[solved.identity, "read.steps"] == 5
    assert table.loc[record().identity, "device_name"] == "a CPU"
    traces = trace_table([record(), diverged])
    assert traces.groupby("identity", sort=False).size().tolist() == [4, 2]
    assert traces["step"].tolist() == [100, 200, 300, 400, 100, 200]


def test_tables_of_nothing_have_their_columns():
    table = run_table([])
    assert len(table) == 0 and {"read", "accuracy", "solved", "identity"} <= set(table.columns)
    assert trace_table([]).columns.tolist() == [
        "identity", "step", "accuracy", "loss", "train_loss", "seconds"
    ]  # fmt: skip


def test_the_first_step_is_no_escape():
    early = record()
    early.trace[0] = Evaluation(1, 0.95, 1.0, 1.0, 1.0)
    assert early.escape_step == 300
