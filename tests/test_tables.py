"""The notebooks' tables: what is recorded, what is not, and what was published beside it."""

import math
from dataclasses import replace

import pytest
from tiny import TASKS, TINY, record_of

from orthonar.report import stats
from orthonar.report.figures import headline as plots
from orthonar.report.published import HEADLINE, REPLICATION, published_cells
from orthonar.report.tables import headline as tables
from orthonar.report.words import NOT_RUN
from orthonar.study.presets import PRESETS

REPLICATED = replace(PRESETS["replication"]["paper"], tasks=({"vocab_size": 80, "seq_len": 512},))


def all_records(study, accuracy=lambda config: 0.9 if config.seed % 2 else 0.3):
    records = [record_of(c, accuracy(c)) for c in study.runs([])]
    known = len(records)
    return records + [record_of(c, accuracy(c)) for c in study.runs(records)[known:]]


def test_cells_hold_the_seeds_at_the_chosen_rate_and_no_others():
    records = all_records(TINY)
    cells = tables.cells(TINY, [*records, record_of(TINY.run(TASKS[0], "baseline", 1e-2, 77))])
    assert [(c.task, c.side) for c in cells[:2]] == [
        ("vocabulary 16, length 16, batch 2", "baseline"),
        ("vocabulary 16, length 16, batch 2", "orthogonalized"),
    ]
    for cell in cells:
        assert cell.rate == 1e-2
        assert sorted(cell.runs["seed"]) == [0, 1, 2]
        assert set(cell.runs["lr"]) == {1e-2}
        assert cell.solved == 1
        assert cell.mean.value == pytest.approx((0.3 + 0.9 + 0.3) / 3)
        assert cell.device == "a CPU"


def test_what_is_not_recorded_says_so():
    table = tables.headline(PRESETS["headline"]["paper"], [])
    assert (table[["accuracy (%)", "solved"]] == NOT_RUN).all(axis=None)
    assert (table["learning rate"] == "not chosen yet").all()
    assert (table["agreement"] == NOT_RUN).all()
    assert (tables.comparison(TINY, [])["solved"] == NOT_RUN).all()
    assert (tables.rates(TINY, []) == NOT_RUN).all(axis=None)
    assert all(cell.mean is None and cell.device == "" for cell in tables.cells(TINY, []))


def test_every_published_number_is_beside_its_cell():
    table = tables.headline(PRESETS["headline"]["paper"], []).reset_index()
    rows = table[table["task"] == "vocabulary 96, length 768, batch 64"]
    assert rows["published by"].tolist() == ["post", "follow-up"] * 2
    assert rows["published solved"].tolist() == ["4 of 24", "1 of 8", "14 of 24", "5 of 8"]
    assert rows["published accuracy (%)"].tolist() == ["22 to 23", "22", "68 to 69", "67"]
    assert len(tables.published_points(PRESETS["headline"]["paper"])) == 8
    assert published_cells(80, 512, 16) == [REPLICATION[0]]
    assert published_cells(80, 512, 64) == [HEADLINE[0]]
    assert published_cells(28, 96, 16) == []


def test_agreement_is_fishers_test_against_the_published_count():
    records = all_records(REPLICATED)
    row = tables.headline(REPLICATED, records).reset_index().iloc[0]
    assert row["solved"].startswith("8 of 16 ")
    assert row["published solved"] == "3 of 16"
    assert row["agreement"] == f"solved: p = {stats.fisher((8, 3), (16, 16)):.2g}"


@pytest.mark.parametrize(("accuracy", "verdict"), [(0.7, "inside"), (0.2, "outside")])
def test_agreement_of_means(accuracy, verdict):
    study = replace(PRESETS["headline"]["paper"], tasks=({"vocab_size": 80, "seq_len": 512},))
    records = all_records(study, lambda c: accuracy + 0.05 * math.sin(c.seed))
    row = tables.headline(study, records).loc["vocabulary 80, length 512, batch 64"].loc["baseline"]
    assert row["agreement"] == f"mean: {verdict} the interval"


def test_comparison_uses_shared_seeds_only():
    records = all_records(
        TINY, lambda c: 0.9 if c.read == TINY.sides["orthogonalized"]["read"] else 0.5 - 0.1 * c.seed % 1
    )
    missing = TINY.run(TASKS[0], "orthogonalized", 1e-2, 2).identity
    row = tables.comparison(TINY, [r for r in records if r.identity != missing]).iloc[0]
    assert row["seeds"] == 2
    assert row["solved"] == "0 against 2"
    assert row["Fisher p"] == f"{stats.fisher((0, 2), (2, 2)):.2g}"


def test_the_chosen_rate_is_marked_and_no_other():
    text = tables.rates(TINY, all_records(TINY, lambda c: 0.9 if c.lr == 1e-3 else 0.1))
    assert (text["0.001"] == "90.0 % (2 of 2 solved) *").all()
    assert (text["0.01"] == "10.0 % (0 of 2 solved)").all()


@pytest.mark.parametrize("records", [[], all_records(TINY)], ids=["nothing", "everything"])
def test_figures_are_drawn_of_nothing_and_of_everything(records):
    runs, points = tables.study_runs(TINY, records), tables.published_points(TINY)
    labels = list(dict.fromkeys(cell.task for cell in tables.cells(TINY, records)))
    figure = plots.headline({"tiny": labels}, runs, points)
    waiting = [text.get_text() for text in figure.axes[0].texts]
    assert waiting.count("not run yet") == (0 if records else 4)
    curves = {side: stats.survival(of_side) for side, of_side in runs.groupby("side")}
    assert len(plots.survival_curves(curves, "tiny").lines) == len(curves)
    ax = plots.learning_rates(tables.study_runs(TINY, records, "rates"), points, "tiny")
    assert any(("not run yet" in label.get_text()) == (not records) for label in ax.get_legend().get_texts())
