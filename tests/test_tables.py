"""The notebooks' tables: what is recorded, what is not, and what was published beside it."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny import TASKS, TINY, record_of

from orthonar import Constant, KeyDoor, RunConfig
from orthonar.report import style, survival, words
from orthonar.report.figures import cost as cost_plots
from orthonar.report.figures import headline as plots
from orthonar.report.published import HEADLINE, POOLED_FISHER_P, REPLICATION, published_cells
from orthonar.report.seeds import seeds_text
from orthonar.report.tables import compared, rates
from orthonar.report.tables import headline as tables
from orthonar.report.tables import runs as run_tables
from orthonar.report.words import NOT_RUN
from orthonar.study import sides
from orthonar.study.presets import PRESETS
from orthonar.training.record import Evaluation

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
        assert cell.device == "3 on a CPU (a)"


def test_what_a_scale_was_looked_for_with(capsys):
    style.show(run_tables.searched([]), "the search")
    assert capsys.readouterr().out == f"the search: {NOT_RUN}\n"
    runs = [TINY.run(task, side, 1e-2, 0) for task in TASKS for side in reversed(TINY.sides)]
    table = run_tables.searched(record_of(c, 0.25) for c in runs).reset_index()
    assert list(table["read"]) == len(TASKS) * ["baseline", "orthogonalized"]
    assert list(table["task"]) == sorted(table["task"]) and set(table["final (%)"]) == {25.0}
    assert set(table["between"]) == {f"{n} of {n}" for n in {len(record_of(c, 0.25).trace) for c in runs}}


def test_what_is_not_recorded_says_so():
    table = tables.headline(PRESETS["headline"]["paper"], [])
    assert (table[["accuracy (%)", "solved"]] == NOT_RUN).all(axis=None)
    assert (table["rate"] == "not chosen").all()
    assert (tables.beside_published(PRESETS["headline"]["paper"], [])["solved here"] == "").all()
    assert (tables.comparison(TINY, [])["solved"] == NOT_RUN).all()
    assert (tables.escape_comparison(TINY, [])["median"] == NOT_RUN).all()
    assert (tables.endings(TINY, []) == 0).all(axis=None)
    assert (rates.choices(TINY, [])["one rate for the task"] == "not chosen").all()
    assert tables.different_rates(TINY, []) == []
    assert (rates.by_rate(TINY, []) == NOT_RUN).all(axis=None)
    assert all(cell.mean is None and cell.device == "" for cell in tables.cells(TINY, []))


def test_every_published_number_is_beside_its_cell():
    table = tables.beside_published(PRESETS["headline"]["paper"], []).reset_index()
    rows = table[table["task"] == "vocabulary 96, length 768, batch 64"]
    assert rows["source"].tolist() == ["post", "follow-up"] * 2
    assert rows["solved"].tolist() == ["4 of 24", "1 of 8", "14 of 24", "5 of 8"]
    assert rows["mean (%)"].tolist() == ["(22 to 23)", "22", "(68 to 69)", "67"]
    assert len(tables.published_points(PRESETS["headline"]["paper"])) == 8
    assert published_cells(80, 512, 16) == [REPLICATION[0]]
    assert published_cells(80, 512, 64) == [HEADLINE[0]]
    assert published_cells(28, 96, 16) == []
    theirs = REPLICATION[0]
    neither, baseline, other, both = theirs.pairs
    assert (baseline + both, other + both, sum(theirs.pairs)) == (theirs.solved("baseline"), 9, theirs.seeds)


def test_solved_counts_are_compared_and_means_without_spread_are_not():
    records = all_records(REPLICATED)
    row = tables.beside_published(REPLICATED, records).reset_index().iloc[0]
    assert (row["solved here"], row["solved"]) == ("8 of 16", "3 of 16")
    assert row["Fisher p"] == "0.14"
    study = replace(PRESETS["headline"]["paper"], tasks=({"vocab_size": 80, "seq_len": 512},))
    row = tables.beside_published(study, all_records(study)).reset_index().iloc[0]
    assert (row["mean (%)"], row["Fisher p"]) == ("(69.1)", "")


def test_all_sides_together_beside_what_was_published():
    schedule = PRESETS["schedule"]["paper"]
    [said] = tables.together_beside_published([REPLICATED, schedule], [record_of(r, 0.1) for r in REPLICATED.runs([])])
    assert said.startswith("Over the 2 experiments that both ran, the follow-up's solve 12 of 32 runs and ours 0 of 32")
    assert "fewer, by more than chance explains" in said
    twice = tables.together_beside_published([REPLICATED, REPLICATED], all_records(REPLICATED))
    assert twice == tables.together_beside_published([REPLICATED], all_records(REPLICATED)), "a side counts once"
    assert tables.together_beside_published([REPLICATED.only(["baseline"])], all_records(REPLICATED)) == [], "one side"
    few = [r for r in all_records(REPLICATED) if r.settings["seed"] < 18]
    assert tables.together_beside_published([REPLICATED, schedule], few) == [], "7 runs a side"


def test_the_replication_as_published():
    table = tables.published_replication()
    assert table.loc["vocabulary 80, length 512, batch 16"].tolist() == ["3, 9 of 16", "0, 6", "0.031", "0.066", "0.02"]
    assert float(table.loc["both", "Fisher p"]) == pytest.approx(POOLED_FISHER_P, abs=5e-4)


@pytest.mark.parametrize("other", [{"embedding_std": 0.065}, {"schedule": Constant()}, {"steps": 500}])
def test_nothing_published_stands_beside_another_recipe(other):
    study = replace(REPLICATED, settings=REPLICATED.settings | other)
    assert len(tables.beside_published(REPLICATED, [])) == 2
    assert tables.beside_published(study, []).empty and tables.published_points(study).empty


def test_nothing_published_stands_beside_another_rate():
    study = replace(PRESETS["headline"]["paper"], tasks=({"vocab_size": 96, "seq_len": 768},), rates=(3e-3, 1e-2))

    def sources(study, best):
        records = [record_of(run, 0.9 if run.lr == best else 0.1) for run in study.runs([])]
        return tables.beside_published(study, records)["source"].unique().tolist()

    assert sources(study, 3e-3) == ["post", "follow-up"]
    assert sources(study, 1e-2) == ["post"], "the follow-up's rate was not chosen"
    assert sources(replace(study, rates=(3e-3,)), 3e-3) == ["follow-up"], "the post chose its rates"
    assert tables.beside_published(PRESETS["batch-size"]["paper"], []).empty, "the post's batch, at a constant rate"


@pytest.mark.parametrize("name", ["initialisation", "schedule"])
@pytest.mark.parametrize("recorded", [False, True], ids=["nothing", "everything"])
def test_any_sides_have_their_tables(name, recorded):
    study = PRESETS[name]["paper"]
    records = all_records(study) if recorded else []
    assert list(tables.headline(study, records).index.get_level_values("read")) == list(study.sides)
    others = list(study.sides)[1:]
    for table in (tables.comparison, tables.escape_comparison):
        assert list(table(study, records).index.get_level_values("read")) == others
    assert len(tables.published_points(study)) == len(study.sides) * (next(iter(study.sides)) in _PUBLISHED)
    assert tables.endings(study, records).sum(axis=1).tolist() == [16 * recorded] * len(study.sides)
    beside = tables.beside_published(study, records)["solved here"]
    assert (beside != "").tolist() == [recorded] * len(beside)
    panel = {"all": {tables.cells(study, [])[0].task: study.sides.values()}}
    figure = plots.headline(panel, tables.study_runs(study, records), tables.published_points(study))
    assert any(text.get_text() == NOT_RUN for ax in figure.axes for text in ax.texts) != recorded
    plt.close("all")


_PUBLISHED = ("baseline", "baseline, 4,000 steps")


def test_what_was_published_of_the_schedules_stands_beside_them():
    table = tables.beside_published(PRESETS["schedule"]["paper"], [])
    assert table["solved"].tolist() == ["13 of 16", "8 of 16", "13 of 16"]


@pytest.mark.parametrize("count", [0, 7, 24])
def test_tables_fit_the_page(count):
    for name, scale in (("headline", "paper"), ("headline", "pocket"), ("replication", "paper"), ("schedule", "paper")):
        study = PRESETS[name][scale]
        records = [r for r in all_records(study) if r.settings["seed"] < count or r.settings["seed"] >= 100]
        for table in (
            tables.headline, tables.beside_published, tables.endings, tables.comparison, tables.escape_comparison,
            rates.by_rate, rates.choices,
        ):  # fmt: skip
            assert style.text_width(table(study, records)) <= words.PAGE, (name, scale, table.__name__)


def test_devices_in_a_few_words():
    names = [
        "AMD EPYC, 1 thread",
        "Intel(R) Xeon(R) Processor @ 2.50GHz, 1 thread",
        "NVIDIA H100 80GB HBM3, 2 runs at once",
    ]
    runs = pd.DataFrame({"device": ["cpu", "cpu", "cuda:0"], "device_name": names})
    assert words.devices(runs) == "2 on a CPU (AMD EPYC, Intel Xeon), 1 on a GPU (NVIDIA H100)"
    assert words.devices(runs.iloc[:0]) == ""
    assert words.alone(runs).tolist() == [True, True, False], "the seconds of runs side by side are those of all"
    assert words.device_kinds(runs) == "CPUs and GPUs"
    assert words.device_kinds(runs.assign(device=["mps", "cuda:1", "cpu"])) == "CPUs and GPUs and MPSs"


def test_what_is_not_run_is_one_line(capsys):
    table = pd.DataFrame(
        {"solved": ["1 of 2", words.NOT_RUN, words.NOT_RUN]}, ["baseline", "ns0_normalise_only", "ns3"]
    )
    style.show(table, "the variants")
    out = capsys.readouterr().out
    assert out.startswith("the variants\n") and out.endswith("not run yet: normalised, no step; 3 steps\n")
    assert "1 of 2" in out and out.count(words.NOT_RUN) == 1
    style.show(table.iloc[1:], "the variants")
    assert capsys.readouterr().out == "the variants: not run yet\n"


def test_every_side_has_one_look_and_every_look_one_side():
    every = {side for study in _studies() for side in study.sides.values()}
    assert len({side.name for side in every}) == len(every), "one object per name"
    drawn = {side.name: (side.look.color, side.look.marker) for side in every}
    drawn |= {name: cost_plots._LOOKS[name][:2] for name in ("plain", "stock")}
    assert len(set(drawn.values())) == len(drawn)
    assert cost_plots._LOOKS["raw"][:2] == drawn["baseline"]
    with pytest.raises(ValueError, match="twice"):
        sides.by_name(sides.BASELINE, sides.BASELINE)


def _studies():
    return [study for scales in PRESETS.values() for study in scales.values()]


def ended(config, *accuracies):
    record = record_of(config)
    trace = [Evaluation(10 * i, a, 1.0, 1.0, 1.0) for i, a in enumerate(accuracies, 1)]
    return replace(record, trace=trace, outcome="diverged" if accuracies[-1] is None else "plateau")


def test_how_runs_ended_is_read_from_their_traces():
    runs = [TINY.run(TASKS[0], "baseline", 1e-2, seed) for seed in TINY.seeds]
    records = [*all_records(TINY)]
    others = [r for r in records if r.identity not in {c.identity for c in runs}]
    mine = [ended(runs[0], 0.1, 0.9, 0.4), ended(runs[1], 0.1, 0.2, 0.01), ended(runs[2], 0.5, None)]
    table = run_tables.study_runs(TINY, [*others, *mine]).query("side == 'baseline'").iloc[:3]
    assert table["ended"].tolist() == ["collapsed", "at chance", "diverged"]
    assert table["outcome"].tolist() == ["plateau", "plateau", "diverged"], "the record keeps its word"
    assert table["collapse_step"].tolist()[0] == 30
    assert table["best"].tolist() == [0.9, 0.2, 0.5]
    row = tables.endings(TINY, [*others, *mine]).iloc[0]
    assert row.to_dict() == {"solved": 0, "unsolved": 0, "at chance": 1, "collapsed": 1, "diverged": 1}


def test_positions_that_share_their_answer_count_as_fewer():
    config = RunConfig(vocab_size=20, seq_len=64, noise_vocab_size=4, batch_size=8, validation_sequences=32, seed=5)
    tokens = np.concatenate([t.numpy() for t, _ in config.task.validation_set(0, 64, 64, "cpu")])
    targets = np.concatenate([t.numpy() for _, t in config.task.validation_set(0, 64, 64, "cpu")])
    counts = [
        ((tokens[row] == key) & (targets[row] >= 0)).sum() for row in range(len(tokens)) for key in config.task.keys
    ]
    wanted = 32 / 64 * sum(counts) ** 2 / sum(c * c for c in counts)
    assert run_tables.independent_positions(config) == pytest.approx(wanted)
    assert wanted < 32 / 64 * sum(counts)
    several = RunConfig(task=KeyDoor(doors=4, keys=4), batch_size=8, validation_sequences=32)
    [(_, targets)] = several.task.validation_set(0, 64, 64, "cpu")
    assert run_tables.independent_positions(several) == 32 / 64 * (targets >= 0).sum(), "a key's doors differ"


def test_a_mean_of_few_solved_runs_has_no_interval():
    """It hangs on whether the sample has such a run: bootstrap intervals of what has one in 24 hold it in 61 %."""
    few, enough = (pd.DataFrame({"accuracy": [0.9] * n + [0.1] * (24 - n), "outcome": "plateau"}) for n in (3, 4))
    assert compared.accuracy_text(few) == "20.0 (10 to 90)" and compared.accuracy_text(enough).startswith("23.3 [")
    pairs = [table.assign(seed=range(24), device="cpu", solved=table["accuracy"] > 0.5) for table in (few, enough)]
    none = pairs[0].assign(accuracy=0.1, solved=False)
    assert "(0 to 80)" in compared.compared(none, pairs[0])["gain (points)"]
    assert "[" in compared.compared(none, pairs[1])["gain (points)"]


def test_the_rate_for_a_task_and_that_for_task_and_read():
    def accuracy(config):
        best = 1e-3 if type(config.read).__name__ == "RawRead" else 1e-2
        return (0.5 if config.lr == best else 0.4) + (0.2 if config.lr == 1e-2 else 0)

    records = all_records(TINY, accuracy)
    assert tables.different_rates(TINY, records) == []
    records = all_records(TINY, lambda c: 0.9 if (c.lr == 1e-3) == (type(c.read).__name__ == "RawRead") else 0.3)
    choice = rates.choices(TINY, records).iloc[:2].to_numpy().tolist()
    own, task = ["0.001", "0.01"], ["no: a confound", "0.01"]  # of equally good rates the larger
    assert choice == [[lr, *task] for lr in own]
    assert "baseline at 0.001, orthogonalized at 0.01" in tables.different_rates(TINY, records)[0]
    table = tables.headline(TINY, records, "seeds at one rate per task")
    assert (table["rate"] == "0.01").all()
    assert table["solved"].tolist()[0] == NOT_RUN, "at the task's rate the baseline's seeds are not run"
    assert table["solved"].tolist()[1].startswith("3 of 3")
    with pytest.raises(ValueError, match="stage"):
        run_tables.study_runs(TINY, records, "rate")


def test_the_best_rates_in_a_sentence():
    best = {"baseline": 1e-3, "orthogonalized": 1e-2}
    records = all_records(
        TINY,
        lambda c: 0.9 if c.lr == best["baseline" if type(c.read).__name__ == "RawRead" else "orthogonalized"] else 0.1,
    )
    told = rates.answer(TINY, records)
    assert told.endswith(
        ": at learning rates 0.001, 0.01 baseline solves 2, 0 of 2 runs, orthogonalized solves 0, 2 of 2 runs; not one "
        "rate has the highest mean accuracy for all (0.001 for baseline, 0.01 for orthogonalized): read and rate "
        "change together."
    )
    alike = all_records(TINY, lambda c: 0.9 if c.lr == 1e-3 else 0.1)
    assert rates.answer(TINY, alike).endswith(
        ". No sign that the difference is one of rates: for each of them 0.001 has the highest mean accuracy. But "
        "these are 2 runs a rate, which were not tested against each other."
    )
    never = all_records(TINY, lambda c: 0.9 if c.lr == 1e-3 and type(c.read).__name__ != "RawRead" else 0.1 + c.lr)
    never = [r for r in never if r.settings["lr"] == 1e-3] + [r for r in alike if r.settings["lr"] != 1e-3]
    assert rates.answer(TINY, never).endswith("each other; of baseline, which solves none, it says little.")
    assert rates.answer(TINY, []).endswith(
        "not told yet of baseline (0 of 4 runs are recorded), orthogonalized (0 of 4 runs are recorded)."
    )
    of_one = [r for r in records if "RawRead" in str(r.settings["read"])]
    assert (
        "baseline solves 2, 0 of 2 runs; 0.001 has the highest mean" in (told := rates.answer(TINY, of_one))
        and "; not told yet of orthogonalized (0 of" in told
    )


def test_comparison_is_of_all_runs_and_in_pairs_of_those_that_have_a_partner():
    records = all_records(
        TINY, lambda c: 0.9 if c.read == TINY.sides["orthogonalized"].settings["read"] else 0.5 - 0.1 * c.seed % 1
    )
    missing = TINY.run(TASKS[0], "orthogonalized", 1e-2, 2).identity
    row = tables.comparison(TINY, [r for r in records if r.identity != missing]).iloc[0]
    assert (row["solved"], row["pairs"], row["alone"]) == ("0 of 3, 2 of 2", "2", "0, 2")
    assert row["McNemar p"] == "0.5"
    assert row["Fisher p"] == "0.1"


def test_the_direction_is_of_the_runs_that_are_tested():
    """The second side's share is higher over all runs, and lower in every pair that differs."""
    first = pd.DataFrame({"seed": range(40), "solved": [seed < 8 for seed in range(40)], "device": "cpu"})
    second = pd.DataFrame({"seed": range(8), "solved": [seed < 2 for seed in range(8)], "device": "cpu"})
    test = compared.tested(first, second)
    assert second["solved"].mean() > first["solved"].mean()
    assert (test.p, test.paired, test.more) == (2 / 2**6, True, -1)
    assert test.verdict == "fewer, by more than chance explains, taken by itself"
    strangers = compared.tested(first, second.assign(seed=second["seed"] + 40))
    assert not strangers.paired and strangers.more == 1 and strangers.verdict == "no difference is shown"


