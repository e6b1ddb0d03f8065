"""The key-and-door world and its recorded episodes, against its rules in plain Python."""

import json
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

gymnasium = pytest.importorskip("gymnasium")

from gymnasium.utils.env_checker import check_env  # noqa: E402

from orthonar import ModelConfig, NewtonSchulzRead, RunConfig, train  # noqa: E402
from orthonar.data.base import IGNORE_INDEX  # noqa: E402
from orthonar.data.key_door import KeyDoor  # noqa: E402
from orthonar.data.key_door_env import ENVIRONMENT, KeyDoorEnv  # noqa: E402
from orthonar.study.runs import describe  # noqa: E402
from orthonar.training.record import RunRecord  # noqa: E402

SMALL = KeyDoor(doors=2, keys=3, distractors=2, corridor=3, episodes=40)


def whole(task: KeyDoor, rng: np.random.Generator) -> list[int]:
    inputs, targets = task.generate(rng, training=True)
    return [*inputs.tolist(), int(targets[-1])]


def test_gymnasium_takes_it_for_an_environment():
    check_env(gymnasium.make(ENVIRONMENT, doors=3).unwrapped, skip_render_check=True)
    named = gymnasium.make("orthonar.data.key_door_env:orthonar/KeyDoor-v0", corridor=0)
    assert isinstance(named.unwrapped, KeyDoorEnv) and named.unwrapped.corridor == 0


def test_worked_example():
    """One walk by hand: the signs are read, walking on opens nothing, the right key opens, once, for a reward of 1."""
    env = KeyDoorEnv(doors=2, keys=2, distractors=1, corridor=2)
    signs, rewards = {}, []
    seen, info = env.reset(seed=3)
    for _ in range(2):
        door = seen
        assert door in (0, 1) and info["opens"] == 0
        key, reward, *_ = env.step(2)  # no key opens a sign
        assert key in (2, 3) and reward == 0
        signs[door] = key - 2
        seen, *_ = env.step(0)
    assert seen == 4 and env.step(0)[0] == 4
    for turn in range(2):
        door, _, ended, _, info = env.step(0)
        assert info["opens"] == 1 + signs[door] and not ended
        seen, reward, ended, _, _ = env.step(0 if turn == 0 else info["opens"])
        rewards.append((seen, reward, ended))
    assert rewards == [(6, 0.0, False), (5, 1.0, True)]
    with pytest.raises(ValueError, match="action"):
        env.step(3)


@settings(deadline=None, max_examples=60)
@given(doors=st.integers(1, 4), keys=st.integers(2, 5), distractors=st.integers(1, 3), corridor=st.integers(0, 9),
       seed=st.integers(0, 2**32 - 1))  # fmt: skip
def test_episodes_keep_the_rules(doors, keys, distractors, corridor, seed):
    task = KeyDoor(doors, keys, distractors, corridor, episodes=1)
    rng, again = np.random.default_rng(seed), np.random.default_rng(seed)
    tokens = whole(task, rng)
    assert len(tokens) == task.seq_len and max(tokens) < task.vocab_size
    seen, done = tokens[::2], [token - task.num_seen for token in tokens[1::2]]
    assert min(done) >= 0 and max(seen) < task.num_seen
    is_open = doors + keys + distractors
    key_of = {seen[i]: seen[i + 1] - doors for i in range(0, 2 * doors, 2)}
    assert set(key_of) == set(range(doors)) and set(key_of.values()) <= set(range(keys))
    walk = seen[2 * doors : 2 * doors + corridor]
    assert set(walk) <= set(range(doors + keys, is_open))
    visits = range(2 * doors + corridor, len(seen), 2)
    assert sorted(seen[i] for i in visits) == list(range(doors))
    scored = {}
    for i in visits:
        assert done[i] > 0
        assert seen[i + 1] == (is_open if done[i] == 1 + key_of[seen[i]] else is_open + 1)
        scored[2 * i + 1] = seen[i + 1]
    assert all(done[i] == 0 for i in range(len(done)) if i not in visits)
    inputs, targets = task.generate(again, training=False)
    assert inputs.tolist() == tokens[:-1]
    assert {i: int(x) for i, x in enumerate(targets) if x != IGNORE_INDEX} == scored


def test_half_of_the_doors_open():
    opened = [target for _, targets in SMALL.validation_set(0, 400) for target in targets[targets != IGNORE_INDEX]]
    assert len(opened) == 800
    share = np.mean([target == SMALL.num_seen - 2 for target in opened])
    assert abs(share - 0.5) < 4.5 * 0.5 / 800**0.5


def test_batches_are_drawn_from_the_recording_and_validation_is_not():
    first, again, other = (SMALL.sample(64, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], again[0]) and not torch.equal(first[0], other[0])
    rng = np.random.default_rng(0)
    recorded = {tuple(whole(SMALL, rng)[:-1]) for _ in range(SMALL.episodes)}
    assert {tuple(row) for row in first[0].tolist()} <= recorded
    inputs, targets = first
    following = torch.cat([inputs[:, 1:], targets[:, -1:]], 1)
    wanted = torch.where(following < SMALL.num_seen, following, IGNORE_INDEX)
    assert torch.equal(targets, wanted)
    batches = SMALL.validation_set(seed=0, sequences=5, batch_size=2)
    assert [len(x) for x, _ in batches] == [2, 2, 1]
    assert not {tuple(row) for x, _ in batches for row in x.tolist()} & recorded


def test_a_run_on_it_is_recorded():
    sizes = {"model": ModelConfig(embedding_dim=8, num_heads=2), "batch_size": 2, "validation_sequences": 2}
    config = RunConfig(task=SMALL, read=NewtonSchulzRead(), steps=4, eval_every=2, **sizes)
    record = train(config)
    again = RunRecord.from_json(record.to_json())
    assert again == record and RunConfig.from_settings(json.loads(json.dumps(again.settings))) == config
    assert config.model.vocab_size == SMALL.vocab_size and "KeyDoor" in describe(config)


def test_without_gymnasium_it_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(ModuleNotFoundError, match=r"orthonar\[world\]"):
        SMALL.generate(np.random.default_rng(0), training=True)


def test_another_generator_than_numpys_is_named():
    with pytest.raises(TypeError, match="rng must be a numpy.random.Generator, not RandomState"):
        SMALL.generate(np.random.RandomState(0), training=True)


@pytest.mark.parametrize("name", ["doors", "keys", "distractors", "corridor", "episodes", "recording_seed"])
def test_impossible_settings_are_named(name):
    with pytest.raises(ValueError, match=name):
        KeyDoor(**{name: -1})
    if name in ("doors", "keys", "distractors", "corridor"):
        with pytest.raises(ValueError, match=name):
            KeyDoorEnv(**{name: -1})
