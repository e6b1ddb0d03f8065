"""Runs whose read was taken down, before and after, from records that never were."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import record_of

from orthonar.report.figures import training as plots
from orthonar.report.tables import taken_down
from orthonar.report.words import NOT_RUN
from orthonar.study.contents import STOCK
from orthonar.study.presets import PRESETS
from orthonar.training.record import Evaluation

STUDY = PRESETS["anneal"]["pocket"]
NOTHING = pd.DataFrame(columns=STOCK.numbers)


pytestmark = pytest.mark.usefixtures("figures_closed")


def record(side, seed, accuracies):
    """A run whose accuracy changes at some steps: {1000: 0.9} is 0 before step 1,000 and 0.9 from then on."""
    config = STUDY.run(STUDY.tasks[0], side, 3e-3, seed)
    at = np.array(sorted(accuracies))
    trace = []
    for step in range(100, config.steps + 1, 100):
        done = at[at <= step]
        trace.append(Evaluation(step, accuracies[done[-1]] if len(done) else 0.0, 1.0, 1.0, 1.0))
    outcome = "solved" if trace[-1].accuracy >= 0.8 else "plateau"
    return replace(record_of(config), trace=trace, outcome=outcome)


@pytest.fixture
def records():
    return [
        record("anneal, gated", 0, {1000: 0.9, 1500: 0.7, 2000: 0.95}),  # falls from 1,200 to 1,700
        record("anneal, gated", 1, {500: 1.0, 1000: 0.2}),  # from 700 to 1,200
        record("anneal, gated", 2, {2000: 0.6}),  # never
        record("anneal, 2,100 to 3,000", 0, {2500: 0.85}),  # from 2,100 to 3,000, escaped only then
        record("baseline, constant rate", 0, {1000: 1.0}),
    ]


def test_a_run_counts_once_its_read_is_the_raw_one(records):
    table = taken_down.taken_down(STUDY, records, NOTHING)
    assert table[["side", "seed"]].to_numpy().tolist() == [
        ["anneal, gated", 0], ["anneal, gated", 1], ["anneal, 2,100 to 3,000", 0],
    ]  # fmt: skip
    assert table[["begin", "end"]].to_numpy().tolist() == [[1200, 1700], [700, 1200], [2100, 3000]]
    assert table[["before", "lowest", "after"]].to_numpy().tolist() == [[0.9, 0.7, 0.95], [1, 0.2, 0.2], [0, 0, 0.85]]
    assert table[list(STOCK.numbers)].isna().all(axis=None)


def test_what_became_of_those_that_were_solved(records):
    table = taken_down.taken_down(STUDY, records, NOTHING)
    text = taken_down.as_text(table, ["anneal, gated", "anneal, 2,100 to 3,000"])
    assert text.loc["anneal, gated"].tolist() == ["2", "2", "1", "95.0", "45.0", "57.5"]
    assert text.loc["anneal, 2,100 to 3,000"].tolist() == ["1", "0", "0", "", "", ""]
    assert taken_down.answers(table) == [
        "Of 2 runs solved before the read was taken down 1 is solved with the raw read afterwards: 95.0 % before, "
        "57.5 % after (means; training goes on in between)."
    ]
    again = table.assign(seed=0)
    assert taken_down.answers(again)[0].startswith("Of 2 runs of 1 seed solved before the read was taken down 1 is")
    assert table["last"].eq(table["steps"]).all()
    late = record("anneal, gated", 3, {2800: 0.9})
    late = replace(late, trace=[*late.trace, *(replace(late.trace[-1], step=s) for s in (3200, 3500))])
    gone_on = taken_down.answers(taken_down.taken_down(STUDY, [*records, late], NOTHING))
    assert gone_on[1] == (
        "1 of the 4 runs whose read was taken down escaped so late that it went on beyond step 3,000 until the read "
        "was raw, to step 3,500 at most; the others stop there."
    )


def test_the_stock_layers_answers_stand_beside_them(records):
    numbers = {"accuracy_here": [0.95, 0.2], "accuracy_stock": [0.9501, 0.2], "logits_apart": [3e-7, 2e-7]}
    kept = pd.DataFrame(numbers, [records[0].identity, records[1].identity])
    table = taken_down.taken_down(STUDY, records, kept)
    assert table["accuracy_stock"].tolist()[:2] == [0.9501, 0.2] and np.isnan(table["accuracy_stock"].iloc[2])
    assert taken_down.answers(table)[1] == (
        "In the layer of the package xlstm the weights of 2 of the 3 runs whose read was taken down, solved or not, "
        "recall 57.5 % on average, as here to 0.01 points at most; in float64 their logits are ours but for 3e-07 of "
        "the largest."
    )


def test_the_fall_is_drawn_from_its_begin(records):
    table = taken_down.taken_down(STUDY, records, NOTHING)
    axes = plots.around_the_fall(table, records, STUDY.sides, "a title").axes
    begins = [[line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) > 2] for ax in axes]
    assert begins == [[-1100, -600], [-2000]]
    assert [ax.get_title() for ax in axes] == ["anneal, gated (2 runs)", "anneal, 2,100 to 3,000 (1 run)"]
    assert [ax.patches[0].get_width() for ax in axes] == [500, 900]


def test_nothing_taken_down_says_so(records):
    for some in ([], records[2:3], records[4:]):
        table = taken_down.taken_down(STUDY, some, NOTHING)
        assert table.empty and taken_down.answers(table) == []
        assert taken_down.as_text(table, ["anneal, gated"]).loc["anneal, gated", "taken down"] == "0"
        drawn = plots.around_the_fall(table, some, STUDY.sides, "a title").axes[0]
        assert NOT_RUN in [text.get_text() for text in drawn.texts]