def test_a_seeds_runs_are_one_draw():
    """8 seeds of 5 runs each, of which one seed makes all the difference: that is one draw, not five pairs."""
    first = pd.DataFrame({"seed": np.repeat(range(8), 5), "solved": False, "device": "cpu"})
    second = first.assign(solved=first["seed"] == 3)
    test = compared.tested_by_seed(first, second)
    assert (test.p, test.paired, test.more) == (1, True, 1) and test.verdict == "no difference is shown"
    assert str(compared.tested_by_seed(second, first.assign(solved=first["seed"] < 0))) == (
        "exact sign-flip test by seed, p = 1"
    )
    once = first.iloc[::5], second.iloc[::5].assign(solved=[False, *7 * [True]])
    assert compared.tested_by_seed(*once).p == pytest.approx(compared.tested(*once).p)
    with pytest.raises(ValueError, match="^seed: "):
        compared.tested_by_seed(first, second.iloc[1:])


def test_one_run_tests_nothing():
    records = all_records(TINY, lambda c: 0.9 if c.read == TINY.sides["orthogonalized"].settings["read"] else 0.1)
    missing = {TINY.run(TASKS[0], "orthogonalized", 1e-2, seed).identity for seed in (1, 2)}
    kept = [r for r in records if r.identity not in missing]
    row, sooner = (table(TINY, kept).iloc[0] for table in (tables.comparison, tables.escape_comparison))
    assert (row["solved"], row["pairs"], row["Fisher p"], row["McNemar p"]) == ("0 of 3, 1 of 1", "1", "", "")
    assert (sooner["log-rank p"], sooner["stratified p"]) == ("", "")


