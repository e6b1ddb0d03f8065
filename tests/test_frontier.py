"""The cheapest read: its sides, its tables and figures, from records that never were."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import record_of

from benchmarks import pace as command
from orthonar import MesaRead, NewtonSchulzRead, RawRead
from orthonar.report import style, survival, words
from orthonar.report.figures import frontier as plots
from orthonar.report.tables import frontier as tables
from orthonar.report.tables import pace
from orthonar.report.tables.probed import probed_runs
from orthonar.report.tables.runs import in_seconds
from orthonar.study.presets import PRESETS
from orthonar.study.sides import DEGREES, title
from orthonar.training.record import Evaluation

WHOLE = PRESETS["frontier"]["pocket"]
STUDY = WHOLE.only(["orthogonalized", "baseline", "ns1", "degree1", "degree3", "degree4", "degree12"])
PACE = {side: 0.08 if side == "orthogonalized" else 0.04 for side in STUDY.sides}


def escaping(config, at):
    """A record of a run that escapes at a step, or never; how long it took is of no account."""
    steps = range(50, config.steps + 1, 50)
    trace = [
        Evaluation(step, 0.9 if at and step >= at else 0.2, 1.0, 1.0, 1.0, {"effective_rank": 4.0}) for step in steps
    ]
    return replace(record_of(config, trace[-1].accuracy), trace=trace, wall_seconds=1e6)


#: Each side's seeds come in an order of their own: a seed's runs have nothing in common.
ORDER = {side: np.random.default_rng(number).permutation(24) for number, side in enumerate(STUDY.sides)}


def records(later):
    """24 runs of every side: the study's read escapes between 100 and 600, the others as much later as told."""
    made = []
    for task, side in STUDY.cells():
        for seed in STUDY.seeds:
            at = 100 + 50 * int(ORDER[side][seed] % 11) + later.get(side, 0)
            made.append(escaping(STUDY.run(task, side, 3e-3, seed), at if at <= 600 else None))
    return made


pytestmark = pytest.mark.usefixtures("figures_closed")


def test_every_degree_is_a_side():
    assert [tables.products(side.settings["read"]) for side in DEGREES.values()] == [1, 2, 3, 4, 6, 8, 10, 12, 23]
    assert [tables.products(read) for read in (RawRead(), NewtonSchulzRead(1), NewtonSchulzRead(5))] == [0, 1, 23]
    with pytest.raises(ValueError, match="MesaRead"):
        tables.products(MesaRead())


def test_the_cheapest_that_keeps_the_effect_is_found():
    slow = {"baseline": 600, "degree1": 300, "ns1": 300}
    table = tables.frontier(STUDY, records(slow), PACE)
    own = table.loc["orthogonalized"]
    assert own[["products", "runs", "ratio", "median_step", "median_seconds"]].tolist() == [23, 24, 1, 300, 24]
    assert table.loc["degree4", "ratio"] == pytest.approx(1) and table.loc["degree4", "low"] < 0.7
    assert table.loc["degree4", "median_seconds"] == 12 and table.loc["degree4", "early_rank"] == 4
    assert np.isnan(table.loc["baseline", "ratio"]) and table.loc["baseline", "escaped"] == 0
    assert table.loc["degree1", "ratio"] < 0.7
    assert table["slope"].loc["ns1"] == pytest.approx(1.5) and np.isnan(table.loc["baseline", "slope"])
    # of (3 s - s^3) / 2 at 0.3
    assert table["ripple_slope"].loc["ns1"] == pytest.approx(1.5 * (1 - 0.3**2), rel=1e-4)
    assert table["ripple_slope"].loc["degree12"] > 70 and np.isnan(table.loc["baseline", "ripple_slope"])
    assert "No read has a hazard relative to five steps' with a lower 95 % bound above 0.7" in tables.answer(table)
    sooner = tables.frontier(STUDY, records(slow | {"orthogonalized": 50, "degree12": -50, "degree3": -50}), PACE)
    assert "has a lower 95 % bound above 0.7 is that of 3 products (five steps: 23), " in tables.answer(sooner)
    assert tables.answer(sooner).endswith("; each of the 6 reads that are judged is tested by itself.")
    assert "is that of 1 step (1 product; five steps: 23), " in tables.answer(table.assign(low=[0, 0, 0.9, 0, 0, 0, 0]))


