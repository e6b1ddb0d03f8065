"""The statistics of run tables, one definition of each, over scipy and statsmodels.

A run is *solved* when its final accuracy is at least 0.8. Its *escape step* is the first evaluation with at least that,
the first step's excluded; a run that never gets there is censored at its budget of steps. A diverged run counts as not
solved, and with accuracy 0 in means.
"""

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

CONFIDENCE = 0.95


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float


def solved_share(solved: int, runs: int) -> Interval:
    """Share of solved runs with Wilson's interval (Wilson 1927).

    Args:
        solved: number of solved runs.
        runs: number of all runs, at least 1.
    """
    if not 0 <= solved <= runs or runs < 1:
        raise ValueError(f"solved must lie between 0 and runs, at least 1, not {solved} of {runs}")
    low, high = proportion_confint(solved, runs, alpha=1 - CONFIDENCE, method="wilson")
    return Interval(solved / runs, float(low), float(high))


def accuracies(table: pd.DataFrame) -> np.ndarray:
    """Final accuracies of a run table, 0 to 1, a diverged run as 0."""
    return table["accuracy"].fillna(0.0).to_numpy(dtype=float)


def mean_interval(values: Sequence[float], seed: int = 0, resamples: int = 9999) -> Interval:
    """Mean with a bias-corrected and accelerated bootstrap interval (Efron 1987); NaN where there is only one value.

    Args:
        values: a number a run.
        seed: of the resampling.
        resamples: how many samples are drawn.
    """
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("values: a mean needs at least one")
    mean = float(values.mean())
    if values.size == 1:
        return Interval(mean, np.nan, np.nan)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=CONFIDENCE, rng=np.random.default_rng(seed)
    )
    return Interval(mean, *map(float, result.confidence_interval))


def fisher(solved: tuple[int, int], runs: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test that two sides are solved equally often.

    Args:
        solved: number of solved runs of each side.
        runs: number of all runs of each side.
    """
    return float(stats.fisher_exact([[s, n - s] for s, n in zip(solved, runs, strict=True)]).pvalue)


def escapes(table: pd.DataFrame) -> stats.CensoredData:
    """Escape steps of a run table; a run without one is censored at its budget, a diverged one too: it never will."""
    reached = table["escape_step"].notna()
    return stats.CensoredData(
        uncensored=table.loc[reached, "escape_step"].to_numpy(float),
        right=table.loc[~reached, "steps"].to_numpy(float),
    )


def survival(table: pd.DataFrame) -> pd.DataFrame:
    """Kaplan-Meier estimate of the share of runs that have not escaped (Kaplan and Meier 1958).

    Returns:
        Columns step, waiting (share), low and high (95 %, log-log), from step 0 to the last step of any run.
    """
    curve = stats.ecdf(escapes(table)).sf
    with np.errstate(divide="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # where none or all have escaped, there is no interval
        interval = curve.confidence_interval(confidence_level=CONFIDENCE, method="log-log")
    at = curve.quantiles
    columns = {
        "step": [0.0, *at],
        "waiting": [1.0, *curve.probabilities],
        "low": [1.0, *interval.low.probabilities],
        "high": [1.0, *interval.high.probabilities],
    }
    return pd.DataFrame(columns)


def logrank(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p-value of the log-rank test (Mantel 1966) that two run tables escape alike; NaN if none escapes."""
    if not first["escape_step"].notna().any() and not second["escape_step"].notna().any():
        return float("nan")
    return float(stats.logrank(escapes(first), escapes(second)).pvalue)


def summary(table: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """One row a group of runs: how many, how many solved with Wilson's interval, mean accuracy with its interval.

    Args:
        table: a run table.
        by: columns that tell the groups apart.

    Returns:
        Columns runs, solved, solved_low, solved_high (shares), accuracy, accuracy_low, accuracy_high (0 to 1),
        median_escape (NaN where half of the runs never escape).
    """
    rows = []
    for key, runs in table.groupby(by, sort=False, dropna=False):
        solved = int(runs["solved"].sum())
        share, mean = solved_share(solved, len(runs)), mean_interval(accuracies(runs))
        waiting = survival(runs)
        half = waiting.loc[waiting["waiting"] <= 0.5, "step"]
        row = {"runs": len(runs), "solved": solved, "solved_low": share.low, "solved_high": share.high}
        row |= {"accuracy": mean.value, "accuracy_low": mean.low, "accuracy_high": mean.high}
        rows.append(dict(zip(by, key, strict=True)) | row | {"median_escape": half.min() if len(half) else np.nan})
    return pd.DataFrame(rows).set_index(by) if rows else pd.DataFrame()
