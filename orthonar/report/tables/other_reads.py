"""The reads that solve more than the raw one, a row each: on seeds of their own, in equal time, and read raw."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from ...study.presets import PRESETS
from ...study.sides import BASELINE, HEADLINE, ORTHOGONALIZED, title
from ...training.record import SOLVED_AT, RunRecord
from .. import stats
from ..seeds import PICKED_ON, seeds_text
from ..words import p_text
from . import pace
from .compared import tested
from .equal_time import in_equal_time
from .probed import EVALUATED_WITH, probed_runs
from .runs import on_shared_seeds, with_all_seeds

#: The presets at pocket scale and the side of each that has a row, the cheapest step first.
_ROWS = (
    ("headline", ORTHOGONALIZED.name),
    ("frontier", "degree8"),
    ("steep", "short_muon3"),
    ("least-squares", "rls_read"),
    ("muon-read", "muon3"),
)

#: Columns of `as_text`.
COLUMNS = (
    "read",
    "seeds",
    "solved: raw, orthogonalized, this",
    "a step over raw's",
    "in a raw run's time: raw; this",
    "solved, read raw",
)

_LEGEND = (
    "A row is of the seeds that all three reads have and that this one was not picked on. *Solved*: runs of the raw "
    "read, of the orthogonalized one and of this one; *p* of the exact McNemar test against the orthogonalized read, "
    "each by itself. *A step*: how long a training step takes on one CPU thread{processors} over the raw read's. *In a "
    "raw run's time*: runs of the raw read, and, by these paces, of this one, that have reached 80 % when a raw run "
    "ends. *Solved, read raw*: of its solved runs those that are at 80 % or more when they are read raw after training."
)


def other_reads(
    records: Iterable[RunRecord],
    timed: Iterable[dict],
    kept: pd.DataFrame | None = None,
    rows: Sequence[tuple[str, str]] = _ROWS,
) -> pd.DataFrame:
    """What came out of each read of which there are runs enough, as numbers.

    Args:
        records: run records.
        timed: records of `python -m benchmarks.pace`, as of `orthonar.report.tables.pace.read_records`.
        kept: as of `orthonar.report.tables.probed.probed_runs`.
        rows: a preset at pocket scale and a side of it each.

    Returns:
        One row per read, by its side's name, of the seeds (a list) that all three reads have and that it was not picked
        on: solved_raw, solved_five and solved; p against five steps (NaN for those themselves); step, seconds a step
        over the raw read's, and in_time, how many of its runs have escaped when a raw run ends, both by the name of
        each processor on which they were timed; raw_in_time, the same of the raw read; read_raw of asked, how many of
        its solved runs that were asked stay solved read raw.
    """
    records, timed = list(records), list(timed)
    found: dict[str, dict[str, Any]] = {}
    for preset, name in rows:
        study = PRESETS[preset]["pocket"].only(list(dict.fromkeys([*HEADLINE, name])), 1)
        table = probed_runs(with_all_seeds(study, records), records, kept)
        sides = [table[table["side"] == side] for side in (*HEADLINE, name)]
        raw, five, own = on_shared_seeds(sides, PICKED_ON.get(name, ()))
        if len(own) < stats.LEAST_FOR_INTERVAL:
            continue
        solved = [int(of["solved"].sum()) for of in (raw, five, own)]
        step, in_time = {}, {}
        for processor, on in pace.by_processor(study, timed).items():
            if {BASELINE.name, name} <= set(on):
                step[processor] = on[name] / on[BASELINE.name]
                then = in_equal_time(raw, own, (on[BASELINE.name], on[name]))
                in_time[processor] = int(then.dear["solved"].sum())
        read_raw = own.loc[own["solved"], EVALUATED_WITH["raw"]].dropna()
        found[name] = {
            "seeds": sorted(own["seed"]),
            "solved_raw": solved[0],
            "solved_five": solved[1],
            "solved": solved[2],
            "p": np.nan if name in HEADLINE else tested(five, own).p,
            "step": step,
            "raw_in_time": int(raw["escape_step"].notna().sum()),
            "in_time": in_time,
            "read_raw": int((read_raw >= SOLVED_AT).sum()),
            "asked": len(read_raw),
        }
    return pd.DataFrame.from_dict(found, orient="index").rename_axis("read")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `other_reads` as text, with `COLUMNS`."""
    rows = []
    processors = _processors(table)
    for name, row in table.iterrows():
        solved = [row["solved_raw"], row["solved_five"], *([] if name in HEADLINE else [row["solved"]])]
        p = "" if np.isnan(row["p"]) else f"; p = {p_text(row['p'])}"
        steps, in_time = (
            ", ".join(f"{row[column][on]:{form}}" if on in row[column] else "-" for on in processors)
            for column, form in (("step", ".1f"), ("in_time", "d"))
        )
        rows.append(
            {
                "read": title(name),
                "seeds": seeds_text(row["seeds"]).partition(" ")[2],
                COLUMNS[2]: f"{', '.join(map(str, solved))} of {len(row['seeds'])}{p}",
                COLUMNS[3]: steps,
                COLUMNS[4]: f"{row['raw_in_time']}; {in_time}" if row["step"] else "",
                "solved, read raw": f"{row['read_raw']} of {row['asked']}" if row["asked"] else "",
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def legend(table: pd.DataFrame) -> str:
    """What a reader of the table has to know, and in which order processors are."""
    processors = ", ".join(_processors(table))
    return _LEGEND.format(processors=f" ({processors})" if processors else "")


def as_markdown(table: pd.DataFrame) -> str:
    """The table of `as_text` in Markdown, and the legend below it."""
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *as_text(table).to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{legend(table)}"


def _processors(table: pd.DataFrame) -> list[str]:
    return sorted({on for steps in table["step"] for on in steps}) if len(table) else []