def test_names_for_readers():
    names = ["ns1", "ns3", "degree4", "ns0_normalise_only", "blend_half", "ns5, constant rate"]
    wanted = [
        "1 step",
        "3 steps",
        "4 products",
        "normalised, no step",
        "blend half",
        "orthogonalized at a constant rate",
    ]
    assert [sides.title(name) for name in names] == wanted
    every = {side.name: side.title for study in _studies() for side in study.sides.values()}
    assert len(set(every.values())) == len(every)


@pytest.mark.parametrize(
    ("value", "text"), [(270.4, "270"), (12345, "12,000"), (0.0062, "0.0062"), (-1.44, "-1.4"), (4, "4"), (0, "0")]
)
def test_no_number_is_a_power_of_ten(value, text):
    assert words.significant(value) == text


@pytest.mark.parametrize(
    ("bounds", "text"),
    [((0.26, 9.9), "3.5 [0.26, 9.9]"), ((1.041, 11.9), "3.5 [1.04, 12]"), ((0.34, 0.998), "3.5 [0.34, 0.998]"),
     ((1.0012, 1.7), "3.5 [1.001, 1.7]"), ((1.0, 12.0), "3.5 [1, 12]")],
)  # fmt: skip
def test_a_bound_beside_1_is_told_from_it(bounds, text):
    assert words.estimate_text(3.518, *bounds) == text


