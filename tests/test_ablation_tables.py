"""The ablation's tables and figures: plateaus, ends, swaps, what is not recorded, and what was published beside it."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny import SETTINGS, TASKS

from orthonar.report import stats, style, words
from orthonar.report.figures import ablation as ablation_plots
from orthonar.report.published import DECODED, ELIMINATION, SWAPPED
from orthonar.report.tables import ablation as ablation_tables
from orthonar.report.tables import memory, probed
from orthonar.report.words import NOT_RUN
from orthonar.study import sides
from orthonar.study.presets import PRESETS, Study
from orthonar.training.evaluation import QUESTIONS
from orthonar.training.record import Evaluation, RunRecord

EVERY = {**sides.ELIMINATION, **sides.VARIANTS}
STUDY = Study(
    "tiny", TASKS[:1], SETTINGS | {"batch_size": 4, "validation_sequences": 4, "probes": True, "steps": 6},
    rates=(3e-3,), rate_seeds=(), seeds=(11, 12, 13, 14), sides=EVERY,
)  # fmt: skip


def probes(rank: float, swapped: float = 0.5) -> dict[str, float]:
    values = dict.fromkeys(probed.PROBES, 0.5)
    return values | {"effective_rank": rank, "qk_coherence": rank / 10, "accuracy_read_raw": swapped, "decode1": 0.6}


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
    record("orthogonalized", 11, (0.1, 0.2, 0.9), swapped=0.85),
    record("orthogonalized", 12, (0.1, 0.8, 0.9), swapped=0.7),
    record("orthogonalized", 13, (0.9, 0.9, 0.9), swapped=0.7),
    record("ns1", 11, (0.1, 0.2, 0.3)),
]


def test_every_variant_is_in_every_table_of_variants():
    for table in (ablation_tables.elimination, ablation_tables.early):
        for records in ([], RECORDS):
            assert list(table(STUDY, records).index) == list(EVERY)
    assert list(ablation_tables.labels(STUDY).index) == list(EVERY)
    assert ablation_tables.labels(STUDY)["what it is"].str.len().gt(10).all()


def test_every_published_variant_is_a_side_of_the_ablation_and_no_further_one_is():
    for study in PRESETS["ablation"].values():
        assert set(study.sides) == set(ELIMINATION)
    for study in PRESETS["variants"].values():
        assert set(study.sides) & set(ELIMINATION) == set(sides.HEADLINE)


def test_a_study_beside_further_sides_keeps_its_own_in_their_places():
    wider = STUDY.only(["ns1", "baseline"]).beside({"ns2": EVERY["ns2"], "baseline": EVERY["baseline"]})
    assert list(wider.sides) == ["baseline", "ns1", "ns2"] and wider.seeds == STUDY.seeds
    assert list(wider.without("ns1").sides) == ["baseline", "ns2"]
    with pytest.raises(ValueError, match="sides: there is no 'ns3'"):
        wider.without("ns1", "ns3")


def test_variants_in_order_of_what_came_of_them():
    runs = probed.probed_runs(STUDY, RECORDS)
    names = ablation_tables.in_order(STUDY, runs)
    ours = [name for name in names if name in set(runs["side"])]
    means = [stats.accuracies(runs[runs["side"] == name]).mean() for name in ours]
    assert names[: len(ours)] == ours and means == sorted(means) and len(set(means)) > 1
    assert names[len(ours) :][-1] == "rls_read" and "polar" not in names, "5 of 8 is the largest published share"


def test_early_is_a_tenth_and_three_tenths_of_the_training():
    # Evaluations at steps 2, 4 and 6 of 6: nearest to 0.6 and to 1.8 is the first.
    runs = probed.probed_runs(STUDY, RECORDS).set_index(["side", "seed"])
    assert (runs["early_effective_rank"] == 1).all()
    longer = replace(STUDY, settings=STUDY.settings | {"steps": 20})
    trace = [Evaluation(2 * i, 0.1, 1.0, 1.0, 1.0, probes(i)) for i in range(1, 11)]
    settings = longer.run(longer.tasks[0], "baseline", 3e-3, 11).settings()
    run = replace(RECORDS[0], settings=settings, trace=trace)
    [row] = probed.probed_runs(longer, [run]).to_dict("records")
    assert row["early_effective_rank"] == pytest.approx((1 + 3) / 2), "steps 2 and 6"
    assert row["early_qk_coherence"] == pytest.approx(0.2)
    assert row["effective_rank"] == 10, "the end is the last evaluation"
    assert np.isnan(runs.loc[("baseline", 12), "effective_rank"]), "it diverged"
    table = ablation_tables.early(STUDY, RECORDS)
    assert table.loc["baseline"].tolist() == ["1.0 1.0 1.0", "2.6", "0.10 0.10 0.10", "0.20"]
    assert table.loc["polar", "rank"] == NOT_RUN


def test_variants_are_judged_by_enough_runs_and_the_others_counted():
    few = ablation_tables.variant_answers(STUDY, RECORDS)
    variants = len(STUDY.sides) - 2
    assert few == [
        f"Nothing can be said of the variants yet: {variants} of {variants} variants have fewer than 8 runs, "
        f"{variants - 1} of them none."
    ]


def test_variants_with_enough_runs_are_told_from_the_baseline_and_from_the_studys_read_in_a_sentence():
    wide = replace(STUDY, seeds=tuple(range(8)))
    solved = {"baseline": 0, "orthogonalized": 8, "ns1": 8, "ns3": 3}
    made = [
        record(side, seed, (0.1, 0.2, 0.9 if seed < count else 0.3))
        for side, count in solved.items()
        for seed in range(8)
    ]
    # The exact McNemar test of 8 pairs against none is 2 / 2^8, and the smaller of two counts twice; of 5, 1 / 16.
    assert ablation_tables.variant_answers(wide, made)[0] == (
        "Of 2 variants with at least 8 runs, these differ in their solved runs: from baseline (0 of 8) 1 step (8 of 8, "
        "p = 0.016); from orthogonalized (8 of 8) none (exact McNemar test in pairs, Holm's correction over the "
        "variants)."
    )
    assert ablation_tables.variant_answers(wide, made)[1].startswith("Nothing can be said of the others yet: ")
    apart_from_none = [r for r in made if r.settings["read"].get("steps") != 1]
    told = ablation_tables.variant_answers(wide, apart_from_none)[0]
    assert "from orthogonalized (8 of 8) none (" in told and told.endswith("solved by 3 steps (3 of 8).")
    without = [r for r in made if r.settings["seed"] < 7 or r.settings["read"]["name"] != "RawRead"]
    assert ablation_tables.variant_answers(wide, without) == [
        "Nothing can be said of the variants yet: of baseline there are fewer than 8 runs."
    ], "it is not the variants that are short"


def test_elimination():
    table = ablation_tables.elimination(STUDY, RECORDS)
    row = table.loc["orthogonalized"]
    share = stats.solved_share(3, 3)
    assert row["solved"] == f"3 of 3 ({100 * share.low:.0f} to 100 %)"
    assert row["alone, McNemar p"] == "0, 3; 0.25"
    assert row["Fisher p"] == "0.1"
    assert (row["median step"], row["follow-up"]) == ("4", "9 of 16")
    baseline = table.loc["baseline"]
    assert baseline["accuracy (%)"] == "23.3 (0 30 40)", "a diverged run counts as 0, and three runs are all shown"
    assert (baseline["median step"], baseline["Fisher p"]) == ("none", "")
    assert (table.loc["polar", "solved"], table.loc["polar", "follow-up"]) == (NOT_RUN, "")
    ended = ablation_tables.endings(STUDY, RECORDS).loc["baseline"]
    assert ended.tolist() == [0, 0, 2, 0, 1], "with so few scored positions 40 % may be guessing"


@pytest.mark.parametrize("seeds", [tuple(range(11, 16)), tuple(range(11, 27))], ids=len)
def test_tables_fit_the_page(seeds):
    study = replace(STUDY, seeds=seeds)
    records = [record(side, seed, (0.1, 0.2, 0.3 + 0.7 * (seed % 2))) for side in study.sides for seed in seeds]
    for table in (
        ablation_tables.elimination, ablation_tables.endings, ablation_tables.early, ablation_tables.dose_response,
        memory.swaps, memory.published_swaps, memory.decoded,
    ):  # fmt: skip
        assert style.text_width(table(study, records)) <= words.PAGE, table.__name__
    assert style.text_width(ablation_tables.labels(study)) <= words.PAGE
    paper = PRESETS["ablation"]["paper"]
    settings = [
        paper.run(paper.tasks[0], side, 3e-3, seed).settings() for side in sides.HEADLINE for seed in paper.seeds
    ]
    records = [replace(records[i % len(records)], settings=s | {"steps": 2000}) for i, s in enumerate(settings)]
    assert style.text_width(memory.published_decoded(paper, records)) <= words.PAGE


def test_doses_in_order_and_nothing_else():
    assert ablation_tables.doses(STUDY) == {
        "baseline": "raw", "ns0_normalise_only": "0", "ns1": "1", "ns2": "2", "ns3": "3", "orthogonalized": "5",
        "ns8": "8",
    }  # fmt: skip
    faster = replace(sides.ORTHOGONALIZED, settings={**sides.ORTHOGONALIZED.settings, "qk_lr_factor": 4.0})
    assert "faster" not in ablation_tables.doses(replace(STUDY, sides={**STUDY.sides, "faster": faster}))
    table = ablation_tables.dose_response(STUDY, RECORDS)
    assert table["follow-up"].tolist()[:3] == ["3 of 16", "1 of 16", "0 of 16"]
    assert table.loc["8", "solved"] == NOT_RUN


def test_swaps_say_what_becomes_of_solved_and_unsolved_runs():
    table = memory.swaps(STUDY, RECORDS)
    solved = table.loc[("orthogonalized", "solved")]
    assert (solved["own read"], solved["raw read"]) == ("90.0, 3 of 3", "75.0, 1 of 3")
    failed = table.loc[("baseline", "not solved")]
    assert failed["orthogonalized read"] == "33.3, 0 of 3", "a diverged run counts as 0"
    assert ("ns1", "solved") not in table.index and "polar" not in table.index
    theirs = memory.published_swaps(STUDY, RECORDS)
    assert theirs.loc[("orthogonalized", "solved", "raw")].tolist() == [
        "90.0, 3 of 3", "75.0, 1 of 3", "7 of 9 solved, 97 to 88 %",
    ]  # fmt: skip
    assert theirs.loc[("baseline", "solved", "orthogonalized"), "own read"] == memory.NO_SUCH_RUN
    assert "1 of 13" in theirs.loc[("baseline", "not solved", "orthogonalized"), "follow-up"]
    assert (memory.published_swaps(STUDY, [])["own read"] == NOT_RUN).all()


def test_runs_that_were_not_asked_are_left_out():
    """As where asking was stopped half-way."""
    asked = replace(RECORDS[4], trace=[*RECORDS[4].trace[:-1], replace(RECORDS[4].trace[-1], probes=None)])
    some = [asked if r is RECORDS[4] else r for r in RECORDS]
    row = memory.swaps(STUDY, some).loc[("orthogonalized", "solved")]
    assert row.tolist() == ["90.0, 3 of 3", "77.5, 1 of 2", "50.0, 0 of 2"]


def test_the_answers_are_the_tables_numbers():
    still, helped = memory.swap_answers(STUDY, RECORDS)
    assert (
        still.startswith("1 of 3 runs solved with the orthogonalized read")
        and "(mean 90.0 to 75.0 %; 0 at 90 % or more)" in still
    )
    assert helped.startswith("0 of 2 runs not solved with the raw read"), "the diverged one was not asked"
    wide = replace(STUDY, seeds=tuple(range(8)))
    others = [record(side, seed, (0.1, 0.2, 0.9), swapped=0.2) for side in ("ns1", "qk_lr_x4") for seed in range(8)]
    assert memory.swap_answers(wide, others) == [
        "0 of 8 runs solved with 1 step are still solved when read raw (mean 90.0 to 20.0 %; 0 at 90 % or more)."
    ], "what is trained with the raw read needs no other"
    assert memory.swap_answers(wide, others[1:]) == [], "of 7 runs nothing is said"
    unsolved, solved = memory.decode_answers(STUDY, RECORDS)
    assert "memories of 2 not solved runs" in unsolved and "finds 60.0 %" in unsolved and "adds 10.0 points" in unsolved
    assert "memories of 3 solved runs" in solved
    assert "without any memory gives 50 %" in solved and "has not seen the value, it finds 50.0 %" in solved
    assert solved.endswith("in another sequence's memory 50.0 %.")
    assert memory.swap_answers(STUDY, []) == memory.decode_answers(STUDY, []) == []


def test_decoded_beside_its_controls():
    table = memory.decoded(STUDY, RECORDS)
    row = table.loc[("baseline", "not solved")]
    assert (row["decoded"], row["memory adds"]) == ("60 60", "10 10")
    assert row["runs"] == "2", "one diverged and was not asked"
    assert table.loc[("orthogonalized", "solved"), "key alone"] == "50 50 50"
    assert memory.decoded(STUDY, RECORDS, offset=0).loc[("ns1", "not solved"), "memory adds"] == "0"
    assert memory.decoded(STUDY, []).empty


def otherwise_asked(run: RunRecord) -> RunRecord:
    """A record as older ones are: another decoder's answer under a name of its own."""
    names = ("effective_rank", "qk_coherence", "accuracy_read_raw", "accuracy_read_orthogonalized")
    asked = {name: value for name, value in run.trace[-1].probes.items() if name in names} | {"decoded": 0.9}
    return replace(run, trace=[*run.trace[:-1], replace(run.trace[-1], probes=asked)])


