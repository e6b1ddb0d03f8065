"""Figures of the cheapest read: what each makes of a singular value, how many runs that solves, and what it costs."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ...study.sides import BASELINE, ORTHOGONALIZED, Side
from ..style import GREY, SMALLEST, WIDTH, write_in_the_middle


def singular_value_maps(s: np.ndarray, maps: Mapping[str, np.ndarray], sides: Mapping[str, Side], ax=None) -> Axes:
    """Draw what reads make of a singular value.

    Args:
        s: singular values in (0, 1].
        maps: side -> what the values become, as of `orthonar.report.tables.frontier.maps`.
        sides: by name.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the value after the read over the value before, on a logarithmic scale, a line per side.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(WIDTH, 3.8), layout="constrained")
    ax.set_title("How far each read lifts small singular values")
    for i, (name, values) in enumerate(maps.items()):
        own = name == ORTHOGONALIZED.name
        # Marks of neighbours side by side, not on top of each other.
        every = (i * len(s) // (8 * len(maps)), len(s) // 8)
        width = 2.6 if own else 1.2
        # What lifts a value is how a map rises; how it ripples afterwards, or stays where it is, is faint.
        falls = np.diff(values) <= 1e-5
        top = 1 + int(np.argmax(falls)) if falls.any() else len(s)
        look = {**sides[name].look.of_line, "markersize": 5, "markevery": every, "label": sides[name].title}
        ax.plot(s[:top], values[:top], linewidth=width, **look)
        ax.plot(s[top - 1 :], values[top - 1 :], color=sides[name].look.color, linewidth=width / 3, alpha=0.35)
    ax.set(xlabel="singular value $s$ of the normalised memory", ylabel="what the read makes of it", xscale="log")
    ax.set(xlim=(s.min(), s.max()), ylim=(0, 1.04 * max(1.0, *(values.max() for values in maps.values()))))
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    return ax


def frontier(
    table: pd.DataFrame,
    curves: Mapping[str, pd.DataFrame],
    sides: Mapping[str, Side],
    keeps: float,
    of_what: str,
    axes=None,
) -> Figure:
    """Draw how soon runs escape with each read, against its cost.

    Args:
        table: as of `orthonar.report.tables.frontier.frontier`.
        curves: side -> `orthonar.report.survival.kaplan_meier` over wall seconds.
        sides: by name.
        keeps: the hazard ratio whose lower bound counts as keeping the effect, drawn as a level.
        of_what: the scale, for the title.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left the hazard of escape relative to the study's read, with its 95 % interval, over the products
        with the memory; right the share of runs that have escaped over wall seconds, in brackets how many there are,
        of the study's two reads and of those that keep the effect; a line ends with the training.
    """
    if axes is None:
        figure, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.8), layout="constrained")
        figure.suptitle(f"How soon runs escape, and what their read costs: {of_what}")
    hazards, waiting = axes
    drawn = table[table["ratio"].notna()]
    # Bars of reads that cost the same stand side by side.
    place = drawn.groupby("products").cumcount() - (drawn.groupby("products")["products"].transform("size") - 1) / 2
    for name, row in drawn.iterrows():
        bars = [[row["ratio"] - row["low"]], [row["high"] - row["ratio"]]]
        look = {"color": sides[name].look.color, "marker": sides[name].look.marker, "markersize": 6}
        at = row["products"] * 1.1 ** place[name]
        hazards.errorbar(at, row["ratio"], yerr=bars, **look, elinewidth=1, capsize=2)
    hazards.axhline(1, color=GREY, linewidth=0.8)
    hazards.axhline(keeps, color=GREY, linewidth=0.8, linestyle="--", label=f"{keeps:g}: bars must be above")
    hazards.set_xscale("symlog", linthresh=1, linscale=0.3)
    ticks = sorted(set((drawn if len(drawn) else table)["products"].astype(int)))
    hazards.set_xticks(ticks, [str(tick) if tick >= 1.2 * before else "" for tick, before in zip(ticks, [0, *ticks])])
    hazards.minorticks_off()
    hazards.set(xlim=(-0.2, 1.25 * max(ticks)), xlabel="products with $X^T X$")
    hazards.set_ylabel("hazard of escape, relative to the study's read")
    if len(drawn) > 1:
        hazards.set_yscale("log")
        hazards.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
        hazards.yaxis.set_major_formatter("{x:g}")
        hazards.yaxis.set_minor_locator(NullLocator())
    for name, curve in curves.items():
        compared = name in (ORTHOGONALIZED.name, BASELINE.name)
        if not (compared or table.loc[name, "low"] > keeps):
            curve = curve[:0]  # in the legend alone, which is of both panels: a dozen lines cannot be told apart
        every = max(1, len(curve) // 3)
        marks = {"markevery": (every, every), "markersize": 5}  # none at 0, where all are
        style = {**sides[name].look.of_line, **marks, "linewidth": 2.4 if compared else 1.4}
        label = f"{sides[name].title} ({table.loc[name, 'runs']:.0f})"
        waiting.step(curve["step"], 1 - curve["waiting"], where="post", **style, label=label)
    waiting.set(xlabel="wall seconds of training", ylabel="share of runs that have escaped", ylim=(0, None))
    for ax, there in ((hazards, len(drawn)), (waiting, len(curves))):
        if not there:
            write_in_the_middle(ax)
    if curves:
        hazards.figure.legend(loc="outside lower center", ncols=5)
    return hazards.figure


def solved_by_map(table: pd.DataFrame, sides: Mapping[str, Side], of_what: str) -> Figure:
    """Draw the share of solved runs of each read against its map's slope at 0 and against the memory's early rank.

    Args:
        table: as of `orthonar.report.tables.slopes.by_slope`.
        sides: by name.
        of_what: the scale, for the title.

    Returns:
        The figure: two panels, in each a mark per read, hollow and without an interval where it has too few runs.
    """
    figure, (slopes, ranks) = plt.subplots(1, 2, figsize=(WIDTH, 4.2), sharey=True, layout="constrained")
    for ax, column in ((slopes, "slope"), (ranks, "rank")):
        for name, row in table.iterrows():
            look, few = sides[name].look, np.isnan(row["low"])
            bars = None if few else [[row["share"] - row["low"]], [row["high"] - row["share"]]]
            label = f"{sides[name].title} ({row['solved']:.0f} of {row['runs']:.0f})" if ax is slopes else None
            face = {"markerfacecolor": "none"} if few else {}
            size = {"markersize": 7 if name == ORTHOGONALIZED.name else 5, "elinewidth": 1, "capsize": 2}
            ax.errorbar(
                row[column], row["share"], yerr=bars, fmt=look.marker, color=look.color, label=label, **size, **face
            )
        if not len(table):
            write_in_the_middle(ax)
    slopes.set(xscale="log", xlabel="slope of the map at 0", ylabel="share of solved runs", ylim=(-0.03, 1.03))
    ticks = [1, 2, 5, 10, 20, 40]
    slopes.set_xticks(ticks, [str(tick) for tick in ticks])
    slopes.minorticks_off()
    figure.suptitle(f"Solved runs by the read's map: {of_what}")
    slopes.set_title("by its slope at 0")
    ranks.set_xlabel("mean effective rank at a tenth of the training")
    ranks.set_title("by the memory's rank before runs escape")
    if len(table):
        figure.legend(loc="outside lower center", ncols=3, fontsize=SMALLEST)
    return figure


def lost_when_read_raw(lost: pd.DataFrame, sides: Mapping[str, Side], of_what: str) -> Axes:
    """Draw how much accuracy solved runs lose when they are read raw, against the slope of their map at 0.

    Args:
        lost: as of `orthonar.report.tables.read_raw.losses`.
        sides: by name.
        of_what: the scale, for the title.

    Returns:
        The axes: a pale mark per run, and one for the mean of each map, in brackets of how many runs.
    """
    _, ax = plt.subplots(figsize=(WIDTH, 3.4), layout="constrained")
    for name, mine in lost.groupby("side", sort=False):
        look, label = sides[name].look, f"{sides[name].title} ({len(mine)})"
        ax.plot(mine["slope"], mine["lost"], look.marker, color=look.color, markersize=4, alpha=0.35, linewidth=0)
        ax.plot(mine["slope"].iloc[0], mine["lost"].mean(), look.marker, color=look.color, markersize=8, label=label)
    ax.axhline(0, color=GREY, linewidth=0.8)
    ax.set(xscale="log", xlabel="slope of the map at 0", ylabel="points of accuracy lost when read raw")
    ax.set_title(
        f"What solved runs lose without the read that they were trained with: {of_what}\n"
        "small and pale: a run; large: the mean of a map (how many runs)"
    )
    if not len(lost):
        write_in_the_middle(ax)
        return ax
    ticks = [1, 2, 5, 10, 20, 40]
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=SMALLEST)
    return ax
