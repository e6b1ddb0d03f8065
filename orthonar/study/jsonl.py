"""Files of one line of JSON a record, only ever appended to, one whole line at a time under a lock.

Several processes may write to one file, and a kill loses nothing but the line in progress.
"""

import fcntl
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


def append_line(path: Path, line: str, unless: Callable[[], bool] | None = None) -> bool:
    """Append one line to a file so that no other line can suffer, whoever else writes and whenever this is killed.

    Args:
        path: the file, made with its folder if need be.
        line: the line, without its end.
        unless: asked while nobody else can write; if true, nothing is added.

    Returns:
        Whether the line was added.
    """
    if "\n" in line:
        raise ValueError("line: a record is a single line")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:  # unbuffered: a line is a single write
        fcntl.flock(file, fcntl.LOCK_EX)
        if unless is not None and unless():
            return False
        # A line that a kill cut short is left as it is, to be reported; the next one starts on its own.
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                line = "\n" + line
        file.write(line.encode() + b"\n")
        os.fsync(file.fileno())
    return True


class Damage(NamedTuple):
    """A line that is no record."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}, line {self.line}: {self.reason}; skipped"


def read_lines(path: str | os.PathLike, parse: Callable[[str], Any], damaged: list[Damage] | None = None) -> list:
    """What the lines of one file say, in order; damaged lines are skipped, never silently.

    Args:
        path: the file; none is as good as an empty one.
        parse: makes a record of a line; a ValueError says that it is none.
        damaged: takes the lines that are no records; None warns of each instead.
    """
    records = []
    try:
        content = Path(path).read_bytes()
    except FileNotFoundError:
        return records
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1):
        try:
            records.append(parse(line.decode()))
        except ValueError as error:  # UnicodeDecodeError is one
            damage = Damage(str(path), number, str(error))
            if damaged is None:
                warnings.warn(str(damage), stacklevel=3)
            else:
                damaged.append(damage)
    return records
