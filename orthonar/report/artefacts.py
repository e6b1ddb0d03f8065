"""Rows of the final table: a notebook reports what it reproduced, `orthonar.reproduce` collects it.

A row travels in the notebook itself, as an output of its own media type, so that an executed copy says what
was reproduced, at which scale, on which device and with which seeds, without another file beside it. Of that
output a reader sees one line without numbers: replaying the notebook on another machine compares equal.
"""

import contextlib
import json
import math
import os
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral, Real
from pathlib import Path

from .seeds import seeds_text

__all__ = ["MIME", "Artefact", "final_table", "report", "rows_in", "table"]

MIME = "application/vnd.orthonar.artefact+json"

Value = float | int | str | list | None


@dataclass(frozen=True)
class Artefact:
    """One row: what was reproduced, the value here, the value published, and how each came about."""

    artefact: str
    here: Value
    published: Value
    source: str | None
    scale: str
    device: str
    seeds: list[int] | None
    unit: str
    digits: int
    note: str
    notebook: str = ""

    def here_text(self) -> str:
        """The value here with its scale, device and seeds, or `not run yet`."""
        if self.here is None:
            how = [self.scale]
        else:
            how = [self.scale, self.device, "" if self.seeds is None else seeds_text(self.seeds)]
        return f"{self._shown(self.here, 'not run yet')} ({', '.join(x for x in [*how, self.note] if x)})"

    def published_text(self) -> str:
        """The published value with its source."""
        shown = self._shown(self.published, "no number published")
        return f"{shown} ({self.source})" if self.source else shown

    def _shown(self, value: Value, nothing: str) -> str:
        if value is None:
            return nothing
        if isinstance(value, str):
            return value
        parts = value if isinstance(value, list) else [value]
        text = " to ".join(str(p) if isinstance(p, int | str) else f"{p:.{self.digits}f}" for p in parts)
        return f"{text} {self.unit}".rstrip()


def report(
    artefact: str,
    *,
    here: object,
    published: object,
    source: str | None,
    scale: str,
    device: object,
    seeds: int | Iterable[int] | None,
    unit: str = "",
    digits: int = 1,
    note: str = "",
) -> None:
    """Put one row of the final table into this notebook's outputs.

    Args:
        artefact: what is reproduced, as a reader of the publication knows it; it is shown under the cell, so
            it holds no live number.
        here: the value measured here: a number (also a NumPy scalar or a one-element tensor), a pair
            (low, high), or a short text such as "diverged". None: not run yet.
        published: the published value, likewise; None: no number was published.
        source: where the published value stands; required with one.
        scale: the scale it was run at ("pocket", "paper", ...).
        device: the device it ran on, a string or a torch.device.
        seeds: the seeds behind `here` (an int is one seed, not a number of seeds); None: nothing random.
        unit: shown after both values, such as "%".
        digits: digits after the point for both values, where they are not integers.
        note: a few words more about `here`, such as "3 of 4 solved".

    Raises:
        ValueError: naming the argument that is missing or cannot be shown.
    """
    if isinstance(seeds, int | Integral):
        seeds = [int(seeds)]
    for name, text in (("artefact", artefact), ("scale", scale), ("device", str(device))):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name}: a row needs one, got {text!r}")
    if published is not None and not source:
        raise ValueError(f"source: the published value of {artefact!r} needs one")
    row = Artefact(
        artefact=artefact,
        here=_plain("here", here),
        published=_plain("published", published),
        source=source,
        scale=scale,
        device=str(device),
        seeds=None if seeds is None else [int(seed) for seed in seeds],
        unit=unit,
        digits=digits,
        note=note,
    )
    content = asdict(row)
    del content["notebook"]  # known to whoever reads the notebook
    if _together is not None:
        _together.append(content)
    else:
        _display(content, artefact)


_together: list[dict] | None = None


@contextlib.contextmanager
def final_table():
    """Let all rows reported inside be one output, of which a reader sees one line."""
    global _together
    rows: list[dict] = []
    _together = rows
    try:
        yield
    finally:
        _together = None
        if rows:
            _display(rows, f"{len(rows)} row{'s'[: len(rows) != 1]}")


def _display(content: dict | list[dict], what: str) -> None:
    from IPython.display import display  # only notebooks come here

    display({MIME: content, "text/plain": f"recorded for the final table: {what}"}, raw=True)


def rows_in(notebook: str | os.PathLike) -> list[Artefact]:
    """The rows that a notebook's saved outputs hold, in the notebook's order, as run by whoever saved it."""
    path = Path(notebook)
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    contents = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
    rows = [row for content in contents for row in (content if isinstance(content, list) else [content])]
    return [Artefact(**row, notebook=path.name.split(".")[0]) for row in rows]


def table(rows: Sequence[Artefact], width: int = 44) -> str:
    """The rows as a plain-text table: artefact, notebook, value here, value published."""
    head = ["artefact", "notebook", "value here", "value published"]
    body = [[row.artefact, row.notebook, row.here_text(), row.published_text()] for row in rows]
    wrapped = [[textwrap.wrap(cell, width) or [""] for cell in line] for line in [head, *body]]
    widths = [max(len(part) for line in wrapped for part in line[column]) for column in range(len(head))]
    rule = "  ".join("-" * w for w in widths)
    lines = []
    for line in wrapped:
        for i in range(max(map(len, line))):
            parts = [cell[i] if i < len(cell) else "" for cell in line]
            lines.append("  ".join(part.ljust(w) for part, w in zip(parts, widths)).rstrip())
        if len(lines) == 1:
            lines.append(rule)
    return "\n".join(lines)


def _plain(name: str, value: object) -> Value:
    """A value that JSON can carry: NumPy and torch scalars become numbers, the not finite text."""
    if isinstance(value, list | tuple):
        if len(value) != 2:
            raise ValueError(f"{name}: a pair (low, high) has two values, got {len(value)}")
        return [_plain(name, v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value) if math.isfinite(value) else str(float(value))
    raise ValueError(f"{name}: a number, a pair, a text or None, got {type(value).__name__}")
