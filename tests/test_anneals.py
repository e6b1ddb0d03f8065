"""Taking the read down: the weight's course, the budget's extension, and the stock mLSTM that is left."""

from dataclasses import replace

import pytest
import torch

from orthonar import Constant, FixedAnneal, GatedAnneal, NewtonSchulzRead, RawRead, RunConfig
from orthonar.settings import integer, settings
from orthonar.study.records import RunStore
from orthonar.study.weights import packed, save_weights, trained_model
from orthonar.training.anneals import NoAnneal, annealed, final_model
from orthonar.training.record import Evaluation, RunRecord
from orthonar.training.train import train, train_models
from orthonar.xlstm import StockModel

TINY = {
    "vocab_size": 8, "noise_vocab_size": 2, "seq_len": 12, "embedding_dim": 16, "num_heads": 2, "batch_size": 4,
    "steps": 12, "eval_every": 4, "validation_sequences": 8, "schedule": Constant(), "read": NewtonSchulzRead(steps=2),
}  # fmt: skip


def line(step: int, accuracy: float | None) -> Evaluation:
    return Evaluation(step, accuracy, accuracy, accuracy, float(step))


def test_the_weight_falls_in_a_line():
    fixed = FixedAnneal(anneal_from=4, anneal_to=8)
    assert [fixed.weight(step, None) for step in (0, 4, 5, 6, 8, 20)] == [1, 1, 0.75, 0.5, 0, 0]
    gated = GatedAnneal(dwell=2, ramp=4)
    assert {gated.weight(step, None) for step in (0, 10, 10**6)} == {1}
    assert [gated.weight(step, 8) for step in (8, 10, 11, 14, 15)] == [1, 1, 0.75, 0, 0]
    assert gated.escape([line(4, 0.7), line(8, 0.8), line(12, 0.2)]) == 8
    assert gated.escape([line(4, 0.7), line(8, None)]) is None
    assert gated.escape([line(1, 0.9), line(8, 0.7)]) is None, "the first step is no escape, as in a record"
    assert [gated.last_step(12, at) for at in (None, 4, 8, 12)] == [12, 12, 14, 18]


def test_ends_of_the_weight_are_one_read_alone():
    assert annealed(NewtonSchulzRead(), 1.0) == NewtonSchulzRead()
    assert annealed(NewtonSchulzRead(), 0.0) == RawRead()
    assert annealed(NewtonSchulzRead(), 0.25).alpha == 0.25


def reads_of_every_step(monkeypatch, config):
    """What the model reads with in each training step and evaluation, and the run's record and model."""
    seen, forward = [], torch.nn.Module.__call__

    def spy(module, *args, **kwargs):
        if hasattr(module, "embedding"):
            seen.append((module.training, module.config.mixer.read))
        return forward(module, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Module, "__call__", spy)
        ((record, model),) = train_models([config])
    return (
        [read for training, read in seen if training],
        [read for training, read in seen if not training],
        record,
        model,
    )


def test_a_fixed_anneal_ends_in_a_stock_model(monkeypatch, tmp_path):
    config = RunConfig(**TINY, anneal=FixedAnneal(anneal_from=4, anneal_to=8))
    trained, evaluated, record, model = reads_of_every_step(monkeypatch, config)
    assert [getattr(read, "alpha", None) for read in trained] == 5 * [None] + [0.75, 0.5, 0.25] + 4 * [None]
    assert trained[:5] == 5 * [config.read] and trained[8:] == 4 * [RawRead()]
    # two batches an evaluation
    assert evaluated == 2 * [config.read] + 4 * [RawRead()]
    assert model.config.mixer.read == RawRead()

    tokens = torch.randint(8, (3, 11), generator=torch.Generator().manual_seed(0))
    stock = StockModel(model.config, 11)
    stock.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(stock(tokens), model(tokens), rtol=1e-5, atol=1e-5)
    save_weights(RunStore(tmp_path), record, packed(model))
    assert trained_model(tmp_path, record).config == model.config