def test_the_answer_names_its_test_and_says_when_nothing_is_shown():
    first, second = TINY.sides
    records = all_records(TINY, lambda c: 0.9 if c.read == TINY.sides[second].settings["read"] else 0.1)
    [answer, _] = tables.answers(TINY, records)
    task = words.task_label(**_sizes(TASKS[0]))
    assert answer.startswith(f"{task}, seeds 0 to 2: {first} solves 0 of 3, {second} solves 3 of 3: too few to tell")
    assert answer.endswith("too few to tell (of fewer than 8 runs no test).")
    many = replace(TINY, seeds=tuple(range(12)), tasks=TASKS[:1])
    solved = lambda c: 0.9 if c.read == TINY.sides[second].settings["read"] else 0.1  # noqa: E731
    records = [r if r.settings["seed"] else on_gpu(r) for r in all_records(many, solved)]
    mixed = [on_gpu(r) if "RawRead" in str(r.settings["read"]) else r for r in records]
    [in_pairs], [apart] = tables.answers(many, records), tables.answers(many, mixed)
    assert (
        "more than chance explains, taken by itself (exact McNemar test" in in_pairs
        and "(Fisher's exact test, p = 7.4e-07)" in apart
    )
    assert apart.endswith("; the first trained on GPUs, the other on CPUs and GPUs.") and "trained on" not in in_pairs
    fewer = [r for r in records if "RawRead" in str(r.settings["read"]) or r.settings["seed"] > 3]
    [unpaired] = tables.answers(many, fewer)
    assert f"seeds 4 to 11: {first} solves 0 of 8, {second} solves 8 of 8: more than chance" in unpaired
    strangers = [r for r in mixed if "RawRead" in str(r.settings["read"]) or r.settings["seed"] > 3]
    [apart] = tables.answers(many, strangers)
    assert f"{first} solves 0 of 12 (seeds 0 to 11), {second} solves 8 of 8 (seeds 4 to 11):" in apart
    assert tables.answers(TINY, []) == []


