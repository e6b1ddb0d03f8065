"""What the cheapest read is: how soon runs escape with each, against its products with the memory's Gram matrix."""

import itertools
import math
from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
import torch
from scipy import stats as distributions

from ...reads.base import RawRead
from ...reads.filter_read import FilterRead
from ...study.presets import Study
from ...study.sides import ORTHOGONALIZED, Side, title
from ...training.record import RunRecord
from .. import hazards, stats, survival
from ..seeds import PICKED_ON, seeds_text
from ..words import NOT_RUN, median_text, text_table
from .probed import probed_runs

#: A read keeps the effect if the lower bound of its hazard of escape, relative to the study's read, is above this.
KEEPS = 0.7
#: Singular values from here on are far from 0: what a map's slope is there says how it ripples.
ALREADY_LARGE = 0.3


def products(read) -> int:
    """Products with A = X^T X that a filter costs in float32; none for the raw read.

    Raises:
        ValueError: the read is neither.
    """
    if isinstance(read, RawRead):
        return 0
    if not isinstance(read, FilterRead):
        raise ValueError(f"read: {read} has no number of products")
    return read.products(torch.float32)


def slope_at_zero(read) -> float:
    """Slope of a read's map of singular values at 0; NaN for the raw read, which has no map."""
    if not isinstance(read, FilterRead):
        return math.nan
    near = torch.tensor([1e-6], dtype=torch.float64)
    return float(read.scalar_map(near) / near)


def maps(sides: Mapping[str, Side], s: np.ndarray) -> dict[str, np.ndarray]:
    """What becomes of singular values s under each side's read; the raw read, which does not normalise, has no map."""
    reads = {name: side.settings["read"] for name, side in sides.items()}
    values = torch.from_numpy(s)
    return {name: read.scalar_map(values).numpy() for name, read in reads.items() if isinstance(read, FilterRead)}


def frontier(study: Study, records: Iterable[RunRecord], pace: Mapping[str, float]) -> pd.DataFrame:
    """What each side of a study costs and how soon its runs escape, as numbers.

    Args:
        study: a study of one task with the study's own read among its sides.
        records: run records.
        pace: seconds per step of each side, as of `orthonar.report.tables.pace.seconds_per_step`.

    Returns:
        One row per side, by its name: products; slope (of the map at 0) and ripple_slope (the largest of its slopes, up
        or down, at singular values above `ALREADY_LARGE`); runs, solved and escaped (counts);
        run_intervals, see `orthonar.report.hazards.run_intervals`; ratio, low and high, the hazard of escape relative
        to the study's read on the seeds that both have, with its 95 % interval, which takes each seed as one draw, and
        error, its logarithm's standard error, NaN without one or with fewer than
        `orthonar.report.stats.LEAST_FOR_INTERVAL` such seeds; median_step and
        median_seconds to escape; step_ms, a training step's milliseconds, NaN where they are not measured; early_rank,
        the mean effective rank of the memory early in training.
    """
    table = probed_runs(study, records)
    reference = table[table["side"] == ORTHOGONALIZED.name]
    rows = {}
    for name, side in study.sides.items():
        read, runs = side.settings["read"], table[table["side"] == name]
        of_study, of_side = (shared.reset_index() for shared in stats.shared_seeds(reference, runs))
        enough = len(of_side) >= stats.LEAST_FOR_INTERVAL
        ratio = hazards.hazard_ratio(of_study, of_side) if enough else hazards.HazardRatio(*4 * [np.nan])
        if name == ORTHOGONALIZED.name and len(runs):
            ratio = hazards.HazardRatio(1.0, 1.0, 1.0, 0.0)
        there, seconds = len(runs) > 0, pace.get(name, np.nan)
        rows[name] = {
            "products": products(read),
            "slope": slope_at_zero(read),
            "ripple_slope": _ripple_slope(side) if isinstance(read, FilterRead) else np.nan,
            "runs": len(runs),
            "solved": int(runs["solved"].sum()),
            "escaped": int(runs["escape_step"].notna().sum()),
            "run_intervals": len(hazards.run_intervals(runs)),
            "ratio": ratio.value,
            "low": ratio.low,
            "high": ratio.high,
            "error": ratio.error,
            "median_step": survival.median_escape(runs) if there else np.nan,
            "median_seconds": seconds * survival.median_escape(runs) if there else np.nan,
            "step_ms": 1e3 * seconds,
            "early_rank": runs["early_effective_rank"].mean() if there else np.nan,
        }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("read")