def test_hazards_are_of_the_seeds_that_both_reads_have():
    """With the study's read the later seeds escape, of another read the earlier ones alone are there."""
    made = [r for r in records({}) if r.settings["read"].get("degree") != 4 or r.settings["seed"] < 12]
    later = [r for r in made if r.settings["read"].get("steps") != 5 or r.settings["seed"] < 12]
    ratios = [
        tables.frontier(STUDY, of, PACE).loc["degree4", ["ratio", "low", "high"]].tolist() for of in (made, later)
    ]
    assert ratios[0] == ratios[1] and not np.isnan(ratios[0]).any()
    few = [r for r in made if r.settings["read"].get("steps") != 5 or r.settings["seed"] > 4]
    assert np.isnan(tables.frontier(STUDY, few, PACE).loc["degree4", "ratio"]), "seven seeds are shared"


def test_the_power_of_the_criterion():
    """An estimate of a hazard ratio of 1 whose lower bound is above 0.7, drawn: the criterion is hard to meet."""
    draws = np.random.default_rng(0).normal(0, 0.3, 200_000)
    met = (np.exp(draws - 2.0687 * 0.3) > 0.7).mean()  # Student's t at 97.5 %, 23 degrees of freedom
    assert tables.power(0.3, 24) == pytest.approx(met, abs=3e-3)
    needed = tables.seeds_needed(0.3, 24)
    found, less = (tables.power(0.3 * np.sqrt(24 / n), n) for n in (needed, needed - 1))
    assert found >= 0.8 > less
    table = tables.frontier(STUDY, records({}), PACE)[["runs"]].assign(error=np.nan)
    assert tables.power_answer(table) == ""
    for name, error in (("degree1", 0.2), ("degree3", 0.3), ("degree4", 0.9)):
        table.loc[name, "error"] = error
    assert tables.power_answer(table) == (
        f"A read just as good as five steps passes this test in {100 * met:.0f} % of cases on 24 seeds, at the median "
        f"error of the 3 reads whose hazard has an interval; in 80 % of cases on {needed} seeds."
    )


def test_nothing_recorded_says_so_once():
    table = tables.frontier(STUDY, [], {})
    assert tables.answer(table).count(words.NOT_RUN) == 1
    assert (tables.frontier_text(table)["solved"] == words.NOT_RUN).all()
    figure = plots.frontier(table, {}, STUDY.sides, tables.KEEPS, "a scale")
    assert [text.get_text() for ax in figure.axes for text in ax.texts] == 2 * [words.NOT_RUN]


def test_tables_and_figures_of_some_runs():
    some = [r for r in records({"ns1": 600}) if r.settings["seed"] < 9 and r.settings["read"].get("degree") != 12]
    table = tables.frontier(STUDY, some, PACE)
    text = tables.frontier_text(table)
    assert list(text.index[:1]) == ["baseline"] and text.loc["degree12", "solved"] == words.NOT_RUN
    assert text.loc["ns1", "relative hazard"] == "no escape" and text.loc["orthogonalized", "relative hazard"] == "1"
    pace = tables.pace_text(table)
    assert words.NOT_RUN not in pace.to_numpy() and "degree12" not in pace.index
    assert pace.loc["orthogonalized", "ms a step"] == "80"
    for shown in (text, pace):
        assert style.text_width(shown) <= words.PAGE and len(shown.columns) <= 6
    assert tables.answer(table).startswith(
        "Not told yet: of 1 of 6 reads there are fewer than 8 runs. The hazard of escape of the rest, relative to five "
        "steps': baseline "
    )
    assert tables.answer(table.assign(high=table["high"].where(table.index != "degree1", 0.9))).endswith(
        ". Below 1, each by its own interval: 1 product. Shown to keep the effect (above 0.7): none."
    )
    assert tables.answer(table.assign(high=2.0)).endswith(
        "Below 1, each by its own interval: none. Shown to keep the effect (above 0.7): none."
    )
    keeping = tables.answer(table.assign(low=table["ratio"].where(table["low"].isna(), 0.8)))
    assert "The cheapest read" in keeping and keeping.endswith("(so far: 1 of 6 reads have too few runs).")
    runs = probed_runs(STUDY, some)
    curves = {name: survival.kaplan_meier(in_seconds(of, PACE[name])) for name, of in runs.groupby("side", sort=False)}
    figure = plots.frontier(table, curves, STUDY.sides, tables.KEEPS, "a scale")
    figure.canvas.draw()
    hazards, waiting = figure.axes
    assert hazards.get_xlabel() == "products with $X^T X$"
    assert len(hazards.containers) == table["ratio"].notna().sum()
    labels = [f"{title(name)} ({table.loc[name, 'runs']})" for name in curves]
    assert [line.get_label() for line in waiting.lines] == labels and len(labels) == 6


def test_steps_become_seconds_at_the_measured_pace():
    runs = pd.DataFrame({"steps": 100, "escape_step": [50, np.nan, 20], "wall_seconds": [10.0, 20.0, 900.0]})
    timed = in_seconds(runs, 0.2)
    assert timed["steps"].tolist() == [20.0] * 3, "what ran beside a run does not count"
    assert timed["escape_step"].tolist()[::2] == [10.0, 4.0] and np.isnan(timed["escape_step"][1])