def test_the_answer_of_some_seeds_says_what_all_of_them_say():
    wide = replace(TINY, seeds=tuple(range(12)), tasks=TASKS[:1])
    records = all_records(wide, lambda c: 0.9 if c.read != TINY.sides["baseline"].settings["read"] else 0.1)
    [answer] = tables.answers(replace(wide, seeds=(0, 1, 2)), records)
    assert "solves 3 of 3" in answer and answer.endswith("; of all 12 seeds that both have 0 and 12.")
    assert "all recorded" not in tables.answers(wide, records)[0], "the seeds that rates are chosen on do not count"
    one_side = [r for r in records if "RawRead" in str(r.settings["read"]) or not 3 <= r.settings["seed"] < 12]
    assert "all recorded" not in tables.answers(replace(wide, seeds=(0, 1, 2)), one_side)[0]


@pytest.mark.parametrize(
    ("seeds", "text"),
    [
        ([3], "seed 3"),
        ([1, 0], "seeds 0 and 1"),
        (range(24), "seeds 0 to 23"),
        ([0, 1, 2, 7, 8], "seeds 0 to 2, 7 and 8"),
        ([], "no seeds"),
    ],
)
def test_seeds_in_words(seeds, text):
    assert seeds_text(seeds) == text


def _sizes(task):
    return {**task, "batch_size": TINY.settings["batch_size"]}


