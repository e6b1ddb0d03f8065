"""Tests of the task: against mad-lab's own sequences, against its rules, and against its exact distribution.

The statistical tests have fixed seeds, so that each either always passes or always fails. They reject at
`FALSE_ALARM`: had the seeds been drawn anew, a correct generator would fail one of them that often.
"""

import doctest
import hashlib
import importlib.util
import itertools
import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom, chi2

from orthonar.data import noisy_recall
from orthonar.data.base import IGNORE_INDEX
from orthonar.data.noisy_recall import NoisyRecall

FALSE_ALARM = 1e-4
HERE = Path(__file__).parent
GOLDEN = json.loads((HERE / "data" / "mad_noisy_recall_golden.json").read_text())["cases"]
SETTINGS = ("vocab_size", "seq_len", "noise_vocab_size", "frac_noise", "multi_query")


def load_choice_loop():
    """The plain loop that the benchmark times, an independent statement of the task's draws."""
    path = HERE.parent / "benchmarks" / "sampler.py"
    spec = importlib.util.spec_from_file_location("benchmarks_sampler", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.choice_loop


choice_loop = load_choice_loop()


def whole(inputs, targets) -> np.ndarray:
    """The whole sequences of a training batch."""
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    return np.concatenate([inputs, targets[..., -1:]], axis=-1)


def generated(task: NoisyRecall, number: int, seed: int) -> np.ndarray:
    """Whole sequences, drawn exactly: shape (number, num_tokens)."""
    rng = np.random.default_rng(seed)
    return np.stack([whole(*task.generate(rng, training=True)) for _ in range(number)])


def sampled(task: NoisyRecall, number: int, seed: int) -> np.ndarray:
    """Whole sequences from the sampler: shape (number, num_tokens)."""
    return whole(*task.sample(number, torch.Generator().manual_seed(seed)))


BOTH = pytest.mark.parametrize("draw", [generated, sampled])


# mad-lab's own sequences


def golden_id(case) -> str:
    query = "multi" if case["multi_query"] else "single"
    split = "train" if case["is_training"] else "eval"
    return f"v{case['vocab_size']}-s{case['seq_len']}-f{case['frac_noise']}-{query}-{split}-seed{case['seed']}"


@pytest.mark.parametrize("case", GOLDEN, ids=golden_id)
def test_generate_draws_mad_labs_tokens(case):
    task = NoisyRecall(**{name: case[name] for name in SETTINGS})
    rng = np.random.default_rng(case["seed"])
    drawn = [task.generate(rng, training=case["is_training"]) for _ in range(case["n_sequences"])]
    for name, sequences in zip(("inputs", "targets"), zip(*drawn, strict=True), strict=True):
        assert all(sequence.dtype == np.int64 for sequence in sequences)
        assert all(list(sequence.shape) == case["inputs_shape"] for sequence in sequences)
        stacked = np.stack(sequences)
        if name in case:
            assert stacked.tolist() == case[name]
        assert hashlib.sha256(stacked.astype("<i8").tobytes()).hexdigest() == case[f"{name}_sha256"]


# The rules, over all settings


@st.composite
def tasks(draw) -> NoisyRecall:
    """Tasks of all kinds, with small vocabularies, odd ones too, and short sequences."""
    multi_query = draw(st.booleans())
    frac_noise = draw(st.sampled_from([0.0, 1.0, 0.5, 0.8]) | st.floats(0, 1))
    noise_vocab_size = draw(st.integers(1 if frac_noise > 0 else 0, 9))
    return NoisyRecall(
        vocab_size=draw(st.integers(2, 12)) + noise_vocab_size + (0 if multi_query else 1),
        seq_len=2 * draw(st.integers(2, 20)),
        noise_vocab_size=noise_vocab_size,
        frac_noise=frac_noise,
        multi_query=multi_query,
    )


def check_sequence(task: NoisyRecall, tokens: list[int]) -> list[int]:
    """Assert the rules token by token, in plain Python; return the evaluation targets that they give."""
    assert len(tokens) == task.num_tokens
    body, ending = tokens[: task.seq_len - 2], tokens[task.seq_len - 2 :]
    if not task.multi_query:
        assert ending[0] == task.vocab_size - 1
    labels = [IGNORE_INDEX] * len(tokens)
    memory = {}
    pairs = [(i, body[i], body[i + 1]) for i in range(0, len(body), 2)]
    for i, first, second in [*pairs, (len(tokens) - 2, *ending[-2:])]:
        is_query = i == len(tokens) - 2
        if first in task.distractors:
            assert second in task.distractors
            assert task.frac_noise > 0 and not is_query
            continue
        assert first in task.keys and second in task.values
        if first in memory:
            assert memory[first] == second
            if task.multi_query or is_query:
                labels[i + 1] = second
        else:
            assert not (is_query and memory), "the query is for a key that was not shown"
            memory[first] = second
    if task.frac_noise == 0:
        assert not set(tokens) & set(task.distractors)
    if task.frac_noise == 1:
        assert sum(first in task.keys for _, first, _ in pairs) <= 1
    return labels[1:]


@settings(deadline=None, max_examples=150)
@given(task=tasks(), seed=st.integers(0, 2**32 - 1))
@example(task=NoisyRecall(vocab_size=2, seq_len=4, noise_vocab_size=0, frac_noise=0), seed=0)
@example(task=NoisyRecall(vocab_size=4, seq_len=4, noise_vocab_size=1, frac_noise=1.0, multi_query=False), seed=1)
def test_both_generators_keep_the_rules(task, seed):
    for draw in (generated, sampled):
        tokens = draw(task, 4, seed)
        expected = [check_sequence(task, row) for row in tokens.tolist()]
        assert task.evaluation_targets(tokens).tolist() == expected


@settings(deadline=None, max_examples=150)
@given(task=tasks(), seed=st.integers(0, 2**32 - 1))
def test_generate_equals_the_plain_loop(task, seed):
    plain, rng, again = (np.random.default_rng(seed) for _ in range(3))
    for _ in range(3):
        inputs, targets = task.generate(rng, training=True)
        same_inputs, labels = task.generate(again, training=False)
        assert inputs.tolist() == same_inputs.tolist()
        assert inputs.tolist()[1:] == targets.tolist()[:-1]
        try:
            tokens, scored = choice_loop(task, plain)
        except ValueError:
            # No key before the query: nothing can be known, so nothing is scored.
            assert set(inputs[: task.seq_len - 2]) <= set(task.distractors)
            assert set(labels) == {IGNORE_INDEX}
            break
        assert whole(inputs, targets).tolist() == tokens.tolist()
        assert labels.tolist() == scored[1:].tolist()
        assert rng.bit_generator.state == plain.bit_generator.state == again.bit_generator.state


def test_layout_of_the_vocabulary():
    study = NoisyRecall()
    assert (study.keys, study.values, study.distractors) == (range(32), range(32, 64), range(64, 80))
    assert (study.num_pairs, study.num_tokens, study.prefix) == (256, 512, None)
    odd = NoisyRecall(vocab_size=16, seq_len=14, noise_vocab_size=4, multi_query=False)
    assert (odd.keys, odd.values, odd.distractors) == (range(5), range(5, 11), range(11, 15))
    assert (odd.num_pairs, odd.num_tokens, odd.prefix) == (7, 15, 15)


def test_worked_example():
    task = NoisyRecall(vocab_size=16, seq_len=14, noise_vocab_size=4, frac_noise=0.4)
    tokens = [0, 9, 3, 10, 12, 13, 15, 14, 0, 9, 5, 8, 2, 9]
    targets = task.evaluation_targets(tokens)
    assert np.flatnonzero(targets != IGNORE_INDEX).tolist() == [8]
    assert targets[8] == 9
    assert np.flatnonzero(task.first_showings(tokens)).tolist() == [0, 1, 5, 6]
    counts = {name: int(number) for name, number in task.counts(tokens).items()}
    assert counts == {"distractors": 4, "key-value pairs": 4, "distinct keys": 3, "scored values": 1}


def test_doctests():
    result = doctest.testmod(noisy_recall)
    assert result.attempted and not result.failed


# The exact distribution


def assert_fits(counts: Counter, law: dict, number: int):
    """Chi-square test of counts against a whole law; outcomes expected fewer than 8 times are pooled."""
    assert math.isclose(sum(law.values()), 1, rel_tol=1e-9)
    impossible = set(counts) - {outcome for outcome, p in law.items() if p > 0}
    assert not impossible
    expected = {outcome: p * number for outcome, p in law.items()}
    cells = [(counts[outcome], mean) for outcome, mean in expected.items() if mean >= 8]
    rare = sum(mean for mean in expected.values() if mean < 8)
    if rare >= 8:
        cells.append((sum(counts[outcome] for outcome, mean in expected.items() if mean < 8), rare))
    assert len(cells) > 1
    statistic = sum((count - mean) ** 2 / mean for count, mean in cells)
    p_value = chi2.sf(statistic, len(cells) - 1)
    assert p_value > FALSE_ALARM, f"chi-square {statistic:.1f} over {len(cells)} cells, p = {p_value:.2g}"


def exact_law(task: NoisyRecall) -> dict[tuple[int, ...], float]:
    """The probability of every whole sequence, by enumerating the draws. For tiny tasks only."""
    law = Counter()
    num_distractors = len(task.distractors)

    def extend(tokens, memory, p, pair, never_noise):
        if pair < task.num_pairs - 1:
            p_noise = 0 if pair == never_noise else task.frac_noise
            if p_noise:
                for noise in itertools.product(task.distractors, repeat=2):
                    extend(tokens + noise, memory, p * p_noise / num_distractors**2, pair + 1, never_noise)
            queried, p_pair = task.keys, p * (1 - p_noise)
        else:
            tokens += () if task.prefix is None else (task.prefix,)
            queried, p_pair = list(memory) or task.keys, p
        for key in queried:
            values = [memory[key]] if key in memory else task.values
            for value in values:
                p_next = p_pair / len(queried) / len(values)
                if pair == task.num_pairs - 1:
                    law[(*tokens, key, value)] += p_next
                elif p_next:
                    extend((*tokens, key, value), {**memory, key: value}, p_next, pair + 1, never_noise)

    for never_noise in range(task.num_pairs):
        extend((), {}, 1 / task.num_pairs, 0, never_noise)
    return law


TINY = {
    "noisy": NoisyRecall(vocab_size=6, seq_len=6, noise_vocab_size=2, frac_noise=0.6),
    "quiet": NoisyRecall(vocab_size=6, seq_len=8, noise_vocab_size=1, frac_noise=0.2),
    "no-noise": NoisyRecall(vocab_size=5, seq_len=8, noise_vocab_size=0, frac_noise=0.0),
    "only-noise": NoisyRecall(vocab_size=6, seq_len=8, noise_vocab_size=2, frac_noise=1.0),
    "single-query": NoisyRecall(vocab_size=8, seq_len=6, noise_vocab_size=2, frac_noise=0.5, multi_query=False),
    "three-noises": NoisyRecall(vocab_size=8, seq_len=4, noise_vocab_size=3, frac_noise=0.9),
}


@BOTH
@pytest.mark.parametrize("name", TINY)
def test_whole_sequences_have_the_exact_distribution(name, draw):
    task, number = TINY[name], 150_000 if draw is sampled else 6_000
    counts = Counter(map(tuple, draw(task, number, seed=1).tolist()))
    assert_fits(counts, exact_law(task), number)


MEDIUM = NoisyRecall(vocab_size=17, seq_len=26, noise_vocab_size=5, frac_noise=0.7)


@pytest.fixture(scope="module", params=[generated, sampled], ids=["generated", "sampled"])
def medium(request) -> np.ndarray:
    """Many sequences of a task with 13 pairs, 6 keys, 6 values and 5 distractors."""
    return request.param(MEDIUM, 8_000 if request.param is generated else 60_000, seed=2)


def test_number_of_noise_pairs(medium):
    # In one of P cases the pair that is never noise is the query, else it is one of the P - 1 before it.
    f, pairs = MEDIUM.frac_noise, MEDIUM.num_pairs
    noise = Counter((MEDIUM.counts(medium)["distractors"] // 2).tolist())
    law = {n: (1 - 1 / pairs) * binom.pmf(n, pairs - 2, f) + binom.pmf(n, pairs - 1, f) / pairs for n in range(pairs)}
    assert_fits(noise, law, len(medium))


def test_tokens_are_uniform_within_their_kind(medium):
    pairs = medium[:, :-2].reshape(-1, 2)
    noise = pairs[pairs[:, 0] >= MEDIUM.distractors.start]
    law = dict.fromkeys(itertools.product(MEDIUM.distractors, repeat=2), 1 / 25)
    assert_fits(Counter(map(tuple, noise.tolist())), law, len(noise))
    keys = pairs[pairs[:, 0] < MEDIUM.values.start, 0]
    assert_fits(Counter(keys.tolist()), dict.fromkeys(MEDIUM.keys, 1 / 6), len(keys))


def test_values_are_uniform_for_every_key(medium):
    first = MEDIUM.first_showings(medium)
    shown = medium.reshape(len(medium), -1, 2)[first]
    law = dict.fromkeys(itertools.product(MEDIUM.keys, MEDIUM.values), 1 / 36)
    assert_fits(Counter(map(tuple, shown.tolist())), law, len(shown))


def test_query_is_uniform_over_the_distinct_keys_shown(medium):
    """Given how many keys were shown, the rank of the queried one is uniform, by token and by first showing."""
    by_token, by_time = Counter(), Counter()
    for row in medium.tolist():
        shown = list(dict.fromkeys(token for token in row[:-2:2] if token in MEDIUM.keys))
        if shown:
            by_time[len(shown), shown.index(row[-2])] += 1
            by_token[len(shown), sorted(shown).index(row[-2])] += 1
    sizes = Counter()
    for (size, _), count in by_time.items():
        sizes[size] += count
    number = sum(sizes.values())
    # Keys shown often are no likelier to be queried: that would favour early first showings.
    law = {(size, rank): sizes[size] / number / size for size in sizes for rank in range(size)}
    assert_fits(by_time, law, number)
    assert_fits(by_token, law, number)


@BOTH
def test_guaranteed_pair_is_anywhere(draw):
    """With nothing but noise around it, the pair that is never noise is at each index equally often."""
    task = NoisyRecall(vocab_size=8, seq_len=18, noise_vocab_size=2, frac_noise=1.0)
    tokens = draw(task, 4_000 if draw is generated else 40_000, seed=3)
    leading_keys = tokens[:, ::2] < task.values.start
    assert_fits(Counter(leading_keys.argmax(1).tolist()), dict.fromkeys(range(9), 1 / 9), len(tokens))


@BOTH
@pytest.mark.parametrize(
    "task",
    [NoisyRecall(96, 128), NoisyRecall(31, 40, 6, 0.3), NoisyRecall(12, 12, 3, 0.95, multi_query=False)],
    ids=["study", "odd", "single-query"],
)
def test_counts_have_the_expected_means(task, draw):
    counts = task.counts(draw(task, 600, seed=4))
    expected = task.expected_counts()
    assert counts.keys() == expected.keys()
    for name, measured in counts.items():
        # 4.5 standard errors: one false alarm in 150,000.
        tolerance = 4.5 * measured.std() / math.sqrt(len(measured)) + 1e-9
        assert abs(measured.mean() - expected[name]) <= tolerance, name


def test_expected_distinct_keys_by_enumeration():
    for task in TINY.values():
        law = exact_law(task)
        shown = {tokens: task.first_showings(np.array(tokens))[:-1].cumsum() for tokens in law}
        mean = sum(p * shown[tokens] for tokens, p in law.items())
        pairs = np.arange(task.num_pairs)
        assert np.allclose(task.expected_distinct_keys(pairs), [0, *mean], rtol=1e-9)
        assert task.expected_counts()["distinct keys"] == pytest.approx(mean[-1])
    with pytest.raises(ValueError, match="num_pairs"):
        TINY["noisy"].expected_distinct_keys(3)


@pytest.mark.parametrize("frac_noise", [0.0, 1e-9, 0.3, 0.8, 1 - 1e-9, 1.0])
@pytest.mark.parametrize("num_keys, num_distractors", [(1, 1), (1, 60), (40, 1), (40, 16)])
def test_extreme_random_numbers_stay_in_range(monkeypatch, frac_noise, num_keys, num_distractors):
    """The integers at the ends of the ranges give the first and last noise pair and key, never one beyond."""
    task = NoisyRecall(2 * num_keys + num_distractors, 10, num_distractors, frac_noise)
    threshold = round(frac_noise * 2**31)
    extremes = torch.tensor([0, max(threshold - 1, 0), min(threshold, 2**31 - 1), 2**31 - 1])
    monkeypatch.setattr(torch.Tensor, "random_", lambda x, generator: x.copy_(extremes.expand_as(x)))
    monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: torch.full(shape, 1 - 2**-53, dtype=kwargs["dtype"]))
    inputs, targets = task.sample(3)
    for row in whole(inputs, targets).tolist():
        check_sequence(task, row)
        if 0 < threshold < 2**31:
            assert task.distractors.start <= row[0] < task.vocab_size
        # Half a step inside the ends: only very few integers, stretched over many pairs, miss the outermost.
        if threshold > 10**6:
            assert row[:2] == [task.distractors[0]] * 2
            assert row[2:4] == [task.distractors[-1]] * 2
        if 2**31 - threshold > 10**6:
            assert row[4] == task.keys[0]
            assert row[6] == task.keys[-1]


# Seeds, devices, batches


def global_states():
    numpy_state = np.random.get_state()[1].tolist()  # noqa: NPY002, whose users must not be disturbed
    return random.getstate(), numpy_state, torch.get_rng_state().tolist()


def test_randomness_comes_from_the_generator_alone():
    task = NoisyRecall(20, 12, 4, 0.5)
    before = global_states()
    generator = torch.Generator().manual_seed(5)
    batches = [task.sample(3, generator) for _ in range(2)]
    task.generate(np.random.default_rng(0), training=True)
    task.validation_set(0, sequences=2, batch_size=2)
    assert global_states() == before

    assert not torch.equal(batches[0][0], batches[1][0])
    generator.manual_seed(5)
    for batch in batches:
        for drawn, again in zip(batch, task.sample(3, generator), strict=True):
            assert torch.equal(drawn, again)
    torch.manual_seed(5)
    assert torch.equal(task.sample(3)[0], batches[0][0])


@pytest.mark.parametrize("multi_query", [True, False])
def test_sample_shapes(multi_query):
    task = NoisyRecall(20, 12, 4, 0.5, multi_query)
    inputs, targets = task.sample(3, torch.Generator().manual_seed(6))
    assert inputs.dtype == targets.dtype == torch.int64
    assert inputs.shape == targets.shape == (3, 11 if multi_query else 12)
    assert torch.equal(inputs[:, 1:], targets[:, :-1])


@pytest.mark.parametrize("task", [*TINY.values(), NoisyRecall(96, 1024)])
def test_sample_reads_nothing_back_from_the_device(task):
    # Tensors on the meta device have no contents: whatever depends on some, a shape or a branch, fails there.
    inputs, _ = task.sample(5, device="meta")
    assert inputs.shape == (5, task.num_tokens - 1)


@pytest.mark.needs_cuda
def test_sample_in_a_cuda_graph():
    task, generator = NoisyRecall(96, 256), torch.Generator("cuda")
    task.sample(8, generator.manual_seed(7))
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        inputs, targets = task.sample(8, generator)
    generator.manual_seed(7)
    replays = []
    for _ in range(2):
        graph.replay()
        replays.append(whole(inputs.cpu(), targets.cpu()))
    generator.manual_seed(7)
    for replayed in replays:
        inputs, targets = task.sample(8, generator)
        assert np.array_equal(replayed, whole(inputs.cpu(), targets.cpu()))
        for row in replayed.tolist():
            check_sequence(task, row)


def test_validation_set_is_the_exact_generators():
    task = NoisyRecall(20, 12, 4, 0.5)
    batches = task.validation_set(seed=8, sequences=6, batch_size=2)
    assert [tuple(x.shape) for batch in batches for x in batch] == [(2, 11)] * 6
    assert all(x.dtype == torch.int64 and x.is_contiguous() for batch in batches for x in batch)
    rng = np.random.default_rng(10_008)
    for inputs, targets in batches:
        for row in range(2):
            exact_inputs, exact_targets = task.generate(rng, training=False)
            assert inputs[row].tolist() == exact_inputs.tolist()
            assert targets[row].tolist() == exact_targets.tolist()
    other = task.validation_set(seed=9, sequences=6, batch_size=2)
    assert not torch.equal(batches[0][0], other[0][0])


# Hostile settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("vocab_size", value) for value in (0, -3, 17, True, 80.0, "80", None, float("nan"))],
        *[("seq_len", value) for value in (0, 2, -4, 511, True, 512.0, "512", None, float("inf"))],
        *[("noise_vocab_size", value) for value in (0, -1, True, 16.0, None)],
        *[("frac_noise", value) for value in (-0.1, 1.0001, float("nan"), float("inf"), True, "0.8", None, 0.5j)],
        *[("multi_query", value) for value in (1, 0, "yes", None)],
    ],
)
def test_impossible_settings_are_named(name, value):
    with pytest.raises(ValueError, match=name):
        NoisyRecall(**{name: value})


