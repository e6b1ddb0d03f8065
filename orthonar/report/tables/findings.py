"""What came out so far, on one page: a row for each question that is asked of recorded runs."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from ...study.presets import PRESETS, Study
from ...study.sides import (
    ATTENTION,
    BASELINE,
    CONSTANT,
    GATED_ANNEAL,
    MUON,
    ORTHOGONALIZED,
    ORTHOGONALIZED_CONSTANT,
    POCKET_FIXED_ANNEAL,
    ROTARY_ATTENTION,
    SMALL_EMBEDDING,
    Side,
)
from ...training.record import RunRecord
from .. import stats
from ..seeds import PICKED_ON, seeds_text
from ..words import NOT_RUN, device_kinds, p_text
from .compared import tested
from .headline import CellResult, cells, together_beside_published
from .runs import with_all_seeds
from .schedules import constant_rate, longer_schedule, reads_at_constant_rate

#: Columns of `findings`.
COLUMNS = ("recipe", "compared", "seeds", "solved", "published", "p")

#: What a reader of the table has to know.
LEGEND = (
    "Solved runs are counted in the order of what is compared, *published* ones are of the same experiment. A row "
    "is of the seeds that all its sides of 8 runs or more share, without those on which a side was picked; "
    "*new seeds* were run after all others had been looked at. *p* is of the exact McNemar test in pairs of a seed, "
    "or, with a †, of Fisher's test where pairs were trained on different devices; of several comparisons with the "
    "first it is the smallest times their number (Bonferroni); of fewer than "
    f"{stats.LEAST_FOR_INTERVAL} runs there is none. As many rows are as many tests: in bold what stays at or below "
    "0.05 by Holm's correction over all of them. *Follow-up's*: vocabulary 80, length 512, batch 16. *Post's*: "
    "vocabulary 96, batch 64. *Pocket*: vocabulary 56 where none is said, length 320, batch 4, width 64; sizes of the "
    "two other tasks are in their notebooks. *Embedding std* is the standard deviation that the embedding starts from; "
    "a *cosine* is how the learning rate falls, from its peak to 0 over so many steps; a read is *taken down* by "
    "blending it into the raw one in training; a read of 8 *products* is a polynomial that takes so many with the "
    "memory's Gram matrix (notebook 10). What each variant does is in notebook 07."
)


@dataclass(frozen=True)
class Question:
    """A comparison of the cells of a study, its tasks and sides, with the first of them.

    Args:
        recipe: what all runs share, in a few words.
        compared: what they differ in, in the order of the cells.
        study: two cells or more.
        left_out: seeds that count for nothing here: one of the cells was picked on them for what came out there, or
            they have a row of their own.
    """

    recipe: str
    compared: str
    study: Study
    left_out: Collection[int] = ()

    def row(self, records: Sequence[RunRecord]) -> dict[str, Any]:
        """The answer from the recorded seeds: a text for each of `COLUMNS` but p; p_value and paired; devices.

        A cell of which the records hold other seeds too, as other studies ask for more, counts with those that all
        cells of enough runs share.
        """
        found = cells(with_all_seeds(self.study, records).without_seeds(self.left_out), records)
        shared = _shared_seeds([cell.runs for cell in found])
        found = [replace(cell, runs=cell.runs[cell.runs["seed"].isin(shared)]) for cell in found]
        first, *others = (cell.runs for cell in found)
        row = {"recipe": self.recipe, "compared": self.compared, "published": _published(found), "p_value": np.nan}
        recorded = [runs for runs in others if len(runs)]
        if not (len(first) and recorded):
            return row | {"seeds": "", "solved": NOT_RUN, "paired": True, "devices": ""}
        seeds = dict.fromkeys(seeds_text(runs["seed"]).partition(" ")[2] for runs in (first, *recorded))
        return row | {
            "seeds": "; ".join(seeds),
            "solved": _counts([(cell.solved, len(cell.runs)) for cell in found]),
            **_smallest(first, recorded),
            "devices": _devices([first, *recorded]),
        }


def questions() -> list[Question]:
    """Every question; first those at the recipes of which numbers are published."""
    paper, pocket = (
        {name: scales[at] for name, scales in PRESETS.items() if at in scales} for at in ("paper", "pocket")
    )
    reads = "raw, orthogonalized read"
    initialisation, sweep = paper["initialisation"], pocket["initialisation"]
    stds = ", ".join(f"{task['embedding_std']:g}" for task in sweep.tasks)
    squares, steepest = pocket["least-squares"].sides["rls_read"], pocket["muon-read"].sides["muon3"]
    cheap = pocket["frontier"].sides["degree8"]
    elimination = pocket["ablation"].without(ORTHOGONALIZED.name, squares.name)  # which have rows of their own
    _, *eliminated = elimination.sides.values()
    return [
        Question("follow-up's", reads, paper["replication"]),
        Question("follow-up's", "raw read: embedding std 1, 0.065", _of(initialisation, BASELINE, SMALL_EMBEDDING)),
        Question("follow-up's", "raw read: cosine over 2,000, 4,000 steps", longer_schedule()),
        Question("follow-up's", "raw read: cosine, constant rate", constant_rate()),
        Question("follow-up's, constant rate", reads, reads_at_constant_rate()),
        Question("follow-up's", "raw read: AdamW, Muon", _of(paper["muon"], BASELINE, MUON)),
        Question("follow-up's", f"raw read, a read of {cheap.title}", _of(paper["frontier"], BASELINE, cheap)),
        *(
            Question("post's", f"{reads}, length {task['seq_len']:,}", replace(paper["headline"], tasks=(task,)))
            for task in paper["headline"].tasks[1:]
        ),
        *(
            Question(
                "pocket",
                f"{reads}, vocabulary {task['vocab_size']}",
                replace(pocket["headline"], tasks=(task,)),
                pocket["new-seeds"].seeds,
            )
            for task in pocket["headline"].tasks
        ),
        Question(
            "pocket, new seeds",
            f"{reads}, vocabulary {pocket['new-seeds'].tasks[0]['vocab_size']}",
            _of(pocket["new-seeds"], BASELINE, ORTHOGONALIZED),
            pocket["headline"].seeds,
        ),
        Question("pocket", f"raw read: embedding std {stds}", _of(sweep, BASELINE)),
        Question("pocket", f"orthogonalized read: embedding std {stds}", _of(sweep, ORTHOGONALIZED)),
        Question(
            "pocket",
            "raw mLSTM, attention, attention with rotary positions",
            _of(pocket["attention"], BASELINE, ATTENTION, ROTARY_ATTENTION),
        ),
        Question("pocket", "raw read: AdamW, Muon", _of(pocket["muon"], BASELINE, MUON)),
        *(
            Question(
                "pocket",
                f"raw read, {squares.title}, vocabulary {task['vocab_size']}",
                replace(_of(pocket["least-squares"], BASELINE, squares), tasks=(task,)),
                PICKED_ON[squares.name] if task in elimination.tasks else (),
            )
            for task in pocket["least-squares"].tasks
        ),
        Question(
            "pocket", f"raw read, {steepest.title}", _of(pocket["muon-read"], BASELINE, steepest), PICKED_ON["muon3"]
        ),
        Question(
            "pocket",
            f"raw read, a read of {cheap.title}",
            _of(pocket["frontier"], BASELINE, cheap),
            {*PICKED_ON["degree8"], *pocket["new-seeds"].seeds},
        ),
        Question(
            "pocket, new seeds",
            f"raw read, a read of {cheap.title}",
            _of(pocket["new-seeds"], BASELINE, cheap),
            pocket["frontier"].seeds,
        ),
        Question("pocket", f"raw read; {len(eliminated)} other variants in notebook 07's order", elimination),
        Question(
            "pocket, constant rate",
            "raw; orthogonalized, taken down after the escape; taken down from step 2,100 on; kept",
            _of(pocket["anneal"], CONSTANT, GATED_ANNEAL, POCKET_FIXED_ANNEAL, ORTHOGONALIZED_CONSTANT),
        ),
        Question("pocket, MQAR", "raw, orthogonalized read, attention", pocket["mqar"]),
        Question("pocket, key and door", reads, _of(pocket["world"], BASELINE, ORTHOGONALIZED)),
        Question(
            "pocket, key and door", "raw read: embedding std 1, 0.065", _of(pocket["world"], BASELINE, SMALL_EMBEDDING)
        ),
    ]


def findings(records: Iterable[RunRecord], asked: Sequence[Question] | None = None) -> pd.DataFrame:
    """A row for each question: what was compared, on which seeds, what came out, and what was published of it.

    Args:
        records: run records.
        asked: the questions; None for all.

    Returns:
        `COLUMNS` as text, see `LEGEND`, and devices: what the cells were trained on, empty where it is the same.
    """
    records = list(records)
    table = pd.DataFrame([question.row(records) for question in (questions() if asked is None else asked)])
    corrected = stats.holm(table["p_value"])
    texts = [f"**{p_text(p)}**" if stats.is_told(c) else p_text(p) for p, c in zip(table["p_value"], corrected)]
    marks = table["paired"].map({True: "", False: " †"})
    return table.assign(p=texts + marks)[[*COLUMNS, "devices"]]


def beside_published(records: Iterable[RunRecord]) -> list[str]:
    """What all questions' experiments of which numbers are published say together, a sentence for each source."""
    return together_beside_published([question.study for question in questions()], records)


