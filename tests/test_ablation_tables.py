"""The ablation's tables and figures: plateaus, ends, swaps, what is not recorded, and what was published beside it."""

from dataclasses import replace

import numpy as np
import pytest
from tiny import SETTINGS, TASKS

from orthonar.report import stats
from orthonar.report.figures import ablation as ablation_plots
from orthonar.report.published import DECODED, ELIMINATION, SWAPPED
from orthonar.report.tables import ablation as ablation_tables
from orthonar.report.words import NOT_RUN
from orthonar.study.presets import PRESETS, VARIANTS, Study
from orthonar.training.record import Evaluation, RunRecord

STUDY = Study(
    "tiny", TASKS[:1], SETTINGS | {"batch_size": 4, "probes": True, "steps": 6}, rates=(3e-3,), rate_seeds=(),
    seeds=(11, 12, 13, 14), sides=VARIANTS,
)  # fmt: skip


def probes(rank: float, swapped: float = 0.5) -> dict[str, float]:
    values = dict.fromkeys(ablation_tables.PROBES, 0.5)
    return values | {"effective_rank": rank, "qk_coherence": rank / 10, "accuracy_read_raw": swapped, "decoded": 0.6}


def record(side: str, seed: int, accuracies: tuple, swapped: float = 0.5) -> RunRecord:
    """A run evaluated every second step, its effective rank 1, 2, 3 and so on; an accuracy of None: diverged."""
    trace = [
        Evaluation(2 * i, a, 1.0, 1.0, 1.0, None if a is None else probes(i, swapped))
        for i, a in enumerate(accuracies, 1)
    ]
    final = accuracies[-1]
    outcome = "diverged" if final is None else "solved" if final >= 0.8 else "plateau"
    settings = STUDY.run(STUDY.tasks[0], side, 3e-3, seed).settings()
    return RunRecord(settings, trace, outcome, 1.0, "a CPU", {}, None, "2026-07-01T00:00:00+00:00")


RECORDS = [
    record("baseline", 11, (0.1, 0.2, 0.3)),
    record("baseline", 12, (0.1, 0.2, None)),
    record("baseline", 13, (0.1, 0.2, 0.4)),
    record("ns5", 11, (0.1, 0.2, 0.9), swapped=0.85),
    record("ns5", 12, (0.1, 0.8, 0.9), swapped=0.7),
    record("ns5", 13, (0.9, 0.9, 0.9), swapped=0.7),
    record("ns1", 11, (0.1, 0.2, 0.3)),
]


def test_every_variant_is_known_and_in_every_table():
    assert set(VARIANTS) <= set(ablation_tables.CHANGES)
    for table in (ablation_tables.elimination, ablation_tables.swaps, ablation_tables.decoded):
        for records in ([], RECORDS):
            rows = table(STUDY, records).reset_index().iloc[:, 0]
            assert list(dict.fromkeys(rows)) == ablation_tables.variants(STUDY)
    assert set(ELIMINATION) <= set(VARIANTS)


def test_the_plateau_is_the_last_evaluation_before_the_escape():
    runs = ablation_tables.probed_runs(STUDY, RECORDS).set_index(["side", "seed"])
    ranks = runs["plateau_effective_rank"]
    assert ranks["ns5"].tolist()[:2] == [2, 1]
    assert np.isnan(ranks["ns5", 13]), "it escapes at its first evaluation"
    assert ranks["baseline"].tolist() == [3, 2, 3], "the last where none escapes, before it diverges"
    assert runs.loc[("ns5", 11), "effective_rank"] == 3, "the end is the last evaluation all the same"
    assert np.isnan(runs.loc[("baseline", 12), "effective_rank"])
    assert runs["plateau_qk_coherence"].equals(ranks / 10)


def test_elimination():
    table = ablation_tables.elimination(STUDY, RECORDS)
    row = table.loc["ns5"]
    assert row["seeds"] == "3 of 4"
    share = stats.solved_share(3, 3)
    assert row["solved"] == f"3 of 3 ({100 * share.low:.0f} to 100 %)"
    assert row["Fisher p"] == f"{stats.fisher((3, 0), (3, 3)):.2g}"
    assert row["median escape"] == "4"
    assert row["plateau rank"].startswith("1.50")
    assert (row["follow-up: solved"], row["follow-up: rank"], row["follow-up: coherence"]) == ("9 of 16", "4.2", "0.42")
    assert (row["scale"], row["device"]) == ("tiny", "a CPU")
    baseline = table.loc["baseline"]
    assert baseline["accuracy (%)"].startswith("23.3"), "a diverged run counts as 0"
    assert (baseline["median escape"], baseline["Fisher p"]) == ("most never", "")
    assert (table.loc["polar", ["solved", "plateau rank"]] == NOT_RUN).all()
    assert table.loc["polar", "follow-up: solved"] == "not published"


