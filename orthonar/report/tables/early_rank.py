"""Whether the memory's effective rank early in training goes with how soon runs escape afterwards."""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .. import hazards
from ..words import NOT_RUN, estimate_text
from .frontier import slope_at_zero
from .probed import EARLY, probed_runs, traces

#: The share of the training at which the rank is taken.
AT = EARLY[0]
#: What is fitted: the rank alone, beside the slope of the read's map at 0, and among runs of one map.
_MODELS = {"alone": "rank", "beside the slope": "rank + np.log(slope)", "same map": "rank + C(side)"}


def ranks(study: Study, records: Iterable[RunRecord]) -> pd.Series:
    """Effective rank of the memory at the evaluation at `AT` of the training, by a run's identity.

    Args:
        study: which runs to look for, of one task.
        records: run records; those without probes, or without an evaluation there, are left out.
    """
    lines = traces(study, records).astype({"step": float})
    there = lines[np.isclose(lines["step"], AT * lines["steps"])]
    return there.set_index("identity")["effective_rank"].dropna()


def waiting(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """The runs that still wait for 80 % there, with the rank, their times counted from there.

    Args:
        study, records: as of `ranks`.

    Returns:
        `orthonar.report.tables.probed.probed_runs` with rank and slope (of the read's map at 0); escape_step, left_step
        and steps are less by `AT` of the training.
    """
    records = list(records)
    runs = probed_runs(study, records)
    slope = {name: slope_at_zero(side.settings["read"]) for name, side in study.sides.items()}
    runs = runs.assign(rank=runs["identity"].map(ranks(study, records)), slope=runs["side"].map(slope))
    start = AT * runs["steps"]
    later = runs.assign(**{name: runs[name] - start for name in ("escape_step", "left_step", "steps")})
    waits = ~(later["escape_step"] <= 0) & ~(later["left_step"] <= 0)
    return later[later["rank"].notna() & waits].reset_index(drop=True)


def fits(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What one unit of rank more multiplies the hazard of escape by, by three models.

    Args:
        study, records: as of `ranks`, all reads maps of singular values.

    Returns:
        The rows of `orthonar.report.hazards.fit` for the rank, one for each model: "alone", "beside the slope" and
        "same map"; and one, "slope beside the rank", for the logarithm of the slope in the second.
    """
    runs = waiting(study, records)
    fitted = {name: hazards.fit(runs, formula) for name, formula in _MODELS.items()}
    rows = {name: of.loc["rank"] for name, of in fitted.items()}
    return pd.DataFrame(rows | {"slope beside the rank": fitted["beside the slope"].loc["np.log(slope)"]}).T


def answer(study: Study, records: Iterable[RunRecord]) -> str:
    """Whether runs whose memory has a higher rank early escape sooner, over all maps and among runs of one: a sentence.

    Args:
        study, records: as of `fits`.
    """
    records = list(records)
    runs = waiting(study, records)
    if runs["side"].nunique() < 2:
        return f"Whether the memory's rank early in training goes with how soon runs escape: {NOT_RUN}."
    found = fits(study, records)
    over = f"Of {len(runs)} runs with {runs['side'].nunique()} maps that still wait at {100 * AT:g} % of the training"
    behind = f"{found.loc['alone', 'events']:.0f} escapes afterwards"
    if found.loc[list(_MODELS), "ratio"].isna().any():
        return f"{over} it cannot be told how the hazard of escape goes with the memory's effective rank ({behind})."
    alone, beside, same = (_ratio_text(found.loc[name]) for name in _MODELS)
    slope = estimate_text(*np.log(found.loc["slope beside the rank", ["ratio", "low", "high"]].astype(float)))
    return (
        f"{over}, one unit more of effective rank there goes with a hazard of escape {alone} ({behind}; intervals take "
        f"each seed as one draw). Among runs of "
        f"maps equally steep at 0 it is {beside}, and at one rank the hazard goes with the slope to the power {slope}. "
        f"Among runs of the same map it is {same}."
    )


def _ratio_text(row: pd.Series) -> str:
    told = "" if row["low"] > 1 or row["high"] < 1 else ", which is not told from 1"
    return f"{estimate_text(*row[['ratio', 'low', 'high']].astype(float))} times as high{told}"
