"""What `python -m orthonar.verify` says of records as they were, of more of them, and of tampered ones."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
from tiny import TASKS, TINY, record_of

from orthonar import paths, train
from orthonar.report import claims, verify
from orthonar.report.published import ELIMINATION, HEADLINE, REPLICATION
from orthonar.study import checksums
from orthonar.study.presets import PRESETS
from orthonar.study.records import RunStore, read_records

RESULTS = paths.results_dir()
FILE = "headline.jsonl"
#: Records that stay as they are.
SETTLED = RESULTS / "small-embedding"


@pytest.fixture
def folder(tmp_path):
    """A results folder of one file, with its list, its name not a plain one."""
    folder = tmp_path / "my results"
    folder.mkdir()
    shutil.copy(SETTLED / FILE, folder)
    assert checksums.write_list(folder).name == "SHA256SUMS"
    return folder


def edit(folder, old: str, new: str) -> None:
    text = (folder / FILE).read_text()
    assert old in text
    (folder / FILE).write_text(text.replace(old, new, 1))


def status(folder, *more: str) -> int:
    return verify.main(["--results", str(folder), "--recompute", "0", *more])


def test_the_committed_files_are_those_of_the_list():
    assert [check for check in checksums.check_files(RESULTS) if not check.fine] == []


def test_files_as_they_were_are_exact(folder, capsys):
    assert status(folder) == 0
    out = capsys.readouterr().out
    assert "All that must be exact is" in out and "1 files held against their checksums, 108 records read" in out
    assert max(map(len, out.splitlines())) <= verify.WIDTH


def test_records_may_be_added(folder):
    with open(folder / FILE, "a") as file:
        file.write(record_of(TINY.run(TASKS[0], "baseline", 1e-2, 5)).to_json() + "\n")
    (folder / "more.jsonl").write_text("")
    checks = {check.file: check for check in checksums.check_files(folder)}
    assert checks[FILE] == (FILE, "unchanged", 1) and checks["more.jsonl"].state == "not listed"
    assert all(check.fine for check in checks.values())
    assert verify.verify(folder, recompute=0)["counts"]["files"] == 1, "what is not listed is held against nothing"


def test_a_file_that_was_empty_or_cut_off_may_grow(folder):
    (folder / "empty.jsonl").write_text("")
    (folder / "cut.jsonl").write_text("{}\n{")
    checksums.write_list(folder)
    for name, more in (("empty.jsonl", "{}\n{}\n"), ("cut.jsonl", "\n{}\n")):
        with open(folder / name, "a") as file:
            file.write(more)
    checks = {check.file: check for check in checksums.check_files(folder)}
    assert checks["empty.jsonl"] == ("empty.jsonl", "unchanged", 2)
    assert checks["cut.jsonl"] == ("cut.jsonl", "unchanged", 1)
    (folder / "cut.jsonl").write_text("{}\n[\n{}\n")
    assert not {c.file: c for c in checksums.check_files(folder)}["cut.jsonl"].fine


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('"accuracy": 0.17412935197353363', '"accuracy": 0.97412935197353363', "changed since"),
        ('"schema": 1', '"schema" 1', "not a run record"),
    ],
    ids=["a number", "a line"],
)
def test_a_file_tampered_with_is_named(folder, capsys, old, new, named):
    edit(folder, old, new)
    assert status(folder) == 1
    out = " ".join(capsys.readouterr().out.split())
    assert "NOT EXACT" in out and FILE in out and named in out


def test_a_number_that_no_run_can_have_is_named_even_under_a_new_list(folder, capsys):
    edit(folder, '"accuracy": 0.17412935197353363', '"accuracy": 0.175')
    assert status(folder, "--write-checksums") == 0
    assert status(folder) == 1
    assert "no whole number of 804 answers" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("what", ["the file", "the list", "a line of the list"])
def test_what_is_missing_is_named(folder, capsys, what):
    shutil.copy(SETTLED / "notebook-03.jsonl", folder)  # so that there is something to verify
    if what == "the file":
        (folder / FILE).unlink()
    elif what == "the list":
        (folder / checksums.LIST).unlink()
    else:
        (folder / checksums.LIST).write_text("no checksum\n")
    assert status(folder) == 1
    assert {"the file": "missing since"}.get(what, "SHA256SUMS") in capsys.readouterr().out


def test_where_nothing_is_recorded_there_is_nothing_to_verify(tmp_path, capsys):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "no.jsonl").write_text("")
    checksums.write_list(empty)
    for folder in (tmp_path / "none", empty):
        assert status(folder) == 2
        assert capsys.readouterr().err.startswith("nothing to verify: ")


def test_records_in_folders_are_read_too(folder, capsys):
    inner = folder / "apart"
    inner.mkdir()
    (inner / "some.jsonl").write_text("no record\n")
    checksums.write_list(folder)
    assert status(folder) == 1
    assert "damaged" in capsys.readouterr().out


def test_a_reader_that_ends_early_changes_no_status(folder):
    command = f"{sys.executable} -m orthonar.verify --results '{folder}' --recompute 0; echo $? >&2"
    ended = subprocess.run(["bash", "-c", f"({command}) | true"], capture_output=True, text=True, check=True)
    assert ended.stderr == "0\n"


def test_training_again_gives_the_run_again():
    record = train(TINY.run(TASKS[0], "orthogonalized", 1e-2, 3))
    again = verify.train_again(record)
    assert (again.step, again.accuracy_here, again.loss_here) == (2, again.accuracy, again.loss)
    assert "to the last bit" in str(again)
    assert "0.5 apart" in str(replace(again, loss=1.0, loss_here=1.5))
    assert verify.whole_counts(record) is None


def test_both_reads_are_trained_again_the_cheapest_first():
    chosen = verify.to_train_again(read_records(SETTLED / FILE), 2)
    assert [record.settings["read"]["name"] for record in chosen] == ["RawRead", "NewtonSchulzRead"]
    assert all(record.trace[0].seconds < 10 for record in chosen)
    assert verify.to_train_again(chosen, 0) == []


def test_a_run_with_two_results_is_named(folder, capsys):
    [first, *_] = read_records(folder / FILE)
    (folder / "later.jsonl").write_text(replace(first, wall_seconds=9.0).to_json() + "\n")
    assert status(folder) == 1
    assert f"run {first.identity} is in {FILE} already, with other results" in " ".join(capsys.readouterr().out.split())


def test_what_needs_more_than_is_installed_is_said_and_no_fault(folder, capsys, monkeypatch):
    lines = (RESULTS / "world-pocket.jsonl").read_text().splitlines(keepends=True)
    (folder / "world-pocket.jsonl").write_text("".join(lines[:2]))
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    assert status(folder) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "not checked here: run" in out and "orthonar[world]" in out and "1 of their traces" in out
    assert verify.to_train_again(read_records(folder / "world-pocket.jsonl"), 2) == []
    unknown = record_of(TINY.run(TASKS[0], "baseline", 1e-2, 5))
    unknown = replace(unknown, settings=unknown.settings | {"task": "Elsewhere"})
    assert verify.to_train_again([unknown], 2) == [], "nor what nobody here has defined"


@pytest.fixture(scope="module")
def found():
    return claims.claims(RunStore(RESULTS).records())


def test_every_published_count_and_mean_is_there(found):
    cells = [*HEADLINE, *REPLICATION]
    numbers = 1 + sum(len(cell.accuracies) + len(cell.solved_runs) for cell in cells)  # and the pooled p-value
    of_cells = [c for c in found if c.study in ("headline", "replication", "replication-1024", "schedule", "anneal")]
    assert sum(not c.what.startswith("a run on") for c in of_cells) == numbers
    of_variants = [c.what for c in found if c.study == "ablation" and c.what.startswith("solved, ")]
    assert len([what for what in of_variants if ", read" not in what]) == len(ELIMINATION) - 2


def test_the_table_has_every_claim_and_fits(found):
    text = verify.claim_table(found)
    assert max(map(len, text.splitlines())) <= verify.WIDTH
    flat = " ".join(text.split())
    for claim in found:
        assert claim.published in flat and claim.group in flat and claim.here in flat
    assert json.loads(json.dumps([claim.__dict__ for claim in found], allow_nan=False))


def with_solved(solved: int, runs: int) -> claims.Claim:
    """The follow-up's 9 of 16 against runs that never were."""
    study = PRESETS["replication"]["paper"]
    configs = [study.run(study.tasks[0], "orthogonalized", 3e-3, seed) for seed in study.seeds[:runs]]
    records = [record_of(config, 0.9 if i < solved else 0.1) for i, config in enumerate(configs)]
    [claim] = [c for c in claims.claims(records) if c.study == "replication" and c.what == "solved, orthogonalized"]
    assert (claim.published, claim.runs, claim.planned) == ("9 of 16", runs, 16)
    return claim


