"""Hazard models: what runs were drawn with is found again, and what can be worked out by hand is."""

import math

import numpy as np
import pandas as pd
import pytest

from orthonar.report import hazards, stats, survival


def runs(escapes, budget=100, every=10, **columns):
    """A run table with these escape steps (None: never)."""
    table = pd.DataFrame({"escape_step": pd.Series(escapes, dtype=float), "steps": budget, "eval_every": every})
    return table.assign(**columns)


def drawn(rng, count, ratio, slope, competing, evaluations=20):
    """Runs of two sides that escape with proportional hazards, or leave before that for good, likelier on one side."""
    rows = []
    for side in np.repeat([0, 1], count):
        x, escape, left = rng.normal(), None, None
        for i in range(1, evaluations + 1):
            if rng.random() < 1 - math.exp(-0.006 * i * ratio**side * math.exp(slope * x)):
                escape = i
                break
            if rng.random() < competing * (1 + side):
                left = i
                break
        rows.append({"side": side, "x": x, "escape_step": escape, "left_step": left})
    return pd.DataFrame(rows).astype(float).assign(steps=evaluations, eval_every=1)


def test_intervals_hold_what_the_runs_were_drawn_with():
    rng = np.random.default_rng(0)
    wanted, held, events = {"side": math.log(4), "x": 0.75}, {"side": 0, "x": 0}, 0
    sets = 200
    for _ in range(sets):
        found = hazards.fit(drawn(rng, 24, 4.0, 0.75, 0.02), "side + x", apart=True)
        events += found.loc["x", "events"]
        for term, b in wanted.items():
            held[term] += found.loc[term, "low"] < math.exp(b) < found.loc[term, "high"]
    assert all(0.92 <= count / sets <= 0.98 for count in held.values()), held
    assert events / sets < 40, "some runs leave without an escape"


def test_runs_of_a_group_are_one_draw():
    """Each run three times over tells no more than once: by group the error stays, run by run it falls by sqrt(3)."""
    once = drawn(np.random.default_rng(5), 40, 3.0, 0.75, 0.0).assign(seed=range(80))
    thrice = pd.concat(3 * [once], ignore_index=True)

    def width(table, **options):
        found = hazards.fit(table, "side + x", **options).loc["x"]
        return math.log(found["high"] / found["low"])

    assert width(thrice) == pytest.approx(width(once), rel=0.02)
    assert width(thrice, apart=True) == pytest.approx(width(once, apart=True) / math.sqrt(3), rel=1e-6)
    assert width(once) == pytest.approx(width(once, apart=True), rel=0.35), "each by itself"
    assert hazards.fit(once.assign(seed=0), "x")["ratio"].isna().all()
    # A GPU draws other batches from a seed than a CPU does: each third is a draw of its own then.
    kinds = pd.concat([once.assign(device=device) for device in ("cpu", "cuda:0", "cuda:1")], ignore_index=True)
    assert width(once) / math.sqrt(3) < width(kinds) < 0.99 * width(once)
    assert stats.draws(kinds).nunique() == 2 * 80


def test_intervals_by_seed_are_students():
    """t and its p from the errors that statsmodels has, with one degree of freedom less than seeds."""
    found = hazards.fit(drawn(np.random.default_rng(5), 5, 3.0, 0.75, 0.0).assign(seed=np.arange(10) % 5), "x").loc["x"]
    assert found["low"] == pytest.approx(
        math.exp(found["effect"] - 2.776445 * found["error"])
    )  # t at 97.5 %, 4 degrees
    t = abs(found["effect"] / found["error"])
    tail = 1 - t / math.sqrt(4 + t * t) * (1 + 2 / (4 + t * t))  # both tails of Student's t, 4 degrees of freedom
    assert found["p"] == pytest.approx(tail)


def in_pairs(rng, count, shared, evaluations=30):
    """Runs of two sides with one hazard, whose logarithm a seed shifts for both alike with this standard deviation."""
    level = 0.015 * np.exp(shared * rng.standard_normal(count))
    sides = []
    for _ in range(2):
        escape = rng.geometric(1 - np.exp(-level)).astype(float)
        escape[escape > evaluations] = np.nan
        sides.append(runs(escape, evaluations, 1, seed=range(count)))
    return sides


