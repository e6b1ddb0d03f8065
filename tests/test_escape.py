"""The table of what moves the hazard of escape: which runs it takes, and how a fitted model reads."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tiny import TINY, record_of

from orthonar.report import hazards
from orthonar.report.tables import escape
from orthonar.study.presets import PRESETS
from orthonar.study.sides import ELIMINATION, HEADLINE
from orthonar.training.record import Evaluation

STUDY = replace(
    TINY, tasks=TINY.tasks[:1], rates=(1e-3,), rate_seeds=(), seeds=tuple(range(8)),
    sides={**HEADLINE, "ns1": ELIMINATION["ns1"]},
)  # fmt: skip


def records():
    """Runs that escape at their second evaluation or never, one of them diverged at its first."""
    made = []
    for i, config in enumerate(STUDY.runs([])):
        accuracies = (0.1, 0.9) if i % 3 else (0.1, 0.2)
        trace = [Evaluation(2 * j, a, 1.0, 1.0, 10.0 * j) for j, a in enumerate(accuracies, 1)]
        made.append(replace(record_of(config, accuracies[-1]), trace=trace))
    made[0] = replace(made[0], trace=[Evaluation(2, None, None, None, 10.0)], outcome="diverged")
    return made


def test_runs_come_once_with_their_covariates():
    made = records()
    runs = escape.runs_with_covariates([STUDY, STUDY], made)
    wanted = {r.identity for r in made if r.settings["read"].get("steps") != 1}
    assert sorted(runs["identity"]) == sorted(wanted) and len(wanted) == 16
    assert runs.groupby("orthogonalized").size().to_dict() == {0.0: 8, 1.0: 8}
    diverged = runs[runs["identity"] == made[0].identity].iloc[0]
    assert diverged["left_step"] == 2 and runs["left_step"].notna().sum() == 1
    assert len(hazards.run_intervals(runs)) == 16 * 2 - 1, "a diverged run leaves at its last evaluation"
    assert escape.runs_with_covariates([STUDY], []).empty


def test_a_model_reads_as_factors_and_powers():
    fitted = hazards.fit(escape.runs_with_covariates([STUDY], records()), "orthogonalized + np.log(lr)")
    fitted.loc["orthogonalized", ["ratio", "low", "high", "p"]] = 4.0, 2.0, 8.0, 0.01
    fitted.loc["np.log(lr)", ["ratio", "low", "high", "p"]] = np.exp([3.0, 2.0, 4.0]).tolist() + [0.001]
    text = escape.hazard_text(fitted)
    assert text.loc["orthogonalized read", ["is a", "estimate"]].tolist() == ["factor", "4 [2, 8]"]
    assert text.loc["log learning rate", ["is a", "estimate"]].tolist() == ["power", "3 [2, 4]"]
    fitted.loc["np.log(lr)", ["ratio", "low", "high"]] = np.nan
    assert escape.hazard_text(fitted).loc["log learning rate", "estimate"] == "cannot be told"


def test_what_is_behind_a_term():
    table = hazards.fit(escape.runs_with_covariates([STUDY], records()), "orthogonalized + np.log(lr)")
    runs = escape.runs_with_covariates([STUDY], records())
    assert table.loc["np.log(lr)", "run_intervals"] == 31 and table.loc["orthogonalized", "run_intervals"] < 31
    assert table.loc["np.log(lr)", "events"] == runs["escape_step"].notna().sum()
    assert np.isnan(table.loc["np.log(lr)", "effect"]), "with one rate alone nothing is told of it"


def waiting(orthogonalized, embedding_std, escapes, count=40):
    """Runs of a read and an embedding, of which so many escape at the first and at the second of three evaluations."""
    steps = [*(escapes * [10]), *(escapes * [20])]
    steps = np.random.default_rng(7 + escapes).permutation(steps + (count - len(steps)) * [np.nan])
    return pd.DataFrame({
        "orthogonalized": orthogonalized, "embedding_std": embedding_std, "escape_step": steps, "steps": 30,
        "eval_every": 10, "seed": range(count),
    })  # fmt: skip


def test_the_answer_is_of_the_read_and_of_the_embeddings_that_were_run():
    of_reads = pd.concat([waiting(0.0, 1.0, 1), waiting(1.0, 1.0, 6)], ignore_index=True)
    ratio, low, high = hazards.hazard_ratio(*(of_reads[of_reads["orthogonalized"] == x] for x in (0, 1)))[:3]
    assert escape.answer(of_reads) == (
        f"With the orthogonalized read the hazard of escape is {ratio:.2g} [{low:.2g}, {high:.2g}] times the raw "
        "read's (95 % interval, by itself, which takes each seed as one draw; 12 escapes in 102 run-intervals with it)."
    )
    small = pd.concat([waiting(0.0, 0.05, 6), waiting(1.0, 0.05, 7)], ignore_index=True)
    both = escape.answer(pd.concat([of_reads, small], ignore_index=True))
    category = pd.concat([of_reads.assign(small=0.0), small.assign(small=1.0)], ignore_index=True)
    ratio = hazards.fit(category, "orthogonalized + small").loc["small", "ratio"]
    assert f"from an embedding of std 0.05 it is {ratio:.2g} [" in both and "times that from 1 (" in both
    assert "each by itself, which take each seed as one draw; 40 escapes in" in both
    alike = pd.concat([waiting(0.0, 1.0, 3), waiting(1.0, 1.0, 3).assign(seed=range(39, -1, -1))], ignore_index=True)
    assert "times the raw read's (no difference is shown) (95 %" in escape.answer(alike)
    never = pd.concat([waiting(0.0, 1.0, 0), waiting(1.0, 1.0, 3)], ignore_index=True)
    assert "cannot be told" in escape.answer(never)


def test_a_cell_of_a_few_runs_does_not_carry_the_model():
    studies = [PRESETS[name]["paper"] for name in ("initialisation", "replication", "schedule", "batch-size")]
    made = [record_of(config, 0.9) for study in studies for config in study.runs([])]
    with pytest.raises(ValueError, match="differing: there is no 'lr', only embedding_std, schedule"):
        escape.same_recipe(escape.runs_with_covariates(studies, made), "lr")
    small_and_read = [
        r for r in made if r.settings["embedding_std"] != 1 and r.settings["read"]["name"] == "NewtonSchulzRead"
    ]
    few = [r for r in made if r not in small_and_read[7:]]
    for records, sizes in ((made, 4 * [16]), (few, 3 * [16])):
        same = escape.same_recipe(escape.runs_with_covariates(studies, records))
        assert same.groupby(["orthogonalized", "embedding_std"]).size().tolist() == sizes
        assert set(same["steps"]) == {2000} and set(same["schedule"]) == {"cosine"}


def test_both_schedules_are_of_one_embedding_and_one_budget():
    studies = [PRESETS[name]["paper"] for name in ("initialisation", "replication", "schedule", "anneal", "batch-size")]
    made = [record_of(config, 0.9) for study in studies for config in study.runs([])]
    for records, sizes in ((made, 4 * [16]), (made[:64], 2 * [16])):
        runs = escape.runs_with_covariates(studies, records)
        of_another = runs.assign(schedule="another", identity="another " + runs["identity"])
        same = escape.same_recipe(pd.concat([runs, of_another], ignore_index=True), "schedule")
        assert same.groupby(["orthogonalized", "constant_rate"]).size().tolist() == sizes
        assert set(same["steps"]) == {2000} and set(same["embedding_std"]) == {1.0}
        assert same["constant_rate"].eq(same["schedule"] == "constant").all()
    assert escape.schedules_answer(same) == "", "of one schedule there is nothing to put together"


def test_what_both_schedules_say_together_takes_a_seed_as_one_draw():
    cells = [waiting(read, 1.0, escapes).assign(constant_rate=rate, schedule=f"{rate:g}")
             for read, rate, escapes in ((0.0, 0.0, 2), (0.0, 1.0, 5), (1.0, 0.0, 6), (1.0, 1.0, 12))]  # fmt: skip
    runs = pd.concat(cells, ignore_index=True)
    told = escape.schedules_answer(runs)
    by_seed = hazards.fit(runs, "orthogonalized + constant_rate")
    for term, of in (("orthogonalized", "the raw read's"), ("constant_rate", "that with the cosine")):
        ratio, low, high = by_seed.loc[term, ["ratio", "low", "high"]]
        assert f"is {ratio:.2g} [{low:.2g}, {high:.2g}] times {of}" in told
    assert "take each seed as one draw; 50 escapes in 405 run-intervals)" in told
    never = runs[(runs["orthogonalized"] == 1) | runs["escape_step"].isna()]
    assert "cannot be told" in escape.schedules_answer(never)


def test_runs_by_another_optimizer_or_of_another_task_are_of_another_recipe():
    muon, study = PRESETS["muon"]["paper"], PRESETS["replication"]["paper"]
    made = [record_of(config, 0.9) for config in study.runs([])]
    others = [record_of(config, 0.9) for config in muon.runs([]) if config.settings()["optimizer"] == "Muon"]
    table = pd.concat(
        [escape.runs_with_covariates([study], made), escape.runs_with_covariates([muon], others)], ignore_index=True
    )
    table = pd.concat([table, table.assign(frac_noise=0.9)], ignore_index=True)
    same = escape.same_recipe(table)
    assert set(same["optimizer"]) == {"AdamW"} and set(same["frac_noise"]) == {0.8}
    assert sorted(same["identity"]) == sorted(r.identity for r in made)