def as_markdown(table: pd.DataFrame, further: Iterable[str] = ()) -> str:
    """What was run as a table in Markdown, what was not in a sentence below it, and the legend.

    Args:
        table: as of `findings`.
        further: sentences to stand before the legend.

    Returns:
        Paragraphs, a line each but for the table.
    """
    recorded, missing = (table[(table["solved"] == NOT_RUN) == wanted] for wanted in (False, True))
    lines = [list(COLUMNS), ["---"] * len(COLUMNS), *recorded[list(COLUMNS)].to_numpy().tolist()]
    paragraphs = ["\n".join(f"| {' | '.join(line)} |" for line in lines)] if len(recorded) else []
    if len(missing):
        named = [
            f"{row.compared} ({row.recipe}{f'; published {row.published}' if row.published else ''})"
            for row in missing.itertuples()
        ]
        paragraphs.append(f"{NOT_RUN.capitalize()}: {'; '.join(named)}.")
    apart = [f"{row.compared} ({row.recipe}): {row.devices}" for row in recorded.itertuples() if row.devices]
    if apart:
        paragraphs.append(f"Trained on devices of different kinds: {'; '.join(apart)}.")
    return "\n\n".join([*paragraphs, *further, LEGEND])


def _shared_seeds(cells_runs: Sequence[pd.DataFrame]) -> set[int]:
    """The seeds that all cells share, those left aside that have too few runs to be judged.

    All seeds where every cell has too few, or where no seed is in all of them: they are compared as strangers then.
    """
    seeds = [set(runs["seed"]) for runs in cells_runs]
    enough = [of_cell for of_cell in seeds if len(of_cell) >= stats.LEAST_FOR_INTERVAL]
    return (set.intersection(*enough) if enough else set()) or set.union(*seeds)


