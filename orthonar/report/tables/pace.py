"""The records of `python -m benchmarks.pace`: how long a training step of a study's sides takes on a quiet machine."""

import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ...study.jsonl import Damage
from ...study.presets import Study
from ..words import NOT_RUN, model_name
from . import benchmark_records

#: Version of the records' layout, and their file.
SCHEMA, FILE = 1, "pace-cpu.jsonl"
#: Of the run whose steps are timed: what a step takes does not depend on it.
SEED = 0


def read_records(folder: str | os.PathLike, damaged: list[Damage] | None = None) -> list[dict]:
    """The records of the benchmark in a folder, the oldest first; none where there is no file.

    Args:
        folder: where they are.
        damaged: takes the lines that are no such records; None warns of each instead.
    """
    files = [Path(folder) / FILE]
    return benchmark_records.read_benchmark(
        "pace", files, lambda record: (_medians(record), caption(record)), SCHEMA, damaged
    )


def newest(study: Study, records: Iterable[dict]) -> dict | None:
    """The newest of the records that have the most sides of a study; None where none has two.

    A side that was added to a study since it was timed does not take the others' times away.

    Args:
        study: of whose first task.
        records: as of `read_records`.
    """
    wanted, records = set(_identities(study).values()), list(records)
    sides = [len(wanted & set(_medians(record))) for record in records]
    most = max(sides, default=0)
    return benchmark_records.newest(r for r, n in zip(records, sides) if n == most) if most > 1 else None


def caption(record: dict | None) -> str:
    """What stands behind a record's numbers, in a line."""
    return NOT_RUN if record is None else benchmark_records.where(record)


def seconds_per_step(study: Study, record: dict | None) -> dict[str, float]:
    """Median seconds of a training step of each side that a record has, evaluations left out; nothing without one.

    Args:
        study: of whose first task.
        record: as of `newest`.
    """
    if record is None:
        return {}
    medians = _medians(record)
    return {side: medians[identity] for side, identity in _identities(study).items() if identity in medians}


def newest_of_each(study: Study, records: Iterable[dict]) -> dict[str, dict]:
    """Of each kind of processor the newest of the records that have the most sides of a study, as of `newest`.

    What two reads take of each other hangs on the processor: one that does more at a time gains where most is done.

    Args:
        study: of whose first task.
        records: as of `read_records`.

    Returns:
        By the processor's name, in the order of the names; without those on which fewer than two sides were timed.
    """
    of_each: dict[str, list[dict]] = {}
    for record in records:
        of_each.setdefault(model_name(record["device_name"]), []).append(record)
    found = {name: newest(study, of_each[name]) for name in sorted(of_each)}
    return {name: record for name, record in found.items() if record is not None}


def by_processor(study: Study, records: Iterable[dict]) -> dict[str, dict[str, float]]:
    """Seconds of a training step as of `seconds_per_step`, by the processor's name as of `newest_of_each`."""
    return {name: seconds_per_step(study, record) for name, record in newest_of_each(study, records).items()}


def told(study: Study, records: Iterable[dict]) -> list[str]:
    """What a training step of each side takes and where it was timed, a sentence for each kind of processor.

    Args:
        study: of whose first task.
        records: as of `read_records`.
    """
    sentences = []
    for record in newest_of_each(study, records).values():
        steps = seconds_per_step(study, record).items()
        each = ", ".join(f"{study.sides[side].title} {1e3 * seconds:.0f} ms" for side, seconds in steps)
        sentences.append(f"A training step, evaluations left out: {each} ({caption(record)}).")
    return sentences


def _identities(study: Study) -> dict[str, str]:
    return {side: study.run(task, side, study.rates[0], SEED).identity for task, side in study.only(tasks=1).cells()}


def _medians(record: dict) -> dict[str, float]:
    return {row["identity"]: float(np.median(row["seconds"])) for row in record["rows"]}