def _ripple_slope(side: Side) -> float:
    s = np.linspace(ALREADY_LARGE, 1, 100_001)
    values = maps({side.name: side}, s)[side.name]
    return float(np.abs(np.diff(values) / np.diff(s)).max())


def frontier_text(table: pd.DataFrame) -> pd.DataFrame:
    """The numbers of `frontier` as text, the cheapest read first; what it costs in time: `pace_text`."""
    rows = []
    for name, row in table.sort_values("products", kind="stable").iterrows():
        slopes = [f"{row[slope]:.1f}" for slope in ("slope", "ripple_slope") if not np.isnan(row[slope])]
        shown = {"read": name, "products": f"{row['products']:.0f}", "slopes": ", ".join(slopes)}
        if not row["runs"]:
            rows.append(shown | {"solved": NOT_RUN})
            continue
        own = name == ORTHOGONALIZED.name
        hazard = "too few runs" if row["runs"] < stats.LEAST_FOR_INTERVAL else _hazard_text(row)
        rows.append(
            shown
            | {
                "solved": f"{row['solved']:.0f} of {row['runs']:.0f}",
                "escaped": f"{row['escaped']:.0f} in {row['run_intervals']:,.0f}",
                "relative hazard": "1" if own else hazard,
                "early rank": "" if np.isnan(row["early_rank"]) else f"{row['early_rank']:.1f}",
            }
        )
    columns = ["read", "products", "slopes", "solved", "escaped", "relative hazard", "early rank"]
    return text_table(rows, columns, "read")


def pace_text(table: pd.DataFrame) -> pd.DataFrame:
    """How soon half of the runs have escaped and what a step takes, as text; blank where it is not measured.

    Only reads of `frontier` with at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs have medians to show.
    """
    enough = table[table["runs"] >= stats.LEAST_FOR_INTERVAL].sort_values("products", kind="stable")
    rows = [
        {
            "read": name,
            "products": f"{row['products']:.0f}",
            "median step": median_text(row["median_step"]),
            "median seconds": "" if np.isnan(row["step_ms"]) else median_text(row["median_seconds"]),
            "ms a step": "" if np.isnan(row["step_ms"]) else f"{row['step_ms']:.0f}",
        }
        for name, row in enough.iterrows()
    ]
    columns = ["read", "products", "median step", "median seconds", "ms a step"]
    return pd.DataFrame(rows, columns=columns).set_index("read")


def _hazard_text(row: pd.Series) -> str:
    """The relative hazard of a read with runs enough; where it has no estimate, whether that is for want of escapes."""
    if np.isnan(row["ratio"]):
        return "cannot be told" if row["escaped"] else "no escape"
    return ratio_text(row)


def ratio_text(row: pd.Series) -> str:
    """A relative hazard with its interval, from a row with ratio, low and high."""
    return f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}]"


def power(error: float, seeds: int, level: float = KEEPS) -> float:
    """How often a read with just the hazard of the study's would be found to keep the effect.

    The lower 95 % bound of an estimate of 1 on average lies above `level` with the probability
    Phi(-log(level) / error - t), t the quantile of Student's distribution that the bound is at.

    Args:
        error: the standard error of the hazard ratio's logarithm.
        seeds: of how many seeds that is, at least 2.
        level: the bound's, below 1.
    """
    bound = stats.error_law(seeds).ppf((1 + stats.CONFIDENCE) / 2)
    return float(distributions.norm.cdf(-math.log(level) / error - bound))


