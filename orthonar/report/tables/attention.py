"""The records of `python -m benchmarks.attention` as tables: what attention costs beside both mLSTMs."""

import os
from pathlib import Path

import numpy as np
import pandas as pd

from ...study.jsonl import Damage
from ...study.sides import ATTENTION, BASELINE, ORTHOGONALIZED
from ..words import NOT_RUN
from .benchmark_records import newest as newest
from .benchmark_records import read_benchmark, where

#: Version of the records' layout, and their file.
SCHEMA, FILE = 1, "attention-cpu.jsonl"
#: What was measured, in words.
KINDS = {"training": "a training pass", "token": "one token at a time"}
#: Both mLSTMs, as readers are told of them.
_MLSTMS = {BASELINE.name: "the raw mLSTM", ORTHOGONALIZED.name: "the orthogonalized mLSTM"}


def read_records(folder: str | os.PathLike, damaged: list[Damage] | None = None) -> list[dict]:
    """The records of the benchmark in a folder, the oldest first; none where there is no file.

    Args:
        folder: where they are.
        damaged: takes the lines that are no such records; None warns of each instead.
    """
    files = [Path(folder) / FILE]
    return read_benchmark("attention", files, lambda record: (table(record), caption(record)), SCHEMA, damaged)


def caption(record: dict | None) -> str:
    """What stands behind a record's numbers, in a line."""
    if record is None:
        return NOT_RUN
    of = record["settings"]
    sizes = f"vocabulary {of['vocab_size']}, width {of['width']}, {of['heads']} heads, batch {of['batch']}, untrained"
    return f"{sizes}; {where(record)}"


def table(record: dict | None) -> pd.DataFrame:
    """One row a thing measured: what ("training", "token"), contender, length, ms (median), low, high, mib."""
    rows = []
    for row in record["rows"] if record else []:
        ms = 1e3 * np.array(row["seconds"])
        found = {name: row[name] for name in ("what", "contender", "length")}
        rows.append(found | {"ms": np.median(ms), "low": ms.min(), "high": ms.max(), "mib": row["memory"] / 2**20})
    return pd.DataFrame(rows, columns=["what", "contender", "length", "ms", "low", "high", "mib"])


def beside(measured: pd.DataFrame, what: str) -> pd.DataFrame:
    """Time and memory of the three by length, as text.

    Args:
        measured: as of `table`.
        what: one of `KINDS`.

    Returns:
        One row a length; for each contender, its milliseconds and MiB.
    """
    of = measured[measured["what"] == what]
    shown = of.pivot(index="length", columns="contender", values=["ms", "mib"])
    columns = [(unit, name) for unit in ("ms", "mib") for name in (*_MLSTMS, ATTENTION.name)]
    shown = shown.reindex(columns=pd.MultiIndex.from_tuples(columns)).map(
        lambda x: f"{x:,.3g}" if x < 100 else f"{x:,.0f}"
    )
    shown.columns = [f"{name} {'MiB' if unit == 'mib' else unit}" for unit, name in columns]
    return shown.set_axis([f"{length:,}" for length in shown.index], axis=0).rename_axis("length")


def overtaken(measured: pd.DataFrame, what: str, column: str) -> dict[str, tuple[int | None, int]]:
    """From which length on attention takes more than each mLSTM, as far as it was measured.

    Args:
        measured: as of `table`.
        what: one of `KINDS`.
        column: "ms" or "mib".

    Returns:
        mLSTM -> the shortest length from which on attention has more at every length measured, None where at the
        longest it has not; and that longest length.
    """
    wide = measured[measured["what"] == what].pivot(index="length", columns="contender", values=column).sort_index()
    found = {}
    for name in _MLSTMS:
        if name in wide and ATTENTION.name in wide and len(wide):
            more = (wide[ATTENTION.name] > wide[name]).to_numpy()
            from_here = np.logical_and.accumulate(more[::-1])[::-1]
            first = int(wide.index[np.argmax(from_here)]) if from_here.any() else None
            found[name] = first, int(wide.index[-1])
    return found


def answers(measured: pd.DataFrame) -> list[str]:
    """From which length on attention takes more than each mLSTM, a sentence for each of `KINDS` and of time and memory.

    Args:
        measured: as of `table`.
    """
    sentences = []
    for what, words in KINDS.items():
        for column, unit in (("ms", "median time"), ("mib", "memory" if what == "training" else "state")):
            parts = []
            for name, (first, longest) in overtaken(measured, what, column).items():
                where = f"at no length up to {longest:,} tokens" if first is None else f"from {first:,} tokens on"
                parts.append(f"{_MLSTMS[name]}'s {where}")
            if parts:
                sentences.append(f"{words.capitalize()}: attention's {unit} exceeds {', '.join(parts)}.")
    return sentences
