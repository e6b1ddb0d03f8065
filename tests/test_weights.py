"""Weights kept beside records: they are the run's own, and a failure to keep them costs nothing else."""

from dataclasses import replace

import pytest
import torch
from tiny import SETTINGS, TASKS, TINY

from orthonar import MLSTMModel, NewtonSchulzRead, RunConfig, evaluate
from orthonar.study.recorder import Recorder
from orthonar.study.records import RunStore
from orthonar.study.weights import packed, save_weights, trained_model, weights_path
from orthonar.study.worker import train_group
from orthonar.sweep import main


def trained():
    config = RunConfig(**SETTINGS | TASKS[0], lr=3e-3, read=NewtonSchulzRead(steps=2))
    ((record, content),) = train_group([config], True)
    return config, record, content


def test_a_run_is_asked_again_after_its_end(tmp_path):
    config, record, content = trained()
    save_weights(RunStore(tmp_path), record, content)
    model = trained_model(tmp_path, record)
    validation = config.task.validation_set(
        config.seed, config.validation_sequences, config.batch_size, torch.device("cpu")
    )
    accuracy, loss = evaluate(model, validation)
    assert accuracy == record.accuracy
    assert loss == pytest.approx(record.trace[-1].loss, rel=1e-3)
    assert model.config == config.model
    assert len(content) < 3 * sum(p.numel() for p in model.parameters()) + 20_000


def test_models_of_fused_runs_and_with_other_defaults(tmp_path):
    """They answer on any machine's CPU, in float32, and draw nothing."""
    _, record, content = trained()
    record = replace(record, settings=record.settings | {"form": "fused", "device": "cuda"})
    save_weights(RunStore(tmp_path), record, content)
    before = torch.get_rng_state()
    torch.set_default_dtype(torch.float64)
    try:
        model = trained_model(tmp_path, record)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in model.parameters()} == {torch.float32} and all(p.requires_grad for p in model.parameters())
    assert model(torch.zeros(1, 6, dtype=torch.int64)).isfinite().all()


def test_weights_left_of_another_training_do_not_stay_beside_a_record_without(tmp_path):
    _, record, content = trained()
    store = RunStore(tmp_path)
    save_weights(store, replace(record, wall_seconds=9.0), content)  # then its process was killed
    recorder = Recorder(store, "runs", print, {})
    assert recorder.keep(record, None, "a run") and not weights_path(tmp_path, record).exists()
    save_weights(store, record, content)
    assert not recorder.keep(record, None, "a run") and weights_path(tmp_path, record).exists(), "of a recorded run"


def test_weights_are_written_once_and_whole(tmp_path):
    _, record, content = trained()
    store = RunStore(tmp_path)
    assert save_weights(store, record, b"left over of a training that was never recorded")
    assert save_weights(store, record, content) and store.add(record, "runs")
    assert not save_weights(store, record, b"others")
    assert weights_path(tmp_path, record).read_bytes() == content
    assert [p.name for p in (tmp_path / "weights").iterdir()] == [f"{record.identity}.pt"]
    with pytest.raises(OSError):
        save_weights(RunStore(weights_path(tmp_path, record)), record, content)


@pytest.mark.parametrize(
    "kept", [b"no archive", {"embedding.weight": torch.zeros(3, 3)}, [1, 2]], ids=lambda k: type(k).__name__
)
def test_weights_that_are_not_the_models_are_named(tmp_path, kept):
    _, record, content = trained()
    save_weights(RunStore(tmp_path), record, content)
    if isinstance(kept, bytes):
        weights_path(tmp_path, record).write_bytes(kept)
    else:
        torch.save(kept, weights_path(tmp_path, record))
    with pytest.raises(ValueError, match=f"{record.identity}.pt is damaged"):
        trained_model(tmp_path, record)


def test_lost_and_damaged_weights_are_remade_as_is_said(tmp_path, monkeypatch, capsys):
    """As in results/README.md: the same settings once more, elsewhere, and adopted from there."""
    study = replace(TINY, tasks=TASKS[:1], rates=(1e-2,), rate_seeds=(), seeds=(0, 1), keep_weights=True)
    monkeypatch.setattr("orthonar.study.sweep.find_study", lambda *_: ("tiny", study))
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        assert main(["tiny", "--results", str(folder), "--workers", "1"]) == 0
    lost, damaged, other, whole = RunStore(here).records()
    weights_path(here, lost).unlink()
    weights_path(here, damaged).write_bytes(weights_path(here, damaged).read_bytes()[:500])
    weights_path(here, other).unlink()
    text = (here / "tiny.jsonl").read_text()
    (here / "tiny.jsonl").write_text(text.replace(f'"loss": {other.trace[0].loss!r}', '"loss": 9.0'))
    before = weights_path(here, whole).stat().st_mtime_ns
    with pytest.raises(ValueError, match="into another folder and adopt its file, `python -m orthonar.sweep --adopt"):
        trained_model(here, damaged)
    capsys.readouterr()
    assert main(["--adopt", str(there / "tiny.jsonl"), "--results", str(here)]) == 0
    assert "0 runs added" in (said := capsys.readouterr().out) and "2 with weights; 4 were there" in said
    for record in (lost, damaged):
        assert weights_path(here, record).read_bytes() == weights_path(there, record).read_bytes()
        trained_model(here, record)
    assert not weights_path(here, other).exists(), "that training came out otherwise"
    assert weights_path(here, whole).stat().st_mtime_ns == before, "what is whole stays"


def test_weights_of_settings_that_are_unknown_here_are_not_taken_for_damaged(tmp_path):
    _, record, content = trained()
    store, record = RunStore(tmp_path), replace(record, settings=record.settings | {"task": "Elsewhere"})
    store.add(record, "runs")
    assert save_weights(store, record, content) and not save_weights(store, record, b"others")
    assert weights_path(tmp_path, record).read_bytes() == content


def test_weights_that_float16_cannot_hold_are_refused():
    config = RunConfig(**SETTINGS | TASKS[0])
    model = MLSTMModel(config.model)
    with torch.no_grad():
        model.head.bias[0] = 1e6
    with pytest.raises(ValueError, match="float16"):
        packed(model)


def test_no_weights_unless_they_are_wanted():
    ((_, content),) = train_group([RunConfig(**SETTINGS | TASKS[0])], False)
    assert content is None
