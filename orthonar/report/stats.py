"""The statistics of run tables, one definition of each, over scipy and statsmodels.

A run is *solved* when its final accuracy is at least 0.8. A diverged run counts as not solved, and with accuracy 0 in
means. How a run *ended* is one of `ENDINGS`, see `ending`. When they escape is in `survival`.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

from ..training.record import SOLVED_AT, Evaluation, first_reaching

CONFIDENCE = 0.95
#: Largest p-value that tells two sides apart.
LEVEL = 0.05
#: Fewest values whose mean gets an interval: of fewer, a 95 % bootstrap interval holds the mean far less often (of two
#: values in about half of the cases).
LEAST_FOR_INTERVAL = 8
#: Accuracies lie at chance or near 1, and a mean of them is as uncertain as the share of either: fewest solved runs,
#: and fewest others, or fewest pairs of which one run alone is solved, for an interval. Where one run in 24 is solved,
#: a 95 % bootstrap interval of 24 runs holds the mean in 61 % of samples, since most have one such run or none.
LEAST_OF_EITHER = 4

#: How runs end, the best first.
ENDINGS = ("solved", "unsolved", "at chance", "collapsed", "diverged")


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval, NaN where there is none."""

    value: float
    low: float
    high: float


class Pairs(NamedTuple):
    """How many pairs of runs, one of each side with the same seed, solved which side's run."""

    neither: int
    first_only: int
    second_only: int
    both: int


def solved_share(solved: int, runs: int) -> Interval:
    """Share of solved runs with Wilson's interval (Wilson 1927).

    Args:
        solved: number of solved runs.
        runs: number of all runs, at least 1.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 0 <= solved <= runs or runs < 1:
        raise ValueError(f"solved must lie between 0 and runs, at least 1, not {solved} of {runs}")
    low, high = proportion_confint(solved, runs, alpha=1 - CONFIDENCE, method="wilson")
    share = solved / runs  # which rounding may put outside where it is 0 or 1
    return Interval(share, min(float(low), share), max(float(high), share))


def at_chance(accuracy: float, scored: float, values: int) -> bool:
    """Whether an accuracy is no better than guessing one value, within sampling error.

    All values are equally likely, so the best constant guess is right with p = 1 / values, and the share of right
    answers among independent positions has the standard error sqrt(p (1 - p) / scored). At chance is what lies at most
    1.96 of them above p.

    Args:
        accuracy: share of scored positions that are right, 0 to 1.
        scored: number of independent scored positions.
        values: number of values to choose from.
    """
    p = 1 / values
    return accuracy <= p + stats.norm.ppf((1 + CONFIDENCE) / 2) * math.sqrt(p * (1 - p) / scored)


def collapse_step(trace: Sequence[Evaluation]) -> int | None:
    """Where a run collapsed: the evaluation from which on it stays below half of its best, after an escape.

    Args:
        trace: evaluations, in order; where the run diverged, which has no accuracy, it counts as 0.

    Returns:
        The step; None for a run that never escaped, or whose last evaluation has at least half of its best accuracy.
    """
    reached = [e.accuracy or 0.0 for e in trace]
    if first_reaching(trace, SOLVED_AT) is None or reached[-1] >= max(reached) / 2:
        return None
    last = max(i for i, a in enumerate(reached) if a >= max(reached) / 2)
    return trace[last + 1].step


def ending(outcome: str, trace: Sequence[Evaluation], scored: float, values: int) -> str:
    """How a run ended, one of `ENDINGS`.

    "diverged" where a loss was not finite; "collapsed" where `collapse_step` finds a collapse; "solved" with a final
    accuracy of at least 0.8; "at chance" as of `at_chance`; else "unsolved".

    Args:
        outcome: as it stands in the run's record.
        trace: its evaluations, in order.
        scored: number of independent scored positions of the run's validation set.
        values: number of values to choose from.
    """
    if outcome == "diverged" or trace[-1].accuracy is None:
        return "diverged"
    if collapse_step(trace) is not None:
        return "collapsed"
    if trace[-1].accuracy >= SOLVED_AT:
        return "solved"
    return "at chance" if at_chance(trace[-1].accuracy, scored, values) else "unsolved"


def is_told(p: float) -> bool:
    """Whether a p-value tells two sides apart: it is at most `LEVEL`; one that is not a number tells nothing."""
    return p <= LEVEL


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values corrected by how many there are (Holm 1979): which of them are at most `LEVEL` is told of all together.

    Args:
        p: one a test; NaN where there is none, which stays NaN and counts for nothing.
    """
    corrected = np.array(p, dtype=float)
    tests = ~np.isnan(corrected)
    if tests.any():
        corrected[tests] = multipletests(corrected[tests], method="holm")[1]
    return corrected


