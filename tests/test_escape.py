"""The table of what moves the hazard of escape: which runs it takes, and how a fitted model reads."""

from dataclasses import replace

import numpy as np
import pandas as pd
from tiny import TINY, record_of

from orthonar.report import hazards
from orthonar.report.seeds import PICKED_ON
from orthonar.report.tables import escape
from orthonar.report.tables.runs import study_runs
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
    steps += (count - len(steps)) * [np.nan]
    return pd.DataFrame({
        "orthogonalized": orthogonalized, "embedding_std": embedding_std, "escape_step": steps, "steps": 30,
        "eval_every": 10,
    })  # fmt: skip


def test_the_answer_is_of_the_read_and_of_the_embeddings_that_were_run():
    of_reads = pd.concat([waiting(0.0, 1.0, 1), waiting(1.0, 1.0, 6)], ignore_index=True)
    ratio, low, high = hazards.hazard_ratio(*(of_reads[of_reads["orthogonalized"] == x] for x in (0, 1)))
    assert escape.answer(of_reads) == (
        f"With the orthogonalized read the hazard of escape is {ratio:.2g} [{low:.2g}, {high:.2g}] times the raw "
        "read's (95 % interval, by itself; 12 escapes in 102 run-intervals with it)."
    )
    small = pd.concat([waiting(0.0, 0.05, 6), waiting(1.0, 0.05, 7)], ignore_index=True)
    both = escape.answer(pd.concat([of_reads, small], ignore_index=True))
    category = pd.concat([of_reads.assign(small=0.0), small.assign(small=1.0)], ignore_index=True)
    ratio = hazards.fit(category, "orthogonalized + small").loc["small", "ratio"]
    assert f"from an embedding of std 0.05 it is {ratio:.2g} [" in both and "times that from 1 (" in both
    assert "each by itself; 40 escapes in" in both
    alike = pd.concat([waiting(0.0, 1.0, 3), waiting(1.0, 1.0, 3)], ignore_index=True)
    assert "times the raw read's (no difference is shown) (95 %" in escape.answer(alike)
    never = pd.concat([waiting(0.0, 1.0, 0), waiting(1.0, 1.0, 3)], ignore_index=True)
    assert "cannot be told" in escape.answer(never)


def test_a_cell_of_a_few_runs_does_not_carry_the_model():
    studies = [PRESETS[name]["paper"] for name in ("initialisation", "replication", "schedule", "batch-size")]
    made = [record_of(config, 0.9) for study in studies for config in study.runs([])]
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
        same = escape.same_recipe(escape.runs_with_covariates(studies, records), "schedule")
        assert same.groupby(["orthogonalized", "constant_rate"]).size().tolist() == sizes
        assert set(same["steps"]) == {2000} and set(same["embedding_std"]) == {1.0}
        assert same["constant_rate"].eq(same["schedule"] == "constant").all()
    assert escape.schedules_answer(same) == "", "of one schedule there is nothing to put together"


def test_what_both_schedules_say_together_takes_a_seed_as_one_draw():
    cells = [waiting(read, 1.0, escapes).assign(constant_rate=rate, schedule=f"{rate:g}")
             for read, rate, escapes in ((0.0, 0.0, 2), (0.0, 1.0, 5), (1.0, 0.0, 6), (1.0, 1.0, 12))]  # fmt: skip
    runs = pd.concat([cell.assign(seed=range(40)) for cell in cells], ignore_index=True)
    told = escape.schedules_answer(runs)
    by_seed = hazards.fit(runs, "orthogonalized + constant_rate", groups="seed")
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


