"""A read on seeds that it was picked on and on others, from records that never were."""

import pytest
from test_frontier import escaping

from orthonar.report import style, words
from orthonar.report.tables import further_seeds
from orthonar.study.presets import PRESETS

STUDY = PRESETS["new-seeds"]["pocket"]
SIDES = ("baseline", "orthogonalized", "degree8")


def made(gain, seeds=range(48), picked=range(9)):
    """Raw never escapes, five steps at ten different times, 8 products sooner on the seeds that they were picked on."""
    for seed in seeds:
        five = 600 + 100 * (seed % 10)
        for side, at in zip(SIDES, (None, five, five - (500 if seed in picked else gain))):
            if (side, seed) != ("degree8", 47):
                yield escaping(STUDY.run(STUDY.tasks[0], side, 3e-3, seed), at)


def table_of(records):
    return further_seeds.by_seeds(STUDY, records, "degree8", further_seeds.groups("degree8"))


def test_the_seeds_that_a_read_was_picked_on_are_told_from_the_others():
    seeds = further_seeds.groups("degree8")
    picked, others, new, every = seeds.values()
    assert [list(picked), list(others), list(new)] == [[*range(9)], [*range(9, 24)], [*range(24, 48)]]
    assert list(every) == list(range(9, 48)) and list(seeds)[-1] == further_seeds.OTHERS
    table = table_of(made(0))
    assert table["seeds"].iloc[-1] == list(range(9, 47)), "seeds that all three reads have"
    counts = ["solved_raw", "solved_five", "solved", "escaped_five", "escaped"]
    assert table[counts].iloc[[0, -1]].values.tolist() == [[0, 9, 9, 9, 9], [0, 38, 38, 38, 38]]
    assert table["ratio"].iloc[0] > 1.5 and table["ratio"].iloc[1:].tolist() == pytest.approx(3 * [1])
    text = further_seeds.as_text(table)
    assert text["seeds"].tolist() == ["0 to 8", "9 to 23", "24 to 46", "9 to 46"]
    assert text["solved"].iloc[-1] == "0, 38, 38 of 38" and text["relative hazard"].iloc[-1].startswith("1.00 [0.6")
    assert style.text_width(text) <= words.PAGE and len(text.columns) <= 6


def test_the_answer_goes_by_the_lower_bound():
    as_good, better = (further_seeds.answer(table_of(made(gain)), "degree8") for gain in (0, 300))
    assert as_good.startswith(
        "On seeds 9 to 46, on which it was not picked, the read of 8 products solves 38 of 38 (five steps 38, raw 0); "
    )
    assert as_good.endswith("is not shown by these.") and better.endswith("is shown by these.")
    few = table_of(made(0, range(12)))
    assert further_seeds.answer(few, "degree8").endswith("cannot be told by these.")
    assert "cannot be told" in further_seeds.as_text(few)["relative hazard"].iloc[-1]
    nothing = table_of([])
    assert further_seeds.answer(nothing, "degree8").endswith("not run yet.") and further_seeds.as_text(nothing).empty
