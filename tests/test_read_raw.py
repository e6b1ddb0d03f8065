"""What solved runs lose when they are read raw: from made-up runs whose loss is known."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from test_frontier import escaping

from orthonar.report.figures import frontier as plots
from orthonar.report.tables import read_raw, slopes
from orthonar.report.tables.frontier import slope_at_zero
from orthonar.study.sides import title

STUDY = slopes.every_map()
CHOSEN = ("ns1", "degree4", "orthogonalized", "degree8")

pytestmark = pytest.mark.usefixtures("figures_closed")


def read_so(config, accuracy, raw):
    """A run that ends with this accuracy, and with that one when it is read raw (None: it was not asked)."""
    record = escaping(config, 300 if accuracy >= 0.8 else None)
    probes = {} if raw is None else {"accuracy_read_raw": raw}
    return replace(record, trace=[*record.trace[:-1], replace(record.trace[-1], accuracy=accuracy, probes=probes)])


def simulated(points):
    """Solved runs of 24 seeds that lose so many points for each doubling of their map's slope, give or take two."""
    draws, made = np.random.default_rng(11), []
    for side in CHOSEN:
        twice = np.log2(slope_at_zero(STUDY.sides[side].settings["read"]))
        for seed in range(24):
            lost = (points * twice + 2 * draws.standard_normal()) / 100
            made.append(read_so(STUDY.run(STUDY.tasks[0], side, 3e-3, seed), 0.98, 0.98 - lost))
    return made


@pytest.mark.parametrize("points", [0.0, 3.0])
def test_what_a_doubling_of_the_slope_costs_is_found(points):
    lost = read_raw.losses(STUDY, simulated(points))
    found = read_raw.per_doubling(lost)
    by_hand = np.polyfit(np.log2(lost["slope"]), lost["lost"], 1)[0]
    assert found.value == pytest.approx(by_hand, rel=1e-9)
    assert found.low < points < found.high and found.high - found.low < 1
    assert ("not told from 0" in read_raw.answer(lost)) == (points == 0)


def test_a_seed_is_one_draw():
    """Runs told twice tell no more: the interval stays, up to the sample's correction."""
    lost = read_raw.losses(STUDY, simulated(3.0))
    once, twice = (read_raw.per_doubling(pd.concat(times * [lost])) for times in (1, 2))
    assert twice.value == pytest.approx(once.value)
    assert twice.high - twice.low == pytest.approx(once.high - once.low, rel=0.02)


def test_the_interval_covers_what_the_runs_were_made_with():
    """Each seed has a trend of its own, which errors that take every run as one draw would not see."""
    seed, slope = np.tile(np.arange(24), 8), np.repeat(2.0 ** np.arange(8), 24)
    covered = []
    for number in range(100):
        draws = np.random.default_rng(number)
        trend = 2 + draws.standard_normal(24)[seed]
        lost = trend * np.log2(slope) + draws.standard_normal(len(seed))
        found = read_raw.per_doubling(pd.DataFrame({"seed": seed, "slope": slope, "lost": lost}))
        covered.append(found.low < 2 < found.high)
    assert 89 <= sum(covered) <= 99


def test_only_solved_runs_that_were_read_raw_count():
    config = [STUDY.run(STUDY.tasks[0], "degree8", 3e-3, seed) for seed in range(4)]
    made = [
        read_so(config[0], 0.9, 0.85), read_so(config[1], 1.0, 0.5),
        read_so(config[2], 0.79, 0.7), read_so(config[3], 0.9, None),
    ]  # fmt: skip
    lost = read_raw.losses(STUDY, made)
    assert lost["seed"].tolist() == [0, 1] and lost["lost"].tolist() == pytest.approx([5.0, 50.0])
    row = read_raw.by_map(lost).loc["degree8"]
    assert row.tolist() == ["10.7", "95.0", "67.5", "5.0 50.0", "1 of 2"]
    assert read_raw.answer(lost).endswith("not run yet.")
    assert read_raw.by_map(lost[:0]).empty


def test_the_flattest_map_comes_first_and_each_run_has_its_mark():
    lost = read_raw.losses(STUDY, simulated(3.0))
    assert list(read_raw.by_map(lost).index) == list(CHOSEN) and lost["slope"].is_monotonic_increasing
    told = read_raw.answer(lost)
    assert told.startswith(
        "Of 96 runs solved with 4 maps 96 are still solved when they are read raw; reading raw costs the 96 "
        f"{lost['lost'].mean():.1f} points on average."
    )
    assert "; among the 2 maps at least as steep as five steps (48 runs) " in told
    ax = plots.lost_when_read_raw(lost, STUDY.sides, "a scale")
    runs, means = ax.lines[:-1:2], ax.lines[1:-1:2]
    assert [len(line.get_xdata()) for line in runs] == [24] * 4
    assert [line.get_label() for line in means] == [f"{title(name)} (24)" for name in CHOSEN]
    assert [line.get_ydata()[0] for line in means] == pytest.approx(lost.groupby("slope")["lost"].mean().tolist())
    assert [text.get_text() for text in plots.lost_when_read_raw(lost[:0], STUDY.sides, "a scale").texts] == [
        "not run yet"
    ]
