"""Solved runs along one setting of a study's tasks, from records that never were."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from tiny import TINY, record_of

from orthonar.report import words
from orthonar.report.figures import swept as plots
from orthonar.report.tables import swept
from orthonar.study.sides import HEADLINE

SHARES = (0.5, 0.0)
NOISE = replace(
    TINY, tasks=tuple(TINY.tasks[0] | {"frac_noise": share} for share in SHARES), rates=(1e-3,), rate_seeds=(),
    seeds=tuple(range(8)),
)  # fmt: skip
SETTING = "frac_noise", "share of noise"


pytestmark = pytest.mark.usefixtures("figures_closed")


def records(seeds=NOISE.seeds):
    """With noise the second side solves all its runs and the first none; without it the first all, the second two."""
    made = []
    for config in NOISE.runs([]):
        second = config.read != HEADLINE["baseline"].settings["read"]
        solved = second != (config.frac_noise == 0) or second and config.seed < 2
        made += [record_of(config, 0.9 if solved else 0.1)] if config.seed in seeds else []
    return made


def test_solved_runs_along_a_setting():
    table = swept.solved_along(NOISE, records(), "frac_noise")
    assert table["frac_noise"].tolist() == [0.5, 0.5, 0, 0] and table["runs"].tolist() == 4 * [8]
    assert table["solved"].tolist() == [0, 8, 8, 2] and table["value"].tolist() == [0, 1, 1, 0.25]
    drawn = plots.solved_along(table, "frac_noise", NOISE.sides, "a title")
    assert [c.get_label() for c in drawn.containers] == ["baseline (8 runs each)", "orthogonalized (8 runs each)"]
    assert [line.get_ydata().tolist() for c in drawn.containers for line in c.lines[:1]] == [[0, 100], [100, 25]]
    nothing = swept.solved_along(NOISE, [], "frac_noise")
    assert nothing["runs"].tolist() == 4 * [0]
    assert words.NOT_RUN in [t.get_text() for t in plots.solved_along(nothing, "frac_noise", NOISE.sides, "").texts]


def test_the_sides_beside_each_other():
    text = swept.beside(NOISE, records(), "frac_noise")
    assert text.loc["0.5", ["baseline", "orthogonalized", "alone"]].tolist() == ["0 of 8", "8 of 8", "0, 8"]
    assert text.loc["0.5", "Fisher p"] == words.p_text(2 / 12870) and text.loc["0.5", "McNemar p"] == "0.0078"
    assert text.loc["0", "alone"] == "6, 0" and len(text.columns) <= 6
    told = swept.side_answer(NOISE, records(), *SETTING)
    assert told == (
        "Of 2 values of the share of noise judged (0.5, 0), orthogonalized solves more runs than baseline only at 0.5 "
        "by more than chance explains (exact McNemar test in pairs, each by itself; by Holm's correction over "
        "the values at 0.5)."
    ), "fewer at 0 is not more"


def test_a_side_against_itself_at_the_first_value():
    text = swept.against_the_first(NOISE, records(), "frac_noise")
    assert text.index.tolist() == [("baseline", "0"), ("orthogonalized", "0")]
    assert text["solved"].tolist() == ["0 of 8, 8 of 8", "8 of 8, 2 of 8"]
    assert text["alone"].tolist() == ["0, 8", "6, 0"]
    assert swept.value_answers(NOISE, records(), *SETTING) == [
        "Along the share of noise baseline solves 0 of 8 at 0.5, 8 of 8 at 0; against 0.5 more than chance explains "
        "at 0 (exact McNemar test in pairs).",
        "Along the share of noise orthogonalized solves 8 of 8 at 0.5, 2 of 8 at 0; against 0.5 fewer, by more "
        "than chance explains at 0 (exact McNemar test in pairs).",
    ]


def test_seeds_that_the_sweep_does_not_ask_for_do_not_count():
    """Of one value other studies may have more: a difference would be found there sooner."""
    more = replace(NOISE, tasks=NOISE.tasks[:1], seeds=tuple(range(8, 12)))
    solved = records() + [record_of(config, 0.9) for config in more.runs([])]
    assert swept.beside(NOISE, solved, "frac_noise").equals(swept.beside(NOISE, records(), "frac_noise"))
    assert swept.value_answers(NOISE, solved, *SETTING) == swept.value_answers(NOISE, records(), *SETTING)


def test_a_sweep_that_is_not_whole_says_so():
    """The order of a sweep: a seed at a time over all cells; and whole cells that are missing."""
    few = records(seeds=range(7))
    assert "not told yet: at none of 2 values" in swept.side_answer(NOISE, few, *SETTING)
    assert swept.value_answers(NOISE, few, *SETTING)[0].endswith("against 0.5 too few to tell.")
    odd = [r for r in records() if r.settings["frac_noise"] or r.settings["seed"] < 4]
    told = swept.value_answers(NOISE, odd, *SETTING)[0]
    assert "solves 0 of 4 at 0.5, 4 of 4 at 0; against 0.5 too few to tell." in told, "the seeds that both have"
    on_gpu = [
        replace(r, settings=r.settings | {"device": "cuda"}) if r.settings["frac_noise"] else r for r in records()
    ]
    assert "(Fisher's exact test)" in swept.value_answers(NOISE, on_gpu, *SETTING)[0]
    one = [r for r in records() if r.settings["frac_noise"]]
    assert swept.value_answers(NOISE, one, *SETTING) == []
    assert swept.side_answer(NOISE, one, *SETTING) == (
        "Where along the share of noise orthogonalized solves more runs than baseline is not told yet: of 2 values "
        "only at 0.5 are 8 runs of either there."
    )
    assert (swept.against_the_first(NOISE, one, "frac_noise")["solved"] == words.NOT_RUN).all()
    assert (swept.beside(NOISE, [], "frac_noise")["baseline"] == words.NOT_RUN).all()


def test_how_soon_runs_escape_along_a_setting():
    """Where both sides solve all they may still differ in when; a run that never escapes is later than any."""
    made = []
    for config in NOISE.runs([]):
        second = config.read != HEADLINE["baseline"].settings["read"]
        late = config.frac_noise and not second
        record = record_of(config, 0.9)
        earlier = replace(record.trace[0], step=config.steps // 2, accuracy=0.1 if late else 0.9)
        made.append(replace(record, trace=[earlier, *record.trace]))
    text, last, half = swept.sooner(NOISE, made, "frac_noise"), config.steps, config.steps // 2
    assert text.loc["0.5", ["median", "sooner", "stratified p"]].tolist() == [f"{last}, {half}", "0, 8", "0.0078"]
    assert text.loc["0", ["median", "sooner", "stratified p"]].tolist() == [f"{half}, {half}", "0, 0", "none differs"]
    assert text.loc["0", "log-rank p"] == "1", "all at one evaluation"
    assert swept.sooner_answer(NOISE, made, *SETTING) == (
        "Of 2 values of the share of noise judged (0.5, 0), orthogonalized escapes sooner than baseline only at 0.5 "
        "by more than chance explains (log-rank test stratified by seed, each by itself; by Holm's correction over the "
        "values at 0.5); at 0 nothing could be, since no pair differs."
    )
    seven = replace(NOISE, tasks=tuple({**NOISE.tasks[0], "frac_noise": f} for f in (0.5, 0, 0.1, 0.2, 0.3, 0.4, 0.6)))
    others = [record_of(c, 0.9) for c in seven.runs([]) if c.frac_noise not in (0.5, 0)]
    told = swept.sooner_answer(seven, made + others, *SETTING)
    assert "only at 0.5" in told and told.partition("; at 0,")[0].endswith("over the values at none)"), (
        "seven times 0.0078"
    )
    alike = [record_of(config, 0.9) for config in NOISE.runs([])]
    told = swept.sooner_answer(NOISE, alike, *SETTING)
    assert "at none is it shown" in told and told.endswith("; at 0.5, 0 nothing could be, since no pair differs.")
    _, ax = plt.subplots()
    plots.escapes_along(swept.escapes_along(NOISE, records(), "frac_noise"), "frac_noise", NOISE.sides, "a title", ax)
    filled, hollow = (
        [line for line in ax.lines if line.get_label() == "orthogonalized"],
        [line for line in ax.lines if line.get_markerfacecolor() == "none"],
    )
    assert [len(line.get_xdata()) for line in filled + hollow] == [10, 8, 6]
    assert ax.get_yticklabels()[-1].get_text() == "never"
    assert len(swept.escapes_along(NOISE, [], "frac_noise")) == 0
    assert swept.sooner(NOISE, [], "frac_noise")["median"].tolist() == 2 * [words.NOT_RUN]
