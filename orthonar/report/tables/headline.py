"""The headline tables, from recorded runs: what was run, what came out, and what was published beside it.

A study's first side is the one that its other sides are compared with.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...data.noisy_recall import NoisyRecall
from ...study.presets import Study
from ...training.config import RunConfig
from ...training.record import RunRecord
from .. import stats
from ..published import REPLICATION, PublishedCell, published_cells
from ..seeds import seeds_text
from ..words import NOT_RUN, device_kinds, devices, p_text, solved_text, task_label, text_table
from .compared import (
    COMPARED,
    HOW_SOON,
    accuracy_text,
    as_tested,
    compared,
    how_soon,
    solved_counts,
    tested,
    tested_together,
    verdict_text,
)
from .runs import on_shared_seeds, study_runs, study_task_label, with_all_seeds


@dataclass(frozen=True)
class CellResult:
    """What is recorded of one task and side of a study.

    Args:
        task: the task's label.
        side: name of the side.
        rate: the chosen learning rate; None while it is not chosen.
        runs: run table of the seeds at that rate, as of `orthonar.report.tables.runs.study_runs`.
        planned: seeds that the study asks for.
        published: what was published of the same experiment.
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
        return devices(self.runs)

    def row(self) -> dict[str, str]:
        """The cell as text: its rate, its seeds, mean accuracy and solved runs, each with its interval."""
        row = {
            "rate": "not chosen" if self.rate is None else f"{self.rate:g}",
            "seeds": f"{len(self.runs)} of {self.planned}",
            "accuracy (%)": NOT_RUN,
            "solved": NOT_RUN,
        }
        if len(self.runs):
            row["accuracy (%)"] = accuracy_text(self.runs)
            row["solved"] = solved_text(self.solved, len(self.runs))
        return row

    def beside(self, cell: PublishedCell) -> dict[str, str]:
        """What was published, and whether the solved runs here agree with it, as text; blank where none are.

        A mean in parentheses is second-hand.
        """
        accuracy, solved = cell.accuracy(self.side), cell.solved(self.side)
        mean = "" if accuracy is None else " to ".join(f"{a:g}" for a in np.atleast_1d(accuracy))
        if mean and cell.second_hand:
            mean = f"({mean})"
        compared = ""
        if len(self.runs) and solved is not None:
            compared = p_text(stats.fisher((self.solved, solved), (len(self.runs), cell.seeds)))
        return {
            "source": cell.short,
            "mean (%)": mean,
            "solved": "" if solved is None else f"{solved} of {cell.seeds}",
            "solved here": f"{self.solved} of {len(self.runs)}" if len(self.runs) else "",
            "Fisher p": compared,
        }


def cells(study: Study, records: Iterable[RunRecord], stage: str = "seeds") -> list[CellResult]:
    """Every task and side of a study with what is recorded of it, in the study's order.

    Args:
        study: which runs to look for.
        records: run records.
        stage: "seeds" for one learning rate for each task and side, "seeds at one rate per task" for the other choice.
    """
    records = list(records)
    found = {r.identity: r for r in records}
    table = study_runs(study, records, stage)
    results = []
    for task, side in study.cells():
        label = study_task_label(study, task)
        runs = table[(table["task"] == label) & (table["side"] == side)]
        rate = study.chosen_rate(task, side if stage == "seeds" else None, found)
        results.append(CellResult(label, side, rate, runs, len(study.seeds), _published(study, task, rate)))
    return results


def headline(study: Study, records: Iterable[RunRecord], stage: str = "seeds") -> pd.DataFrame:
    """What was run for each task and side of a study and what came out, as text: a row each, see `CellResult.row`.

    Arguments as of `cells`.
    """
    rows = [{"task": cell.task, "read": cell.side, **cell.row()} for cell in cells(study, records, stage)]
    return pd.DataFrame(rows).set_index(["task", "read"])


