"""Figures of what stands beside the study: attention's cost, noise, the tail, streams and delays.

A figure of nothing says so.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from ...study.contents import DELAYS
from ...study.sides import ATTENTION, BASELINE, ORTHOGONALIZED, Side
from ..style import GREY, WIDTH, write_in_the_middle
from ..tables.streaming import FORMS
from ..tables.tail import GROUPS

_OF_READ = {"raw": BASELINE, "orthogonalized": ORTHOGONALIZED}


def _line(side: Side) -> dict:
    return {**side.look.of_line, "markersize": 5}


def _over_tokens(ax: Axes, tokens: Sequence[int], **labels) -> None:
    """Both scales logarithmic, a tick a number of tokens."""
    tokens = sorted(set(tokens))
    ax.set(xscale="log", yscale="log", **labels)
    if tokens:
        few = tokens if len(tokens) < 6 else tokens[::2]
        ax.set_xticks(few, [f"{n:,}" for n in few], rotation=30)
    ax.xaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter("{x:,g}")


def attention_cost(measured: pd.DataFrame, what: str, memory: str, axes=None) -> Figure:
    """Draw time and memory of attention and both mLSTMs against the length.

    Args:
        measured: as of `orthonar.report.tables.attention.table`.
        what: one of `orthonar.report.tables.attention.KINDS`.
        memory: what the memory is, the label of its axis.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left medians of the time with bars from the fastest to the slowest, right the memory.
    """
    if axes is None:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.2), layout="constrained")
        figure.suptitle("What a training pass costs" if what == "training" else "What one more token costs")
    rows = measured[measured["what"] == what]
    for side in (BASELINE, ORTHOGONALIZED, ATTENTION):
        of = rows[rows["contender"] == side.name].sort_values("length")
        if len(of):
            bars = [of["ms"] - of["low"], of["high"] - of["ms"]]
            axes[0].errorbar(of["length"], of["ms"], bars, **_line(side), capsize=2, elinewidth=1, label=side.title)
            axes[1].plot(of["length"], of["mib"], **_line(side))
    words = "sequence length (tokens)" if what == "training" else "tokens read before"
    for ax, label in zip(axes, ("time (ms)", memory)):
        _over_tokens(ax, rows["length"], xlabel=words, ylabel=label)
        if not len(rows):
            write_in_the_middle(ax)
    if len(rows):
        axes[0].figure.legend(loc="outside lower center", ncols=3)
    return axes[0].figure


def recall_of_the_tail(table: pd.DataFrame, sides: Mapping[str, Side], of_what: str, axes=None) -> Figure:
    """Draw recall against how often a key was shown before it is asked for.

    Args:
        table: as of `orthonar.report.tables.tail.recall`.
        sides: by name.
        of_what: the scale, for the title.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: solved runs left, from the lowest of them up, the others right; a thin line a run, a thick one for
        the mean.
    """
    if axes is None:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8), layout="constrained")
        figure.suptitle(f"Recall of keys that were shown seldom and often: {of_what}")
    at = np.arange(len(GROUPS))
    for ax, solved in zip(axes, (True, False)):
        of = table[table["solved"] == solved]
        for name, side in sides.items():
            mine = 100 * of.loc[of["side"] == name, list(GROUPS)].to_numpy(dtype=float)
            if len(mine):
                ax.plot(at, mine.T, color=side.look.color, linestyle=side.look.line, linewidth=0.8, alpha=0.5)
                ax.plot(at, np.nanmean(mine, 0), **_line(side), linewidth=2, label=f"{side.title} ({len(mine)})")
        if len(of):
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
        else:
            write_in_the_middle(ax)
        ax.set_xticks(at, GROUPS)
        lowest = 100 * of[list(GROUPS)].min(axis=None) if solved and len(of) else 0
        span = max(10, 100 - 10 * (lowest // 10))
        ax.set_ylim(100 - 1.02 * span, 100 + 0.02 * span)
        ax.set(xlabel="showings of the key before", title="solved runs" if solved else "runs not solved")
    axes[0].set_ylabel("recalled (%)")
    return axes[0].figure


def stream_memory(measured: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Draw the most memory so far against the tokens read.

    Args:
        measured: as of `orthonar.report.tables.streaming.table`.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes, from 0: a line a form and read.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    ax.set_title("Memory while a stream is read")
    for (form, read), of in measured.groupby(["form", "read"], sort=False):
        look = _line(_OF_READ[read]) | {"markerfacecolor": "none" if form == "steps" else None}
        ax.plot(of["tokens"], of["mib"], **look, label=f"{read}, {FORMS[form].format(block=of['block'].iloc[0])}")
    _over_tokens(ax, measured["tokens"], xlabel="tokens read", ylabel="most resident memory (MiB)")
    ax.set(yscale="linear", ylim=(0, 1.1 * measured["mib"].max() if len(measured) else None))
    if len(measured):
        ax.legend(loc="lower right")
    else:
        write_in_the_middle(ax)
    return ax


def recall_over_delay(
    table: pd.DataFrame, sides: Mapping[str, Side], chance: float, of_what: str, ax: Axes | None = None
) -> Axes:
    """Draw recall against the number of distractors between the last pair and the query, a line a run.

    Args:
        table: as of `orthonar.report.tables.streaming.delays`.
        sides: by name.
        chance: share of right answers of a guess, 0 to 1.
        of_what: the scale, for the title.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.0), layout="constrained")
    ax.set_title(f"Recall of a pair that was shown long ago,\na line a run: {of_what}")
    labelled = set()
    for i, (_, row) in enumerate(table.iterrows()):
        label = None if row["side"] in labelled else sides[row["side"]].title
        labelled.add(row["side"])
        beside = np.array(DELAYS) * 1.03 ** (i - (len(table) - 1) / 2)  # marks of equal runs side by side
        look = _line(sides[row["side"]]) | {"linewidth": 1.2}
        ax.plot(beside, 100 * row[list(DELAYS)].astype(float), **look, label=label)
    _over_tokens(ax, DELAYS, xlabel="distractors between pair and query", ylabel="recalled (%)")
    ax.set(yscale="linear", ylim=(-2, 102))
    ax.axhline(100 * chance, color=GREY, linestyle=":", linewidth=1, label="guessing")
    ax.legend(loc="center left")
    if not len(table):
        write_in_the_middle(ax)
    return ax