def test_kept_weights_stand_in_for_what_a_trace_does_not_say():
    first, second, third = RECORDS[3:6]
    records = [otherwise_asked(first), otherwise_asked(second), third, *RECORDS[:2]]
    kept = pd.DataFrame(0.25, [first.identity, third.identity, "another run's"], QUESTIONS)
    runs = probed.probed_runs(STUDY, records, kept).set_index("identity")
    assert runs["decode1"].reindex([first.identity, third.identity]).tolist() == [0.25, 0.6], "the trace comes first"
    assert runs.loc[first.identity, "accuracy_read_raw"] == first.trace[-1].probes["accuracy_read_raw"]
    assert np.isnan(runs.loc[second.identity, "decode1"]), "what was asked in another way is not shown"
    told = memory.asked(runs)
    assert told.startswith("2 at the end of training, 1 from kept weights; 1 were asked in another way")
    assert "none" in memory.asked(probed.probed_runs(STUDY, []))
    table = memory.decoded(STUDY, records, kept)
    assert table.loc[("orthogonalized", "solved"), "decoded"] == "25 60"
    swapped = [memory.swaps(STUDY, records, k).loc[("orthogonalized", "solved")].tolist() for k in (None, kept)]
    assert swapped[0] == swapped[1]


def test_published_numbers_stand_beside_the_same_experiment_alone():
    paper = PRESETS["ablation"]["paper"]
    assert probed.is_the_follow_ups(paper)
    assert not probed.is_the_follow_ups(STUDY)
    assert not probed.is_the_follow_ups(PRESETS["ablation"]["pocket"])
    assert not probed.is_the_follow_ups(PRESETS["replication-1024"]["paper"])
    settings = paper.run(paper.tasks[0], "baseline", 3e-3, 11).settings()
    table = memory.published_decoded(paper, [replace(RECORDS[0], settings=settings)])
    here, theirs = (table.loc[("baseline", "not solved", whose)] for whose in ("here", "follow-up"))
    assert (here["answered"], here["decoded"], here["other memory"]) == ("30 (1 run)", "60", "50")
    assert (theirs["answered"], theirs["wrong key"], theirs["other memory"]) == ("3 to 14", "5.2", "(29)")
    assert "45.6" in theirs["recomputed"]
    assert table.loc[("baseline", "solved", "here"), "answered"] == memory.NO_SUCH_RUN
    assert table.loc[("orthogonalized", "solved", "here"), "answered"] == NOT_RUN
    assert set(memory.published_decoded(STUDY, RECORDS).index.get_level_values("whose")) == {"follow-up"}