def test_doses_in_order_and_nothing_else():
    assert ablation_tables.doses(STUDY) == {
        "baseline": "raw", "ns0_normalise_only": "0", "ns1": "1", "ns2": "2", "ns3": "3", "ns5": "5", "ns8": "8",
    }  # fmt: skip
    assert "faster" not in ablation_tables.doses(
        replace(STUDY, sides=VARIANTS | {"faster": VARIANTS["ns5"] | {"qk_lr_factor": 4.0}})
    )
    table = ablation_tables.dose_response(STUDY, RECORDS)
    assert table["follow-up: solved"].tolist()[:3] == ["3 of 16", "1 of 16", "0 of 16"]
    assert table.loc["8", "solved"] == NOT_RUN


def test_swaps_say_what_becomes_of_solved_and_failed_runs():
    table = ablation_tables.swaps(STUDY, RECORDS)
    solved = table.loc[("ns5", "solved")]
    assert solved["own read"] == "90.0 % (3 of 3 solved)"
    assert solved["raw read"] == "75.0 % (1 of 3 solved)"
    assert solved["follow-up"] == "raw: 7 of 9 solved, 97 to 88 %"
    failed = table.loc[("baseline", "failed")]
    assert failed["runs"] == 3
    assert failed["orthogonalized read"] == "33.3 % (0 of 3 solved)", "a diverged run counts as 0"
    assert table.loc[("baseline", "solved"), "follow-up"] == "orthogonalized: +1.6 points"
    assert table.loc[("baseline", "solved"), "own read"] == ablation_tables.NO_SUCH_RUN
    assert ("ns1", "solved") not in table.index
    assert table.loc[("polar", NOT_RUN), "own read"] == NOT_RUN


def test_decoded_beside_its_controls():
    table = ablation_tables.decoded(STUDY, RECORDS)
    row = table.loc[("baseline", "failed")]
    assert row["decoded"].startswith("60.0")
    assert row["memory adds"].startswith("10.0")
    assert (row["follow-up: behaviour"], row["follow-up: wrong key"]) == ("3 to 14", "5.2")
    assert table.loc[("ns1", "failed"), "follow-up: decoded"] == ""
    assert table.loc[("ns5", "failed"), "decoded"] == ablation_tables.NO_SUCH_RUN
    assert ablation_tables.decoded(STUDY, []).loc[("ns5", "failed"), "decoded"] == NOT_RUN


def test_runs_of_other_presets_are_left_out():
    study = PRESETS["ablation"]["paper"]
    assert ablation_tables.probed_runs(study, RECORDS).empty
    assert ablation_tables.traces(study, RECORDS).empty


@pytest.mark.parametrize("records", [[], RECORDS], ids=["nothing", "something"])
def test_figures_are_drawn_of_nothing_and_of_something(records):
    runs, names = ablation_tables.probed_runs(STUDY, records), ablation_tables.variants(STUDY)
    figure = ablation_plots.elimination(runs, names, ELIMINATION)
    waiting = [text.get_text() for text in figure.axes[0].texts]
    assert waiting.count(NOT_RUN) == len(names) - runs["side"].nunique()
    doses = ablation_tables.doses(STUDY)
    assert len(ablation_plots.dose_response(runs, doses, ELIMINATION).axes[0].get_xticks()) == len(doses)
    traces = ablation_tables.traces(STUDY, records)
    figure = ablation_plots.over_training(traces, "effective_rank", "effective rank", names, {"delta_write": 9.9})
    assert sum(ax.get_visible() for ax in figure.axes) == len(names)
    for figure in (ablation_plots.decoded(runs, DECODED, 0.1), ablation_plots.swaps(runs, SWAPPED)):
        assert any(text.get_text() == NOT_RUN for text in figure.axes[0].texts) == (not records)
