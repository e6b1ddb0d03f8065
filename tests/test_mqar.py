"""MQAR against Zoology's own sequences, against its rules, and against its exact distribution."""

import doctest
import hashlib
import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_data import assert_fits

from orthonar.data import mqar
from orthonar.data.base import IGNORE_INDEX
from orthonar.data.mqar import MQAR

GOLDEN = json.loads((Path(__file__).parent / "data" / "zoology_mqar_golden.json").read_text())["cases"]


def generated(task: MQAR, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return task.generate(np.random.default_rng(seed), number)


def sampled(task: MQAR, number: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    return tuple(x.numpy() for x in task.sample(number, torch.Generator().manual_seed(seed)))


def golden_id(case) -> str:
    return f"v{case['vocab_size']}-s{case['input_seq_len']}-p{case['num_kv_pairs']}-a{case['power_a']}-{case['seed']}"


@pytest.mark.parametrize("case", GOLDEN, ids=golden_id)
def test_generate_draws_zoologys_tokens(case):
    sizes = {name: case[name] for name in ("vocab_size", "num_kv_pairs", "num_passes", "power_a")}
    task = MQAR(seq_len=case["input_seq_len"], random_non_queries=False, **sizes)
    inputs, targets = task.generate(np.random.RandomState(case["seed"]), case["num_examples"])
    for name, drawn in (("inputs", inputs), ("labels", targets)):
        assert hashlib.sha256(drawn.astype("<i8").tobytes()).hexdigest() == case[f"{name}_sha256"]
        if name in case:
            assert drawn.tolist() == case[name]


def test_random_fillers_change_nothing_else():
    plain, random = (MQAR(40, 32, 3, 1, 0.5, fillers) for fillers in (False, True))
    (inputs, targets), (other, same) = (t.generate(np.random.RandomState(5), 50) for t in (plain, random))
    filler = inputs == 0
    assert np.array_equal(targets, same) and np.array_equal(inputs[~filler], other[~filler])
    assert set(other[filler].tolist()) == set(range(40))


def check_sequence(task: MQAR, tokens: list[int], targets: list[int]) -> None:
    """The rules, token by token, in plain Python."""
    pairs = tokens[: 2 * task.num_kv_pairs]
    value_of = dict(zip(pairs[::2], pairs[1::2]))
    assert len(value_of) == len(set(value_of.values())) == task.num_kv_pairs
    assert set(value_of) <= set(task.keys) and set(value_of.values()) <= set(task.values)
    queried = set()
    for i, (token, target) in enumerate(zip(tokens, targets, strict=True)):
        if i < task.num_shown:
            assert token == pairs[i % len(pairs)] and target == IGNORE_INDEX
        elif target != IGNORE_INDEX:
            assert i % 2 == 0 and target == value_of[token] and token not in queried
            queried.add(token)
        else:
            assert token in range(task.vocab_size) if task.random_non_queries else token == 0
    assert queried == set(value_of)


@st.composite
def tasks(draw) -> MQAR:
    pairs, passes = draw(st.integers(1, 6)), draw(st.integers(1, 3))
    return MQAR(
        vocab_size=2 * pairs + draw(st.integers(2, 30)),
        seq_len=2 * pairs * (passes + 1) + 2 * draw(st.integers(0, 9)),
        num_kv_pairs=pairs,
        num_passes=passes,
        power_a=draw(st.sampled_from([0.01, 1.0]) | st.floats(1e-3, 3)),
        random_non_queries=draw(st.booleans()),
    )


@settings(deadline=None, max_examples=60)
@given(task=tasks(), seed=st.integers(0, 2**32 - 1))
@example(task=MQAR(4, 4, 1), seed=0)
def test_both_generators_keep_the_rules(task, seed):
    for draw in (generated, sampled):
        inputs, targets = draw(task, 3, seed)
        assert inputs.shape == targets.shape == (3, task.seq_len)
        for row in zip(inputs.tolist(), targets.tolist(), strict=True):
            check_sequence(task, *row)


@pytest.mark.parametrize("draw", [generated, sampled])
def test_whole_sequences_have_the_exact_distribution(draw):
    task, law = MQAR(7, 10, 2, power_a=0.3, random_non_queries=False), Counter()
    weights = [g ** (0.3 - 1) for g in (1, 2, 3)]
    for keys in itertools.permutations(task.keys, 2):
        for values in itertools.permutations(task.values, 2):
            for first, second in itertools.permutations(range(3), 2):
                p = weights[first] / sum(weights) * weights[second] / (sum(weights) - weights[first])
                rest = [0] * 6
                rest[2 * first], rest[2 * second] = keys
                law[(keys[0], values[0], keys[1], values[1], *rest)] += p / 2 / 12
    assert math.isclose(sum(law.values()), 1) and len(law) == 144
    number = 5_000 if draw is generated else 60_000
    assert_fits(Counter(map(tuple, draw(task, number, seed=1)[0].tolist())), law, number)


def test_worked_example():
    result = doctest.testmod(mqar)
    assert result.attempted == 3 and not result.failed


def test_validation_set_and_sample_are_of_one_shape_and_reproducible():
    task = MQAR(40, 32, 3)
    batches = task.validation_set(seed=8, sequences=5, batch_size=2)
    assert [len(inputs) for inputs, _ in batches] == [2, 2, 1]
    exact = task.generate(np.random.default_rng(10_008), 5)
    for of_batches, of_all in zip(zip(*batches, strict=True), exact, strict=True):
        assert torch.cat(of_batches).tolist() == of_all.tolist()
    first, again, other = (task.sample(4, torch.Generator().manual_seed(seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    # Tensors on the meta device have no contents: whatever depended on some would fail there.
    assert task.sample(5, device="meta")[0].shape == (5, 32)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("seq_len", {"seq_len": 15}), ("seq_len", {"seq_len": 14, "num_kv_pairs": 4}), ("vocab_size", {"vocab_size": 3}),
     ("seq_len", {"num_passes": 8}), ("num_kv_pairs", {"vocab_size": 8}), ("power_a", {"power_a": 0}),
     ("random_non_queries", {"random_non_queries": 1}), ("num_kv_pairs", {"num_kv_pairs": 0}),
     ("power_a", {"power_a": 100, "num_kv_pairs": 2000, "seq_len": 8000})],
)  # fmt: skip
def test_impossible_settings_are_named(name, sizes):
    with pytest.raises(ValueError, match=name):
        MQAR(**sizes)


def test_wrong_arguments_are_refused():
    task = MQAR(40, 32, 3)
    with pytest.raises(TypeError, match="rng"):
        task.generate(0)
    for name, call in (("batch_size", lambda: task.sample(0)), ("sequences", lambda: task.validation_set(0, 0)),
                       ("seed", lambda: task.validation_set(-10_001)),
                       ("places", lambda: task.evaluation_targets([0] * 32, [1, 2]))):  # fmt: skip
        with pytest.raises(ValueError, match=name):
            call()
