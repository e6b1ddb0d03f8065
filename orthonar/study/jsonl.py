"""Files of one line of JSON a record, only ever appended to, one whole line at a time under a lock.

Several processes may write to one file, a kill loses nothing but the line in progress, and a line that does not fit on
the disk leaves the file as it was.
"""

import errno
import os
import secrets
import stat
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

#: Seconds after which a lock that another process holds counts as an error; a line is written in far less.
_LOCK_TIMEOUT = 60
#: Bytes that must fit into a folder before anything is computed for it: more than a run's record.
_ROOM = 1 << 15


def _lock(path: Path) -> FileLock:
    """The lock of a file: a hidden, empty file beside it.

    Not on the file itself, which on Windows would keep others from reading it. The system drops it when the process
    that holds it dies, however it dies; waiting too long for it is a TimeoutError, which is an OSError.
    """
    return FileLock(path.with_name(f".{path.name}.lock"), timeout=_LOCK_TIMEOUT)


def folder_lock(folder: Path) -> FileLock:
    """A lock of a whole folder, for what must not change between a look at several of its files and a line in one.

    The same object may be acquired again while it is held.

    Args:
        folder: the folder, which must be there when it is acquired.
    """
    return _lock(folder / "folder")


def append_line(path: Path, line: str, unless: Callable[[], bool] | None = None) -> bool:
    """Append one line to a file so that no other line can suffer, whoever else writes and whenever this is killed.

    Args:
        path: the file, made with its folder if need be.
        line: the line, without its end.
        unless: asked while nobody else can write; if true, nothing is added.

    Returns:
        Whether the line was added, and has reached the disk.

    Raises:
        OSError: it cannot be written whole; the file ends where it ended before.
    """
    if "\n" in line:
        raise ValueError("line: a record is a single line")
    path.parent.mkdir(parents=True, exist_ok=True)
    with _lock(path):
        if unless is not None and unless():
            return False
        with open(path, "ab+", buffering=0) as file:
            end = file.seek(0, os.SEEK_END)
            try:
                # A line that a kill cut short is left as it is, to be reported; the next one starts on its own.
                _write_whole(file, (b"" if _ends_a_line(file, end) else b"\n") + line.encode() + b"\n")
                os.fsync(file.fileno())
            except BaseException:
                file.truncate(end)
                raise
    if not end:
        _sync_folder(path.parent)
    return True


def _ends_a_line(file, end: int) -> bool:
    if not end:
        return True
    file.seek(end - 1)
    return file.read(1) == b"\n"


def _write_whole(file, content: bytes) -> None:
    """Write all bytes to an unbuffered file: one call may write a part of them and say so by its result alone."""
    left = memoryview(content)
    while left:
        written = file.write(left)
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.name))
        left = left[written:]


def _sync_folder(folder: Path) -> None:
    """Let a new file's name reach the disk too, where the system can be asked for that."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Write a file in one piece: whoever looks sees all of it or what was there before.

    Raises:
        OSError: it cannot be written; nothing is left of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(partial, "xb", buffering=0) as file:
            _write_whole(file, content)
            os.fsync(file.fileno())
        os.replace(partial, path)
        _sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Try whether lines can be appended to a file, before they are computed; the trial leaves its folder and, of a file
    that is there, the lock.

    Args:
        path: the file, which need not be there.

    Raises:
        OSError: in one sentence, what stands in the way.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() or path.is_symlink():
            with _lock(path), open(path, "ab+", buffering=0):
                pass
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".probe-") as folder, _lock(Path(folder, "x")):
            with open(Path(folder, "x"), "xb", buffering=0) as probe:
                _write_whole(probe, bytes(_ROOM))
                os.fsync(probe.fileno())
    except OSError as error:
        reason = error.strerror or str(error)
        raise OSError(f"results: {path} cannot be written ({reason})") from error


class Damage(NamedTuple):
    """A line that is no record to count, or with the number 0 a file that cannot be read at all."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        where = f"{self.file}, line {self.line}" if self.line else self.file
        return f"{where}: {self.reason}; skipped"


def files_in(folder: str | os.PathLike) -> list[Path]:
    """What lies in a folder under a name that ends in .jsonl, in the order of names; hidden files are left out.

    Args:
        folder: the folder; none is as good as an empty one.

    Raises:
        OSError: the folder is none, or may not be listed.
    """
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OSError(f"results: {folder} cannot be read ({error.strerror})") from error
    return [Path(folder, n) for n in sorted(names) if n.endswith(".jsonl") and n[0] != "."]


def read_lines(path: str | os.PathLike, parse: Callable[[str], Any], damaged: list[Damage] | None = None) -> list:
    """What the lines of one file say, in order; damaged lines and unreadable files are skipped, never silently.

    Args:
        path: the file; none is as good as an empty one.
        parse: makes a record of a line; a ValueError says that it is none.
        damaged: takes the lines that are no records; None warns of each instead.
    """
    records: list[Any] = []

    def report(number: int, reason: str) -> None:
        damage = Damage(str(path), number, reason)
        if damaged is None:
            warnings.warn(str(damage), stacklevel=4)
        else:
            damaged.append(damage)

    try:
        content = _content(Path(path))
    except OSError as error:
        report(0, error.strerror or str(error))
        return records
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n") if content else [], 1):
        try:
            records.append(parse(line.decode("utf-8-sig")))  # past the mark that some editors begin a file with
        except ValueError as error:  # UnicodeDecodeError is one
            report(number, str(error))
    return records


def _content(path: Path) -> bytes:
    """All bytes of a file; none where there is no file, but OSError for a link to nowhere and what is no file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # reading a pipe or a device might never end
            raise OSError(errno.EINVAL, "not a file")
        return path.read_bytes()
    except FileNotFoundError:
        if path.is_symlink():
            raise
        return b""
