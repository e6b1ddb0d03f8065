"""Figures of the headline comparison: final accuracies, survival, learning rates."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from ...study.sides import Side
from ...training.record import SOLVED_AT
from ..style import GREY, WIDTH, write_in_the_middle
from ..words import NOT_RUN

# Inches that a column's text takes in one line.
_ROOM = 0.8
#: Where a published mean stands beside the middle of its column, by its source, and how the legend says so.
_SOURCES = {"post": (-0.1, "post's, second-hand, left"), "follow-up": (0.1, "follow-up's, right")}


def headline(
    panels: Mapping[str, Mapping[str, Sequence[Side]]],
    runs: pd.DataFrame,
    published: pd.DataFrame,
    axes: Sequence[Axes] | None = None,
    guessing: float | None = None,
) -> Figure:
    """Draw every seed's final accuracy, the sides of each task side by side, beside what was published.

    Args:
        panels: title -> label of each task below it, from left to right -> its sides.
        runs: a row per run, with columns task, side and accuracy (0 to 1; NaN where it diverged, drawn at 0).
        published: as of `orthonar.report.tables.headline.published_points`.
        axes: one for each panel, of a figure with constrained layout; None for new ones.
        guessing: accuracy of a guess, 0 to 1, to draw as a level; None for none.

    Returns:
        The figure: a mark for each seed, a bar at the mean of a side with several, hollow marks at the published means,
        the level of solved runs, how many were solved above each column, and "not run yet" where a task has no runs.
    """
    widths = [sum(map(len, tasks.values())) for tasks in panels.values()]
    if axes is None:
        ratios = {"width_ratios": widths}
        size = (min(WIDTH, 1.1 + 0.9 * sum(widths)), 3.9)  # no wider than it must be: it is seen on phones too
        new, made = plt.subplots(
            1, len(panels), figsize=size, sharey=True, layout="constrained", squeeze=False, gridspec_kw=ratios
        )
        new.suptitle("Final accuracy of every run; above the marks how many are solved")
        axes = list(made.flat)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    narrow = figure.get_size_inches()[0] < 1.1 + _ROOM * sum(widths)
    shown = runs.assign(percent=100 * runs["accuracy"].fillna(0.0))
    published = published[published["task"].isin({task for tasks in panels.values() for task in tasks})]
    for ax, (title, tasks) in zip(axes, panels.items(), strict=True):
        for i, (task, sides) in enumerate(tasks.items()):
            for side, shift in zip(sides, (np.arange(len(sides)) - (len(sides) - 1) / 2) * 0.8 / len(sides)):
                here = shown.loc[(shown["task"] == task) & (shown["side"] == side.name), "percent"]
                there = published[(published["task"] == task) & (published["side"] == side.name)]
                _column(ax, i + shift, 0.28 / len(sides), side, here, there, narrow)
        ax.axhline(100 * SOLVED_AT, color=GREY, linestyle=":", linewidth=1)
        labels = [task.replace(", ", "\n") for task in tasks]
        ax.set(xlabel="", ylabel="", xlim=(-0.5, len(tasks) - 0.5), ylim=(-2, 102))
        ax.set_xticks(range(len(tasks)), labels)
        ax.set_title(title, pad=34 if narrow and len(published) else 24)
    axes[0].set_ylabel("final accuracy at scored positions (%)")
    drawn = {side.name: side for tasks in panels.values() for sides in tasks.values() for side in sides}
    handles = [
        Line2D(
            [], [], color=side.look.color, marker=side.look.marker, linestyle="none", label=f"{side.title}, one seed"
        )
        for side in drawn.values()
    ]
    handles.append(Line2D([], [], color="black", linewidth=2.2, label="mean here"))
    sources = set(published.dropna(subset="low")["source"])
    if sources:
        where = "; ".join(text for source, (_, text) in _SOURCES.items() if source in sources)
        published_mean = Line2D([], [], marker="o", linestyle="none", label=f"hollow: mean published ({where})")
        published_mean.set(markersize=8, markerfacecolor="none", markeredgecolor=GREY, markeredgewidth=2)
        handles.append(published_mean)
    handles.append(Line2D([], [], color=GREY, linestyle=":", label="solved"))
    if guessing is not None:
        for ax in axes:
            line = ax.axhline(100 * guessing, color=GREY, linestyle="--", linewidth=1, label="guessing")
        handles.append(line)
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = 2 if 2 * longest < 18 * figure.get_size_inches()[0] - 8 else 1
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
    return figure


def _column(ax: Axes, at: float, half: float, side: Side, here: pd.Series, there: pd.DataFrame, narrow: bool) -> None:
    """One side's seeds around x = at, their mean, the published means, and above them how many were solved."""
    color = side.look.color
    if len(here):
        look: dict[str, Any] = {"marker": side.look.marker, "color": color, "alpha": 0.8}
        look["markersize"] = 7.5 if side.look.marker == "*" else 4.5  # a star's body is small
        places = at + (np.linspace(-half, half, len(here)) if len(here) > 1 else np.zeros(1))
        rim = 0.0 if side.look.marker in "PX" else 0.5  # it would eat the arms of crosses
        ax.plot(places, np.sort(here), **look, linestyle="none", markeredgecolor="white", mew=rim)
        if len(here) > 1:  # behind the marks, none of which it may hide
            ax.plot([at - half, at + half], 2 * [here.mean()], color="black", linewidth=2.2, zorder=1)
    else:
        ax.text(at, 34, NOT_RUN, rotation=90, ha="center", va="bottom", color=GREY)
    solved = [f"{(here >= 100 * SOLVED_AT).sum()}/{len(here)} here"] if len(here) else []
    between = "\n" if narrow else " "
    solved += [f"{row['solved']}{between}{row['source']}" for _, row in there.iterrows() if row["solved"]]
    ax.text(at, 103, "\n".join(solved), ha="center", va="bottom", fontsize=7)
    for _, row in there.dropna(subset="low").iterrows():
        middle, spread = (row["low"] + row["high"]) / 2, (row["high"] - row["low"]) / 2
        style: dict[str, Any] = {"marker": side.look.marker, "markersize": 8, "markerfacecolor": "none"}
        x = at + _SOURCES[row["source"]][0]
        ax.errorbar(x, middle, spread or None, color=color, markeredgecolor=color, mew=2, zorder=5, **style)