def beside_published(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """What was published of a study's tasks and sides, as text: one row per publication, see `CellResult.beside`.

    Only solved runs are compared: no spread was published with any mean, and without it two means cannot be.

    Returns:
        As said; empty where nothing was published of any of the study's experiments.
    """
    rows = [
        {"task": cell.task, "read": cell.side, **cell.beside(other)}
        for cell in cells(study, records)
        for other in cell.published
        if cell.side in {**other.accuracies, **other.solved_runs}
    ]
    columns = ["task", "read", "source", "mean (%)", "solved", "solved here", "Fisher p"]
    return pd.DataFrame(rows, columns=columns).set_index(["task", "read"])


def together_beside_published(studies: Iterable[Study], records: Iterable[RunRecord]) -> list[str]:
    """What all sides of several studies say together beside what was published of them, a sentence for each source.

    Args:
        studies: which runs to look for; a side of a task that comes twice counts once.
        records: run records.

    Returns:
        Of the sides of at least `orthonar.report.stats.LEAST_FOR_INTERVAL` runs; of one alone, which is no more than
        its own row of `beside_published`, none.
    """
    records = list(records)
    strata: dict[str, dict] = {}
    for cell in (cell for study in studies for cell in cells(study, records)):
        for other in cell.published:
            solved = other.solved(cell.side)
            if solved is not None and min(len(cell.runs), other.seeds) >= stats.LEAST_FOR_INTERVAL:
                of_source = strata.setdefault(other.short, {})
                of_source[cell.task, cell.side] = (solved, cell.solved), (other.seeds, len(cell.runs))
    sentences = []
    for source, of_source in strata.items():
        if len(of_source) > 1:
            (theirs, ours), (seeds, runs) = np.sum(list(of_source.values()), axis=0)
            test = tested_together(list(of_source.values()))
            sentences.append(
                f"Over the {len(of_source)} experiments that both ran, the {source}'s solve {theirs} of {seeds} runs "
                f"and ours {ours} of {runs}: {test.verdict} ({test}, as if all runs were strangers)."
            )
    return sentences


def endings(study: Study, records: Iterable[RunRecord], stage: str = "seeds") -> pd.DataFrame:
    """How many runs of each task and side ended how, a column for each of `orthonar.report.stats.ENDINGS`."""
    rows = []
    for cell in cells(study, records, stage):
        counts = cell.runs["ended"].value_counts()
        row = {"task": cell.task, "read": cell.side}
        rows.append(row | {name: int(counts.get(name, 0)) for name in stats.ENDINGS})
    return pd.DataFrame(rows).set_index(["task", "read"])


def comparison(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """Each side of a study against its first, for each task, as text.

    Fisher's test takes all runs of both sides, as strangers. Runs with the same seed on the same kind of device start
    from the same weights and see the same batches: these are compared in pairs too. Rates may differ: see
    `different_rates`.

    Returns:
        One row per task and other side, see `orthonar.report.tables.compared.compared`.
    """
    rows = []
    for key, first, second in _against_first(study, records):
        if not (len(first) and len(second)):
            rows.append({**key, "solved": NOT_RUN})
            continue
        rows.append({**key, **compared(first, second)})
    columns = ["task", "read", *COMPARED]
    return text_table(rows, columns, ["task", "read"])


def at_levels(study: Study, records: Iterable[RunRecord], levels: Sequence[float]) -> pd.DataFrame:
    """How many runs of each side end at an accuracy or above, as text: whether a comparison hangs on where "solved" is.

    Args:
        study: one of one task and two sides.
        records: run records.
        levels: accuracies, 0 to 1.

    Returns:
        One row a level: runs there of each side; where every run has its pair, how many pairs the first and the other
        side alone brings there; and the two-sided p-value of `tested`, blank without runs of both.
    """
    ((_, first, second),) = _against_first(study, records)
    first, second = as_tested(first, second) if len(first) and len(second) else (first, second)
    titles, rows = [side.title for side in study.sides.values()], []
    for level in levels:
        there = [side.assign(solved=stats.accuracies(side) >= level) for side in (first, second)]
        row = {"accuracy from": f"{100 * level:g} %"}
        row |= {name: f"{of['solved'].sum()} of {len(of)}" for name, of in zip(titles, there)}
        if len(first) and len(second):
            test = tested(*there)
            counts = stats.pairs(*there)
            row["p"] = p_text(test.p)
            row["alone"] = f"{counts.first_only}, {counts.second_only}" if test.paired else ""
        rows.append(row)
    columns = ["accuracy from", *titles, "alone", "p"]
    return text_table(rows, columns, "accuracy from")


def escape_comparison(study: Study, records: Iterable[RunRecord]) -> pd.DataFrame:
    """How soon each side's runs escape against those of a study's first side, as text.

    Returns:
        One row per task and other side, see `orthonar.report.tables.compared.how_soon`, and the published p-value of a
        log-rank test that is not stratified.
    """
    published = {study_task_label(study, task): _published(study, task) for task in study.tasks}
    rows = []
    for key, first, second in _against_first(study, records):
        row = key | (how_soon(first, second) if len(first) and len(second) else {"median": NOT_RUN})
        theirs = [f"{c.logrank_p:g} ({c.short})" for c in published[key["task"]] if c.logrank_p is not None]
        row["published log-rank"] = ", ".join(theirs if (next(iter(study.sides)), key["read"]) == _POST_SIDES else [])
        rows.append(row)
    columns = ["task", "read", *HOW_SOON, "published log-rank"]
    return text_table(rows, columns, ["task", "read"])


def answers(study: Study, records: Iterable[RunRecord], least: int = 1) -> list[str]:
    """What came out of each side of a study against its first, a sentence for each task that both have runs of.

    A difference is said to be there where the two-sided p-value of `orthonar.report.tables.compared.tested` is at most
    0.05; of pairs only the seeds that both sides have count. Every sentence names the seeds, says where the sides were
    trained on different kinds of devices, and counts all seeds that both sides have where these are more than the study
    asks for: without a test, since a side may have been picked on those.

    Args:
        study: which runs to look for.
        records: run records.
        least: fewest runs that either side must have.
    """
    sentences, records = [], list(records)
    everything = _against_first(with_all_seeds(study, records), records)
    for (key, first, second), (_, *of_all) in zip(_against_first(study, records), everything, strict=True):
        if min(len(first), len(second)) < least:
            continue
        first, second = as_tested(first, second)
        solved, runs = solved_counts(first, second)
        names = (study.sides[next(iter(study.sides))].title, study.sides[key["read"]].title)
        counts = [f"{name} solves {s} of {n}" for name, s, n in zip(names, solved, runs)]
        seeds, task = [seeds_text(side["seed"]) for side in (first, second)], key["task"]
        if seeds[0] == seeds[1]:
            task = f"{task}, {seeds[0]}"
        else:
            counts = [f"{count} ({of_side})" for count, of_side in zip(counts, seeds)]
        said = f"{task}: {counts[0]}, {counts[1]}: {verdict_text(first, second)}"
        if device_kinds(first) != device_kinds(second):
            said += f"; the first trained on {device_kinds(first)}, the other on {device_kinds(second)}"
        of_all = on_shared_seeds(of_all)
        if len(of_all[0]) > max(len(first), len(second)):
            (one, other), (shared, _) = solved_counts(*of_all)
            said += f"; of all {shared} seeds that both have {one} and {other}"
        sentences.append(f"{said}.")
    return sentences


def published_replication() -> pd.DataFrame:
    """The follow-up's own comparison at batch 16, as text, its tests worked out from its counts.

    Returns:
        One row per task, and one for both together: solved runs on either side; in how many pairs of a seed either side
        alone is solved; p-values of the exact McNemar test, where the pairs are known, of Fisher's, and of its log-rank
        test as published.
    """
    cells = [cell for cell in REPLICATION if cell.batch_size == 16]
    tasks = [task_label(cell.vocab_size, cell.seq_len, cell.batch_size) for cell in cells]
    first, second = ([cell.solved_runs[side] for cell in cells] for side in _POST_SIDES)
    solved = [*zip(first, second), (sum(first), sum(second))]
    rows = []
    for task, cell, counts in zip([*tasks, "both"], [*cells, None], solved):
        seeds = cell.seeds if cell else sum(c.seeds for c in cells)
        pairs = stats.Pairs(*cell.pairs) if cell and cell.pairs else None
        rows.append({
            "task": task,
            "solved": f"{counts[0]}, {counts[1]} of {seeds}",
            "alone": f"{pairs.first_only}, {pairs.second_only}" if pairs else "",
            "McNemar p": p_text(stats.mcnemar(pairs)) if pairs else "",
            "Fisher p": p_text(stats.fisher(counts, (seeds, seeds))),
            "log-rank p": f"{cell.logrank_p:g}" if cell and cell.logrank_p is not None else "",
        })  # fmt: skip
    return pd.DataFrame(rows).set_index("task")


_POST_SIDES = ("baseline", "orthogonalized")


def _against_first(study: Study, records: Iterable[RunRecord]):
    """Task and side, and the run tables of the first side and of that side."""
    table = study_runs(study, records)
    baseline, *others = study.sides
    for task in study.tasks:
        label = study_task_label(study, task)
        of_task = table[table["task"] == label]
        for other in others:
            yield {"task": label, "read": other}, *(of_task[of_task["side"] == side] for side in (baseline, other))


def different_rates(study: Study, records: Iterable[RunRecord]) -> list[str]:
    """One sentence for each task whose sides ran at different learning rates; none where they did not."""
    sentences = {}
    for key, first, second in _against_first(study, records):
        if len(first) and len(second) and set(first["lr"]) != set(second["lr"]):
            rates = [", ".join(f"{lr:g}" for lr in sorted(set(side["lr"]))) for side in (first, second)]
            baseline = next(iter(study.sides))
            sentences[key["task"], key["read"]] = (
                f"{key['task']}: {baseline} at {rates[0]}, {key['read']} at {rates[1]}; read and rate differ, "
                "so the difference may come from either"
            )
    return list(sentences.values())


def published_points(study: Study, records: Iterable[RunRecord] = ()) -> pd.DataFrame:
    """What was published of a study's tasks: columns task, side, low and high (mean accuracy, percent), solved, source.

    Low and high are NaN where no mean was published; solved is a text such as "4/24", empty where none was.

    Args:
        study: whose tasks.
        records: run records, which tell the rates that were chosen.
    """
    rows = []
    for mine in cells(study, records):
        for cell in mine.published:
            accuracy, solved = cell.accuracy(mine.side), cell.solved(mine.side)
            mean = np.ravel(np.nan if accuracy is None else accuracy)
            row = {"task": mine.task, "side": mine.side, "low": mean.min(), "high": mean.max()}
            rows.append(row | {"solved": "" if solved is None else f"{solved}/{cell.seeds}", "source": cell.short})
    return pd.DataFrame(rows, columns=["task", "side", "low", "high", "solved", "source"])


#: Settings that a published number is found by; with any other that is not the study's, none is of the same experiment.
_FOUND_BY = ("vocab_size", "seq_len", "batch_size", "probes")


def _published(study: Study, task: Mapping, rate: float | None = None) -> list[PublishedCell]:
    """What was published of a task at the chosen rate; while none is, at any that the study has."""
    first = next(iter(study.sides))
    config = study.run(task, first, study.rates[0], 0)
    if not isinstance(config.task, NoisyRecall):
        return []
    theirs = {"batch_size": config.batch_size, **study.sides[first].settings, "lr": study.rates[0], "seed": 0}
    as_published, here = RunConfig(**theirs).settings(), config.settings()
    if any(here.get(name) != as_published.get(name) for name in {*here, *as_published}.difference(_FOUND_BY)):
        return []
    rates = study.rates if rate is None else (rate,)
    found = published_cells(config.vocab_size, config.seq_len, config.batch_size)
    return [cell for cell in found if (len(study.rates) > 1 if cell.lr is None else cell.lr in rates)]