def test_what_separates_two_reads_is_told_from_no_escape():
    """All runs of one escape before any of the other does: there is no estimate, and not for want of escapes."""
    pair = STUDY.only(["orthogonalized", "degree3"])
    sooner = [
        escaping(pair.run(task, side, 3e-3, seed), 100 + 50 * (seed % 3) + (300 if side == "orthogonalized" else 0))
        for task, side in pair.cells()
        for seed in range(8)
    ]
    table = tables.frontier(pair, sooner, {})
    assert tables.frontier_text(table).loc["degree3", "relative hazard"] == ("cannot be told")
    assert tables.answer(table).startswith("Which read keeps the effect of five steps cannot be told: no relative")


def test_of_a_few_runs_there_is_no_hazard():
    few = [r for r in records({}) if r.settings["seed"] < 8 or r.settings["read"].get("degree") not in (3, 4)]
    few = [r for r in few if r.settings["seed"] < 7 or r.settings["read"].get("degree") != 4]
    table = tables.frontier(STUDY, few, {"degree3": 0.04})
    assert np.isnan(table.loc["degree4", "ratio"]) and table.loc["degree3", "ratio"] > 0
    assert tables.frontier_text(table).loc["degree4", "relative hazard"] == "too few runs"
    pace = tables.pace_text(table)
    assert "degree4" not in pace.index and pace.loc["degree3"].tolist()[2:] == ["14", "40"]
    assert pace.loc["degree1"].tolist()[2:] == ["", ""], "not measured"


def test_the_pace_is_measured_and_read(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.set_num_threads", lambda count: None)  # other tests have their own
    options = ["--sides", "degree1", "baseline", "--repeats", "2", "--results", str(tmp_path)]
    command.main(options)
    command.main(options)
    first, last = pace.read_records(tmp_path)
    of_two = WHOLE.only(["baseline", "degree1"])
    assert pace.newest(of_two, [last, first]) == last
    of_one = last | {"rows": last["rows"][:1], "started": "2999-01-01T00:00:00+00:00"}
    assert pace.newest(WHOLE, [first, last, of_one]) == last, "a newer one with fewer of the sides does not count"
    assert set(pace.seconds_per_step(WHOLE, last)) == {"baseline", "degree1"}
    assert pace.newest(of_two, [of_one]) is None and pace.newest(of_two, []) is None
    seconds = pace.seconds_per_step(of_two, last)
    assert set(seconds) == {"baseline", "degree1"} and all(0 < s < 60 for s in seconds.values())
    assert "1 thread" in pace.caption(last) and pace.caption(None) == words.NOT_RUN
    assert pace.seconds_per_step(WHOLE, None) == {} and pace.told(WHOLE, []) == []
    [sentence] = pace.told(of_two, [first, last])
    milliseconds = {of_two.sides[side].title: f"{1e3 * seconds[side]:.0f}" for side in seconds}
    for title_of_it, said in milliseconds.items():
        assert f"{title_of_it} {said} ms" in sentence
    assert sentence.endswith(f"({pace.caption(last)}).")
    elsewhere = first | {"device_name": "AMD EPYC, 1 thread"}
    by_processor = pace.by_processor(of_two, [last, elsewhere, of_one])
    assert list(by_processor) == ["AMD EPYC", words.model_name(last["device_name"])], "each as it was timed last"
    assert list(by_processor.values()) == [pace.seconds_per_step(of_two, record) for record in (elsewhere, last)]
    assert pace.by_processor(of_two, [of_one]) == {} and len(pace.told(of_two, [last, elsewhere])) == 2
    with pytest.raises(SystemExit):
        command.main(["--sides", "degree5", "--results", str(tmp_path)])
    assert len((tmp_path / pace.FILE).read_text().splitlines()) == 2


def test_names_with_numbers_are_words():
    names = ["ns1", "ns3", "degree1", "degree12", "muon1", "muon3", "muon", "nsx"]
    said = ["1 step", "3 steps", "1 product", "12 products"]
    said += ["1 step of Muon's polynomial", "3 steps of Muon's polynomial", "muon", "nsx"]
    assert [title(name) for name in names] == said


def test_maps_of_every_degree():
    s = np.geomspace(0.01, 1, 200)
    maps = tables.maps(WHOLE.sides, s)
    assert "baseline" not in maps and len(maps) == len(WHOLE.sides) - 1
    ax = plots.singular_value_maps(s, maps, WHOLE.sides)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [title(name) for name in maps]
