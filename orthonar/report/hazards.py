"""Discrete-time hazard models: how soon a run that still waits escapes, and what moves that.

A run waits from its start to its escape. Every evaluation it waits for is a *run-interval*, and an escape the event of
one. Of the runs that wait before evaluation i the share h_i(x) escapes by it:

    link(h_i(x)) = a_i + b . x        link = log(-log(1 - h)), cloglog, or log(h / (1 - h)), logit

with a level a_i of its own for every evaluation. With cloglog it is the proportional-hazards model of times known to
an interval (Prentice and Gloeckler 1978): exp(b) multiplies the hazard whatever the time, and where x is the logarithm
of a setting, b is the hazard's *elasticity* to it. With logit exp(b) multiplies the odds (Cox 1972). Either is a
binomial regression over run-intervals (Allison 1982), here statsmodels'. Runs of one seed see the same data and start
from the same embedding, and so end alike more often than chance has it: errors take each seed as one draw (Liang and
Zeger 1986), and intervals are Student's t, since the seeds are few (Cameron and Miller 2015). Taken run by run errors
are too large for what differs within a seed, and the intervals of two reads' ratio too wide.

A run that leaves without an escape, because its budget is over, it diverged, or it can no longer escape, is censored
there: it counts for as long as it waited. So an end that competes with escape moves these estimates only if it is not
independent of escape, given x.
"""

import math
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import patsy
from statsmodels.genmod.families import Binomial
from statsmodels.genmod.families.links import CLogLog, Logit
from statsmodels.genmod.generalized_linear_model import GLM
from statsmodels.tools.sm_exceptions import PerfectSeparationError

from ..training.record import Evaluation
from . import stats

#: What the links are called.
LINKS = {"cloglog": CLogLog, "logit": Logit}
# Beyond this factor the likelihood has no maximum: an estimate that it drives there is no estimate.
_LARGEST_RATIO = 1e6


