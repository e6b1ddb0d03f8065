"""When runs escape: each estimate and test against its definition, worked out by hand."""

import math

import pytest
from tiny import run_table

from orthonar.report import survival


def test_a_collapsed_run_has_escaped_and_leaves_the_analysis_there():
    fell = run_table([20, None]).assign(accuracy=[0.02, 0.1], solved=False)
    assert survival.kaplan_meier(fell)["waiting"].tolist() == [1, 0.5, 0.5]
    assert survival.median_escape(fell) == 20


def test_kaplan_meier_by_hand():
    # 5 runs: escapes at 20, 40, 40; censored at 30 and 100
    table = run_table([20, None, 40, 40, None])
    table.loc[1, "steps"] = 30
    curve = survival.kaplan_meier(table).set_index("step")["waiting"]
    assert curve[0] == 1
    assert curve[20] == pytest.approx(4 / 5)
    assert curve[30] == pytest.approx(4 / 5)
    assert curve[40] == pytest.approx(4 / 5 * 1 / 3)
    assert curve[100] == pytest.approx(4 / 5 * 1 / 3)


def test_intervals_of_survival_hold_the_curve_or_do_not_exist():
    curve = survival.kaplan_meier(run_table([20, 30, 40, None, None]))
    known = curve.dropna()
    assert len(known) >= 3
    assert (known["low"] <= known["waiting"]).all() and (known["waiting"] <= known["high"]).all()


def test_survival_where_nothing_escapes_or_everything_does():
    assert survival.kaplan_meier(run_table([None, None]))["waiting"].tolist() == [1, 1]
    assert survival.kaplan_meier(run_table([10, 20]))["waiting"].tolist() == pytest.approx([1, 0.5, 0])


def test_logrank_by_hand():
    # Escapes of the first at 1, 2; of the second at 3, 4: at each time observed less expected, and its variance.
    first, second = run_table([1, 2]), run_table([3, 4])
    at_risk = [(2, 4, 1), (1, 3, 1), (0, 2, 0), (0, 1, 0)]  # of the first, of both, escapes of the first
    difference = sum(o - n1 / n for n1, n, o in at_risk)
    variance = sum(n1 * (n - n1) / n**2 for n1, n, _ in at_risk)
    wanted = math.erfc(abs(difference) / math.sqrt(variance) / math.sqrt(2))
    assert survival.logrank(first, second) == pytest.approx(wanted)


def test_logrank_without_any_escape():
    assert math.isnan(survival.logrank(run_table([None, None]), run_table([None])))
    assert math.isnan(survival.paired_logrank(run_table([None, None]), run_table([None, None])))
    assert math.isnan(survival.logrank(run_table([1, 2]), run_table([1])[:0])), "without runs nothing is told"


def test_the_median_survives_rounding():
    table = run_table([3, 4, 4, 5, 5, *5 * [None]])
    assert survival.kaplan_meier(table)["waiting"].min() > 0.5, "9/10 times 7/9 times 5/7, as floating-point numbers"
    assert survival.median_escape(table) == 5
    assert math.isnan(survival.median_escape(run_table([1, None, None])))


def test_all_escaping_at_one_evaluation_tells_nothing_apart():
    assert survival.logrank(run_table([20, 20, 20]), run_table([20, 20])) == 1
    assert math.isnan(survival.paired_logrank(run_table([20, 20]), run_table([20, 20])))


def test_the_logrank_test_by_pairs_is_the_stratified_one():
    first = run_table([20, 40, 40, None, 60, None, 10, None])
    second = run_table([40, 20, 40, 20, None, None, 30, 100])
    assert survival.sooner(first, second) == (3, 3)
    # Mantel's sums over strata: observed less expected escapes of the first, and the variance.
    later = run_table([None, 60, 40, None, None, None, None, None])
    difference = variance = 0.0
    for (a, in_first), (b, in_second) in zip(_times(first), _times(later)):
        for t in {t for t, escaped in ((a, in_first), (b, in_second)) if escaped}:
            at_risk = [a >= t, b >= t]
            d, n = (in_first and a == t) + (in_second and b == t), sum(at_risk)
            difference += (in_first and a == t) - d * at_risk[0] / n
            variance += d * at_risk[0] * at_risk[1] * (n - d) / (n * n * max(n - 1, 1))
    a, b = survival.sooner(first, later)
    assert (a, b) == (4, 0)
    assert difference**2 / variance == pytest.approx((a - b) ** 2 / (a + b))
    assert survival.paired_logrank(first, later) == pytest.approx(2 * 0.5**4)


def test_a_run_that_ends_before_the_other_escapes_tells_nothing():
    assert survival.sooner(run_table([150], budget=200), run_table([None], budget=100)) == (0, 0)
    assert survival.sooner(run_table([100], budget=200), run_table([None], budget=100)) == (1, 0)


def _times(table):
    return [
        (row.steps, False) if math.isnan(row.escape_step) else (row.escape_step, True) for row in table.itertuples()
    ]
