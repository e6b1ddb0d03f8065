"""A read, a task, a mixer, an optimizer of one's own: one class each, and runs with it train and are recorded."""

import json

import numpy as np
import pytest
import torch
from tiny import SETTINGS
from torch import nn

from orthonar import ModelConfig, RunConfig, SequenceModel, train
from orthonar.data.base import Task
from orthonar.mixer import Mixer, MixerLayer
from orthonar.reads import LeafRead
from orthonar.report.stats import ENDINGS
from orthonar.report.tables.runs import study_runs
from orthonar.settings import integer, number, settings
from orthonar.study.presets import Study
from orthonar.study.records import run_table
from orthonar.study.runs import describe
from orthonar.study.sides import BASELINE, Side
from orthonar.training.optimizers import Optimizer
from orthonar.training.record import RunRecord

MODEL = {name: value for name, value in SETTINGS.items() if name not in ("noise_vocab_size", "num_heads")}


@settings
class ScaledRead(LeafRead):
    """A read that is no filter and gives only its matrix."""

    by: float = number(2.0, above=0)

    def matrix(self, memory):
        return self.by * memory


@settings
class Counting(Task):
    """Tokens that go up by one: the next is known from the last."""

    vocab_size: int = integer(7, least=2)
    seq_len: int = integer(10, least=2)

    @property
    def values(self):
        return range(self.vocab_size)

    def sample(self, batch_size, generator=None, device=None):
        first = torch.randint(self.vocab_size, (batch_size, 1), generator=generator, device=device)
        tokens = (first + torch.arange(self.seq_len + 1, device=device)) % self.vocab_size
        return tokens[:, :-1], tokens[:, 1:]

    def validation_set(self, seed, sequences, batch_size, device=None):
        first = torch.from_numpy(np.random.default_rng(seed).integers(self.vocab_size, size=(sequences, 1)))
        tokens = ((first + torch.arange(self.seq_len + 1)) % self.vocab_size).to(device)
        return [
            (tokens[i : i + batch_size, :-1], tokens[i : i + batch_size, 1:]) for i in range(0, sequences, batch_size)
        ]


class MeanLayer(MixerLayer):
    def __init__(self, width, generator):
        super().__init__()
        self.out = nn.Parameter(torch.empty(width, width))
        self.reset_parameters(generator)

    def reset_parameters(self, generator=None):
        nn.init.normal_(self.out, 0, 0.1, generator)

    def forward(self, x, state=None):
        total, count = (0.0, 0) if state is None else state
        sums = x.cumsum(1) + total
        counts = count + torch.arange(1, x.shape[1] + 1, device=x.device)
        return (sums / counts[:, None]) @ self.out, (sums[:, -1:], int(counts[-1]))

    step = forward


@settings
class Mean(Mixer):
    """The mean of all positions so far, projected."""

    def build(self, width, generator=None):
        return MeanLayer(width, generator)


@settings
class SGD(Optimizer):
    """Stochastic gradient descent with momentum."""

    lr: float = number(0.1, above=0)
    momentum: float = number(0.9, least=0, below=1)

    def build(self, groups, **options):
        return torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)


@pytest.mark.parametrize(
    "own",
    [
        {"read": ScaledRead(by=3.0), "noise_vocab_size": 4, "vocab_size": 16, "seq_len": 16, "num_heads": 2},
        {"task": Counting(vocab_size=5)},
        {"mixer": Mean(), "noise_vocab_size": 4, "vocab_size": 16, "seq_len": 16},
        {"optimizer": SGD(momentum=0.5), "noise_vocab_size": 4, "vocab_size": 16, "seq_len": 16},
    ],
    ids=["read", "task", "mixer", "optimizer"],
)
def test_one_class_is_enough(own):
    config = RunConfig(**MODEL | own)
    record = train(config)
    again = RunRecord.from_json(record.to_json())
    assert again == record
    assert RunConfig.from_settings(json.loads(json.dumps(again.settings))) == config
    assert describe(config) and len(run_table([again])) == 1
    assert again.identity == config.identity != RunConfig(**SETTINGS, vocab_size=16, seq_len=16).identity
    side = Side("own", own, "a part of one's own", BASELINE.look)
    study = Study("pocket", ({},), MODEL, (config.lr,), (), (config.seed,), {"own": side})
    [row] = study_runs(study, [again]).to_dict("records")
    assert row["identity"] == config.identity and row["ended"] in ENDINGS, "and it is in the tables"


def test_settings_of_projections_want_a_layer_that_has_them():
    for setting in ({"frozen_keys": True}, {"qk_lr_factor": 2.0}):
        config = RunConfig(mixer=Mean(), **MODEL, vocab_size=16, seq_len=16, noise_vocab_size=4, **setting)
        with pytest.raises(ValueError, match=f"^{next(iter(setting))}: the layer of Mean"):
            train(config)


def test_a_validation_set_that_scores_nothing_is_refused_before_the_first_step():
    @settings
    class Silent(Counting):
        def validation_set(self, *args):
            return [(tokens, torch.full_like(targets, -100)) for tokens, targets in super().validation_set(*args)]

    steps = []
    with pytest.raises(ValueError, match="^validation_sequences: no position is scored in the 2 of .*Silent"):
        train(RunConfig(task=Silent(), **MODEL), lambda *line: steps.append(line))
    assert not steps


def test_what_a_part_must_have_is_named():
    class Sizeless(Task):
        values, sample, validation_set = Counting.values, Counting.sample, Counting.validation_set

    class Rateless(Optimizer):
        build = SGD.build

    for given, said in (({"task": settings(Sizeless)()}, "task: Sizeless must have vocab_size"),
                        ({"optimizer": settings(Rateless)()}, "optimizer: Rateless must have lr")):  # fmt: skip
        with pytest.raises(ValueError, match=f"^{said}$"):
            RunConfig(**given)


def test_what_is_learnable_is_learnt():
    config = RunConfig(task=Counting(), mixer=Mean(), optimizer=SGD(), **MODEL | {"steps": 300, "eval_every": 300})
    assert train(config).accuracy > 0.9


def test_a_model_of_another_mixer_goes_on_token_by_token():
    model = SequenceModel(ModelConfig(7, 8, mixer=Mean()))
    tokens = torch.randint(7, (2, 9), generator=torch.Generator().manual_seed(0))
    state = None
    for t in range(9):
        logits, state = model.step(tokens[:, t], state)
        torch.testing.assert_close(logits, model(tokens)[:, t])