def run_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """Every evaluation that a run waited for.

    Args:
        table: a run table; beside escape_step (NaN: none), steps and eval_every it may have left_step, the step at
            which a run left without an escape before its budget was over (NaN: it did not).

    Returns:
        The table's rows, each as often as its run waited for an evaluation, the escape's own included, with the columns
        evaluation (1, 2, ...) and escaped (0 or 1).

    Raises:
        ValueError: naming a column that is missing.
    """
    if missing := [c for c in ("escape_step", "steps", "eval_every") if c not in table]:
        raise ValueError(f"table: it has no column {missing[0]!r}")
    left = table["left_step"] if "left_step" in table else pd.Series(np.nan, table.index)
    # A gated anneal goes on after the budget, and a run may escape there.
    end = table[["steps", "escape_step"]].astype(float).max(axis=1)
    censored = left.fillna(end).clip(upper=end)
    escaped = table["escape_step"].notna() & ~(table["escape_step"] > censored)
    every = table["eval_every"].astype(float)
    # An escape is the event of the interval that it falls into; the last step is always evaluated, while of a run that
    # left before only whole intervals count.
    to_the_end = censored >= table["steps"]
    unfinished = np.ceil(censored / every - 1e-9).where(to_the_end, censored // every)
    waited = np.ceil(table["escape_step"].astype(float) / every - 1e-9).where(escaped, unfinished).astype(int)
    rows = np.repeat(np.arange(len(table)), waited)
    evaluation = np.concatenate([np.arange(1, n + 1) for n in waited]) if len(table) else np.array([], int)
    event = escaped.to_numpy()[rows] & (evaluation == waited.to_numpy()[rows])
    return table.iloc[rows].reset_index(drop=True).assign(evaluation=evaluation, escaped=event.astype(int))


class HazardRatio(NamedTuple):
    """A ratio of hazards with its 95 % interval, and the standard error of its logarithm, NaN where there is none."""

    value: float
    low: float
    high: float
    error: float


def fit(table: pd.DataFrame, formula: str, link: str = "cloglog", *, apart: bool = False) -> pd.DataFrame:
    """Fit a hazard model of escape.

    An evaluation by which none or all of the waiting runs escape is fitted exactly by its level alone: it tells nothing
    of b and is left out.

    Args:
        table: a run table, see `run_intervals`, with the columns that the formula names and, unless apart, seed and
            device, see `orthonar.report.stats.draws`.
        formula: what moves the hazard, as patsy writes it, such as "orthogonalized * np.log(lr) + np.log(batch_size)".
        link: one of `LINKS`.
        apart: whether each run counts as one draw. Else the runs of a seed do together: errors are the sandwich
            estimator's by seed, and low, high and p are by Student's t with one degree of freedom less than seeds.

    Returns:
        One row per term of the formula: effect (b) and its standard error, ratio (exp b) with low and high (95 %,
        Wald's on b), p (Wald's); and behind them run_intervals and events: of the runs with a 1 where a term is 0 or 1,
        else of all. What the runs cannot tell, because a side has no escape, the term moves together with another, or
        all seeds have the same runs on either side, is NaN.

    Raises:
        ValueError: there is no such link, a column is missing, a term is not a finite number for every run, or runs are
            evaluated at different steps, so that an evaluation's number is not one time.
    """
    if link not in LINKS:
        raise ValueError(f"link: there is no {link!r}, only {', '.join(LINKS)}")
    waits = run_intervals(table)
    if table["eval_every"].nunique() > 1:
        every = ", ".join(f"{steps:g}" for steps in sorted(table["eval_every"].unique()))
        raise ValueError(f"table: its runs are evaluated every {every} steps; a model wants one of these")
    try:
        with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is named below
            terms = patsy.dmatrix(formula, waits, return_type="dataframe", NA_action="raise")
    except patsy.PatsyError as error:
        raise ValueError(f"formula: {formula!r} cannot be put together: {error.message}") from None
    terms = terms.drop(columns="Intercept", errors="ignore")
    if endless := [name for name in terms if not np.isfinite(terms[name]).all()]:
        raise ValueError(f"formula: {endless[0]} is not finite for every run")
    told = waits.groupby("evaluation")["escaped"].transform(lambda e: 0 < e.sum() < len(e)).astype(bool)
    counted = terms.apply(lambda x: x.eq(1) if x.isin([0, 1]).all() else x.notna())
    behind = pd.DataFrame(
        {"run_intervals": counted.sum(), "events": counted.mul(waits["escaped"], axis=0).sum().astype(int)}
    )
    draws = None if apart else stats.draws(waits)[told]
    estimates = _regress(waits[told], terms[told], LINKS[link](), draws)
    return estimates.join(behind)


def _regress(waits: pd.DataFrame, terms: pd.DataFrame, link, draws: pd.Series | None) -> pd.DataFrame:
    """b of every term with its standard error, as effect, error, ratio, low, high and p."""
    unknown = pd.DataFrame(math.nan, terms.columns, ["effect", "error", "ratio", "low", "high", "p"])
    levels = pd.get_dummies(waits["evaluation"]).astype(float)
    design = pd.concat([levels, terms], axis=1)
    if not len(design) or np.linalg.matrix_rank(design) < design.shape[1]:
        return unknown
    errors: dict[str, Any] = {}
    if draws is not None:
        if draws.nunique() < 2:
            return unknown
        errors = {"cov_type": "cluster", "cov_kwds": {"groups": draws.astype("category").cat.codes.to_numpy()}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # separation is what the bound below looks for
        try:
            model = GLM(waits["escaped"].astype(float), design, Binomial(link)).fit(maxiter=200, **errors)
        except PerfectSeparationError:
            return unknown
    b, error = model.params[terms.columns], model.bse[terms.columns]
    span = (terms.max() - terms.min()).clip(lower=1e-12)
    # At one end of cloglog the likelihood flattens before b is large: there the error is what has no bound.
    bound = math.log(_LARGEST_RATIO)
    b = b.where(np.isfinite(error) & (b.abs() * span < bound) & (error * span < bound))
    # Seeds that all end alike on either side leave errors by seed nothing to go by.
    b = b.where(error * span > 1e-6)
    error = error.where(b.notna())
    law = stats.error_law(None if draws is None else draws.nunique())
    half = law.ppf((1 + stats.CONFIDENCE) / 2) * error
    p = 2 * law.sf((b / error).abs())
    found = {"ratio": np.exp(b), "low": np.exp(b - half), "high": np.exp(b + half), "p": p}
    return pd.DataFrame({"effect": b, "error": error} | found)


def hazard_ratio(reference: pd.DataFrame, other: pd.DataFrame, *, apart: bool = False) -> HazardRatio:
    """How many times likelier than the reference's the other side's waiting runs escape, per evaluation, with interval.

    Args:
        reference: a run table.
        other: a run table.
        apart: as of `fit`.

    Returns:
        exp(b) of the proportional-hazards model with x = 0 for the reference and 1 for the other side; NaN where a side
        has no escape at the evaluations that tell something.
    """
    both = pd.concat([reference.assign(other=0.0), other.assign(other=1.0)], ignore_index=True)
    columns = ["ratio", "low", "high", "error"]
    found = fit(both, "other", apart=apart).loc["other"] if len(both) else pd.Series(math.nan, columns)
    return HazardRatio(*(float(found[name]) for name in columns))


def left_step(outcome: str, trace: Sequence[Evaluation]) -> int | None:
    """When a run left for another reason than an escape or its budget: at the first loss that was not finite.

    A collapse is no such end: it comes after an escape, see `orthonar.report.stats.collapse_step`.

    Args:
        outcome: of the run, one of `orthonar.training.record.OUTCOMES`.
        trace: the run's evaluations.

    Returns:
        The step; None for a run that did not diverge.
    """
    return trace[-1].step if outcome == "diverged" else None