def test_runs_of_other_presets_are_left_out():
    study = PRESETS["ablation"]["paper"]
    assert probed.probed_runs(study, RECORDS).empty
    assert probed.traces(study, RECORDS).empty


@pytest.mark.parametrize("records", [[], RECORDS], ids=["nothing", "something"])
def test_figures_are_drawn_of_nothing_and_of_something(records):
    runs, names = probed.probed_runs(STUDY, records), list(EVERY)
    figure = ablation_plots.elimination(runs, names, STUDY.sides, ELIMINATION)
    waiting = [text.get_text() for text in figure.axes[0].texts]
    assert waiting.count(NOT_RUN) == len(names) - runs["side"].nunique()
    doses = ablation_tables.doses(STUDY)
    assert len(ablation_plots.dose_response(runs, doses, STUDY.sides, ELIMINATION).axes[0].get_xticks()) == len(doses)
    traces = probed.traces(STUDY, records)
    figure = ablation_plots.over_training(traces, "effective_rank", "effective rank", STUDY.sides, {"ns1": 9.9})
    assert sum(ax.get_visible() for ax in figure.axes) == len(STUDY.sides)
    decoded = ablation_plots.decoded(runs, STUDY.sides, DECODED, 0.1)
    for figure in (decoded, ablation_plots.swaps(runs, STUDY.sides, SWAPPED)):
        assert any(text.get_text() == NOT_RUN for text in figure.axes[0].texts) == (not records)
    hollow = ["hollow" in text.get_text() for text in decoded.legends[0].get_texts()]
    assert any(hollow)
    alone = ablation_plots.decoded(runs.assign(decode1=np.nan), STUDY.sides, {}, 0.1)
    assert not any("hollow" in text.get_text() for text in alone.legends[0].get_texts())
    assert [text.get_text() for text in alone.axes[0].texts] == ["not asked" if records else NOT_RUN]
    plt.close("all")