def test_vocabulary_must_leave_a_key_and_a_value():
    NoisyRecall(vocab_size=18)
    with pytest.raises(ValueError, match=r"vocab_size.*prefix"):
        NoisyRecall(vocab_size=18, multi_query=False)


def test_settings_are_stored_as_plain_numbers():
    task = NoisyRecall(np.int64(80), np.int32(512), np.uint8(16), np.float64(0.8), np.True_)
    assert task == NoisyRecall() and repr(task) == repr(NoisyRecall()) and hash(task) == hash(NoisyRecall())
    assert type(NoisyRecall(frac_noise=1).frac_noise) is float
    with pytest.raises(AttributeError):
        task.seq_len = 4


@pytest.mark.parametrize("value", [0, -1, True, 2.0, None])
def test_sizes_are_checked(value):
    task = NoisyRecall(20, 12, 4, 0.5)
    with pytest.raises(ValueError, match="batch_size"):
        task.sample(value)
    with pytest.raises(ValueError, match="batch_size"):
        task.validation_set(0, batch_size=value)
    with pytest.raises(ValueError, match="sequences"):
        task.validation_set(0, sequences=value)


def test_wrong_arguments_are_refused():
    task = NoisyRecall(20, 12, 4, 0.5)
    with pytest.raises(ValueError, match="seed"):
        task.validation_set(-10_001)
    with pytest.raises(TypeError, match="rng"):
        task.generate(np.random.RandomState(0), training=True)
    with pytest.raises(ValueError, match="sequences of 12"):
        task.evaluation_targets([1, 2, 3])
