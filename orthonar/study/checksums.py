"""Checksums of the result files against a list of them, in the format of the program sha256sum.

Records are added and never changed, so a file may have grown since the list was made: what counts is whether the listed
bytes are still its first ones, up to the end of some line.
"""

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from .jsonl import write_file

#: The list's name in the folder of the records.
LIST = "SHA256SUMS"
_ENDINGS = (".jsonl", ".pt")

UNCHANGED, CHANGED, MISSING, NOT_LISTED = "unchanged", "changed", "missing", "not listed"


class FileCheck(NamedTuple):
    """What became of one file since the list was made.

    Args:
        file: its path in the folder, with slashes.
        state: "unchanged", "changed", "missing" or "not listed".
        added: lines that were added at its end.
    """

    file: str
    state: str
    added: int = 0

    @property
    def fine(self) -> bool:
        """Whether all that the list knows of the file is still there."""
        return self.state in (UNCHANGED, NOT_LISTED)


def result_files(folder: str | os.PathLike) -> list[str]:
    """The files of a folder that a list holds: records and weights, in all its folders, none that is hidden.

    Args:
        folder: the folder of the records.

    Returns:
        Paths in the folder, with slashes, in order.
    """
    root = Path(folder)
    found = (path.relative_to(root) for path in root.rglob("*") if path.suffix in _ENDINGS and path.is_file())
    return sorted(path.as_posix() for path in found if not any(part.startswith(".") for part in path.parts))


def write_list(folder: str | os.PathLike) -> Path:
    """List the files of a folder as they are now.

    Args:
        folder: the folder of the records.

    Returns:
        The list's path.

    Raises:
        OSError: a file cannot be read, or the list cannot be written.
    """
    root = Path(folder)
    lines = [f"{hashlib.sha256((root / file).read_bytes()).hexdigest()}  {file}\n" for file in result_files(root)]
    write_file(root / LIST, "".join(lines).encode())
    return root / LIST


def read_list(folder: str | os.PathLike) -> dict[str, str]:
    """The list of a folder: checksums by file.

    Args:
        folder: the folder of the records.

    Raises:
        OSError: there is no list, or it cannot be read.
        ValueError: a line of it is none.
    """
    path = Path(folder) / LIST
    listed = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        digest, gap, file = line.partition("  ")
        if not gap or len(digest) != 64 or not set(digest) <= set("0123456789abcdef"):
            raise ValueError(f"{path}, line {number}: no checksum and file")
        listed[file] = digest
    return listed


def check_files(folder: str | os.PathLike) -> list[FileCheck]:
    """Hold the files of a folder against its list.

    Args:
        folder: the folder of the records.

    Returns:
        One entry per file, the listed ones first.

    Raises:
        OSError: the list or a file cannot be read.
        ValueError: the list is damaged.
    """
    root, listed = Path(folder), read_list(folder)
    checks = [_check(root, file, digest) for file, digest in listed.items()]
    return checks + [FileCheck(file, NOT_LISTED) for file in result_files(root) if file not in listed]


def _check(root: Path, file: str, digest: str) -> FileCheck:
    try:
        content = (root / file).read_bytes()
    except FileNotFoundError:
        return FileCheck(file, MISSING)
    if hashlib.sha256(content).hexdigest() == digest:
        return FileCheck(file, UNCHANGED)
    if file.endswith(".jsonl"):
        so_far, lines = hashlib.sha256(), content.splitlines(keepends=True)
        for number, line in enumerate([b"", *lines]):
            # A line that had been cut off gets its end when the next one is added.
            cut_off = so_far.copy()
            cut_off.update(line.rstrip(b"\n"))
            so_far.update(line)
            if digest in (so_far.hexdigest(), cut_off.hexdigest()):
                return FileCheck(file, UNCHANGED, len(lines) - number)
    return FileCheck(file, CHANGED)
