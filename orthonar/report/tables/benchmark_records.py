"""Records of benchmarks, a line of JSON each, read with what must be possible to say of them."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ...study.jsonl import Damage, read_lines
from ..words import model_name


def read_benchmark(
    name: str,
    files: Iterable[Path],
    tell: Callable[[dict], Any],
    schema: int | None = None,
    damaged: list[Damage] | None = None,
) -> list[dict]:
    """The records in some files, the oldest first.

    Args:
        name: of the benchmark, for what is said of a line that is no record of it.
        files: where to look; one that is not there is as good as an empty one.
        tell: says of a record all that will be said of it; what it fails at is no record.
        schema: the newest version of the records' layout that can be read; None does not ask.
        damaged: takes the lines that are no such records; None warns of each instead.
    """

    def parse(line: str) -> dict:
        try:
            record = json.loads(line)
            if schema is not None and record["schema"] > schema:
                raise ValueError(f"schema {record['schema']} is newer than {schema}")
            tell(record)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a record of the {name} benchmark: {error!r}") from None
        return record

    found = (record for file in files for record in read_lines(file, parse, damaged))
    return sorted(found, key=lambda record: record["started"])


def newest(records: Iterable[dict]) -> dict | None:
    """The newest of some records, of those that started at the same time the last; None without one."""
    return max(reversed(list(records)), key=lambda record: record["started"], default=None)


def where(record: dict) -> str:
    """What a record was measured on and when, in a few words: processor, threads, day, revision."""
    threads = record["settings"]["threads"]
    on = f"{model_name(record['device_name'])}, {threads} thread{'s'[: threads > 1]}"
    return f"{on}; {record['started'][:10]}, revision {str(record['revision'])[:12]}"
