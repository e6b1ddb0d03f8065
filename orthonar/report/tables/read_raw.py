"""What solved runs lose when they are read raw, by the map of singular values that they were trained with."""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from statsmodels.regression.linear_model import OLS

from ...study.presets import Study
from ...study.sides import ORTHOGONALIZED
from ...training.record import SOLVED_AT, RunRecord
from .. import stats
from ..words import NOT_RUN, estimate_text, text_table, values_text
from .frontier import slope_at_zero
from .probed import EVALUATED_WITH, probed_runs

#: Columns of `by_map`.
COLUMNS = ("read", "slope at 0", "own read", "read raw", "points lost", "still solved")


def losses(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """The solved runs of a study's maps that were also evaluated with the raw read.

    Args:
        study: as of `orthonar.report.tables.slopes.every_map`, or some of its sides.
        records: run records.

    Returns:
        `orthonar.report.tables.probed.probed_runs` with slope (of the map at 0) and lost, by how many points of
        accuracy the trained model is worse when it is read raw; the flattest map first.
    """
    runs, raw = probed_runs(study, records), EVALUATED_WITH["raw"]
    slope = {name: slope_at_zero(side.settings["read"]) for name, side in study.sides.items()}
    runs = runs.assign(slope=runs["side"].map(slope).astype(float), lost=100 * (runs["accuracy"] - runs[raw]))
    solved = runs[(runs["ends"] == "solved") & runs["lost"].notna()]
    return solved.sort_values(["slope", "seed"], kind="stable").reset_index(drop=True)


def by_map(lost: pd.DataFrame) -> pd.DataFrame:
    """How each map's solved runs do with their own read and raw, as text, in percent.

    Args:
        lost: as of `losses`.
    """
    raw, rows = EVALUATED_WITH["raw"], []
    for name, mine in lost.groupby("side", sort=False):
        texts = {
            "read": str(name),
            "slope at 0": f"{mine['slope'].iloc[0]:.1f}",
            "own read": f"{100 * mine['accuracy'].mean():.1f}",
            "read raw": f"{100 * mine[raw].mean():.1f}",
            "points lost": values_text(mine["lost"], 1),
            "still solved": f"{(mine[raw] >= SOLVED_AT).sum()} of {len(mine)}",
        }
        rows.append(texts)
    return text_table(rows, COLUMNS, "read")


def per_doubling(lost: pd.DataFrame) -> stats.Interval:
    """How many points more are lost with a map twice as steep at 0, by least squares over runs.

    Args:
        lost: as of `losses`.

    Returns:
        The estimate and its 95 % interval, Student's t with errors that take each seed as one draw (Liang and Zeger
        1986); NaN of fewer than two maps, or of fewer seeds than an interval takes.
    """
    draws = stats.draws(lost).astype("category").cat.codes.to_numpy()
    if lost["slope"].nunique() < 2 or len(set(draws)) < stats.LEAST_FOR_INTERVAL:
        return stats.Interval(np.nan, np.nan, np.nan)
    design = np.column_stack([np.ones(len(lost)), np.log2(lost["slope"])])
    fitted = OLS(lost["lost"].to_numpy(dtype=float), design).fit(cov_type="cluster", cov_kwds={"groups": draws})
    half = stats.error_law(len(set(draws))).ppf((1 + stats.CONFIDENCE) / 2) * fitted.bse[1]
    return stats.Interval(*(float(fitted.params[1] + by) for by in (0, -half, half)))


def answer(lost: pd.DataFrame) -> str:
    """Whether runs of steeper maps lose more when they are read raw, in some sentences.

    Args:
        lost: as of `losses`.
    """
    found = per_doubling(lost)
    if np.isnan(found.value):
        return f"What solved runs lose when they are read raw, by their map's slope at 0: {NOT_RUN}."
    still = int((lost[EVALUATED_WITH["raw"]] >= SOLVED_AT).sum())
    said = (
        f"Of {len(lost)} runs solved with {lost['side'].nunique()} maps {still} are still solved when they are read "
        f"raw; reading raw costs the {len(lost)} {lost['lost'].mean():.1f} points on average. A map twice as steep at "
        f"0 goes with {_points_text(found)} points more (95 % interval, which takes each seed as one draw)"
    )
    steep = lost[lost["slope"] >= slope_at_zero(ORTHOGONALIZED.settings["read"])]
    among = per_doubling(steep)
    if np.isnan(among.value):
        return f"{said}."
    return (
        f"{said}; among the {steep['side'].nunique()} maps at least as steep as five steps ({len(steep)} runs) "
        f"{_points_text(among)}."
    )


def _points_text(found: stats.Interval) -> str:
    told = "" if found.low > 0 or found.high < 0 else ", which is not told from 0,"
    return f"{estimate_text(*found)}{told}"
