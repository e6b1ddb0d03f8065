"""What stands beside the study: an answer with what is missing, and the share of noise as an axis."""

from collections.abc import Iterable, Sequence

import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .. import stats
from ..words import NOT_RUN, p_text
from .headline import answers
from .runs import study_runs


def told(study: Study, records: Sequence[RunRecord]) -> list[str]:
    """What came out of each side of a study against its first, and what is missing of it, a sentence each.

    Args:
        study: which runs to look for.
        records: run records.

    Returns:
        Those of `orthonar.report.tables.headline.answers`, and one more where runs are missing.
    """
    runs = study_runs(study, records)
    sentences = answers(study, records)
    if len(runs) < study.size():
        none = [side.title for name, side in study.sides.items() if name not in set(runs["side"])]
        of = f", none of {'; '.join(none)}" if len(runs) and none else ""
        sentences.append(f"{'Still missing' if sentences else 'Not told yet'}: {_count(study, runs)}{of}.")
    return sentences


def _count(study: Study, runs: pd.DataFrame) -> str:
    return f"{len(runs)} of {study.size()} runs are recorded"


def by_noise(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Solved runs of each side at each share of noise.

    Args:
        study: one whose tasks differ in their share of noise.
        records: run records.

    Returns:
        One row a share and side, also without runs: noise, side, runs, solved; value, low and high (share of solved
        runs with Wilson's interval, NaN without runs).
    """
    runs = study_runs(study, records)
    rows = []
    for task, side in study.cells():
        noise = float(task["frac_noise"])
        here = runs[(runs["side"] == side) & (runs["frac_noise"] == noise)] if len(runs) else runs
        solved = int(here["solved"].sum()) if len(here) else 0
        share = stats.solved_share(solved, len(here)) if len(here) else stats.Interval(*3 * [float("nan")])
        rows.append({"noise": noise, "side": side, "runs": len(here), "solved": solved, **share._asdict()})
    return pd.DataFrame(rows)


def noise_text(table: pd.DataFrame) -> pd.DataFrame:
    """Solved runs at each share of noise as text: a column a side, and Fisher's p of two sides.

    Args:
        table: as of `by_noise`.
    """
    rows = []
    for noise, of in table.groupby("noise"):
        row = {"noise": f"{noise:g}"}
        row |= {r.side: f"{r.solved} of {r.runs}" if r.runs else NOT_RUN for r in of.itertuples()}
        p = _fisher(of)
        rows.append(row | {"Fisher p": "" if p is None else p_text(p)})
    return pd.DataFrame(rows).set_index("noise")


def _fisher(of: pd.DataFrame, least: int = 1) -> float | None:
    """The two-sided p-value between two sides; None where either has too few runs."""
    return stats.fisher(tuple(of["solved"]), tuple(of["runs"])) if (of["runs"] >= least).all() else None


def noise_answer(table: pd.DataFrame) -> str:
    """At which shares of noise the second side solves more runs than the first, in a sentence.

    Judged are shares at which each side has at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs; a difference is
    said to be there where Fisher's two-sided p is at most 0.05. Six shares are six tests, for which none is corrected.

    Args:
        table: as of `by_noise`.
    """
    judged, more = [], []
    for noise, of in table.groupby("noise"):
        p = _fisher(of, stats.LEAST_FOR_INTERVAL)
        if p is not None:
            judged.append(f"{noise:g}")
            first, second = of["value"]
            if p <= 1 - stats.CONFIDENCE and second > first:
                more.append(f"{noise:g}")
    of, total = len(judged), table["noise"].nunique()
    if not judged:
        enough = f"{stats.LEAST_FOR_INTERVAL} runs of either read"
        return (
            f"Where the read's advantage begins is not told yet: at none of {total} shares of noise are {enough} there."
        )
    name, shown = table["side"].iloc[1].replace("_", " "), ", ".join(judged)
    if not more and of == 1:
        return (
            f"At the one share of noise judged so far ({shown}) {name} does not solve more runs than chance explains."
        )
    if not more:
        return f"At none of {of} shares of noise judged ({shown}) does {name} solve more runs than chance explains."
    where = f"at a share of noise of {', '.join(more)}"
    return f"{name.capitalize()} solves more runs than chance explains {where}, of {of} shares judged ({shown})."
