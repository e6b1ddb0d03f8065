"""Run records: a line each, never lost, never overwritten, damage reported."""

import contextlib
import json
import multiprocessing
import os
import resource
from pathlib import Path

import numpy as np
import pytest

from orthonar.study.jsonl import append_line
from orthonar.study.records import RunStore, read_records, run_table, trace_table
from orthonar.training.record import Evaluation, RunRecord, identity

SETTINGS = {"read": {"name": "RawRead"}, "embedding_dim": 32, "seed": 3, "lr": 0.01, "device": "cpu", "steps": 400}


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


def test_a_record_is_strict_json(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        record(accuracies=(float("nan"),)).to_json()
    singular = record()
    singular.trace[-1] = Evaluation(400, 0.7, 2.5, 3.0, 4.0, {"log10_condition": float("inf"), "rank": 2.0})
    assert RunStore(tmp_path).add(singular, "a"), "a probe without a finite value costs no run"
    assert RunStore(tmp_path).records()[0].trace[-1].probes == {"log10_condition": None, "rank": 2.0}


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


def changed(**changes) -> str:
    """A record's line with other values, named by their paths: `trace__0__step=3`."""
    content = json.loads(record().to_json())
    for name, value in changes.items():
        *folders, last = [int(part) if part.isdigit() else part for part in name.split("__")]
        place = content
        for part in folders:
            place = place[part]
        if value is ...:
            del place[last]
        else:
            place[last] = value
    return json.dumps(content)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": {}}, "read"),
        ({"settings": []}, "settings"),
        ({"settings__steps": ...}, "steps"),
        ({"settings__seed": True}, "seed"),
        ({"settings__embedding_dim": 0}, "embedding_dim"),
        ({"settings__lr": "fast"}, "lr"),
        ({"settings__validation_sequences": 8}, "batch_size is missing"),
        ({"settings__validation_sequences": "x"}, "validation_sequences"),
        ({"settings__eval_batches": 0}, "eval_batches"),
        ({"settings__write": {}}, "write"),
        ({"settings__read": "RawRead"}, "read"),
        ({"trace": []}, "empty"),
        ({"trace__0__step": 200}, "step 200 after 200"),
        ({"trace__3__step": 401}, "step 401"),
        ({"trace__0__step": 1.5}, "step 1.5"),
        ({"trace__1__accuracy": 1.2}, "accuracy is 1.2"),
        ({"trace__1__accuracy": None}, "not finite"),
        ({"trace__1__loss": None}, "loss is None"),
        ({"trace__1__train_loss": -1}, "train_loss"),
        ({"trace__1__seconds": 0.5}, "seconds"),
        ({"trace__1__probes": {"rank": "full"}}, "probes"),
        ({"trace__1__loss": float("nan")}, "NaN"),
        ({"outcome": "solved"}, "outcome"),
        ({"outcome": "diverged"}, "outcome"),
        ({"outcome": "fine"}, "outcome"),
        ({"trace__3__accuracy": 0.8}, "outcome"),
        ({"wall_seconds": -1}, "wall_seconds"),
        ({"device": ""}, "device"),
        ({"versions": {}}, "versions"),
        ({"versions": {"torch": 2}}, "versions"),
        ({"revision": 5}, "revision"),
        ({"started": "yesterday"}, "started"),
        ({"schema": 0}, "schema"),
    ],
)
def test_a_line_that_no_run_can_have_left_is_refused(changes, said):
    with pytest.raises(ValueError, match="not a run record") as error:
        RunRecord.from_json(changed(**changes))
    assert said in str(error.value)


def test_what_no_run_can_have_left_counts_in_no_table(tmp_path):
    (tmp_path / "a.jsonl").write_text(changed(settings={}) + "\n" + changed() + "\n" + changed(outcome="solved") + "\n")
    store = RunStore(tmp_path)
    assert len(run_table(store.records())) == 1
    assert [d.line for d in store.damaged] == [1, 3]
    with pytest.raises(ValueError, match="outcome"):
        store.add(record(outcome="solved"), "b")
    assert not (tmp_path / "b.jsonl").exists()


def test_what_cannot_be_read_is_named_and_skipped(tmp_path, monkeypatch):
    store = RunStore(tmp_path)
    store.add(record(), "good")
    (tmp_path / "folder.jsonl").mkdir()
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "deep.jsonl").write_text("[" * 100_000)
    (tmp_path / "secret.jsonl").write_text(changed(settings__seed=5))
    read_bytes = Path.read_bytes

    def guarded(path):  # root may read everything
        if path.name == "secret.jsonl":
            raise PermissionError(13, "Permission denied", str(path))
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", guarded)
    assert store.records() == [record()]
    names = ["dangling", "deep", "folder", "loop", "pipe", "secret"]
    assert [d.file for d in store.damaged] == [str(tmp_path / f"{name}.jsonl") for name in names]
    assert [d.line for d in store.damaged] == [0, 1, 0, 0, 0, 0]
    assert str(store.damaged[-1]) == f"{tmp_path / 'secret.jsonl'}: Permission denied; skipped"


