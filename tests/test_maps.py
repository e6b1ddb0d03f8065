"""Maps: cells counted, what they say in a sentence, how they are drawn, and the follow-up's own map beside ours."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pytest
from tiny import record_of

from orthonar.report import claims, style
from orthonar.report.figures.maps import solved_map
from orthonar.report.tables import maps
from orthonar.study.presets import PRESETS
from orthonar.training.record import Evaluation, RunRecord

STUDY = PRESETS["basin-map"]["pocket"]
ESCAPES, STAYS, FALLS = (0.1, 0.9, 0.95), (0.1, 0.1, 0.1), (0.1, 0.9, 0.2)


def made(study, task: int, side: str, lr: float, seed: int, accuracies: tuple) -> RunRecord:
    config = study.run(study.tasks[task], side, lr, seed)
    record = record_of(config, accuracies[-1])
    steps = [config.steps * (i + 1) // len(accuracies) for i in range(len(accuracies))]
    record.trace[:] = [Evaluation(step, a, 1.0, 1.0, 1.0) for step, a in zip(steps, accuracies, strict=True)]
    return record


def cell(task: int, lr: float, raw: list, orthogonalized: list) -> list[RunRecord]:
    """A cell's runs, seed by seed."""
    sides = {"baseline": raw, "orthogonalized": orthogonalized}
    return [made(STUDY, task, side, lr, seed, a) for side, of in sides.items() for seed, a in enumerate(of)]


RECORDS = [
    *cell(0, 3e-3, 8 * [STAYS], [*5 * [ESCAPES], *3 * [STAYS]]),
    *cell(1, 1e-2, [*2 * [FALLS], ESCAPES, *5 * [STAYS]], [FALLS, *7 * [ESCAPES]]),
    *cell(2, 1e-3, 3 * [ESCAPES], []),  # not complete
]


def test_cells_are_counted():
    table = maps.cells(STUDY, RECORDS, "vocab_size")
    assert len(table) == 18 and set(table["planned"]) == {8}
    counted = table.set_index(["side", "vocab_size", "lr"])[["runs", "solved", "escaped", "collapsed"]]
    assert counted.loc[("orthogonalized", 56, 3e-3)].tolist() == [8, 5, 5, 0]
    assert counted.loc[("baseline", 64, 1e-2)].tolist() == [8, 1, 3, 2]
    assert counted.loc[("orthogonalized", 64, 1e-2)].tolist() == [8, 7, 8, 1]
    assert counted.loc[("baseline", 72, 1e-3)].tolist() == [3, 3, 3, 0]
    assert counted["runs"].sum() == len(RECORDS)
    assert not maps.is_compared(table), "2 of 9 places"
    assert maps.is_compared(table[table["vocab_size"] < 72].query("lr > 0.001")), "2 of 4"


def test_complete_cells_are_compared_by_seed():
    # Of 8 seeds the orthogonalized read solves 2 runs more of seeds 1, 3 and 4, and 1 more of all others.
    some = replace(STUDY, tasks=STUDY.tasks[:2], rates=STUDY.rates[1:])
    assert maps.answer(some, RECORDS, "vocab_size") == (
        "Over the 2 complete cells of 4 baseline solves 1 of 16 runs, orthogonalized 12 of 16: more than chance "
        f"explains, taken by itself (exact sign-flip test by seed, p = {2 / 2**8:.2g}); after an escape fall back: "
        "2 of 3 baseline (at 0.01), 1 of 13 orthogonalized (at 0.01)."
    )
    assert maps.answer(STUDY, RECORDS, "vocab_size") == "2 of 9 cells are complete: nothing is compared yet."
    assert maps.answer(STUDY, [], "vocab_size") == "0 of 9 cells are complete: nothing is compared yet."


def test_a_map_says_what_it_counts():
    table = maps.cells(STUDY, RECORDS, "vocab_size")
    figure = solved_map(table, "vocab_size", STUDY.sides, "vocabulary", "A map")
    assert figure.get_size_inches()[0] <= style.WIDTH
    raw, orthogonalized = ([text.get_text() for text in ax.texts] for ax in figure.axes[:2])
    assert raw.count("not run") == 6 and "1 of 8\n2 fell back" in raw and "3 of 3" in raw
    assert orthogonalized.count("not run") == 7 and "5 of 8" in orthogonalized
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["72", "64", "56"], "from above"
    # In the place where it is: the second vocabulary from below, the last of three rates.
    assert {text.get_text() for text in figure.axes[0].texts if text.get_position() == (2.5, 1.5)} == {
        "1 of 8\n2 fell back"
    }
    plt.close(figure)


@pytest.mark.parametrize("name", ["basin-map", "batch-map", "embedding-map"])
def test_every_map_is_of_one_setting(name):
    study = PRESETS[name]["pocket"]
    setting = {"basin-map": "vocab_size", "batch-map": "batch_size", "embedding-map": "embedding_std"}[name]
    assert maps.cells(study, [], setting)[[setting, "lr"]].drop_duplicates().shape[0] == study.size() // 16


def test_the_follow_ups_map_stands_beside_ours():
    study = PRESETS["basin-map"]["paper"]
    runs = [
        made(study, task, side, lr, seed, accuracies)
        for task in range(3)
        for lr, raw, other in ((3e-3, STAYS, ESCAPES), (1e-2, FALLS, ESCAPES))
        for seed in range(8)
        for side, accuracies in (("baseline", raw), ("orthogonalized", other if seed else STAYS))
    ]
    found = {claim.what: claim for claim in claims.claims(runs) if claim.study == "basin-map"}
    assert found["solved, orthogonalized, rate 0.003"].here.startswith("21 of 24")
    assert found["solved, baseline, rate 0.003"].verdict == "differs", "none of 24 against 14"
    assert found["collapsed, baseline, rate 0.01"].here.startswith("24 of 24")
    assert found["solved, baseline, rate 0.001, vocabulary 88"].verdict == "not run"
    ratio = found["hazard ratio, orthogonalized"]
    assert (ratio.published, ratio.runs, ratio.planned) == ("6.4 [3.5, 11.7]", 96, 144) and "[" in ratio.here
