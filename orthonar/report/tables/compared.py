"""Two tables of runs against each other: solved runs and accuracies, how soon they escape, and the tests of both."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from .. import stats, survival
from ..words import mean_text, median_text, p_text
from .runs import on_shared_seeds

#: What two tables of runs are compared by, see `compared`.
COMPARED = ("solved", "Fisher p", "pairs", "alone", "McNemar p", "gain (points)")


def compared(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, str]:
    """Solved runs and accuracies of two sides as text.

    Args:
        first: run table of one side, at least one run.
        second: run table of the other, at least one run.

    Returns:
        Of `COMPARED` what there is to say: solved runs of either side, and the two-sided p-value of Fisher's test; how
        many pairs of a seed there are, how many of them the first and the second side alone solves, and the two-sided
        p-value of the exact McNemar test; the mean difference of accuracies over the pairs, of at least
        `orthonar.report.stats.LEAST_FOR_INTERVAL` pairs, with its interval, or its range where too few pairs differ in
        which run is solved.
    """
    solved, runs = solved_counts(first, second)
    row = {"solved": ", ".join(f"{s} of {n}" for s, n in zip(solved, runs))}
    if min(runs) > 1:  # one run tests nothing
        row["Fisher p"] = p_text(stats.fisher(solved, runs))
    ours, theirs = stats.shared_seeds(first, second)
    row["pairs"] = f"{len(ours)}"
    if len(ours):
        counts = stats.pairs(first, second)
        row["alone"] = f"{counts.first_only}, {counts.second_only}"
        row["McNemar p"] = p_text(stats.mcnemar(counts)) if len(ours) > 1 else ""
        if len(ours) >= stats.LEAST_FOR_INTERVAL:
            enough = counts.first_only + counts.second_only >= stats.LEAST_OF_EITHER
            row["gain (points)"] = mean_text(stats.accuracies(theirs) - stats.accuracies(ours), enough)
    return row


def accuracy_text(runs: pd.DataFrame, most: int = stats.LEAST_FOR_INTERVAL - 1) -> str:
    """The mean final accuracy of a run table in percent, as of `orthonar.report.words.mean_text`.

    Args:
        runs: at least one.
        most: as of `mean_text`.
    """
    values = stats.accuracies(runs)
    return mean_text(values, stats.enough_of_either(values), most)


class Tested(NamedTuple):
    """A comparison of how often two sides are solved."""

    p: float  #: two-sided.
    paired: bool  #: whether each seed is compared with itself; else it is Fisher's test of all runs.
    more: int  #: 1 where the second side solves more of the runs that were tested, -1 where fewer, else 0.
    name: str  #: the test, as sentences name it.

    def __str__(self) -> str:
        """The test and its p-value, in the words of every sentence."""
        return f"{self.name}, p = {p_text(self.p)}"

    @property
    def verdict(self) -> str:
        """What it says of the second side, in the words of every sentence."""
        if not stats.is_told(self.p):
            return "no difference is shown"
        return f"{'' if self.more > 0 else 'fewer, by '}more than chance explains, taken by itself"


def tested(first: pd.DataFrame, second: pd.DataFrame) -> Tested:
    """Whether both sides solve runs at one rate, two-sided.

    It is the exact McNemar test of the runs in pairs where every run of the side with fewer has a partner, else
    Fisher's of all runs.

    Args:
        first: run table of one side.
        second: run table of the other.
    """
    if min(len(first), len(second)) == len(stats.shared_seeds(first, second)[0]):
        pairs = stats.pairs(first, second)
        more = int(np.sign(pairs.second_only - pairs.first_only))
        return Tested(stats.mcnemar(pairs), True, more, "exact McNemar test in pairs")
    solved, runs = solved_counts(first, second)
    more = int(np.sign(solved[1] * runs[0] - solved[0] * runs[1]))
    return Tested(stats.fisher(solved, runs), False, more, "Fisher's exact test")


def tested_by_seed(first: pd.DataFrame, second: pd.DataFrame) -> Tested:
    """Whether both sides solve runs at one rate, two-sided, where a seed has several runs on either side.

    It is `orthonar.report.stats.sign_flips` of how many more of each seed's runs the second side solves: a seed's runs
    see the same data, and all of them count as one draw. With one run a seed it is the exact McNemar test.

    Args:
        first: run table of one side.
        second: run table of the other, with as many runs of each seed.

    Raises:
        ValueError: they have not.
    """
    if sorted(first["seed"]) != sorted(second["seed"]):
        raise ValueError("seed: the sides have not as many runs of each")
    more = second.groupby("seed")["solved"].sum() - first.groupby("seed")["solved"].sum()
    return Tested(stats.sign_flips(more), True, int(np.sign(more.sum())), "exact sign-flip test by seed")


def tested_together(strata: Sequence[tuple[tuple[int, int], tuple[int, int]]]) -> Tested:
    """Whether the two sides of several experiments solve runs at one rate in each, two-sided.

    It is `orthonar.report.stats.stratified_fisher`.

    Args:
        strata: by experiment, solved runs of both sides and all runs of both.
    """
    solved, runs = np.sum(strata, axis=0)
    more = int(np.sign(solved[1] * runs[0] - solved[0] * runs[1]))
    return Tested(stats.stratified_fisher(strata), False, more, "exact test stratified by experiment")


def as_tested(first: pd.DataFrame, second: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The runs of two sides that `tested` tests: those of the seeds that both have, or all where it takes no pairs.

    Args:
        first: run table of one side.
        second: run table of the other.
    """
    if tested(first, second).paired:
        first, second = on_shared_seeds([first, second])
    return first, second


