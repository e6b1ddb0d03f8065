"""How tables and figures are shown, and where figures go. What a side looks like is in `orthonar.study.sides`."""

import io
import textwrap
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from .. import paths
from ..study.jsonl import write_file
from ..study.sides import title as name_for_readers
from .words import LINE, NOT_RUN, PAGE

#: Of all that is no side's: levels, what is said in a panel.
GREY = "#555555"
#: Widest figure, in inches: a page's text; and its smallest text, in points.
WIDTH, SMALLEST = 6.75, 7
plt.rcParams.update({
    "font.size": 8, "axes.titlesize": 8, "axes.labelsize": 8, "figure.titlesize": 9, "figure.labelsize": 8,
    "legend.fontsize": 7.5, "xtick.labelsize": 7.5, "ytick.labelsize": 7.5,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False,
})  # fmt: skip


def write_in_the_middle(ax: Axes, text: str = NOT_RUN) -> None:
    """Say in the middle of a panel why there is nothing to see."""
    ax.text(0.5, 0.5, text, transform=ax.transAxes, ha="center", color=GREY)


def panel_grid(panels: int) -> tuple[int, int]:
    """Lines and columns for so many panels: at most three a line, and four in two lines of two."""
    columns = 2 if panels == 4 else min(3, panels)
    return -(-panels // columns), columns


def say(text: str) -> None:
    """Display a sentence in a notebook, in Markdown: what a reader is to take away."""
    from IPython.display import Markdown, display  # only notebooks come here

    display(Markdown(text))


def show(table: pd.DataFrame, title: str = "", name_missing: bool = True) -> None:
    """Display a table in a notebook: every row with something in it, no line broken, as text and as HTML.

    Rows of which nothing is run yet are named in one line below. Of a table that has no other rows one line says so.

    Args:
        table: made for a page, no wider than `orthonar.report.words.PAGE` as text.
        title: a line above it.
        name_missing: whether the rows of which nothing is run are named; once on a page is enough.
    """
    from IPython.display import display  # only notebooks come here

    run, missing = _run_and_missing(table)
    shown, title = _said_once(run, title)
    if not len(shown):
        return print(": ".join(filter(None, (title, NOT_RUN))))
    if title:
        print(textwrap.fill(title, LINE))
    limits = ("display.max_columns", None, "display.max_rows", None, "display.max_colwidth", None)
    with pd.option_context("display.width", max(PAGE, text_width(shown)), *limits):
        display(shown)
    if missing and name_missing:
        print(textwrap.fill(f"{NOT_RUN}: {'; '.join(missing)}", LINE))


def text_width(table: pd.DataFrame) -> int:
    """How many characters wide a table is as text, when it is shown."""
    return max(map(len, _said_once(table, "")[0].to_string(max_colwidth=None).splitlines()))


def _run_and_missing(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The rows of which something is run, and what the others are called."""
    nothing = (table == NOT_RUN).any(axis=1) if len(table.columns) else pd.Series(False, table.index)
    names = []
    for row in table.index[nothing]:
        levels = [row] if table.index.nlevels == 1 else list(row)
        names.append(", ".join(name_for_readers(str(level)) for level in levels))
    return table[~nothing], list(dict.fromkeys(names))


def _said_once(table: pd.DataFrame, title: str) -> tuple[pd.DataFrame, str]:
    """A table for readers: names in words, and of one task alone without its index level "task", the title says it."""
    table = table.rename(index=lambda name: name_for_readers(name) if isinstance(name, str) else name)
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

    Raises:
        ValueError: the figure is wider than `WIDTH`, has a text smaller than `SMALLEST` points, or no title.
        OSError: in one sentence, that a file cannot be written; what was there before stays.
    """
    width = fig.get_size_inches()[0]
    if width > WIDTH + 1e-6:
        raise ValueError(f"{name}: a figure is at most {WIDTH} inches wide, not {width:g}")
    for text in fig.findobj(Text):
        if text.get_visible() and text.get_text().strip() and float(text.get_fontsize()) < SMALLEST:
            raise ValueError(f"{name}: {text.get_text()!r} is {text.get_fontsize():g} points, not at least {SMALLEST}")
    if not any([fig.get_suptitle(), *(ax.get_title() for ax in fig.axes)]):
        raise ValueError(f"{name}: a figure says in a title what is seen")
    folder = paths.figures_dir() if folder is None else Path(folder)
    png, pdf = folder / f"{name}.png", folder / f"{name}.pdf"
    drawn = {png: io.BytesIO(), pdf: io.BytesIO()}
    # Dates and versions are left out, so that a figure drawn again does not count as changed.
    fig.savefig(drawn[png], format="png", dpi=200, bbox_inches="tight", metadata={"Software": None})
    without = {"CreationDate": None, "Creator": None, "Producer": None}
    with plt.rc_context({"pdf.fonttype": 42}):  # text as text, not as outlines
        fig.savefig(drawn[pdf], format="pdf", bbox_inches="tight", metadata=without)
    for path, content in drawn.items():
        try:
            write_file(path, content.getvalue())
        except OSError as error:
            raise OSError(f"figures: {path} cannot be written ({error.strerror or error})") from error
    return png, pdf
