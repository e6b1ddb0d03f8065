"""Whether the slope of a read's map at 0 decides how soon runs escape: all reads that map singular values together."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...reads.filter_read import FilterRead
from ...study.presets import PRESETS, Study
from ...study.sides import ORTHOGONALIZED, Side, title
from ...training.record import RunRecord
from .. import hazards, stats
from ..words import NOT_RUN, estimate_text
from .frontier import products, slope_at_zero
from .probed import probed_runs

_TERM = "np.log(slope)"
#: Columns of `by_slope` from `orthonar.report.stats.Interval`.
_SHARE = {"share": "value", "low": "low", "high": "high"}


def every_map() -> Study:
    """The pocket frontier's reads that map singular values, and those of other presets that differ in nothing else."""
    study = PRESETS["frontier"]["pocket"]
    for name in ("ablation", "variants", "steep"):
        study = study.beside(PRESETS[name]["pocket"].sides)
    return study.only([name for name, side in study.sides.items() if _is_a_map(side)])


def _is_a_map(side: Side) -> bool:
    return set(side.settings) == {"read"} and isinstance(side.settings["read"], FilterRead)


def by_slope(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """How many runs each map solves, the flattest at 0 first, as numbers.

    Args:
        study: as of `every_map`, or some of its sides.
        records: run records.

    Returns:
        One row per side that has runs, by its name: slope (of the map at 0), products, runs, solved; share with low and
        high (Wilson's 95 % interval, NaN with fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs).
    """
    runs, reads = probed_runs(study, records), {name: side.settings["read"] for name, side in study.sides.items()}
    table = runs.groupby("side")["solved"].agg(runs="size", solved="sum").rename_axis("read")
    table.insert(0, "slope", [slope_at_zero(reads[name]) for name in table.index])
    table.insert(1, "products", [products(reads[name]) for name in table.index])
    table = table.sort_values("slope", kind="stable")
    shares = [stats.solved_share(*counts) for counts in zip(table["solved"], table["runs"])]
    table = table.assign(**{name: [getattr(of, at) for of in shares] for name, at in _SHARE.items()})
    few = table["runs"] < stats.LEAST_FOR_INTERVAL
    return table.assign(**{bound: table[bound].mask(few) for bound in ("low", "high")})


def by_slope_text(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `by_slope` as text."""
    rows = [
        {
            "read": name,
            "slope at 0": f"{row['slope']:.1f}",
            "products": f"{row['products']:.0f}",
            "solved": f"{row['solved']:.0f} of {row['runs']:.0f}",
            "95 % interval": "" if np.isnan(row["low"]) else f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
        }
        for name, row in table.iterrows()
    ]
    return pd.DataFrame(rows, columns=["read", "slope at 0", "products", "solved", "95 % interval"]).set_index("read")


def power(study: Study, records: Iterable[RunRecord]) -> pd.Series:
    """The power of the slope at 0 that the hazard of escape goes with, from all runs together.

    Args:
        study, records: as of `by_slope`.

    Returns:
        The row of `orthonar.report.hazards.fit` for the logarithm of the slope.
    """
    runs = probed_runs(study, records)
    slope = by_slope(study, records)["slope"]
    return hazards.fit(runs.assign(slope=runs["side"].map(slope)), _TERM).loc[_TERM]


def answer(study: Study, records: Iterable[RunRecord]) -> str:
    """Whether the slope at 0 goes with how soon runs escape, and which steep maps have few runs, in sentences.

    Args:
        study, records: as of `by_slope`.
    """
    records = list(records)
    table = by_slope(study, records)
    if len(table) < 2:
        return f"Whether the slope at 0 decides how soon runs escape: {NOT_RUN}."
    found = power(study, records)
    over = f"Over {len(table)} maps of singular values and {table['runs'].sum()} runs"
    behind = f"{found['events']:.0f} escapes in {found['run_intervals']:,.0f} run-intervals"
    if np.isnan(found["ratio"]):
        sentences = [f"{over} it cannot be told how the hazard of escape goes with the slope at 0 ({behind})."]
    else:
        text = estimate_text(*np.log(found[["ratio", "low", "high"]].astype(float)))
        told = "" if found["low"] > 1 or found["high"] < 1 else ", which is not told from 0"
        sentences = [
            f"{over} the hazard of escape goes with the slope at 0 to the power {text}{told} (95 % interval, as if "
            f"runs of a seed were independent; {behind})."
        ]
    own = table["slope"].get(ORTHOGONALIZED.name, np.nan)
    few = table[(table["slope"] > own) & (table["runs"] < stats.LEAST_FOR_INTERVAL)]
    if len(few):
        named = ", ".join(f"{title(name)} {row['solved']:.0f} of {row['runs']:.0f}" for name, row in few.iterrows())
        sentences.append(
            f"Of the maps steeper than five steps {len(few)} have fewer than {stats.LEAST_FOR_INTERVAL} runs, solved: "
            f"{named}."
        )
    return " ".join(sentences)
