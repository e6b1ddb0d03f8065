"""Settings: whatever is accepted is plain, can be written, and is read back as the same run; the rest is named."""

import dataclasses
import json
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from orthonar import (
    MLSTM,
    AdamW,
    BlendRead,
    Constant,
    DeltaWrite,
    FullDeltaWrite,
    KeyDoor,
    MatrixStraightThroughRead,
    MesaRead,
    MLSTMState,
    ModelConfig,
    MuonRead,
    NewtonSchulzRead,
    NoisyRecall,
    PolarRead,
    RawRead,
    RidgeRead,
    RLSRead,
    RunConfig,
    SteepRead,
    WriteBack,
)
from orthonar.mixer import Mixer
from orthonar.mlstm.writes import check_write
from orthonar.reads import FilterRead
from orthonar.reads.base import check_read
from orthonar.settings import (
    choice,
    flat_settings,
    integer,
    kind_named,
    setting_names,
    variant_from_settings,
    variant_settings,
)
from orthonar.settings import settings as settings_class
from orthonar.training.record import settings_fault
from orthonar.training.schedules import Schedule

ODD = st.sampled_from(
    [
        0, 1, 2, 3, 4, 8, 16, -1, 0.0, 0.5, 1.0, 2.0, 1e-30, 1e300, 10**400, math.inf, -math.inf, math.nan, True, False,
        None, "", "cosine", "2", b"2", [], {}, (), (2,), Decimal(2), Fraction(1, 2), 1j, object(), int, len,
        np.int64(4), np.uint8(4), np.float32(0.5), np.float64(0.5), np.bool_(True), np.array(2), np.array([2]),
        torch.tensor(2), torch.tensor(0.5), RawRead(), RawRead, NoisyRecall(), {"name": "RawRead"}, {"name": "nothing"},
    ]
)  # fmt: skip
PARTS = [
    RunConfig(), NoisyRecall(), ModelConfig(), MLSTM(), AdamW(), Constant(), NewtonSchulzRead(),
    PolarRead(), RidgeRead(), BlendRead(), MuonRead(), MesaRead(), RLSRead(),
    MatrixStraightThroughRead(), DeltaWrite(), FullDeltaWrite(), WriteBack(),
]  # fmt: skip
PLAIN = (int, float, bool, str, type(None))


def is_plain(value) -> bool:
    """Whether JSON writes the value and reads back the very same, types included."""
    if isinstance(value, dict):
        return all(type(name) is str and is_plain(held) for name, held in value.items())
    return type(value) in PLAIN and not (isinstance(value, float) and not math.isfinite(value))


@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_what_is_accepted_is_plain_and_all_else_is_named(part, data):
    names = [field.name for field in dataclasses.fields(part)]
    name, value = data.draw(st.sampled_from(names)) if names else None, data.draw(ODD)
    if name is None:
        return
    try:
        made = dataclasses.replace(part, **{name: value})
    except ValueError as error:
        held = [field.name for field in dataclasses.fields(part)]
        # A combination may be refused in the name of the setting that does not go with it.
        assert any(other in str(error) for other in (name, *held)), error
        return
    plain = variant_settings(made)
    assert is_plain(plain), plain
    assert json.loads(json.dumps(plain)) == plain


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_run_that_is_accepted_is_written_and_read_back_as_itself(data):
    names = setting_names(RunConfig, {})
    given_settings = data.draw(st.dictionaries(st.sampled_from(names), ODD, min_size=1, max_size=3))
    try:
        config = RunConfig(**given_settings)
    except ValueError:
        return
    written = json.loads(json.dumps(config.settings()))
    again = RunConfig.from_settings(written)
    assert again == config
    assert again.identity == config.identity


def test_equal_settings_are_one_run():
    a = RunConfig(lr=1, batch_size=np.int64(16), probes=np.bool_(False), frac_noise=np.float64(0.5), read=RawRead())
    b = RunConfig(lr=1.0, batch_size=16, probes=False, frac_noise=Fraction(1, 2), read={"name": "RawRead"})
    assert a == b and a.identity == b.identity
    assert RunConfig(schedule="constant") == RunConfig(schedule=Constant())
    assert RunConfig(weight_decay=-0.0, frac_noise=-0.0).identity == RunConfig(weight_decay=0, frac_noise=0).identity


@pytest.mark.parametrize(
    ("setting", "named"),
    [({"seed": 2**53 + 1}, f"seed must be an integer of from 0 to {2**53}"), ({"device": b"cpu"}, "device"),
     ({"device": 0}, "device"), ({"model": 1}, "model must be a model config ")],
)  # fmt: skip
def test_what_is_wrong_is_said_of_a_value(setting, named):
    with pytest.raises(ValueError, match=named):
        RunConfig(**setting)


@pytest.mark.parametrize(
    "call",
    [
        lambda: MLSTM(read=NewtonSchulzRead),
        lambda: MLSTMState.zeros(1, 1, 2, read=NewtonSchulzRead),
        lambda: BlendRead(one=NewtonSchulzRead),
        lambda: MLSTM(write=DeltaWrite),
        lambda: RunConfig(task=KeyDoor),
        lambda: check_write("write", DeltaWrite, RawRead()),
    ],
)
def test_a_class_in_the_place_of_its_object_is_told_apart(call):
    with pytest.raises(ValueError, match=r"not <class '.*\.(\w+)'>: an object, \1\(\)\?$"):
        call()
    with pytest.raises(ValueError, match="not <class '.*FilterRead'>$"):  # of which there are none
        check_read("read", FilterRead)


