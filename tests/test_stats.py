"""Each statistic against its definition or a value worked out elsewhere."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from tiny import run_table

from orthonar.report import stats
from orthonar.training.record import Evaluation


def test_wilson_by_its_formula():
    share = stats.solved_share(4, 24)
    z, n, p = 1.959963984540054, 24, 4 / 24
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share == pytest.approx((p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))


@pytest.mark.parametrize(("solved", "of"), [(0, 12), (12, 12)])
def test_wilson_stays_within_0_and_1_and_is_no_point(solved, of):
    share = stats.solved_share(solved, of)
    assert 0 <= share.low < share.high <= 1 and share.low <= share.value <= share.high


@pytest.mark.parametrize(("solved", "of"), [(-1, 3), (4, 3), (0, 0)])
def test_impossible_counts(solved, of):
    with pytest.raises(ValueError, match="solved"):
        stats.solved_share(solved, of)


def test_fisher_of_the_post():
    # 4 and 16 of 24, by the hypergeometric distribution summed by hand
    total = sum(math.comb(24, i) * math.comb(24, 20 - i) for i in range(21))
    mine = math.comb(24, 4) * math.comb(24, 16)
    wanted = (
        sum(c for c in (math.comb(24, i) * math.comb(24, 20 - i) for i in range(21)) if c <= mine * (1 + 1e-9)) / total
    )
    assert stats.fisher((4, 16), (24, 24)) == pytest.approx(wanted)
    assert stats.fisher((5, 5), (8, 8)) == pytest.approx(1.0)


def test_fishers_test_over_strata_by_counting_all_deals():
    """Every way to deal a stratum's solved runs to its two sides is as likely as any other."""
    strata = [((1, 3), (4, 4)), ((0, 2), (3, 4)), ((2, 2), (2, 3))]
    sums = []
    for deals in itertools.product(*(itertools.combinations(range(sum(n)), sum(s)) for s, n in strata)):
        sums.append(sum(run < n[0] for deal, (_, n) in zip(deals, strata) for run in deal))
    counts = np.bincount(sums)
    wanted = counts[counts <= counts[3]].sum() / len(sums)
    assert stats.stratified_fisher(strata) == pytest.approx(wanted)
    turned = [(s[::-1], n[::-1]) for s, n in strata]
    assert stats.stratified_fisher(turned) == pytest.approx(wanted)
    assert stats.stratified_fisher([((4, 16), (24, 24))]) == pytest.approx(stats.fisher((4, 16), (24, 24)))
    assert stats.stratified_fisher([((0, 0), (8, 8)), ((5, 5), (5, 5))]) == 1, "nothing tells the sides apart"


def test_the_power_of_fishers_test_by_drawing():
    rng = np.random.default_rng(0)
    drawn = rng.binomial(8, [0.2, 0.8], (4000, 2))
    told = np.mean([stats.fisher((a, b), (8, 8)) <= 0.05 for a, b in drawn])
    assert stats.fisher_power((0.2, 0.8), (8, 8)) == pytest.approx(told, abs=0.03)
    assert stats.fisher_power((0.0, 1.0), (8, 8)) == pytest.approx(1)


def test_a_mean_and_its_interval():
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    mean = stats.mean_interval(values)
    assert mean == stats.mean_interval(values), "the same seed gives the same interval"
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert mean.value == pytest.approx(values.mean())
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.1 * half)


def test_a_mean_of_few_or_of_equals_has_no_interval():
    for values in ([0.3], [0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.9], 12 * [0.3], [100.0, *8 * [100 * (1 - 2e-16)]]):
        mean = stats.mean_interval(values)
        assert mean.value == pytest.approx(np.mean(values))
        assert math.isnan(mean.low) and math.isnan(mean.high)
    with pytest.raises(ValueError, match="values"):
        stats.mean_interval([])


