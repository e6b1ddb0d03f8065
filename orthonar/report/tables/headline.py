"""The headline tables, from recorded runs: what was run, what came out, and whether it agrees."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...study.presets import Study
from ...training.record import RunRecord
from .. import stats
from ..published import PublishedCell, published_cells
from ..words import NOT_RUN, percent
from .runs import _label, study_runs


@dataclass(frozen=True)
class CellResult:
    """What is recorded of one task and side of a study.

    Args:
        task: the task's label.
        side: "baseline" or "orthogonalized".
        rate: the chosen learning rate; None while it is not chosen.
        runs: run table of the seeds at that rate; empty if none is recorded.
        planned: seeds that the study asks for.
        published: what was published of the same task and batch size.
    """

    task: str
    side: str
    rate: float | None
    runs: pd.DataFrame
    planned: int
    published: list[PublishedCell]

    @property
    def mean(self) -> stats.Interval | None:
        """Mean final accuracy, 0 to 1, with its interval; None without runs."""
        return stats.mean_interval(stats.accuracies(self.runs)) if len(self.runs) else None

    @property
    def solved(self) -> int:
        """Number of solved runs."""
        return int(self.runs["solved"].sum())

    @property
    def device(self) -> str:
        """Names of the devices that the runs were made on."""
        return ", ".join(sorted(set(self.runs["device_name"]))) if len(self.runs) else ""

    def row(self) -> dict[str, str]:
        """The cell as text: what was run, mean accuracy, solved runs, each with its interval."""
        row = {
            "learning rate": "not chosen yet" if self.rate is None else f"{self.rate:g}",
            "seeds": f"{len(self.runs)} of {self.planned}",
            "accuracy (%)": NOT_RUN,
            "solved": NOT_RUN,
            "device": self.device,
        }
        if len(self.runs):
            share = percent(stats.solved_share(self.solved, len(self.runs)), "%")
            row |= {"accuracy (%)": percent(self.mean), "solved": f"{self.solved} of {len(self.runs)} ({share})"}
        return row

    def beside(self, cell: PublishedCell) -> dict[str, str]:
        """What was published, and whether the runs here agree with it, as text."""
        accuracy, solved = cell.accuracy(self.side), cell.solved(self.side)
        agreement = []
        if len(self.runs) and solved is not None:
            agreement.append(f"solved: p = {stats.fisher((self.solved, solved), (len(self.runs), cell.seeds)):.2g}")
        if len(self.runs) > 1 and accuracy is not None:
            _, low, high = self.mean
            inside = 100 * low <= np.max(accuracy) and np.min(accuracy) <= 100 * high
            agreement.append(f"mean: {'inside' if inside else 'outside'} the interval")
        shown = "not published" if accuracy is None else " to ".join(f"{a:g}" for a in np.atleast_1d(accuracy))
        return {
            "published accuracy (%)": shown,
            "published solved": "not published" if solved is None else f"{solved} of {cell.seeds}",
            "published by": cell.short,
            "agreement": "; ".join(agreement) or ("nothing to compare" if len(self.runs) else NOT_RUN),
        }


def cells(study: Study, records: Iterable[RunRecord]) -> list[CellResult]:
    """Every task and side of a study with what is recorded of it, in the study's order."""
    records = list(records)
    found = {r.identity: r for r in records}
    table = study_runs(study, records)
    results = []
    for task, side in study.cells():
        label = _label(study, task)
        runs = table[(table["task"] == label) & (table["side"] == side)]
        rate = study.chosen_rate(task, side, found)
        results.append(CellResult(label, side, rate, runs, len(study.seeds), _published(study, task)))
    return results


def headline(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """The post's table for a study, as text: what was run for each task and side, beside what was published.

    Returns:
        One row a task, side and publication: `CellResult.row` and `CellResult.beside`.
    """
    rows = []
    for cell in cells(study, records):
        first = {"task": cell.task, "read": cell.side, **cell.row()}
        rows += [first | cell.beside(other) for other in cell.published] or [first]
    return pd.DataFrame(rows).set_index(["task", "read"]).fillna("")


def comparison(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Baseline against orthogonalized for each task of a study, among the seeds that both have.

    Returns:
        One row a task, as text: seeds compared, solved on each side and Fisher's two-sided p-value, the difference of
        mean accuracies with a bootstrap interval over seeds (they share weights and data), and the log-rank test on
        escape steps.
    """
    table = study_runs(study, records)
    baseline, other = study.sides
    rows = []
    for task in study.tasks:
        label = _label(study, task)
        sides = [table[(table["task"] == label) & (table["side"] == side)] for side in (baseline, other)]
        shared = sorted(set(sides[0]["seed"]) & set(sides[1]["seed"])) if len(table) else []
        row = {"task": label, "seeds": len(shared)}
        if shared:
            first, second = (side.set_index("seed").loc[shared] for side in sides)
            solved = int(first["solved"].sum()), int(second["solved"].sum())
            gain = stats.mean_interval(stats.accuracies(second) - stats.accuracies(first))
            row["solved"] = f"{solved[0]} against {solved[1]}"
            row["Fisher p"] = f"{stats.fisher(solved, (len(shared), len(shared))):.2g}"
            row["gain (points)"] = percent(gain)
            p = stats.logrank(first, second)
            row["log-rank p"] = "no escape" if np.isnan(p) else f"{p:.2g}"
        else:
            row |= {"solved": NOT_RUN, "Fisher p": "", "gain (points)": NOT_RUN, "log-rank p": ""}
        rows.append(row)
    return pd.DataFrame(rows).set_index("task")


def rates(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Mean accuracy at each learning rate, for each task and side of a study, as text; the chosen rate is marked."""
    records = list(records)
    found = {r.identity: r for r in records}
    table = study_runs(study, records, "rates")
    rows = []
    for task, side in study.cells():
        row = {"task": _label(study, task), "read": side}
        chosen = study.chosen_rate(task, side, found)
        for lr in study.rates:
            runs = table[(table["task"] == row["task"]) & (table["side"] == side) & (table["lr"] == lr)]
            text = NOT_RUN
            if len(runs):
                solved = f"{int(runs['solved'].sum())} of {len(runs)} solved"
                text = f"{100 * stats.accuracies(runs).mean():.1f} % ({solved})" + (" *" if lr == chosen else "")
            row[f"{lr:g}"] = text
        rows.append(row)
    return pd.DataFrame(rows).set_index(["task", "read"])


def published_points(study: Study) -> pd.DataFrame:
    """What was published of a study's tasks: columns task, side, low and high (mean accuracy, percent), solved, source.

    Low and high are NaN where no mean was published; solved is a text such as "4/24", empty where none was.
    """
    rows = []
    for task in study.tasks:
        for cell in _published(study, task):
            for side in study.sides:
                mean = np.atleast_1d(np.nan if cell.accuracy(side) is None else cell.accuracy(side))
                solved = "" if cell.solved(side) is None else f"{cell.solved(side)}/{cell.seeds}"
                row = {"task": _label(study, task), "side": side, "low": mean.min(), "high": mean.max()}
                rows.append(row | {"solved": solved, "source": cell.short})
    return pd.DataFrame(rows, columns=["task", "side", "low", "high", "solved", "source"])


def _published(study: Study, task) -> list[PublishedCell]:
    config = study.run(task, next(iter(study.sides)), study.rates[0], 0)
    return published_cells(config.task.vocab_size, config.task.seq_len, config.batch_size)
