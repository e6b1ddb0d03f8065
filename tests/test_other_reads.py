"""The table of other reads, from records that never were."""

import numpy as np
import pandas as pd
import pytest
from test_frontier import escaping

from orthonar.report.tables import other_reads as tables
from orthonar.study.presets import PRESETS

STUDY = PRESETS["frontier"]["pocket"]
ROWS = (("headline", "orthogonalized"), ("frontier", "degree8"))
#: Seconds a step: of the orthogonalized read twice the raw one's.
SECONDS = {"baseline": 0.01, "orthogonalized": 0.02, "degree8": 0.015}


def made(side, escapes):
    """Runs of a side, the first seed's first, that escape at these steps (None: never)."""
    return [escaping(STUDY.run(STUDY.tasks[0], side, 3e-3, seed), at) for seed, at in enumerate(escapes)]


def timed():
    """A record of `python -m benchmarks.pace` with these seconds."""
    identities = {side: STUDY.run(STUDY.tasks[0], side, STUDY.rates[0], 0).identity for side in SECONDS}
    rows = [{"identity": identities[side], "seconds": [seconds]} for side, seconds in SECONDS.items()]
    return [{"rows": rows, "started": "2026-01-01T00:00:00+00:00", "device_name": "AMD EPYC, 1 thread"}]


RECORDS = [
    *made("baseline", 20 * [None]),
    *made("orthogonalized", 10 * [1000] + 10 * [None]),
    *made("degree8", 12 * [2500] + 6 * [None]),
]


def test_each_read_counts_on_the_seeds_that_all_have_and_that_it_was_not_picked_on():
    table = tables.other_reads(RECORDS, timed(), rows=ROWS)
    assert table.loc["orthogonalized", "seeds"] == list(range(20))
    row = table.loc["degree8"]
    assert row["seeds"] == list(range(9, 18)), "seeds 0 to 8 are those that it was picked on"
    assert (row["solved_raw"], row["solved_five"], row["solved"]) == (0, 1, 3)
    assert row["p"] == pytest.approx(0.5), "two pairs differ, both for it"
    assert np.isnan(table.loc["orthogonalized", "p"])


def test_equal_time_is_of_the_same_seeds():
    sooner = [*RECORDS[:40], *made("degree8", [*9 * [1900], 1900, 2100, *7 * [None]])]
    table = tables.other_reads(sooner, timed(), rows=ROWS)
    assert [step["AMD EPYC"] for step in table["step"]] == pytest.approx([2.0, 1.5])
    assert [at["AMD EPYC"] for at in table["in_time"]] == [10, 1], "at step 1,500 and at 2,000 of 3,000"
    assert (table["raw_in_time"] == 0).all()
    untimed = tables.other_reads(RECORDS, [], rows=ROWS)
    assert untimed["step"].tolist() == untimed["in_time"].tolist() == [{}, {}]
    assert "one CPU thread over" in tables.legend(untimed)
    assert (tables.as_text(untimed)[list(tables.COLUMNS[3:5])] == "").all(axis=None)


def test_each_processor_has_its_own_pace():
    [first] = timed()
    slow = [
        row | {"seconds": [0.03]} if row["identity"] == first["rows"][1]["identity"] else row for row in first["rows"]
    ]
    table = tables.other_reads(RECORDS, [first, first | {"rows": slow[:2], "device_name": "Intel Xeon"}], rows=ROWS)
    text = tables.as_text(table)
    assert text[tables.COLUMNS[3]].tolist() == ["2.0, 3.0", "1.5, -"], "8 products were not timed on the other one"
    assert text[tables.COLUMNS[4]].tolist() == ["0; 10, 10", "0; 0, -"]
    assert "one CPU thread (AMD EPYC, Intel Xeon) over" in tables.legend(table)


def test_too_few_runs_have_no_row():
    assert list(tables.other_reads(RECORDS[:-2], timed(), rows=ROWS).index) == ["orthogonalized"]
    assert tables.as_text(tables.other_reads([], [])).empty


def test_as_text():
    text = tables.as_text(tables.other_reads(RECORDS, timed(), rows=ROWS))
    assert list(text.columns) == list(tables.COLUMNS)
    assert text.iloc[0].tolist()[:5] == ["orthogonalized", "0 to 19", "0, 10 of 20", "2.0", "0; 10"]
    assert text.iloc[1][tables.COLUMNS[2]] == "0, 1, 3 of 9; p = 0.5" and text.iloc[1]["solved, read raw"] == ""
    kept = pd.DataFrame({"accuracy_read_raw": 0.9}, index=[record.identity for record in RECORDS])
    read_raw = tables.as_text(tables.other_reads(RECORDS, timed(), kept, ROWS))["solved, read raw"]
    assert read_raw.tolist() == ["10 of 10", "3 of 3"]
    lines = tables.as_markdown(tables.other_reads(RECORDS, timed(), rows=ROWS)).splitlines()
    assert lines[0] == f"| {' | '.join(tables.COLUMNS)} |" and lines[-1] == tables.legend(
        tables.other_reads(RECORDS, timed(), rows=ROWS)
    )
    assert "one CPU thread (AMD EPYC) over" in lines[-1]