@pytest.mark.parametrize(
    ("solved", "runs", "verdict"),
    [(3, 12, "agrees"), (0, 16, "differs"), (0, 7, "too few runs"), (0, 0, "not run")],
)  # fmt: skip
def test_counts_are_compared_by_fishers_test(solved, runs, verdict):
    claim = with_solved(solved, runs)
    assert claim.verdict == verdict
    assert (claim.p is None) == (not runs)


def test_what_is_exact_is_made_again():
    assert (claims.worked_example().here, claims.worked_example().verdict) == ("9", "agrees")


@pytest.mark.parametrize(("runs", "p"), [(7, None), (8, 2 * 0.5**8)])
def test_what_nobody_published_is_compared_in_pairs_where_runs_are_enough(runs, p):
    study = PRESETS["muon"]["pocket"]
    made = [record_of(c, 0.9 if "Muon" in str(c.optimizer) else 0.1) for c in study.runs([]) if c.seed < 12 + runs]
    told = {claim.what: claim for claim in claims.claims(made) if claim.study == "muon-pocket"}
    assert list(told) == [f"solved, {side}" for side in study.sides]
    muon = told["solved, baseline, Muon"]
    assert (muon.runs, muon.p, muon.verdict) == (runs, p, claims.UNPUBLISHED) and muon.here.startswith(f"{runs} of")
    assert told["solved, baseline"].p is None
    elsewhere = [replace(r, settings=r.settings | {"device": "cuda"}) if "Muon" in str(r.settings) else r for r in made]
    muon = {claim.what: claim for claim in claims.claims(elsewhere)}["solved, baseline, Muon"]
    assert muon.test == ("" if p is None else "Fisher"), "on two kinds of devices there is no pair"


def test_a_mean_that_one_run_decides_has_no_interval():
    """Here as in every table: of 24 runs with one solved a bootstrap interval holds the mean far too seldom."""
    study = PRESETS["headline"]["paper"].only(["baseline"], 1)
    choice = [record_of(config, 0.5 if config.lr == 3e-3 else 0.1) for config in study.runs([])]
    runs = [record_of(config, 0.97 if config.seed == 0 else 0.03) for config in study.runs(choice)]
    found = {claim.what: claim for claim in claims.claims([*choice, *runs[len(choice) :]]) if claim.runs == 24}
    assert found["accuracy, baseline"].here == "6.9 (3 to 97) %"
