"""Each statistic against its definition or a value worked out elsewhere."""

import math

import numpy as np
import pandas as pd
import pytest

from orthonar.report import stats


def runs(escapes, budget=100, accuracies=None):
    """A run table with these escape steps (None: never)."""
    escape = pd.Series(escapes, dtype=float)
    accuracy = escape.notna() * 0.9 + escape.isna() * 0.2 if accuracies is None else accuracies
    return pd.DataFrame({"escape_step": escape, "steps": budget, "accuracy": accuracy, "solved": escape.notna()})


def test_wilson_by_its_formula():
    share = stats.solved_share(4, 24)
    z, n, p = 1.959963984540054, 24, 4 / 24
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    assert share == pytest.approx((p, (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)))


@pytest.mark.parametrize(("solved", "of"), [(0, 12), (12, 12)])
def test_wilson_stays_within_0_and_1_and_is_no_point(solved, of):
    share = stats.solved_share(solved, of)
    assert 0 <= share.low < share.high <= 1


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


def test_a_mean_and_its_interval():
    values = np.random.default_rng(0).normal(0.5, 0.1, 200)
    mean = stats.mean_interval(values)
    assert mean == stats.mean_interval(values), "the same seed gives the same interval"
    half = 1.96 * values.std(ddof=1) / math.sqrt(200)
    assert mean.value == pytest.approx(values.mean())
    assert (mean.low, mean.high) == pytest.approx((mean.value - half, mean.value + half), abs=0.1 * half)


def test_a_mean_of_one_has_no_interval_and_of_equals_is_sure():
    assert stats.mean_interval([0.3]).value == 0.3
    assert math.isnan(stats.mean_interval([0.3]).low)
    assert stats.mean_interval([0.3, 0.3, 0.3]) == (0.3, 0.3, 0.3)
    with pytest.raises(ValueError, match="values"):
        stats.mean_interval([])


def test_a_diverged_run_counts_as_accuracy_0():
    assert stats.accuracies(runs([None, 50], accuracies=[np.nan, 0.9])).tolist() == [0.0, 0.9]


def test_kaplan_meier_by_hand():
    # 5 runs: escapes at 20, 40, 40; censored at 30 and 100
    table = runs([20, None, 40, 40, None])
    table.loc[1, "steps"] = 30
    curve = stats.survival(table).set_index("step")["waiting"]
    assert curve[0] == 1
    assert curve[20] == pytest.approx(4 / 5)
    assert curve[30] == pytest.approx(4 / 5)
    assert curve[40] == pytest.approx(4 / 5 * 1 / 3)
    assert curve[100] == pytest.approx(4 / 5 * 1 / 3)


def test_intervals_of_survival_hold_the_curve_or_do_not_exist():
    curve = stats.survival(runs([20, 30, 40, None, None]))
    known = curve.dropna()
    assert len(known) >= 3
    assert (known["low"] <= known["waiting"]).all() and (known["waiting"] <= known["high"]).all()


def test_survival_where_nothing_escapes_or_everything_does():
    assert stats.survival(runs([None, None]))["waiting"].tolist() == [1, 1]
    assert stats.survival(runs([10, 20]))["waiting"].tolist() == pytest.approx([1, 0.5, 0])


def test_logrank_by_hand():
    # Escapes of the first at 1, 2; of the second at 3, 4: at each time observed less expected, and its variance.
    first, second = runs([1, 2]), runs([3, 4])
    at_risk = [(2, 4, 1), (1, 3, 1), (0, 2, 0), (0, 1, 0)]  # of the first, of both, escapes of the first
    difference = sum(o - n1 / n for n1, n, o in at_risk)
    variance = sum(n1 * (n - n1) / n**2 for n1, n, _ in at_risk)
    wanted = math.erfc(abs(difference) / math.sqrt(variance) / math.sqrt(2))
    assert stats.logrank(first, second) == pytest.approx(wanted)


def test_logrank_without_any_escape():
    assert math.isnan(stats.logrank(runs([None, None]), runs([None])))


def test_summary():
    table = pd.concat([runs([10, 20, None]).assign(read="a"), runs([None, None]).assign(read="b")])
    summary = stats.summary(table, ["read"])
    assert summary.index.tolist() == ["a", "b"]
    assert summary["runs"].tolist() == [3, 2]
    assert summary["solved"].tolist() == [2, 0]
    assert summary.loc["a", "median_escape"] == 20
    assert math.isnan(summary.loc["b", "median_escape"])
    assert summary.loc["a", "accuracy"] == pytest.approx((0.9 + 0.9 + 0.2) / 3)
    assert summary.loc["a", "solved_low"] == stats.solved_share(2, 3).low