def test_settings_that_no_record_could_hold_are_refused_before_any_run():
    """A mixer of one's own may mean something else by names that the mLSTM has, as long as it is plain data."""

    @settings_class
    class Averaging(Mixer):
        read: str = choice("mean", ("mean", "last"))
        num_heads: int = integer(None, least=1, optional=True)
        anything: object = None

        def build(self, width, generator=None):
            return torch.nn.Identity()

    config = RunConfig(mixer=Averaging())
    assert config.read == "mean" and settings_fault(config.settings()) is None
    for value in (object(), (1, 2), {1: 2}):  # a tuple comes back as a list, a number among keys as a word
        with pytest.raises(ValueError, match="anything"):
            RunConfig(mixer=Averaging(anything=value))


@pytest.mark.parametrize("name", ["eval_batches", "outcome", "identity"])
def test_names_that_records_and_tables_have_for_something_else_are_refused(name):
    own = settings_class(type("OwnTask", (NoisyRecall,), {"__annotations__": {name: int}, name: integer(1, least=1)}))
    with pytest.raises(ValueError, match=f"^{name}: no setting may be called so"):
        RunConfig(task=own())


def test_settings_that_plain_data_would_lose_are_refused_where_they_are_declared():
    """A setting called "name" took the place of its class; an undecorated class had none of those it declares."""
    with pytest.raises(TypeError, match="OwnRead: a setting must not be called 'name'"):
        settings_class(type("OwnRead", (RawRead,), {"__annotations__": {"name": str}, "name": choice("x", ("x", "y"))}))

    class Undecorated(NoisyRecall):
        gap: int = integer(3, least=1)

    with pytest.raises(TypeError, match="Undecorated must be decorated with orthonar.settings.settings to have gap"):
        Undecorated()


@pytest.mark.parametrize("data", [{}, None, [], {"embedding_dim": 8}, RunConfig().settings() | {"embedding_dim": "8"}])
def test_what_are_no_settings_of_a_run_is_said_in_words(data):
    with pytest.raises(ValueError, match="settings"):
        RunConfig.from_settings(data)


def test_a_setting_is_that_of_the_part_that_has_it():
    config = RunConfig(vocab_size=96, lr=0.01, num_heads=2, read=NewtonSchulzRead())
    assert config.task.vocab_size == config.model.vocab_size == config.vocab_size == 96
    assert config.optimizer.lr == config.lr == 0.01
    assert config.model.mixer == MLSTM(num_heads=2, read=NewtonSchulzRead())
    assert RunConfig(task=NoisyRecall(96), lr=0.01, mixer=config.model.mixer) == config
    assert dataclasses.replace(config, lr=0.1).model == config.model
    with pytest.raises(AttributeError, match="no setting 'learning_rate'"):
        _ = config.learning_rate


def test_a_setting_that_another_part_decides_is_not_lost():
    """A task without a vocabulary of its own choice gives the model's; another was once left out without a word."""
    task = KeyDoor()
    assert RunConfig(task=task, vocab_size=task.vocab_size) == RunConfig(task=task)
    assert dataclasses.replace(RunConfig(vocab_size=96), task=task).model.vocab_size == task.vocab_size
    with pytest.raises(ValueError, match="^vocab_size must be 23 beside the other settings, not 999$"):
        RunConfig(task=task, vocab_size=999)
    with pytest.raises(ValueError, match="^vocab_size must be 23 beside the other settings, not 24$"):
        dataclasses.replace(RunConfig(task=task), vocab_size=24)


def test_no_two_parts_share_a_settings_name():
    """But for the vocabulary, which is the task's: else a record's one level of settings could not tell them apart."""
    names = setting_names(RunConfig, {})
    assert sorted(n for n in set(names) if names.count(n) > 1) == ["vocab_size"]
    assert list(flat_settings(RunConfig())) == list(dict.fromkeys(names))


def test_a_part_with_the_name_of_another_setting_is_refused():
    """A record would hold one of the two, and two runs would be one."""

    @dataclasses.dataclass(frozen=True)
    class Restart(Schedule):
        kind = "restart"
        steps: int = 100

        def relative_rate(self, step, steps):
            return 1.0

    try:
        with pytest.raises(ValueError, match="steps is the name of a setting of RunConfig and of Restart"):
            RunConfig(schedule=Restart(steps=10))
    finally:
        Restart.kind = "not to be found again"


def test_parts_may_come_by_position():
    assert RunConfig(NoisyRecall(96, 1024), vocab_size=80).task == NoisyRecall(80, 1024)
    assert SteepRead(6, eps=1e-5) == SteepRead(degree=6, eps=1e-5)
    with pytest.raises(TypeError, match="task"):
        RunConfig(NoisyRecall(), task=NoisyRecall())
    with pytest.raises(TypeError, match="positional"):
        NoisyRecall(*range(50))


def test_plain_data_may_hold_another_kind():
    mixer = MLSTM(num_heads=2, read=NewtonSchulzRead(steps=3))
    assert variant_from_settings("mixer", Mixer, variant_settings(mixer)) == mixer
    assert RunConfig(mixer=variant_settings(mixer)).model.mixer == mixer


def test_two_kinds_of_one_name_are_an_error():
    @dataclasses.dataclass(frozen=True)
    class Level(Schedule):
        kind = "constant"

        def relative_rate(self, step, steps):
            return 1.0

    try:
        for ask in (
            lambda: kind_named("schedule", Schedule, "constant"),
            lambda: variant_from_settings("schedule", Schedule, {"name": "constant"}),
            lambda: RunConfig(schedule="constant"),
        ):
            with pytest.raises(
                ValueError, match="schedule: 'constant' is the name of .*schedules.Constant and .*Level"
            ):
                ask()
    finally:
        Level.kind = "no longer in the way"