def test_a_ratio_of_pairs_holds_what_it_should_by_seed_and_more_run_by_run():
    rng, sets, held = np.random.default_rng(3), 200, {False: 0, True: 0}
    for _ in range(sets):
        pair = in_pairs(rng, 24, shared=2.0)
        for apart in held:
            ratio = hazards.hazard_ratio(*pair, apart=apart)
            held[apart] += ratio.low < 1 < ratio.high
    assert 0.92 <= held[False] / sets <= 0.98 < held[True] / sets, held
    assert np.isnan(hazards.hazard_ratio(pair[0], pair[0])).all(), "no seed differs: no error to go by"


def test_logit_and_cloglog_of_one_evaluation_by_hand():
    both = pd.concat([runs(3 * [10] + 7 * [20], side=0.0), runs(6 * [10] + 4 * [20], side=1.0)], ignore_index=True)
    odds = hazards.fit(both, "side", "logit", apart=True).loc["side"]
    assert odds["ratio"] == pytest.approx((6 / 4) / (3 / 7), rel=1e-6)
    spread = math.sqrt(1 / 3 + 1 / 7 + 1 / 6 + 1 / 4)  # Woolf's
    assert math.log(odds["high"] / odds["ratio"]) == pytest.approx(1.959964 * spread, rel=1e-4)
    assert odds["events"] == 10 and odds["run_intervals"] == 6 + 4 * 2
    # no level but the two evaluations': a covariate that moves with the evaluation cannot be told from it
    apart = pd.concat([runs([10, 10, None], budget=10), runs([20, 20, None], budget=20)], ignore_index=True)
    assert hazards.fit(apart.assign(same=1.0), "same", apart=True).loc["same", ["effect", "low"]].isna().all()


def test_an_elasticity_is_the_power_of_a_setting():
    rng = np.random.default_rng(2)
    rows = []
    for lr in (1e-3, 3e-3, 1e-2):
        first = rng.exponential(1 / (0.02 * (lr / 3e-3) ** 1.5), 400)
        rows += [(lr, math.ceil(t) if t < 30 else None) for t in first]
    table = pd.DataFrame(rows, columns=["lr", "escape_step"]).astype(float).assign(steps=30, eval_every=1)
    found = hazards.fit(table, "np.log(lr)", apart=True).loc["np.log(lr)"]
    assert abs(found["effect"] - 1.5) < 3 * math.log(found["high"] / found["ratio"]) / 1.96 < 0.3


def test_a_run_that_left_no_longer_waits():
    table = runs([30, None, None, 40], left_step=[None, 20, None, 30])
    waits = hazards.run_intervals(table)
    assert list(waits.groupby(waits["escape_step"].fillna(0)).size()) == [2 + 10, 3, 3]
    assert waits["escaped"].sum() == 1, "who left before cannot escape later"
    with pytest.raises(ValueError, match="eval_every"):
        hazards.run_intervals(table.drop(columns="eval_every"))


def test_the_last_step_is_evaluated_whatever_the_distance():
    """Steps 1,000 in evaluations of 300: the fourth is at 1,000; a run that left at 1,000 by then had its chance."""
    table = runs([1000, None, None, None]).assign(steps=1000, eval_every=300, left_step=[None, None, 950, 1000])
    waits = hazards.run_intervals(table)
    assert waits.groupby("evaluation").size().tolist() == [4, 4, 4, 3]
    assert waits[waits["escaped"] == 1]["evaluation"].tolist() == [4]


def test_an_escape_after_the_budget_is_an_event_here_as_in_the_survival_analysis():
    """A gated anneal goes on after the budget."""
    table = runs([50, None]).assign(steps=40, eval_every=10)
    waits = hazards.run_intervals(table)
    assert waits.groupby(waits["escape_step"].notna()).size().tolist() == [4, 5] and waits["escaped"].sum() == 1
    assert survival.escapes(table)._uncensored.tolist() == [50]