def survival_curves(curves: Mapping[str, tuple[Side, pd.DataFrame]], title: str, ax: Axes | None = None) -> Axes:
    """Draw the share of runs that still wait for 80 % over training, a Kaplan-Meier curve for each side.

    Args:
        curves: label -> the side and its curve, as of `orthonar.report.survival.kaplan_meier`.
        title: the task.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the share over the step; of one or two curves with its 95 % interval where there is one, of more with
        the legend below.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    crowded = len(curves) > 2
    for label, (side, curve) in curves.items():
        color, line = side.look.color, side.look.line
        # Of several lines of one colour the mark at the end, and in the legend, tells which is which.
        end: dict[str, Any] = {
            "marker": side.look.marker,
            "markevery": [len(curve) - 1],
            "markersize": 5,
            "clip_on": False,
        }
        look: dict[str, Any] = {"color": color, "linestyle": line, "linewidth": 2, **(end if crowded else {})}
        look["zorder"] = 2 if line == "-" else 3  # where curves coincide the gaps show the one below
        ax.step(curve["step"], curve["waiting"], where="post", label=label, **look)
        if not crowded:
            band: dict[str, Any] = {"step": "post", "color": color, "alpha": 0.15, "linewidth": 0}
            ax.fill_between(curve["step"], curve["low"], curve["high"], **band)
    ax.set(xlabel="training step", ylabel="share that has not reached 80 % yet", xlim=(0, None), ylim=(0, 1.03))
    ax.set_title(title)
    if curves:
        where: dict[str, Any] = {"loc": "lower left"}
        if crowded:  # below the axis and its label, which take as many inches whatever the axes' height
            below = ScaledTranslation(0, -0.42, ax.figure.dpi_scale_trans)
            where = {"loc": "upper center", "bbox_to_anchor": (0.45, 0), "bbox_transform": ax.transAxes + below}
        ax.legend(handlelength=4, **where)
    else:
        write_in_the_middle(ax)
    return ax


def learning_rates(
    runs: pd.DataFrame, sides: Sequence[Side], published: pd.DataFrame, title: str, ax: Axes | None = None
) -> Axes:
    """Draw final accuracy against the learning rate, a mark for each seed, the means joined.

    Args:
        runs: a row per run of one task, with columns side, lr and accuracy (0 to 1; NaN where it diverged, drawn at 0).
        sides: which to draw.
        published: the task's published means, as of `orthonar.report.tables.headline.published_points`, drawn as
            levels: the post does not say at which rate.
        title: the task.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes, the rate on a logarithmic scale.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    shown = runs.assign(percent=100 * runs["accuracy"].fillna(0.0))
    for side, shift in zip(sides, 1 + 0.08 * (np.arange(len(sides)) - (len(sides) - 1) / 2)):
        color, marker = side.look.color, side.look.marker
        mine = shown[shown["side"] == side.name]
        # Runs of a rate stand beside each other, in the order of their seeds.
        within = mine.groupby("lr")["seed"].rank() / (mine.groupby("lr")["seed"].transform("size") + 1) - 0.5
        at = shift * np.exp(0.06 * within) * mine["lr"]
        ax.plot(at, mine["percent"], marker, color=color, alpha=0.6, markersize=4)
        means = mine.groupby("lr")["percent"].mean()
        count = f" ({mine['seed'].nunique()} seeds)" if len(mine) else f" ({NOT_RUN})"
        line: dict[str, Any] = {"linestyle": side.look.line, "color": color, "linewidth": 1.8}
        ax.plot(shift * means.index, means, **line, label=f"{side.title}, mean{count}")
        for _, row in published[published["side"] == side.name].dropna(subset="low").iterrows():
            label = f"{side.title}, published ({row['source']})"
            ax.axhspan(row["low"], max(row["high"], row["low"] + 0.5), color=color, alpha=0.35, label=label)
    ax.plot([], [], "o", color=GREY, alpha=0.6, markersize=4, label="one run")
    ax.axhline(100 * SOLVED_AT, color=GREY, linestyle=":", linewidth=1, label="solved")
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="final accuracy (%)", ylim=(-2, 102))
    rates = sorted(set(runs["lr"])) if len(runs) else [3e-4, 1e-3, 3e-3, 1e-2]
    ax.set_xticks(rates, [f"{lr:g}" for lr in rates])
    ax.minorticks_off()
    ax.set_xlim(rates[0] / 1.5, rates[-1] * 1.5)
    ax.set_title(title)
    # Below: runs lie anywhere between chance and all.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2))
    return ax