def test_a_gated_anneal_waits_and_extends_the_budget(monkeypatch):
    gated = GatedAnneal(anneal_at=1e-9, dwell=3, ramp=4)  # whatever is right once counts as an escape
    _, _, record, model = reads_of_every_step(monkeypatch, RunConfig(**TINY | {"steps": 4}, anneal=gated))
    assert record.trace[0].accuracy > 0, "the seed must answer something right"
    assert [e.step for e in record.trace] == [4, 8, 11]
    assert model.config.mixer.read == RawRead()
    assert RunRecord.from_json(record.to_json()) == record
    too_long = replace(record, trace=[*record.trace, line(12, record.accuracy)])
    with pytest.raises(ValueError, match="trace: step 12 after 11, of 11"):
        RunRecord.from_json(too_long.to_json())
    never = train(RunConfig(**TINY | {"steps": 4}, anneal=GatedAnneal(anneal_at=1.0)))
    assert [e.step for e in never.trace] == [4]


@settings
class LateAnneal(GatedAnneal):
    kind = "late"

    rest: int = integer(2, least=0)

    def last_step(self, steps, escaped_at):
        return steps if escaped_at is None else super().last_step(steps, escaped_at) + self.rest


def test_an_anneal_of_ones_own_may_extend_the_budget_as_far_as_it_wants(tmp_path):
    record = train(RunConfig(**TINY | {"steps": 4}, anneal=LateAnneal(anneal_at=1e-9, dwell=3, ramp=4)))
    assert [e.step for e in record.trace] == [4, 8, 12, 13]
    assert RunStore(tmp_path).add(record, "runs") and RunStore(tmp_path).records() == [record]
    disordered = replace(record, trace=record.trace[::-1])
    with pytest.raises(ValueError, match="trace: step 12 after 13"):
        RunRecord.from_json(disordered.to_json())


def test_before_its_window_a_run_is_the_one_without():
    plain = train(RunConfig(**TINY))
    taken_down = train(RunConfig(**TINY, anneal=FixedAnneal(anneal_from=8, anneal_to=12)))
    assert [(e.accuracy, e.loss) for e in plain.trace[:2]] == [(e.accuracy, e.loss) for e in taken_down.trace[:2]]
    assert plain.trace[2].loss != taken_down.trace[2].loss


def test_what_a_run_ended_with():
    config = RunConfig(**TINY)
    trace = [line(1400, 0.9), line(1700, 0.9)]
    assert final_model(config.model, NoAnneal(), trace) == config.model
    assert final_model(config.model, FixedAnneal(), trace).mixer.read.alpha == 0.5
    assert final_model(config.model, GatedAnneal(dwell=0, ramp=300), trace).mixer.read == RawRead()


def test_no_anneal_tells_no_run_apart_and_another_does():
    config = RunConfig(**TINY)
    settings = config.settings()
    assert settings["anneal"] == "none"
    assert RunConfig.from_settings({k: v for k, v in settings.items() if k != "anneal"}).identity == config.identity
    other = RunConfig(**TINY, anneal=FixedAnneal(anneal_from=0, anneal_to=8))
    assert other.identity != config.identity
    assert RunConfig.from_settings(other.settings()) == other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"read": RawRead(), "anneal": FixedAnneal(0, 8)}, "anneal: there is no read to take down"),
        ({"anneal": FixedAnneal(0, 13)}, "anneal_to must be at most steps, 12, not 13"),
        ({"anneal": "gated", "schedule": "cosine"}, "anneal: a gated one extends the budget and needs a constant rate"),
        ({"anneal": "slow"}, "anneal: there is no 'slow', only fixed, gated, late, none"),
    ],
)
def test_impossible_anneals_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**TINY | changes)
    with pytest.raises(ValueError, match="anneal_to must be more than anneal_from, 8, not 8"):
        FixedAnneal(8, 8)