def accuracies(table: pd.DataFrame) -> np.ndarray:
    """Final accuracies of a run table, 0 to 1, a diverged run as 0.

    Raises:
        ValueError: a run that did not diverge has no accuracy; its identity is named.
    """
    lost = table["accuracy"].isna() & (table["outcome"] != "diverged")
    if lost.any():
        names = ", ".join(table.loc[lost, "identity"])
        raise ValueError(f"accuracy: not a number in runs that did not diverge: {names}")
    return table["accuracy"].fillna(0.0).to_numpy(dtype=float)


def enough_of_either(values: np.ndarray) -> bool:
    """Whether accuracies hold `LEAST_OF_EITHER` solved runs and as many others, so that their mean has an interval.

    Args:
        values: one a run, 0 to 1.
    """
    solved = int((values >= SOLVED_AT).sum())
    return min(solved, len(values) - solved) >= LEAST_OF_EITHER


def mean_interval(values: Sequence[float] | pd.Series, seed: int = 0, resamples: int = 9999) -> Interval:
    """Mean with a bias-corrected and accelerated bootstrap interval (Efron 1987).

    Args:
        values: one number per run; a Series' index names the runs.
        seed: of the resampling.
        resamples: how many samples are drawn.

    Returns:
        The mean; without an interval where there are fewer than `LEAST_FOR_INTERVAL` values, or where all are equal but
        for rounding, so that resampling cannot tell how far the mean may be off.

    Raises:
        ValueError: there is no value, or one is not a number: the message names it.
    """
    names = values.index if isinstance(values, pd.Series) else range(len(values))
    values = np.asarray(values, dtype=float)
    if not values.size:
        raise ValueError("values: a mean needs at least one")
    if np.isnan(values).any():
        lost = ", ".join(str(name) for name, value in zip(names, values) if np.isnan(value))
        raise ValueError(f"values: not a number, in run {lost}")
    mean = float(values.mean())
    if values.size < LEAST_FOR_INTERVAL or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return Interval(mean, np.nan, np.nan)
    result = stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, confidence_level=CONFIDENCE, rng=np.random.default_rng(seed)
    )
    return Interval(mean, *map(float, result.confidence_interval))


def fisher(solved: tuple[int, int], runs: tuple[int, int]) -> float:
    """Two-sided p-value of Fisher's exact test that two sides are solved equally often, as if their seeds were apart.

    Args:
        solved: number of solved runs of each side.
        runs: number of all runs of each side.
    """
    return float(stats.fisher_exact([[s, n - s] for s, n in zip(solved, runs, strict=True)]).pvalue)


