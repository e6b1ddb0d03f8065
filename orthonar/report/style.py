"""How tables and figures are shown, and where figures go. What a side looks like is in `orthonar.study.sides`."""

from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from .. import paths
from .words import PAGE


def show(table: pd.DataFrame, title: str = "") -> None:
    """Display a table in a notebook in full: every row and column, no line broken, as text and as HTML.

    Args:
        table: made for a page, no wider than `orthonar.report.words.PAGE` as text.
        title: a line above it.
    """
    from IPython.display import display  # only notebooks come here

    table, title = _said_once(table, title)
    if title:
        print(title)
    limits = ("display.max_columns", None, "display.max_rows", None, "display.max_colwidth", None)
    with pd.option_context("display.width", max(PAGE, text_width(table)), *limits):
        display(table)


def text_width(table: pd.DataFrame) -> int:
    """How many characters wide a table is as text, when it is shown."""
    return max(map(len, _said_once(table, "")[0].to_string(max_colwidth=None).splitlines()))


def _said_once(table: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """A table of one task alone without its index level "task": the title says it."""
    if table.index.nlevels < 2 or table.index.names[0] != "task" or table.index.get_level_values(0).nunique() != 1:
        return table, title
    (task,) = table.index.get_level_values(0).unique()
    return table.droplevel(0), ": ".join(filter(None, (title, task)))


def save(fig: Figure, name: str, folder: Path | str | None = None) -> tuple[Path, Path]:
    """Write a figure as PNG (200 dots an inch) and as PDF, the same figure always as the same bytes.

    Args:
        fig: the figure.
        name: file name without extension.
        folder: where to, created if missing; None for `orthonar.paths.figures_dir()`.

    Returns:
        The paths of the PNG and of the PDF.
    """
    folder = paths.figures_dir() if folder is None else Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    # Dates and versions are left out, so that a figure drawn again does not count as changed.
    fig.savefig(png, dpi=200, bbox_inches="tight", metadata={"Software": None})
    without = {"CreationDate": None, "Creator": None, "Producer": None}
    with plt.rc_context({"pdf.fonttype": 42}):  # text as text, not as outlines
        fig.savefig(pdf, bbox_inches="tight", metadata=without)
    return png, pdf
