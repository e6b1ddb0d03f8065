"""The slope of a map at 0 against how soon runs escape: from simulated runs whose hazard is known."""

import numpy as np
import pytest
from test_frontier import escaping

from orthonar.report.figures import frontier as plots
from orthonar.report.tables import slopes
from orthonar.study.sides import ORTHOGONALIZED

STUDY = slopes.every_map()
CHOSEN = ["orthogonalized", "ns1", "degree1", "degree4", "degree8", "muon2"]
#: Slopes at 0 by arithmetic: of five steps x -> 1.5 x - 0.5 x^3, of one, and of two of Muon's 3.4445 x.
KNOWN = {"ns1": 1.5, "orthogonalized": 1.5**5, "muon2": 3.4445**2}


def simulated(power, sides=CHOSEN, seeds=range(24)):
    """Runs that escape by each of twelve evaluations with the hazard 0.02 slope^power, in proportion."""
    draws, made = np.random.default_rng(7), []
    study = STUDY.only(sides)
    slope = slopes.by_slope(study, [escaping(study.run(study.tasks[0], s, 3e-3, 0), None) for s in sides])["slope"]
    for side in sides:
        for seed in seeds:
            at = draws.geometric(1 - np.exp(-0.02 * slope[side] ** power))
            made.append(escaping(study.run(study.tasks[0], side, 3e-3, seed), 250 * at if at <= 12 else None))
    return made


pytestmark = pytest.mark.usefixtures("figures_closed")


def test_what_differs_in_more_than_the_read_or_is_no_map_is_left_out():
    kept = set(STUDY.sides)
    assert {"orthogonalized", "ns0_normalise_only", "degree8", "muon3", "polar", "ridge", "degree20"} <= kept
    assert not kept & {"baseline", "rls_read", "qk_lr_x4", "frozen_random_keys", "mesa_read", "delta_write"}
    assert all(set(side.settings) == {"read"} for side in STUDY.sides.values())


def test_slopes_are_those_at_zero_in_order():
    table = slopes.by_slope(STUDY.only(CHOSEN), simulated(1.0))
    assert table["slope"].is_monotonic_increasing and (table["runs"] == 24).all()
    for name, slope in KNOWN.items():
        assert table.loc[name, "slope"] == pytest.approx(slope, rel=1e-6)
    assert ((table["low"] <= table["share"] + 1e-12) & (table["share"] <= table["high"])).all()
    few = slopes.by_slope(STUDY.only(CHOSEN), simulated(1.0, seeds=range(7)))
    assert few["low"].isna().all() and (slopes.by_slope_text(few)["95 % interval"] == "").all()


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_the_power_that_runs_were_made_with_is_found(power):
    found = slopes.powers(STUDY.only(CHOSEN), simulated(power))
    every = found.loc["all"]
    assert every["low"] < power < every["high"] and every["high"] - every["low"] < 1
    assert (found["maps"].tolist(), found["runs"].tolist()) == ([6, 5, 3], [144, 120, 72])
    told = slopes.answer(STUDY.only(CHOSEN), simulated(power))
    assert told.startswith("Over 6 maps of singular values and 144 runs the hazard of escape goes with the slope")
    assert ("not told from 0" in told.partition(" It rests")[0]) == (power == 0)


def test_the_map_that_the_power_rests_on_is_named():
    """Five maps whose runs escape as often whatever their slope, and a steep one whose runs all do at once."""
    made = simulated(0.0, CHOSEN[:-1])
    made += [escaping(STUDY.run(STUDY.tasks[0], "muon3", 3e-3, seed), 250) for seed in range(24)]
    found = slopes.powers(STUDY, made)
    assert found.loc["all", "low"] > 0.3 and found.loc["without one", "left_out"] == "muon3"
    assert found.loc["without one", "low"] < 0 < found.loc["without one", "high"]
    told = slopes.answer(STUDY, made)
    assert "It rests most on 3 steps of Muon's polynomial: without it the power is" in told
    assert "over the 2 other maps at least as steep as five steps (48 runs)" in told and "not told from 0" in told


def test_steep_maps_of_few_runs_are_named():
    made = simulated(1.0, ["orthogonalized", "ns1"]) + simulated(1.0, ["degree8"], range(3))
    told = slopes.answer(STUDY, made)
    solved = slopes.by_slope(STUDY, made).loc["degree8", "solved"]
    assert told.endswith(
        f"Of maps steeper than five steps with fewer than 8 runs are solved: 8 products {solved} of 3."
    )
    assert slopes.answer(STUDY, []).endswith("not run yet.")
    never = [escaping(STUDY.run(STUDY.tasks[0], side, 3e-3, seed), None) for side in CHOSEN for seed in range(8)]
    assert "cannot be told" in slopes.answer(STUDY, never)


def test_marks_are_hollow_without_an_interval():
    made = simulated(1.0, ["orthogonalized", "ns1"]) + simulated(1.0, ["degree8"], range(3))
    table = slopes.by_slope(STUDY, made)
    ax, ranks = plots.solved_by_map(table, STUDY.sides, "a scale").axes
    drawn = {bars.get_label().partition(" (")[0]: bars for bars in ax.containers}
    assert list(drawn) == [STUDY.sides[name].title for name in table.index]
    line, _, bars = drawn["8 products"]
    assert line.get_markerfacecolor() == "none" and not bars
    line, _, bars = drawn[ORTHOGONALIZED.title]
    assert line.get_markerfacecolor() != "none" and len(bars) == 1
    assert len(ranks.containers) == len(table)
    assert all(ax.texts for ax in plots.solved_by_map(table[:0], STUDY.sides, "a scale").axes)