def _of(study: Study, *sides: Side) -> Study:
    return study.only([side.name for side in sides])


def _counts(solved: Sequence[tuple[int, int]]) -> str:
    """Solved runs of each cell: "2, 12 of 24", "1 of 16, 3 of 12"; of a cell without runs a dash."""
    runs = {n for _, n in solved}
    if len(runs) == 1:
        return f"{', '.join(str(s) for s, _ in solved)} of {runs.pop()}"
    return ", ".join(f"{s} of {n}" if n else "-" for s, n in solved)


def _smallest(first: pd.DataFrame, others: Sequence[pd.DataFrame]) -> dict[str, Any]:
    """The smallest p-value of the comparisons that have runs enough, times their number, and its test."""
    enough = [runs for runs in others if min(len(first), len(runs)) >= stats.LEAST_FOR_INTERVAL]
    if not enough:
        return {"p_value": np.nan, "paired": True}
    test = min((tested(first, runs) for runs in enough), key=lambda test: test.p)
    return {"p_value": min(1.0, len(enough) * test.p), "paired": test.paired}


def _devices(cells_runs: Sequence[pd.DataFrame]) -> str:
    """What each cell was trained on; nothing where it is the same for all."""
    kinds = [device_kinds(runs) for runs in cells_runs]
    return "" if len(set(kinds)) == 1 else " against ".join(kinds)


def _published(found: Sequence[CellResult]) -> str:
    """Solved seeds of each cell where one source has them all."""
    sources = [{cell.short: (cell.solved(mine.side), cell.seeds) for cell in mine.published} for mine in found]
    for source in sources[0]:
        solved = [(count, seeds) for count, seeds in (of.get(source, (None, 0)) for of in sources) if count is not None]
        if len(solved) == len(found):
            return _counts(solved)
    return ""
