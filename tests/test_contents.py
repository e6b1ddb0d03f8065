"""Kept weights asked after the fact: once each, found again by the run, and told where that cannot be."""

import json
import sys
from dataclasses import replace

import pytest
from tiny import SETTINGS, TASKS

from orthonar import MQAR, Constant, FixedAnneal, GatedAnneal, NewtonSchulzRead, RunConfig
from orthonar.contents import main
from orthonar.report.verify import whole_counts
from orthonar.study import contents
from orthonar.study.records import RunStore
from orthonar.study.weights import save_weights, trained_model, weights_path
from orthonar.study.worker import train_group
from orthonar.training.anneals import NoAnneal
from orthonar.training.evaluation import QUESTIONS, evaluate, questions


@pytest.fixture
def results(tmp_path):
    """Two runs without probes and one with them, all with their weights; and one that kept none."""
    shared = SETTINGS | TASKS[0] | {"validation_sequences": 8}
    configs = [RunConfig(**shared, seed=seed, probes=seed == 2) for seed in range(4)]
    for config in configs:
        ((record, content),) = train_group([config], True)
        RunStore(tmp_path).add(record, "runs")
        if config.seed < 3:
            save_weights(RunStore(tmp_path), record, content)
    return tmp_path, RunStore(tmp_path).records()


def test_every_run_is_asked_once_and_found_by_its_identity(results, capsys):
    folder, records = results
    assert contents.answer_table(folder).empty
    assert main(["--results", str(folder)]) == 0
    lines = contents.answers_path(folder).read_bytes()
    table = contents.answer_table(folder)
    assert list(table.index) == [record.identity for record in records[:2]], "the third was asked in its training"
    assert set(QUESTIONS) == set(table.columns) <= set(records[2].trace[-1].probes)
    config = RunConfig.from_settings(records[0].settings)
    batches = config.task.validation_set(config.seed, 8, 3)
    wanted = questions(trained_model(folder, records[0]), config.task, batches)
    assert table.loc[records[0].identity].to_dict() == pytest.approx(wanted, nan_ok=True)

    line = json.loads(lines.splitlines()[0])
    assert {"asked", "version", "numbers", "versions", "revision", "time", "identity"} == set(line)
    assert main(["--results", str(folder)]) == 0
    assert not contents.add_answer(folder, contents.ask(folder, records[1])), "someone else was faster"
    assert contents.answers_path(folder).read_bytes() == lines
    assert "0 runs asked, 2 answers" in capsys.readouterr().out


def test_the_tail_and_delays_are_asked_for_beside_it(results, capsys):
    folder, records = results
    assert main(["--results", str(folder), "--what", "occurrences"]) == 0
    table = contents.answer_table(folder, asking=contents.SHOWINGS)
    assert list(table.index) == [record.identity for record in records[:3]] and contents.answer_table(folder).empty
    shares = table[[f"share_{n}" for n in contents.OCCURRENCES]].to_numpy()
    recalls = table[[f"recall_{n}" for n in contents.OCCURRENCES]].fillna(0).to_numpy()
    assert shares.sum(1) == pytest.approx(1)
    config = RunConfig.from_settings(records[0].settings)
    accuracy, _ = evaluate(trained_model(folder, records[0]), config.task.validation_set(config.seed, 8, 2))
    assert (shares * recalls).sum(1)[0] == pytest.approx(accuracy), "together they are the accuracy"

    assert main(["--results", str(folder), "--what", "delays"]) == 0
    assert contents.answer_table(folder, asking=contents.DELAYED).empty, "no run is solved"
    assert "0 runs asked, 0 answers" in capsys.readouterr().out


def test_solved_runs_are_asked_after_delays(results, monkeypatch):
    folder, records = results
    monkeypatch.setattr(contents, "DELAYS", (0, 10))
    solved = replace(records[0], outcome="solved")
    assert contents.unasked(folder, [solved, *records[1:]], contents.DELAYED) == [solved]
    answer = contents.ask(folder, solved, contents.DELAYED)
    assert list(answer.numbers) == ["delay_0", "delay_10"]
    assert contents.add_answer(folder, answer) and not contents.add_answer(folder, answer)


def test_often_is_as_often_or_more(results, monkeypatch):
    folder, records = results
    monkeypatch.setattr(contents, "OCCURRENCES", range(1, 3))
    numbers = contents.ask(folder, records[0], contents.SHOWINGS).numbers
    assert set(numbers) == {"share_1", "recall_1", "share_2", "recall_2"}
    assert numbers["share_1"] + numbers["share_2"] == pytest.approx(1)