def tested_text(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """The test of two sides and its p-value, in the words of every sentence.

    Args:
        first: run table of one side.
        second: run table of the other.

    Returns:
        Of fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs of either that there is none.
    """
    if too_few(first, second):
        return f"of fewer than {stats.LEAST_FOR_INTERVAL} runs no test"
    return f"{tested(first, second)}"


def verdict_text(first: pd.DataFrame, second: pd.DataFrame) -> str:
    """What the test of two sides says of the second, and `tested_text`, with the same arguments."""
    verdict = "too few to tell" if too_few(first, second) else tested(first, second).verdict
    return f"{verdict} ({tested_text(first, second)})"


def too_few(first: pd.DataFrame, second: pd.DataFrame) -> bool:
    """Whether fewer than `orthonar.report.stats.LEAST_FOR_INTERVAL` runs of either side would be tested.

    Args:
        first: run table of one side.
        second: run table of the other.
    """
    return min(map(len, as_tested(first, second))) < stats.LEAST_FOR_INTERVAL


def solved_counts(first: pd.DataFrame, second: pd.DataFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """Solved runs of both sides, and all runs of both."""
    return (int(first["solved"].sum()), int(second["solved"].sum())), (len(first), len(second))


#: What tells how soon the runs of two tables escape, see `how_soon`.
HOW_SOON = ("median", "log-rank p", "pairs", "sooner", "stratified p")


def how_soon(first: pd.DataFrame, second: pd.DataFrame) -> dict[str, str]:
    """How soon two sides' runs escape, as text.

    Args:
        first: run table of one side, at least one run.
        second: run table of the other, at least one run.

    Returns:
        Of `HOW_SOON` what there is to say: median escape step of either side, and the two-sided p-value of the log-rank
        test, of all runs; how many pairs of a seed there are, how many of them the first and the second side's run
        escapes sooner in, and the p-value of the log-rank test stratified by seed.
    """
    pairs = len(stats.shared_seeds(first, second)[0])
    medians = [median_text(survival.median_escape(side)) for side in (first, second)]
    row = {"median": ", ".join(medians), "pairs": f"{pairs}"}
    if min(len(first), len(second)) > 1:
        row["log-rank p"] = p_text(survival.logrank(first, second), "no escape")
    if pairs:
        row["sooner"] = "{}, {}".format(*survival.sooner(first, second))
    if pairs > 1:
        row["stratified p"] = p_text(survival.paired_logrank(first, second), "none differs")
    return row
