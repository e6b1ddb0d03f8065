"""What every benchmark records of the machine, and that what it measured is never lost."""

import importlib
import json
import re
from pathlib import Path

import pytest

from benchmarks import accuracy, pace, sampler, streaming
from benchmarks import record as records
from orthonar.report.tables import benchmark_records


def test_a_record_says_what_it_was_measured_on():
    record = records.begin()
    assert set(record) == {"started", "device_name", "load_before", "versions", "revision"}
    assert {"torch", "numpy"} <= set(record["versions"]) and record["device_name"]
    where = benchmark_records.where(record | {"settings": {"threads": 2}})
    assert "2 threads" in where and record["started"][:10] in where and str(record["revision"])[:12] in where


def test_records_are_appended(tmp_path, capsys):
    path = tmp_path / "made" / "some.jsonl"
    for rows in ([1], [2]):
        records.keep({"rows": rows}, path)
    assert [json.loads(line)["rows"] for line in path.read_text().splitlines()] == [[1], [2]]
    assert capsys.readouterr().out == 2 * f"appended to {path}\n"


def test_what_cannot_be_appended_is_kept_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(SystemExit, match="not appended to .*some.jsonl .*, but in ") as stop:
        records.keep({"rows": [1]}, tmp_path / "file" / "some.jsonl")
    kept = Path(re.search("but in (.*)$", str(stop.value)).group(1))
    assert json.loads(kept.read_text()) == {"rows": [1]}


@pytest.mark.parametrize(
    ("command", "options", "said"),
    [
        (accuracy, ["--seeds", "0"], "--seeds and --threads are at least 1"),
        (accuracy, ["--size", "0"], "--seeds and --threads are at least 1"),
        (streaming, ["--heads", "7"], "num_heads"),
        (streaming, ["--width", "0"], "embedding_dim"),
        (streaming, ["--vocab-size", "0"], "vocab_size"),
        (pace, ["--repeats", "0"], "--repeats and --threads are at least 1"),
        (sampler, ["--rounds", "0"], "--rounds and --repeats are at least 1"),
        (sampler, ["--threads", "0"], "--rounds and --repeats are at least 1"),
        (sampler, ["--seq-len", "7"], "seq_len must be even"),
        (sampler, ["--device", "foo"], "device: 'foo' is none"),
    ],
    ids=lambda part: part.__name__ if hasattr(part, "__name__") else str(part),
)
def test_impossible_options_are_named_before_anything_is_measured(command, options, said, tmp_path, capsys):
    results = [] if command in (accuracy, sampler) else ["--results", str(tmp_path)]
    with pytest.raises(SystemExit) as stop:
        command.main([*options, *results])
    assert stop.value.code == 2 and said in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.needs_triton
@pytest.mark.parametrize("options", [["--capability", "1"], ["--head-size", "0"]], ids=" ".join)
def test_kernels_are_compiled_for_what_there_is(options, monkeypatch, capsys):
    command = importlib.import_module("benchmarks.kernel_resources")
    monkeypatch.setattr(command, "compile_program", lambda *_: pytest.fail("compiled"))
    with pytest.raises(SystemExit) as stop:
        command.main(options)
    assert stop.value.code == 2 and options[0] in capsys.readouterr().err.splitlines()[-1]


def test_the_newest_is_the_latest_started():
    assert benchmark_records.newest([]) is None
    assert benchmark_records.newest({"started": f"2026-0{month}-01"} for month in (2, 3, 1)) == {
        "started": "2026-03-01"
    }


def test_of_two_that_started_in_the_same_second_the_last_appended_is_the_newest():
    first, last = ({"started": "2026-11-30T09:40:43+00:00", "rows": [n]} for n in (1, 2))
    assert benchmark_records.newest([first, last]) == last
    fractions = ("", ".000010", ".9", ".100000")
    of_one_second = [{"started": f"2026-11-30T09:40:43{fraction}+00:00"} for fraction in fractions]
    assert benchmark_records.newest(of_one_second) == of_one_second[2], "the older records give whole seconds"


def test_records_begun_one_after_the_other_are_told_apart():
    begun = [records.begin()["started"] for _ in range(3)]
    assert begun == sorted(set(begun))
