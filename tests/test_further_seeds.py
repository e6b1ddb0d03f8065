"""A read on seeds that it was picked on and on others, from records that never were."""

import numpy as np
import pytest
from test_frontier import escaping

from orthonar.report import style, words
from orthonar.report.tables import further_seeds
from orthonar.study.presets import PRESETS

STUDY = PRESETS["new-seeds"]["pocket"]
SIDES = ("baseline", "orthogonalized", "degree8")
#: 8 products come to five steps' times in another order of the seeds: a seed's runs have nothing in common.
ORDER = np.random.default_rng(0).permutation(48)


def made(gain, seeds=range(48), picked=range(9)):
    """Raw never escapes; of five seeds in six five steps do, at ten times, and 8 products, sooner where picked."""
    for seed in seeds:
        five, own = (600 + 100 * (place % 10) for place in (seed, ORDER[seed]))
        for side, at in zip(SIDES, (None, five, own - (500 if seed in picked else gain))):
            if (side, seed) != ("degree8", 47):
                yield escaping(STUDY.run(STUDY.tasks[0], side, 3e-3, seed), None if seed % 6 == 5 else at)


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
    assert table[counts].iloc[[0, -1]].values.tolist() == [[0, 8, 8, 8, 8], [0, 32, 32, 32, 32]]
    assert table["alike"].tolist() == [9, 15, 23, 38]
    assert table["alike_by_chance"].iloc[-1] == pytest.approx((32**2 + 6**2) / 38)
    assert table["ratio"].iloc[0] > 1.5 and table["ratio"].iloc[1:].between(0.7, 1.4).all()
    text = further_seeds.as_text(table)
    assert text["seeds"].tolist() == ["0 to 8", "9 to 23", "24 to 46", "9 to 46"]
    assert text["solved"].iloc[-1] == "0, 32, 32 of 38" and text["end alike"].iloc[-1] == "38 of 38"
    assert style.text_width(text) <= words.PAGE and len(text.columns) <= 6


def test_the_answer_goes_by_the_lower_bound():
    worse, better = (further_seeds.answer(table_of(made(gain)), "degree8") for gain in (-200, 300))
    assert worse.startswith(
        "On seeds 9 to 46, on which it was not picked, the read of 8 products solves 32 of 38 (five steps 32, raw 0); "
    )
    assert "(lower bound above 0.7) is not shown." in worse and "(lower bound above 0.7) is shown." in better
    assert "on 38 of 38 seeds both reads escape or neither does, where 28 would by chance." in worse
    table = table_of(made(-200))
    low, high = table.loc[further_seeds.OTHERS, ["low_apart", "high_apart"]]
    assert f"only after these runs were known. Run by run, as before, it is [{low:.2f}, {high:.2f}]; by" in worse
    assert "is not settled" in further_seeds.answer(table.assign(low=0.71), "degree8"), "run by run it is below"
    new = "{:.2f} [{:.2f}, {:.2f}]".format(*table.loc[further_seeds.NEW, ["ratio", "low", "high"]])
    assert worse.endswith(f"; by seed, on the new seeds alone, {new}.")
    few = table_of(made(0, range(12)))
    assert further_seeds.answer(few, "degree8").endswith("cannot be told by these.")
    assert "cannot be told" in further_seeds.as_text(few)["relative hazard"].iloc[-1]
    nothing = table_of([])
    assert further_seeds.answer(nothing, "degree8").endswith("not run yet.") and further_seeds.as_text(nothing).empty