def stratified_fisher(strata: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> float:
    """Two-sided p-value of Fisher's exact test over several strata that in each two sides are solved equally often.

    Given how many runs of a stratum are solved on both sides together, those of the first side are a hypergeometric
    number, and over strata their sum (Gart 1971); p is the probability of all sums that are as probable as the one
    found or less. Of one stratum it is `fisher`.

    Args:
        strata: for each the solved runs of either side, and all runs of either side, as `fisher` takes them.
    """
    shares, found = np.ones(1), 0
    for solved, runs in strata:
        possible = stats.hypergeom.pmf(np.arange(runs[0] + 1), sum(runs), sum(solved), runs[0])
        shares, found = np.convolve(shares, possible), found + solved[0]
    as_probable = shares <= shares[found] * (1 + 1e-9)  # but for rounding
    return min(1.0, float(shares[as_probable].sum()))


def fisher_power(shares: Sequence[float], runs: Sequence[int]) -> float:
    """How often `fisher` tells two sides apart whose runs are solved with these probabilities, exactly.

    Args:
        shares: probability that a run of each side is solved.
        runs: number of runs of each side.
    """
    one, other = runs
    first, second = (stats.binom.pmf(range(n + 1), n, share) for n, share in zip(runs, shares, strict=True))
    told = (p * q for a, p in enumerate(first) for b, q in enumerate(second) if is_told(fisher((a, b), (one, other))))
    return float(sum(told))


def draws(table: pd.DataFrame) -> pd.Series:
    """Which runs of a run table start alike and see the same data: those of one seed on one kind of device.

    A CPU's generator and a GPU's draw other batches from the same seed. Where a table has no column device, all its
    runs are of one kind.

    Raises:
        ValueError: it has no column seed.
    """
    if "seed" not in table:
        raise ValueError("table: it has no column 'seed'")
    seeds = table["seed"].astype(str)
    return seeds + " " + device_types(table) if "device" in table else seeds


def device_types(table: pd.DataFrame) -> pd.Series:
    """The kind of device that every run of a run table asked for, such as "cpu" or "cuda"."""
    return table["device"].astype(str).str.split(":").str[0]


def error_law(draws: int | None):
    """How an estimate is spread about what it estimates, in its standard errors.

    Args:
        draws: of how many draws the errors are, each with several runs: Student's t with one degree of freedom less
            (Cameron and Miller 2015, section VI); None: of so many runs, each by itself, that it is normal.

    Returns:
        A distribution of scipy.
    """
    return stats.norm if draws is None else stats.t(draws - 1)


def shared_seeds(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of two run tables that make up pairs, each by seed, in the same order.

    A pair has one seed and one kind of device, see `draws`.

    Raises:
        ValueError: a seed comes twice on one side.
    """
    kinds = []
    for side in (first, second):
        twice = side["seed"][side["seed"].duplicated()]
        if len(twice):
            raise ValueError(f"seed: {twice.iloc[0]} comes twice on one side")
        kinds.append(dict(zip(side["seed"], device_types(side))))
    seeds = sorted(seed for seed in kinds[0] if kinds[0][seed] == kinds[1].get(seed))
    one, other = (side[side["seed"].isin(seeds)].set_index("seed").sort_index() for side in (first, second))
    return one, other


def pairs(first: pd.DataFrame, second: pd.DataFrame) -> Pairs:
    """Count the pairs of runs with the same seed by which of the two is solved.

    Args:
        first: a run table.
        second: a run table; runs without a partner are left out, see `shared_seeds`.
    """
    a, b = (side["solved"].to_numpy(bool) for side in shared_seeds(first, second))
    return Pairs(int((~a & ~b).sum()), int((a & ~b).sum()), int((~a & b).sum()), int((a & b).sum()))


def sign_test(first: int, second: int) -> float:
    """Two-sided p-value of the exact test that what tells two sides apart speaks as often for either.

    Args:
        first: how often for the one.
        second: how often for the other.

    Returns:
        The p-value; 1 where there is none.
    """
    return float(stats.binomtest(first, first + second).pvalue) if first + second else 1.0


def mcnemar(counts: Pairs) -> float:
    """Two-sided p-value of the exact McNemar test that either side alone is solved equally often (McNemar 1947).

    Args:
        counts: pairs with the same seed; only those in which one run alone is solved tell the sides apart.

    Returns:
        The p-value; 1 where no pair does.
    """
    return sign_test(counts.first_only, counts.second_only)


def sign_flips(differences: Sequence[int]) -> float:
    """Two-sided p-value of the exact test that differences lie evenly about 0 (Fisher 1935).

    Were it so, each could as well have the other sign: of all choices of signs p is the share with a sum at least as
    far from 0. Of differences of -1, 0 and 1 it is the exact McNemar test.

    Args:
        differences: whole numbers, one for each draw that is independent of the others, such as a seed.

    Returns:
        The p-value; 1 where none differs from 0.
    """
    shares = np.ones(1)  # of the sums from -n to n
    for size in np.abs(np.asarray(differences, dtype=int)):
        one = np.zeros(2 * size + 1)
        one[0] += 0.5
        one[-1] += 0.5
        shares = np.convolve(shares, one)
    sums = np.abs(np.arange(len(shares)) - len(shares) // 2)
    return min(1.0, float(shares[sums >= abs(int(np.sum(differences)))].sum()))