def on_gpu(record):
    return replace(record, settings=record.settings | {"device": "cuda"})


def test_where_solved_begins_is_a_choice():
    """The first side ends at 30, 40, ... %, the other at 10 points more."""
    study = replace(TINY, tasks=TASKS[:1], rate_seeds=(), rates=(1e-3,), seeds=tuple(range(8)))
    raw = study.sides["baseline"].settings["read"]
    made = all_records(study, lambda c: 0.3 + 0.1 * c.seed + (0 if c.read == raw else 0.1) - 1e-9 * (c.seed == 7))
    table = tables.at_levels(study, made, (0.25, 0.55, 0.95))
    assert table["baseline"].tolist() == ["8 of 8", "5 of 8", "1 of 8"]
    assert table["orthogonalized"].tolist() == ["8 of 8", "6 of 8", "2 of 8"]
    assert table["alone"].tolist() == ["0, 0", "0, 1", "0, 1"] and table["p"].tolist() == ["1", "1", "1"]
    apart = tables.at_levels(study, [on_gpu(r) if "RawRead" in str(r.settings["read"]) else r for r in made], (0.55,))
    assert apart.loc["55 %", ["alone", "p"]].tolist() == ["", "1"]
    assert tables.at_levels(study, made[:1], (0.5,)).loc["50 %"].tolist() == ["0 of 1", "0 of 0", "", ""]