def test_runs_that_cannot_be_asked_keep_no_other_from_it(results, capsys):
    """One of a read that is not imported here is named; one of another task is not asked."""
    folder, records = results
    strange = replace(records[0], settings=records[0].settings | {"read": {"name": "SomeonesRead"}})
    task = MQAR(16, 16, 2, random_non_queries=False)
    shared = {name: value for name, value in SETTINGS.items() if name != "noise_vocab_size"}
    ((other, content),) = train_group([RunConfig(**shared, task=task)], True)
    for record in (strange, other):
        RunStore(folder).add(record, "a")  # before the others
        save_weights(RunStore(folder), record, content)
    assert main(["--results", str(folder)]) == 1
    said = capsys.readouterr().out
    assert f"run {strange.identity}: not asked: read: there is no 'SomeonesRead'" in said and "MQAR" not in said
    assert list(contents.answer_table(folder).index) == [record.identity for record in records[:2]]
    assert "cannot be made here" in whole_counts(strange)


def test_what_was_taken_down_is_asked_in_the_stock_layer(tmp_path, capsys):
    shared = SETTINGS | TASKS[0] | {"validation_sequences": 8, "read": NewtonSchulzRead(steps=5)}
    shared, last = shared | {"schedule": Constant()}, shared["steps"]
    anneals = [NoAnneal(), FixedAnneal(anneal_from=1, anneal_to=last), GatedAnneal(anneal_at=1)]
    records = []
    for anneal in anneals:
        ((record, content),) = train_group([RunConfig(**shared, anneal=anneal)], True)
        RunStore(tmp_path).add(record, "runs")
        save_weights(RunStore(tmp_path), record, content)
        records.append(record)
    assert main(["--results", str(tmp_path), "--what", "stock"]) == 0
    table = contents.answer_table(tmp_path, asking=contents.STOCK)
    assert list(table.index) == [records[1].identity], "one has none, and one never escaped"
    [numbers] = table.to_dict("records")
    assert numbers["accuracy_here"] == numbers["accuracy_stock"] and 0 < numbers["logits_apart"] < 1e-6  # in float64
    model = trained_model(tmp_path, records[1])
    batches = RunConfig.from_settings(records[1].settings).task.validation_set(0, 8, 3)
    assert numbers["accuracy_here"] == evaluate(model, batches)[0]


def test_where_the_stock_layer_is_missing_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "xlstm.blocks.mlstm.layer", None)
    shared = SETTINGS | TASKS[0] | {"validation_sequences": 8, "read": NewtonSchulzRead(steps=5)}
    ((record, content),) = train_group([RunConfig(**shared, anneal=FixedAnneal(anneal_from=1, anneal_to=2))], True)
    RunStore(tmp_path).add(record, "runs")
    save_weights(RunStore(tmp_path), record, content)
    assert main(["--results", str(tmp_path), "--what", "stock"]) == 1
    assert "not asked: the package xlstm is needed: pip install 'orthonar[xlstm]'" in capsys.readouterr().out


def test_what_is_damaged_is_told_and_costs_nothing_else(results, capsys):
    folder, records = results
    weights_path(folder, records[0]).write_bytes(b"not weights")
    path = contents.answers_path(folder)
    older = contents.Answer(records[1].identity, {"decode1": 0.5}, {}, None, "2026-07-01T00:00:00+00:00", version=0)
    impossible = older.to_json().replace("0.5", "1.5").replace('"version": 0', '"version": 1')
    path.write_text(f"{older.to_json()}\n{impossible}\n{{\n")
    assert main(["--results", str(folder)]) == 1
    told = capsys.readouterr().out
    assert "line 2" in told and "line 3" in told and "not asked: weights:" in told
    with pytest.warns(UserWarning, match="skipped"):
        table = contents.answer_table(folder)
    assert list(table.index) == [records[1].identity], "what was asked in another way does not count"


def test_a_folder_that_cannot_be_read_is_said(tmp_path, capsys):
    file = tmp_path / "file"
    file.touch()
    assert main(["--results", str(file)]) == 2
    assert "cannot be read" in capsys.readouterr().err
    assert main(["--results", str(tmp_path / "typo")]) == 2
    assert "there are no records in" in capsys.readouterr().err and not (tmp_path / "typo").exists()