def test_escapes_in_equal_time():
    """Of the raw runs half escape at the last of four steps; so soon the other read, three times slower, is at 1."""
    made = []
    for config in STUDY.runs([]):
        raw = config.read == HEADLINE["baseline"].settings["read"]
        at = 4 if raw else 1 if config.seed < 3 else 2
        escaped = config.seed < 4 or not raw
        trace = [Evaluation(s, 0.9 if escaped and s >= at else 0.1, 1.0, 1.0, float(s)) for s in (1, 2, 4)]
        made.append(replace(record_of(config, trace[-1].accuracy), trace=trace))
    runs = study_runs(STUDY, made)
    on_both = {"A": {"baseline": 2.0, "orthogonalized": 4.0}, "B": {"baseline": 2.0, "orthogonalized": 5.0}}
    told, on_b = escape.equal_time_answer(runs, on_both)
    assert told == (
        "In the 8 seconds that 4 steps of baseline take (A), orthogonalized comes to step 2: by then 4 of 8 runs of "
        "baseline and 8 of 8 runs of orthogonalized have reached 80 % (exact McNemar test in pairs, p = 0.12; the "
        "cosine of the latter goes on after it)."
    )
    constant = runs.assign(schedule="constant", side="constant " + runs["side"])
    names = tuple(f"constant {side}" for side in HEADLINE)
    [told] = escape.equal_time_answer(constant, {"A": dict(zip(names, (2.0, 4.0)))}, names)
    assert "8 of 8 runs of constant orthogonalized" in told and told.endswith("p = 0.12)."), "nothing is cut short"
    assert "take (B), orthogonalized comes to step 1: by then 4 of 8 runs of baseline and 0 of 8" in on_b
    fewer = runs[(runs["side"] == "baseline") | (runs["seed"] >= 2)]
    [told] = escape.equal_time_answer(fewer, {"A": on_both["A"]})
    assert "by then 2 of 6 runs of baseline and 6 of 6 runs of orthogonalized" in told, "the seeds that are tested"
    assert "(of fewer than 8 runs no test; the cosine" in told
    elsewhere = fewer.assign(device=fewer["device"].mask(fewer["side"] == "baseline", "cuda"))
    [told] = escape.equal_time_answer(elsewhere, {"A": on_both["A"]})
    assert "by then 4 of 8 runs of baseline and 6 of 6" in told, "no pairs, all runs"
    swapped = escape.equal_time_answer(runs, {"B": on_both["B"]}, ("orthogonalized", "baseline"))
    assert swapped == [on_b], "no run is said to go on beyond its budget"
    assert escape.equal_time_answer(runs, {"A": {"baseline": 2.0}}) == escape.equal_time_answer(runs[:8], {}) == []


def test_equal_time_is_not_of_seeds_that_a_side_was_picked_on():
    seeds = range(18)
    side = {"steps": 100, "schedule": "cosine", "device": "cpu", "solved": False, "seed": seeds}
    raw = pd.DataFrame(side | {"side": "baseline", "escape_step": np.nan})
    other = pd.DataFrame(side | {"side": "degree8", "escape_step": [10 if seed < 12 else np.nan for seed in seeds]})
    paces = {"A": {"baseline": 1.0, "degree8": 2.0}}
    [told] = escape.equal_time_answer(pd.concat([raw, other]), paces, ("baseline", "degree8"))
    assert "0 of 9 runs of baseline and 3 of 9 runs of 8 products" in told
    assert "(seeds 9 to 17: exact McNemar test in pairs, p = 0.25;" in told
    only_picked = pd.concat([raw, other[other["seed"] < 9]])
    assert escape.equal_time_answer(only_picked, paces, ("baseline", "degree8")) == []
    assert PICKED_ON.keys() <= {
        name for scales in PRESETS.values() for study in scales.values() for name in study.sides
    }


def test_a_longer_schedule_in_sentences():
    study = escape.longer_schedule()
    assert escape.longer_answers([record_of(c, 0.9) for c in study.runs([]) if c.steps == 2000]) == []
    made = []
    for config in study.runs([]):
        escaped = {2000: config.seed == 11, 4000: config.seed > 16}[config.steps]
        at = 1800 if config.seed % 2 else 2200
        trace = [Evaluation(s, 0.9 if escaped and s >= at else 0.1, 1.0, 1.0, 1.0) for s in (1800, 2200, config.steps)]
        made.append(replace(record_of(config, 0.9 if escaped else 0.1), trace=trace))
    counted, when = escape.longer_answers(made)
    assert "seeds 11 to 26: baseline solves 1 of 16, baseline over 4,000 steps solves 10 of 16" in counted
    assert when.startswith("5 of the 16 runs over 4,000 steps reach 80 % by step 2,000, half of the 16 by step 2,200 (")
    never = [replace(r, trace=[replace(line, accuracy=0.1) for line in r.trace], outcome="plateau") for r in made]
    assert "half of the 16 never" in escape.longer_answers(never)[1]