def test_a_term_without_end_is_named():
    with pytest.raises(ValueError, match=r"np.log\(rate\) is not finite"):
        hazards.fit(runs([10, None], rate=[0.0, 1.0]), "np.log(rate)", apart=True)


@pytest.mark.parametrize(("formula", "link", "named"), [("side", "probit", "link"), ("sid", "cloglog", "sid")])
def test_a_model_that_cannot_be_put_together(formula, link, named):
    with pytest.raises(ValueError, match=named):
        hazards.fit(runs([10, None], side=[0.0, 1.0]), formula, link, apart=True)


def drawn_escapes(hazards, seed, count=300, budget=20):
    """Runs that escape by each of 20 evaluations with a hazard that falls, times a factor on its log-log scale."""
    rng = np.random.default_rng(seed)
    steps = []
    for _ in range(count):
        share = 1 - np.exp(-hazards * np.linspace(0.15, 0.05, budget))
        escaped = np.flatnonzero(rng.random(budget) < share)
        steps.append(escaped[0] + 1 if len(escaped) else None)
    return runs(steps, budget=budget, every=1)


def test_hazard_ratio_is_what_the_runs_were_drawn_with():
    one, two = drawn_escapes(1.0, 0), drawn_escapes(2.0, 1)
    ratio = hazards.hazard_ratio(one, two, apart=True)
    assert ratio.low < 2 < ratio.high and ratio.high / ratio.low < 1.6
    back = hazards.hazard_ratio(two, one, apart=True)
    assert back == pytest.approx((1 / ratio.value, 1 / ratio.high, 1 / ratio.low, ratio.error), rel=1e-5)
    same = hazards.hazard_ratio(one, one, apart=True)
    assert same.value == pytest.approx(1) and same.low < 1 < same.high


def test_hazard_ratio_of_one_evaluation_by_hand():
    # 3 of 10 against 6 of 10: log(1 - 0.6) / log(1 - 0.3); that by 20 all the others have escaped tells nothing
    first, second = runs(3 * [10] + 7 * [20]), runs(6 * [10] + 4 * [20])
    ratio = hazards.hazard_ratio(first, second, apart=True)
    assert ratio.value == pytest.approx(math.log(0.4) / math.log(0.7), rel=1e-6)
    spread = sum(p / ((1 - p) * 10 * math.log(1 - p) ** 2) for p in (0.3, 0.6))  # by the delta method
    assert math.log(ratio.high / ratio.low) == pytest.approx(2 * 1.959964 * math.sqrt(spread), rel=1e-4)


def test_no_hazard_ratio_without_an_escape():
    some, none = runs([10, 20, None]), runs([None, None])
    for sides in ((some, none), (none, some), (none, none), (some, some.iloc[:0])):
        assert all(math.isnan(x) for x in hazards.hazard_ratio(*sides, apart=True))


def test_a_run_that_is_over_does_not_wait():
    over = runs([None, 30, 40, None]).assign(steps=[10, 100, 100, 100])
    with_it, without = (hazards.hazard_ratio(runs([20, 30, None]), side, apart=True) for side in (over, over.iloc[1:]))
    assert with_it == pytest.approx(without)
    assert len(hazards.run_intervals(runs([30, None, 100]))) == 3 + 10 + 10


def test_what_separates_two_sides_is_no_estimate_in_either_direction():
    """All of one side escape by an evaluation at which the other's do not: cloglog flattens before its b is large."""
    some, every = runs(4 * [200] + 2 * [400] + 6 * [None], 1000, 200), runs(12 * [200], 1000, 200)
    for pair in ((some, every), (every, some)):
        assert np.isnan(hazards.hazard_ratio(*pair, apart=True)).all()
    far = hazards.hazard_ratio(runs([200] + 11 * [None], 1000, 200), runs(11 * [200] + [None], 1000, 200), apart=True)
    assert far.low > 1 and math.isfinite(far.high), "as far apart as twelve runs get without that"


def test_an_evaluation_is_one_time_for_all_runs():
    both = pd.concat([runs([100, None], every=10), runs([100, None], every=20)]).assign(side=[0, 0, 1, 1])
    with pytest.raises(ValueError, match="evaluated every 10, 20 steps"):
        hazards.fit(both, "side", apart=True)