def seeds_needed(error: float, seeds: int, wanted: float = 0.8, level: float = KEEPS) -> int:
    """Seeds that two reads need so that `power` is as large as wanted.

    Args:
        error: as of `power`, of so many seeds; it falls with the root of their number.
        seeds: how many these are.
        wanted: the probability, between 0 and 1.
        level: as of `power`.
    """
    return next(n for n in itertools.count(2) if power(error * math.sqrt(seeds / n), n, level) >= wanted)


def power_answer(table: pd.DataFrame) -> str:
    """How hard it is to be found to keep the effect, by the errors of the reads that are judged, in a sentence.

    Args:
        table: as of `frontier`.

    Returns:
        The sentence; an empty one where no read is judged.
    """
    others = table.drop(index=ORTHOGONALIZED.name)
    errors = others["error"].dropna()
    if not len(errors):
        return ""
    # The smaller of the two in the middle, where there are two: a read of the table, which has its number of seeds.
    median = errors.sort_values().index[(len(errors) - 1) // 2]
    error, seeds = errors[median], int(min(table.loc[[median, ORTHOGONALIZED.name], "runs"]))
    return (
        f"A read just as good as five steps passes this test in {100 * power(error, seeds):.0f} % of cases on {seeds} "
        f"seeds, at the median error of the {len(errors)} reads whose hazard has an interval; in 80 % of cases on "
        f"{seeds_needed(error, seeds)} seeds."
    )


def answer(table: pd.DataFrame) -> str:
    """Which read of `frontier` is the cheapest that keeps the effect, in a sentence.

    Only reads with at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs are judged.
    """
    own, others = table.loc[ORTHOGONALIZED.name], table.drop(index=ORTHOGONALIZED.name)
    enough = others[others["runs"] >= stats.LEAST_FOR_INTERVAL]
    if own["runs"] < stats.LEAST_FOR_INTERVAL or not len(enough):
        return f"Which read is the cheapest that keeps the effect: {NOT_RUN}."
    cost = own["products"]
    keeping = enough[enough["low"] > KEEPS].sort_values("products", kind="stable")
    missing = len(others) - len(enough)
    so_far = f" (so far: {missing} of {len(others)} reads have too few runs)" if missing else ""
    if not len(keeping):
        if not enough["escaped"].any():
            return f"No read keeps the effect of five steps: with none that has enough runs does any escape{so_far}."
        if enough["low"].isna().all():
            return (
                f"Which read keeps the effect of five steps cannot be told: no relative hazard has an estimate{so_far}."
            )
        best = enough.loc[enough["low"].idxmax()]
        if missing:
            told = "; ".join(f"{title(name)} {_hazard_text(row)}" for name, row in enough.iterrows())
            worse = [title(name) for name, row in enough.iterrows() if row["high"] < 1]
            return (
                f"Not told yet: of {missing} of {len(others)} reads there are fewer than {stats.LEAST_FOR_INTERVAL} "
                f"runs. The hazard of escape of the rest, relative to five steps': {told}. Below 1, each by its own "
                f"interval: {', '.join(worse) or 'none'}. Shown to keep the effect (above {KEEPS:g}): none."
            )
        return (
            f"No read has a hazard relative to five steps' with a lower 95 % bound above {KEEPS:g}; {title(best.name)} "
            f"comes nearest, {ratio_text(best)} with {best['products']:.0f} products{so_far}."
        )
    best = keeping.iloc[0]
    picked = f" (picked on {seeds_text(PICKED_ON[best.name])}, which count here)" if best.name in PICKED_ON else ""
    own_cost = "" if "product" in title(best.name) else title(f"degree{best['products']:.0f}") + "; "
    return (
        f"The cheapest read whose hazard of escape relative to five steps' has a lower 95 % bound above {KEEPS:g} is "
        f"that of {title(best.name)} ({own_cost}five steps: {cost:.0f}), {ratio_text(best)}{picked}; each of the "
        f"{len(enough)} reads that are judged is tested by itself{so_far}."
    )
