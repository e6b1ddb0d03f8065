"""What stands beside the study goes together: another task, mixer, optimizer and noise, in one trainer."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import SETTINGS, record_of

from orthonar import (
    MQAR,
    Attention,
    KeyDoor,
    ModelConfig,
    Muon,
    NewtonSchulzRead,
    NoisyRecall,
    RunConfig,
    SequenceModel,
    train,
)
from orthonar.study.presets import PRESETS
from orthonar.study.records import run_table
from orthonar.study.runs import Estimates, describe
from orthonar.training.record import RunRecord
from orthonar.training.streaming import recall_by_delay

TINY = {name: value for name, value in SETTINGS.items() if name not in ("noise_vocab_size", "num_heads")}
TASK = MQAR(vocab_size=20, seq_len=16, num_kv_pairs=2)


@pytest.mark.parametrize("name, scale", [(name, scale) for name, scales in PRESETS.items() for scale in scales])
def test_a_sweep_tells_every_cell_of_a_preset_apart(name, scale):
    study = PRESETS[name][scale]
    runs = [study.run(task, side, study.rates[0], 0) for task, side in study.cells()]
    assert len({describe(run) for run in runs}) == len({run.identity for run in runs}) == len(runs)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="PyTorch before 2.9 has no Muon")
def test_another_task_mixer_and_optimizer_in_one_run():
    config = RunConfig(task=TASK, mixer=Attention(num_heads=2, rotary=True), optimizer=Muon(), **TINY)
    record = train(config)
    again = RunRecord.from_json(record.to_json())
    assert again == record and again.identity == config.identity
    assert RunConfig.from_settings(json.loads(json.dumps(again.settings))) == config
    described = describe(config)
    assert all(name in described for name in ("MQAR", "Attention", "Muon", "vocabulary 20"))
    assert run_table([again]).loc[0, ["task", "mixer", "optimizer"]].tolist() == ["MQAR", "Attention", "Muon"]


@pytest.mark.parametrize("task", [TASK, NoisyRecall(16, 16, 4, 0.0)], ids=["mqar", "noisy-recall"])
def test_attention_learns_one_association(task):
    """One batch by heart: the gradients of every part lead somewhere."""
    torch.manual_seed(0)
    model = SequenceModel(ModelConfig(task.vocab_size, 16, mixer=Attention(num_heads=2)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    [(tokens, targets)] = task.validation_set(seed=0, sequences=4, batch_size=4)
    losses = []
    for _ in range(60):
        losses.append(torch.nn.functional.cross_entropy(model(tokens).flatten(0, 1), targets.flatten()))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.2 * losses[0]


def test_noise_is_an_axis_of_a_sweep():
    """From none to nine tenths: every run trains, has an identity of its own and can be told apart in words."""
    runs = [RunConfig(**SETTINGS, vocab_size=16, seq_len=16, frac_noise=share / 10, lr=0.01) for share in range(10)]
    assert len({run.identity for run in runs}) == len({describe(run) for run in runs}) == 10
    assert RunConfig(**SETTINGS, vocab_size=16, seq_len=16, lr=0.01).identity == runs[8].identity
    for run in (runs[0], runs[9]):
        assert RunConfig.from_settings(train(run).settings) == run


def test_durations_are_told_from_runs_of_the_same_mixer_and_optimizer():
    """Also of tasks whose length is no setting of theirs."""
    doors = KeyDoor(doors=1, corridor=0)
    asked = RunConfig(task=doors, mixer=Attention(num_heads=2), **TINY)
    others = [RunConfig(task=TASK, mixer=Attention(num_heads=2), **TINY | {"steps": steps}) for steps in (4, 8)]
    records = [record_of(config, seconds=config.steps * 1.0) for config in others]
    assert Estimates(records).seconds(asked) == pytest.approx(asked.steps * doors.seq_len / TASK.seq_len)
    assert Estimates(records).seconds(RunConfig(task=doors, num_heads=2, **TINY)) is None
    of_doors = [record_of(replace(asked, seed=seed), seconds=seed) for seed in (3, 9, 4)]
    assert Estimates(records + of_doors).seconds(asked) == 4, "runs of its own, where there are any"
    by_muon = RunConfig(task=doors, mixer=Attention(num_heads=2), optimizer=Muon(), **TINY)
    assert Estimates(records).seconds(by_muon) is None


def test_recall_over_delays_of_a_model_with_a_cache():
    task = NoisyRecall(16, 16, 4, 0.5)
    model = SequenceModel(ModelConfig(16, 8, mixer=Attention(num_heads=2)))
    whole = recall_by_delay(model, task, (0, 10, 40), pairs=2, sequences=3, block_size=7)
    assert whole == recall_by_delay(model, task, (0, 10, 40), pairs=2, sequences=3, block_size=1)
    assert [line.asked for line in whole] == [6, 6, 6]


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("probes", {"mixer": Attention(), "probes": True}),
        ("probes", {"task": TASK, "probes": True}),
        ("orthogonal_keys", {"mixer": Attention(), "orthogonal_keys": True}),
        ("anneal", {"mixer": Attention(), "anneal": "fixed"}),
        ("num_kv_pairs", {"num_kv_pairs": 2}),
        ("read", {"mixer": Attention(), "read": NewtonSchulzRead()}),
    ],
)
def test_what_does_not_go_together_is_named(name, settings):
    with pytest.raises(ValueError, match=name):
        RunConfig(**settings)