def test_a_cpu_and_a_gpu_make_no_pair():
    first, second = TINY.sides
    records = all_records(TINY, lambda c: 0.9 if c.read == TINY.sides[second].settings["read"] else 0.1)
    theirs = [on_gpu(r) for r in records]
    mixed = [r if "RawRead" in str(r.settings["read"]) else g for r, g in zip(records, theirs)]
    row = tables.comparison(TINY, mixed).iloc[0]
    assert (row["solved"], row["pairs"], row["McNemar p"]) == ("0 of 3, 3 of 3", "0", "")
    assert tables.escape_comparison(TINY, mixed).iloc[0]["stratified p"] == ""
    assert tables.comparison(TINY, theirs).iloc[0]["pairs"] == "3"


def test_escapes_are_compared_by_pairs_beside_the_published():
    records = all_records(REPLICATED, lambda c: 0.9 if type(c.read).__name__ != "RawRead" or c.seed < 14 else 0.3)
    row = tables.escape_comparison(REPLICATED, records).iloc[0]
    assert (row["median"], row["sooner"], row["published log-rank"]) == ("none, 2000", "0, 13", "0.02 (follow-up)")
    assert row["stratified p"] == f"{2 * 0.5**13:.2g}"


def test_the_chosen_rate_is_marked_and_no_other():
    text = rates.by_rate(TINY, all_records(TINY, lambda c: 0.9 if c.lr == 1e-3 else 0.1))
    assert (text["0.001"] == "90.0, 2 of 2 *").all()
    assert (text["0.01"] == "10.0, 0 of 2").all()


@pytest.mark.parametrize("records", [[], all_records(TINY)], ids=["nothing", "everything"])
def test_figures_are_drawn_of_nothing_and_of_everything(records):
    runs, points = tables.study_runs(TINY, records), tables.published_points(TINY)
    panels = {"tiny": {cell.task: TINY.sides.values() for cell in tables.cells(TINY, records)}}
    figure = plots.headline(panels, runs, points)
    waiting = [text.get_text() for text in figure.axes[0].texts]
    assert waiting.count("not run yet") == (0 if records else 4)
    curves = {side: (TINY.sides[side], survival.kaplan_meier(of_side)) for side, of_side in runs.groupby("side")}
    assert len(plots.survival_curves(curves, "tiny").lines) == len(curves)
    ax = plots.learning_rates(tables.study_runs(TINY, records, "rates"), TINY.sides.values(), points, "tiny")
    assert any(("not run yet" in label.get_text()) == (not records) for label in ax.get_legend().get_texts())
    plt.close("all")
