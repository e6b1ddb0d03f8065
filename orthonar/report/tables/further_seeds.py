"""A read of the frontier on seeds that it was not picked on: whether it keeps the effect of five steps there."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

import numpy as np
import pandas as pd

from ...study.presets import PRESETS, Study
from ...study.sides import BASELINE, ORTHOGONALIZED, title
from ...training.record import RunRecord
from .. import hazards, stats
from ..seeds import PICKED_ON, seeds_text
from ..words import NOT_RUN
from .frontier import KEEPS, ratio_text
from .runs import on_shared_seeds, study_runs

#: What `groups` calls all seeds that a read was not picked on.
OTHERS = "all but those that it was picked on"
#: What it calls those that were run after the frontier had been looked at.
NEW = "new ones"


def groups(name: str) -> dict[str, Collection[int]]:
    """Seeds of the pocket frontier and those that were run after it had been looked at, by what is said of them.

    Args:
        name: a side of both that was picked, see `orthonar.report.seeds.PICKED_ON`.
    """
    first, picked = PRESETS["frontier"]["pocket"].seeds, PICKED_ON[name]
    new = PRESETS["new-seeds"]["pocket"].seeds
    return {
        "those that it was picked on": picked,
        "the frontier's others": sorted(set(first) - set(picked)),
        NEW: new,
        OTHERS: sorted({*first, *new} - set(picked)),
    }


def by_seeds(
    study: Study, records: Iterable[RunRecord], name: str, seeds: Mapping[str, Collection[int]]
) -> pd.DataFrame:
    """How a read compares with the study's on some seeds and on others, as numbers.

    Args:
        study: a study of one task with the raw read, the study's own and the one that is looked at among its sides.
        records: run records.
        name: the side that is looked at.
        seeds: by what is said of them, as of `groups`.

    Returns:
        One row per group, in its order: seeds (those that all three have); solved_raw, solved_five and solved (counts
        on these); escaped_five and escaped; alike, on how many seeds both of these two escape or neither does, and
        alike_by_chance, on how many they would if a seed's runs had nothing in common; ratio, low and high: the hazard
        of escape relative to the study's read on these seeds, with its 95 % interval, which takes each seed as one
        draw, and low_apart and high_apart, were each run one; NaN where they cannot be told or with fewer than
        `orthonar.report.stats.LEAST_FOR_INTERVAL` seeds.
    """
    runs = study_runs(replace(study, seeds=tuple(sorted(set().union(*seeds.values())))), records)
    sides = [runs[runs["side"] == side] for side in (BASELINE.name, ORTHOGONALIZED.name, name)]
    rows = {}
    for group, wanted in seeds.items():
        raw, five, own = on_shared_seeds([side[side["seed"].isin(wanted)] for side in sides])
        enough = len(own) >= stats.LEAST_FOR_INTERVAL
        ratio, apart = (
            hazards.hazard_ratio(five, own, apart=apart) if enough else hazards.HazardRatio(*4 * [np.nan])
            for apart in (False, True)
        )
        ends = [side.set_index("seed")["escape_step"].notna().sort_index() for side in (five, own)]
        rows[group] = {
            "seeds": sorted(own["seed"]),
            "solved_raw": int(raw["solved"].sum()),
            "solved_five": int(five["solved"].sum()),
            "solved": int(own["solved"].sum()),
            "escaped_five": int(ends[0].sum()),
            "escaped": int(ends[1].sum()),
            "alike": int((ends[0] == ends[1]).sum()),
            "alike_by_chance": len(own) * sum(np.prod([end.eq(how).mean() for end in ends]) for how in (True, False)),
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "low_apart": apart.low,
            "high_apart": apart.high,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("which")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `by_seeds` as text, groups without a seed left out."""
    rows = [
        {
            "which": group,
            "seeds": seeds_text(row["seeds"]).partition(" ")[2],
            "solved": f"{row['solved_raw']}, {row['solved_five']}, {row['solved']} of {len(row['seeds'])}",
            "escaped": f"{row['escaped_five']}, {row['escaped']}",
            "end alike": f"{row['alike']} of {len(row['seeds'])}",
            "relative hazard": "cannot be told" if np.isnan(row["ratio"]) else ratio_text(row),
        }
        for group, row in table.iterrows()
        if row["seeds"]
    ]
    return pd.DataFrame(
        rows, columns=["which", "seeds", "solved", "escaped", "end alike", "relative hazard"]
    ).set_index("which")


def answer(table: pd.DataFrame, name: str) -> str:
    """Whether a read keeps the effect of five steps on the seeds that it was not picked on, in a sentence.

    Args:
        table: as of `by_seeds`, with the group `OTHERS`.
        name: the side that is looked at.
    """
    row, read = table.loc[OTHERS], f"the read of {title(name)}"
    if not row["seeds"]:
        return f"Whether {read} keeps the effect of five steps on seeds that it was not picked on: {NOT_RUN}."
    counts = f"{row['solved']} of {len(row['seeds'])} (five steps {row['solved_five']}, raw {row['solved_raw']})"
    told = f"On {seeds_text(row['seeds'])}, on which it was not picked, {read} solves {counts}"
    if np.isnan(row["ratio"]):
        return f"{told}; whether it keeps the effect of five steps cannot be told by these."
    lows = [row["low"], row["low_apart"]]
    new = ""
    if NEW in table.index and not np.isnan(table.loc[NEW, "ratio"]):
        lows.append(table.loc[NEW, "low"])
        new = f"; by seed, on the new seeds alone, {ratio_text(table.loc[NEW])}"
    above = {low > KEEPS for low in lows}
    shown = "depends on the interval taken, and so is not settled" if len(above) > 1 else "is shown"
    if above == {False}:
        shown = "is not shown"
    return (
        f"{told}; its hazard of escape is {ratio_text(row)} times that of five steps: that it keeps the effect (lower "
        f"bound above {KEEPS:g}) {shown}. This interval takes each seed as one draw, since its runs start alike and "
        f"see the same data: on {row['alike']} of {len(row['seeds'])} seeds both reads escape or neither does, where "
        f"{row['alike_by_chance']:.0f} would by chance. It was adopted only after these runs were known. Run by run, "
        f"as before, it is [{row['low_apart']:.2f}, {row['high_apart']:.2f}]{new}."
    )