def test_a_byte_order_mark_is_read_past(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + record().to_json().encode() + b"\r\n")
    store = RunStore(tmp_path)
    assert store.records() == [record()] and not store.damaged


def test_a_folder_that_may_not_be_listed_is_not_an_empty_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        RunStore(tmp_path / "file").records()


@contextlib.contextmanager
def file_size_limit(size: int):
    """No file of this process can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_line_that_fits_in_part_is_taken_back(tmp_path):
    store = RunStore(tmp_path)
    store.add(record(), "a")
    before = (tmp_path / "a.jsonl").read_bytes()
    other = record(settings=SETTINGS | {"seed": 4})
    with file_size_limit(len(before) + 100), pytest.raises(OSError):
        store.add(other, "a")
    assert (tmp_path / "a.jsonl").read_bytes() == before
    assert store.add(other, "a")
    assert store.records() == [record(), other] and not store.damaged


def test_a_full_disk_holds_all_that_it_was_said_to_hold(small_disk):
    store, added = RunStore(small_disk), 0
    with pytest.raises(OSError):
        while True:
            added += store.add(record(settings=SETTINGS | {"seed": added}), "a")
    assert added > 50
    assert [r.settings["seed"] for r in store.records()] == list(range(added)) and not store.damaged
    with pytest.raises(OSError, match="a.jsonl cannot be written"):
        store.check_writable("a")


def test_trying_whether_records_can_be_added_leaves_nothing(tmp_path):
    store = RunStore(tmp_path / "results")
    store.check_writable("a")
    assert not list((tmp_path / "results").iterdir())
    store.add(record(), "a")
    before = (tmp_path / "results" / "a.jsonl").read_bytes()
    store.check_writable("a")
    assert (tmp_path / "results" / "a.jsonl").read_bytes() == before
    (tmp_path / "results" / "b.jsonl").mkdir()
    with pytest.raises(OSError, match="b.jsonl cannot be written"):
        store.check_writable("b")


def test_a_record_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="line"):
        append_line(tmp_path / "x", "a\nb")


def _append(path, letter):
    for _ in range(20):
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
    assert sorted(path.read_text().splitlines()) == 20 * ["a" * 5000] + 20 * ["b" * 5000]


def _add(folder, seed):
    for number in range(20):
        RunStore(folder).add(record(settings=SETTINGS | {"seed": number}, wall_seconds=float(seed)), "runs")


def test_two_processes_that_add_the_same_runs_leave_each_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add, args=(tmp_path, seed)) for seed in (1, 2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    kept = read_records(tmp_path / "runs.jsonl")
    assert sorted(r.settings["seed"] for r in kept) == list(range(20))


def test_the_store_finds_runs_in_any_file_and_the_first_of_two(tmp_path):
    store = RunStore(tmp_path / "results")
    assert store.records() == []
    first, second = record(), record(settings=SETTINGS | {"seed": 4})
    assert store.add(first, "b") and store.add(second, "a")
    again = record(wall_seconds=9.0, settings=SETTINGS | {"device": "cuda"})
    assert again.identity == first.identity
    assert not store.add(again, "b"), "the same run, on another device"
    assert not store.add(again, "c"), "nor in another file"
    store.path("c").write_text(again.to_json() + "\n")  # as where two folders are brought together
    assert store.records() == [second, first] and store.find(again.identity) == first
    [damage] = store.damaged
    assert (
        str(damage)
        == f"{store.path('c')}, line 1: run {first.identity} is in b.jsonl already, with other results; skipped"
    )
    store.path("c").write_text(first.to_json() + "\n")
    assert store.records() == [second, first] and store.damaged == [], "said twice, it is no contradiction"
    (tmp_path / "results" / "notes.txt").write_text("no records here")
    assert len(store.records()) == 2


def test_where_the_records_are_is_said_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr("orthonar.study.records.results_dir", lambda: tmp_path / "results")
    with pytest.warns(UserWarning, match="ORTHONAR_HOME"):
        assert RunStore(tmp_path / "results").records() == []
    assert RunStore(tmp_path / "other").records() == []  # one that was asked for may well be new


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


@pytest.mark.parametrize("name", ["", ".hidden", "folder/runs", "../runs"])
def test_a_name_under_which_no_record_would_be_found_again_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="^name must be that of a file in the folder"):
        RunStore(tmp_path / "store").add(record(), name)
    assert not list(tmp_path.rglob("*.jsonl"))
