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
from .early_rank import ranks
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


def _power_text(row: pd.Series) -> str:
    """A power and its interval, and whether it is told from 0."""
    told = "" if row["low"] > 0 or row["high"] < 0 else ", which is not told from 0"
    return f"{estimate_text(*row[['power', 'low', 'high']].astype(float))}{told}"


def by_slope(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """How many runs each map solves, the flattest at 0 first, as numbers.

    Args:
        study: as of `every_map`, or some of its sides.
        records: run records.

    Returns:
        One row per side that has runs, by its name: slope (of the map at 0), rank (mean effective rank of the memory
        early in training, as of `orthonar.report.tables.early_rank.ranks`), products, runs, solved; share with low and
        high (Wilson's 95 % interval, NaN with fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs).
    """
    records = list(records)
    runs, reads = probed_runs(study, records), {name: side.settings["read"] for name, side in study.sides.items()}
    runs = runs.assign(rank=runs["identity"].map(ranks(study, records)))
    table = runs.groupby("side").agg(rank=("rank", "mean"), runs=("solved", "size"), solved=("solved", "sum"))
    table = table.rename_axis("read")
    table.insert(0, "slope", [slope_at_zero(reads[name]) for name in table.index])
    table.insert(2, "products", [products(reads[name]) for name in table.index])
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
            "rank at a tenth": "" if np.isnan(row["rank"]) else f"{row['rank']:.1f}",
            "products": f"{row['products']:.0f}",
            "solved": f"{row['solved']:.0f} of {row['runs']:.0f}",
            "95 % interval": "" if np.isnan(row["low"]) else f"{100 * row['low']:.0f} to {100 * row['high']:.0f} %",
        }
        for name, row in table.iterrows()
    ]
    return pd.DataFrame(
        rows, columns=["read", "slope at 0", "rank at a tenth", "products", "solved", "95 % interval"]
    ).set_index("read")


def powers(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """The power of the slope at 0 that the hazard of escape goes with, over all maps, and how far it hangs on a few.

    Args:
        study, records: as of `by_slope`.

    Returns:
        Three rows: "all"; "without one", without the map whose absence moves the estimate most; "steep", the maps at
        least as steep at 0 as the study's read, without that map too. Columns left_out (the map's name, empty in the
        first), maps and runs (how many), power with low and high (95 %), run_intervals and events. What the runs cannot
        tell is NaN.
    """
    runs = probed_runs(study, records)
    runs = runs.assign(
        slope=runs["side"].map({name: slope_at_zero(s.settings["read"]) for name, s in study.sides.items()})
    )
    names = list(dict.fromkeys(runs["side"]))
    every = _power(runs)
    rows = {"all": {**every, "left_out": ""}}
    without = {name: _power(runs[runs["side"] != name]) for name in names if len(names) > 2}
    moved = {name: abs(row["power"] - every["power"]) for name, row in without.items()}
    moved = {name: by for name, by in moved.items() if not np.isnan(by)}
    if moved:
        most = max(moved, key=moved.__getitem__)
        steep = runs[(runs["side"] != most) & (runs["slope"] >= slope_at_zero(ORTHOGONALIZED.settings["read"]))]
        rows |= {"without one": {**without[most], "left_out": most}, "steep": {**_power(steep), "left_out": most}}
    return pd.DataFrame.from_dict(rows, orient="index")


def _power(runs: pd.DataFrame) -> dict[str, float]:
    """A row of `powers` from the run table of its maps, which has a column slope."""
    shown = {"maps": runs["side"].nunique(), "runs": len(runs)}
    if shown["maps"] < 2:
        return shown | dict.fromkeys(["power", "low", "high", "run_intervals", "events"], np.nan)
    found = hazards.fit(runs, _TERM).loc[_TERM]
    bounds = {"power": found["effect"], "low": np.log(found["low"]), "high": np.log(found["high"])}
    return shown | bounds | {name: found[name] for name in ("run_intervals", "events")}


def answer(study: Study, records: Iterable[RunRecord]) -> str:
    """Whether the slope at 0 goes with how soon runs escape, what that hangs on, and which steep maps have few runs.

    Args:
        study, records: as of `by_slope`.

    Returns:
        Some sentences.
    """
    records = list(records)
    table = by_slope(study, records)
    if len(table) < 2:
        return f"Whether the slope at 0 decides how soon runs escape: {NOT_RUN}."
    found = powers(study, records)
    every = found.loc["all"]
    over = f"Over {len(table)} maps of singular values and {table['runs'].sum()} runs"
    behind = f"{every['events']:.0f} escapes in {every['run_intervals']:,.0f} run-intervals"
    if np.isnan(every["power"]):
        sentences = [f"{over} it cannot be told how the hazard of escape goes with the slope at 0 ({behind})."]
    else:
        sentences = [
            f"{over} the hazard of escape goes with the slope at 0 to the power {_power_text(every)} (95 % interval, "
            f"which takes each seed as one draw; {behind})."
        ]
    if "without one" in found.index:
        one, steep = found.loc["without one"], found.loc["steep"]
        sentences.append(f"It rests most on {title(one['left_out'])}: without it the power is {_power_text(one)}.")
        if not np.isnan(steep["power"]):
            sentences[-1] = sentences[-1].removesuffix(".") + (
                f", and over the {steep['maps']} other maps at least as steep as five steps ({steep['runs']} runs) "
                f"{_power_text(steep)}."
            )
    own = table["slope"].get(ORTHOGONALIZED.name, np.nan)
    few = table[(table["slope"] > own) & (table["runs"] < stats.LEAST_FOR_INTERVAL)]
    if len(few):
        named = ", ".join(f"{title(name)} {row['solved']:.0f} of {row['runs']:.0f}" for name, row in few.iterrows())
        sentences.append(
            f"Of maps steeper than five steps with fewer than {stats.LEAST_FOR_INTERVAL} runs are solved: {named}."
        )
    return " ".join(sentences)
