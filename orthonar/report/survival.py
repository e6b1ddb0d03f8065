"""When the runs of a table escape: censored times, their curve and median, and the log-rank tests of two sides.

A run's *escape step* is the first evaluation with at least 0.8, the first step's excluded; a run that never gets there
is censored at its budget of steps. A collapse comes after an escape, and a run leaves the analysis with its escape: it
counts as an event here, and nothing after it, the collapse included, is looked at.
"""

import math
import warnings

import numpy as np
import pandas as pd
from scipy import stats

from .stats import CONFIDENCE, shared_seeds, sign_test


def escapes(table: pd.DataFrame) -> stats.CensoredData:
    """Escape steps of a run table; a run without one is censored at its budget, a diverged one too: it never will.

    A run that collapsed has escaped before, which is its event; what follows is not looked at.
    """
    reached = table["escape_step"].notna()
    return stats.CensoredData(
        uncensored=table.loc[reached, "escape_step"].to_numpy(float),
        right=table.loc[~reached, "steps"].to_numpy(float),
    )


def kaplan_meier(table: pd.DataFrame) -> pd.DataFrame:
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


def median_escape(table: pd.DataFrame) -> float:
    """The step by which half of the runs have escaped; NaN where more than half of them never do."""
    curve = kaplan_meier(table)
    # The estimate is a product of ratios, and may miss a half by a rounding error.
    half = curve.loc[curve["waiting"] <= 0.5 + 1e-9, "step"]
    return float(half.min()) if len(half) else math.nan


def logrank(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p-value of the log-rank test (Mantel 1966) that two run tables escape alike.

    Returns:
        The p-value; NaN if none escapes or a side has no run, and 1 if all escape at one evaluation, which tells the
        sides as little apart.
    """
    if not (len(first) and len(second)):
        return float("nan")
    if not first["escape_step"].notna().any() and not second["escape_step"].notna().any():
        return float("nan")
    with np.errstate(invalid="ignore"):  # without a variance
        p = float(stats.logrank(escapes(first), escapes(second)).pvalue)
    return 1.0 if math.isnan(p) else p


def sooner(first: pd.DataFrame, second: pd.DataFrame) -> tuple[int, int]:
    """In how many pairs with the same seed the first side's run escapes sooner, and in how many the second's.

    Pairs that escape at the same evaluation, in which neither escapes, or of which one run ends before the other
    escapes tell nothing and are in neither number.
    """
    a, b = shared_seeds(first, second)
    times = [np.where(side["escape_step"].notna(), side["escape_step"], side["steps"]) for side in (a, b)]
    escaped = [side["escape_step"].notna().to_numpy() for side in (a, b)]
    before = (times[0] < times[1]) | ((times[0] == times[1]) & ~escaped[1])
    after = (times[1] < times[0]) | ((times[1] == times[0]) & ~escaped[0])
    return int((escaped[0] & before).sum()), int((escaped[1] & after).sum())


def paired_logrank(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """Two-sided p-value of the log-rank test stratified by seed, in its exact form.

    With one run of each side in a stratum, a pair in which one run escapes while the other still waits adds +1/2 or
    -1/2 to the observed less the expected escapes and 1/4 to their variance, and every other pair adds nothing. So the
    statistic is (a - b)² / (a + b) for the two numbers of `sooner`; and as the signs of the pairs are like throws of a
    coin where the sides escape alike, the binomial distribution of a gives the p-value without an approximation.

    Args:
        first: a run table.
        second: a run table; runs without a partner are left out, see `shared_seeds`.

    Returns:
        The p-value; NaN where no pair tells the sides apart.
    """
    a, b = sooner(first, second)
    return sign_test(a, b) if a + b else math.nan