def test_a_diverged_run_counts_as_accuracy_0_and_a_lost_number_is_named():
    table = run_table([None, 50], accuracies=[np.nan, 0.9])
    assert stats.accuracies(table.assign(outcome=["diverged", "solved"])).tolist() == [0.0, 0.9]
    with pytest.raises(ValueError, match="run 0"):
        stats.accuracies(table)
    with pytest.raises(ValueError, match="run 5d3a"):
        stats.mean_interval(pd.Series([0.1, np.nan], index=["17bc", "5d3a"]))


def test_at_chance_by_its_formula():
    # 32 values, 6,000 positions: 3.125 % and a standard error of 0.2246 points
    assert stats.at_chance(0.0356, 6000, 32)
    assert not stats.at_chance(0.0357, 6000, 32)
    assert stats.at_chance(0.01, 6000, 32), "worse than guessing is no better than guessing"


@pytest.mark.parametrize(
    ("accuracies", "ended", "collapse"),
    [
        ((0.1, 0.85, 0.9), "solved", None),
        ((0.1, 0.85, 0.7), "unsolved", None),
        ((0.1, 0.9, 0.45), "unsolved", None),
        ((0.1, 0.9, 0.44), "collapsed", 300),
        ((0.9, 0.1, 0.05), "collapsed", 200),
        ((0.9, 0.1, 0.9), "solved", None),
        ((0.1, 0.79, 0.03), "at chance", None),
        ((0.03, 0.04, 0.78), "unsolved", None),
        ((0.1, 0.9, None), "diverged", 300),
    ],
)
def test_how_a_run_ended(accuracies, ended, collapse):
    outcome = "diverged" if accuracies[-1] is None else "plateau"
    trace = [Evaluation(step, a, 1.0, 1.0, 0.0) for step, a in zip((100, 200, 300), accuracies, strict=True)]
    assert stats.ending(outcome, trace, 6000, 32) == ended
    assert stats.collapse_step(trace) == collapse


def test_holms_correction_by_hand():
    assert stats.holm([0.03, np.nan, 0.01, 0.02]) == pytest.approx([0.04, np.nan, 0.03, 0.04], nan_ok=True)
    assert (
        stats.holm([0.6, 0.9]) == pytest.approx([1, 1]) and not len(stats.holm([])) and np.isnan(stats.holm([np.nan]))
    )


def test_one_rule_says_what_is_told_apart():
    assert [stats.is_told(p) for p in (0.01, 0.05, 0.0501, math.nan)] == [True, True, False, False]


def test_pairs_of_the_follow_up():
    # (80, 512): 7 neither, 6 the orthogonalized read only, 0 the raw read only, 3 both
    raw = run_table([*13 * [None], 1, 1, 1])
    other = run_table([*7 * [None], *9 * [1]])
    counts = stats.pairs(raw, other.sample(frac=1, random_state=0))
    assert counts == (7, 0, 6, 3)
    assert stats.fisher((3, 9), (16, 16)) == pytest.approx(0.066, abs=5e-4)
    assert stats.mcnemar(counts) == pytest.approx(0.03125)
    assert stats.mcnemar(stats.Pairs(5, 0, 0, 4)) == 1


@pytest.mark.parametrize("differences", [[3, -1, 0, 2, 2], [1, 1, -1, 0, 1, 1, 1, 1, 1], [-4, 1], [0, 0], [5]], ids=str)
def test_sign_flips_are_counted(differences):
    """All choices of signs, one by one; of pairs that differ by one it is the exact McNemar test."""
    signs = itertools.product([-1, 1], repeat=len(differences))
    sums = [abs(sum(s * d for s, d in zip(chosen, differences))) for chosen in signs]
    p = stats.sign_flips(differences)
    assert p == pytest.approx(np.mean([total >= abs(sum(differences)) for total in sums]), rel=1e-12)
    if max(map(abs, differences)) <= 1:
        assert p == pytest.approx(stats.mcnemar(stats.Pairs(0, differences.count(-1), differences.count(1), 0)))


def test_pairs_are_of_shared_seeds_that_come_once():
    assert stats.pairs(run_table([1, None, 1]), run_table([None, 1])) == (0, 1, 1, 0)
    with pytest.raises(ValueError, match="seed: 0"):
        stats.pairs(run_table([1]), pd.concat([run_table([1]), run_table([2])]))
