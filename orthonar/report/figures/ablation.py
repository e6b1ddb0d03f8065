"""Figures of the ablation notebooks, from `orthonar.report.tables.ablation`: filled is ours, hollow published.

A variant without runs says so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...study.sides import BASELINE, HEADLINE, Look, Side, title
from ...training.record import SOLVED_AT
from .. import stats
from ..published import PublishedDecode, PublishedSwap, PublishedVariant
from ..style import GREY, WIDTH, panel_grid, write_in_the_middle
from ..tables.probed import EARLY
from ..words import NOT_RUN

#: Of what is published only.
_UNKNOWN = Look("#777777", "o", "-")
_HOLLOW: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 8}
#: Whose numbers the hollow marks are, and of which task.
_THEIRS = "follow-up (vocabulary 80, length 512)"
_SOLVED: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 1}


def elimination(
    runs: pd.DataFrame,
    variants: Sequence[str],
    sides: Mapping[str, Side],
    published: Mapping[str, PublishedVariant],
    axes=None,
) -> Figure:
    """Draw what becomes of each variant: every seed's final accuracy, and solved shares beside the published ones.

    Args:
        runs: as of `orthonar.report.tables.runs.study_runs`; a diverged run is drawn at 0.
        variants: from top to bottom.
        sides: the study's, by variant; a variant without one is published only.
        published: by variant.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left a mark for each seed and a bar at the mean, right solved shares with Wilson's intervals.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(WIDTH, 0.25 * len(variants) + 1.3), sharey=True, layout="constrained")
    rows = np.arange(len(variants))
    for row, name in enumerate(variants):
        look = _look(sides, name)
        _seeds(axes[0], runs[runs["side"] == name], row, look)
        counts = _counts(runs, published, name)
        _shares(axes[1], row, counts, look)
        text = [f"{solved}/{of}" if of else "–" for solved, of in counts[: 1 + bool(published)]]
        axes[1].text(103, row, " · ".join(text), va="center")
    axes[1].text(103, -0.6, "here · follow-up" if published else "solved", va="bottom")
    axes[0].axvline(100 * SOLVED_AT, **_SOLVED)
    axes[0].set_yticks(rows, [title(name) for name in variants])
    axes[0].set(xlabel="final accuracy (%)", xlim=(-2, 102), ylim=(len(variants) - 0.5, -0.5))
    axes[1].set(xlabel="solved runs (%), with 95 % interval", xlim=(-2, 102))
    for ax in axes:
        ax.hlines(rows, -2, 102, color="#DDDDDD", linewidth=0.6, zorder=0)
    return _shares_legend(axes[0].figure, bool(published))


def dose_response(
    runs: pd.DataFrame,
    doses: Mapping[str, str],
    sides: Mapping[str, Side],
    published: Mapping[str, PublishedVariant],
    axes=None,
) -> Figure:
    """Draw final accuracy and solved share against the number of Newton-Schulz steps.

    Args:
        runs: as of `elimination`.
        doses: variant -> its number of steps, as of `orthonar.report.tables.ablation.doses`.
        sides: the study's, by variant.
        published: by variant.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left a mark for each seed and a bar at the mean, right solved shares with Wilson's intervals.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(WIDTH, 3.1), layout="constrained")
    for at, name in enumerate(doses):
        look = _look(sides, name)
        _seeds(axes[0], runs[runs["side"] == name], at, look, upright=True)
        _shares(axes[1], at, _counts(runs, published, name), look, upright=True)
    axes[0].axhline(100 * SOLVED_AT, **_SOLVED)
    for ax, label in zip(axes, ("final accuracy (%)", "solved runs (%), with 95 % interval")):
        ax.set_xticks(range(len(doses)), doses.values())
        ax.set(xlabel="Newton-Schulz steps of the read", ylabel=label, ylim=(-3, 103), xlim=(-0.6, len(doses) - 0.4))
    return _shares_legend(axes[0].figure, bool(published))


def over_training(
    traces: pd.DataFrame,
    column: str,
    label: str,
    sides: Mapping[str, Side],
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Draw what a probe sees over training, a panel for each variant, the baseline's mean behind each.

    Args:
        traces: as of `orthonar.report.tables.probed.traces`.
        column: which probe.
        label: its name for readers.
        sides: by variant, a panel each.
        published: variant -> what the follow-up saw early in training, drawn as a level there.

    Returns:
        The figure: a thin line for each seed, its escape marked, a thick one for the mean.
    """
    lines, columns = panel_grid(len(sides))
    size = (WIDTH, 1.7 * lines + 0.8)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, layout="constrained")
    axes = np.ravel(axes)
    means = traces.groupby(["side", "step"])[column].mean()
    behind: dict[str, Any] = {"color": BASELINE.look.color, "linestyle": BASELINE.look.line, "linewidth": 1.6}
    for ax, (name, side) in zip(axes, sides.items()):
        mine = traces[traces["side"] == name]
        color, marker = side.look.color, side.look.marker
        if len(mine) and name != BASELINE.name and BASELINE.name in means.index:
            ax.plot(means[BASELINE.name], **behind, zorder=3)
        for _, seed in mine.groupby("seed"):
            ax.plot(seed["step"], seed[column], color=color, linewidth=0.7, alpha=0.6)
            escape = seed[seed["step"] == seed["escape_step"]]
            ax.plot(escape["step"], escape[column], marker, color=color, markersize=4.5)
        if len(mine):
            ax.plot(means[name], color="white", linewidth=4, zorder=3)
            ax.plot(means[name], color=color, linewidth=2.2, zorder=3)
        else:
            write_in_the_middle(ax)
        if published and name in published:
            early = [share * traces["step"].max() for share in EARLY]
            ax.plot(early, 2 * [published[name]], color="black", linestyle=":", linewidth=1.6, zorder=4)
        seeds = mine["seed"].nunique()
        between = "\n" if len(side.title) > 20 else " "
        ax.set_title(f"{side.title}{between}({seeds} seed{'s'[: seeds != 1]})")
    for ax in axes[len(sides) :]:
        ax.set_visible(False)
    for ax in axes[len(sides) - columns : len(sides)]:
        ax.set_xlabel("training step")
        ax.tick_params(labelbottom=True)
    figure.supylabel(label)
    handles = [
        Line2D([], [], color=GREY, linewidth=0.7, label="one seed; a mark: its escape"),
        Line2D([], [], color=GREY, linewidth=2.2, label="mean"),
        Line2D([], [], label="baseline's mean", **behind),
    ]
    if published:
        handles.append(Line2D([], [], color="black", linestyle=":", label=f"early, {_THEIRS}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=min(3, len(handles)))
    return figure


def decoded(
    runs: pd.DataFrame,
    sides: Mapping[str, Side],
    published: Mapping[tuple[str, str], PublishedDecode],
    chance: float,
    axes=None,
) -> Figure:
    """Draw what a decoder finds in the memory at the end of training against what the model itself recalls.

    Args:
        runs: as of `orthonar.report.tables.probed.probed_runs`; those that were not asked are left out.
        sides: the study's, by variant.
        published: by variant and end, of the same experiment.
        chance: share of right answers of a guess, 0 to 1.
        axes: four, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: a panel for what is decoded with the key at the value's position and one with that at the key's, and
        for the former two controls, a mark for each run. (The third, the key alone, decodes everything.)
    """
    if axes is None:
        _, axes = plt.subplots(2, 2, figsize=(WIDTH, 5.6), sharex=True, sharey=True, layout="constrained")
    nothing = NOT_RUN if not len(runs) else "not asked"
    runs = runs[runs["decode1"].notna()]
    panels = {
        "decode1": "key at the value's position",
        "decode1_other_memory": "control: another sequence's memory",
        "decode0": "key at the key's position",
        "decode1_wrong_key": "control: another pair's key",
    }
    theirs = {"decode1": "decoded", "decode1_wrong_key": "wrong_key"}
    axes = np.reshape(axes, (2, 2))
    for ax, (column, shown) in zip(np.ravel(axes), panels.items()):
        _marks(ax, runs, sides, 100 * runs["accuracy"], 100 * runs[column], nothing)
        for (name, _), other in published.items():
            if column in theirs:
                behaviour = np.atleast_1d(other.behaviour)
                y = getattr(other, theirs[column])
                half = [np.ptp(behaviour) / 2] if np.ptp(behaviour) else None
                ax.errorbar(behaviour.mean(), y, xerr=half, **_hollow(_look(sides, name)))
        ax.axhline(100 * chance, color=GREY, linestyle="--", linewidth=1)
        ax.set(xlim=(-2, 102), ylim=(-2, 102), title=shown)
    for ax in axes[1]:
        ax.set_xlabel("accuracy of the model (%)")
    for ax in axes[:, 0]:
        ax.set_ylabel("values decoded (%)")
    guessing = Line2D([], [], color=GREY, linestyle="--", linewidth=1, label="guessing, here")
    return _marks_legend(axes[0, 0].figure, runs, sides, guessing, hollow=bool(published))


def swaps(
    runs: pd.DataFrame,
    sides: Mapping[str, Side],
    published: Mapping[tuple[str, str, str], PublishedSwap],
    axes=None,
) -> Figure:
    """Draw trained models' accuracy under another read against that under their own.

    Args:
        runs: as of `orthonar.report.tables.probed.probed_runs`.
        sides: the study's, by variant.
        published: by variant, end and read evaluated with; means alone are drawn.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: a panel for each read put in, a mark for each run, below the diagonal where the swap costs.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(WIDTH, 4.6), sharex=True, sharey=True, layout="constrained")
    for ax, read in zip(axes, ("raw", "orthogonalized")):
        _marks(ax, runs, sides, 100 * runs["accuracy"], 100 * runs[f"accuracy_read_{read}"])
        for (name, _, other), swap in published.items():
            if other == read and swap.before is not None:
                ax.plot(swap.before, swap.after, **_hollow(_look(sides, name)))
        ax.plot([0, 100], [0, 100], color=GREY, linewidth=0.8)
        ax.axhline(100 * SOLVED_AT, **_SOLVED)
        ax.axvline(100 * SOLVED_AT, **_SOLVED)
        ax.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal", xlabel="accuracy with its own read (%)")
        ax.set_title(f"every model read {read}")
    axes[0].set_ylabel("accuracy with the read put in (%)")
    hollow = any(swap.before is not None for swap in published.values())
    return _marks_legend(axes[0].figure, runs, sides, Line2D([], [], label="solved", **_SOLVED), hollow=hollow)


def _look(sides: Mapping[str, Side], name: str) -> Look:
    return sides[name].look if name in sides else _UNKNOWN


def _hollow(look: Look) -> dict[str, Any]:
    """A side's own mark, hollow: what was published of it."""
    return {"color": look.color, "marker": look.marker, **_HOLLOW}


def _spread(count: int) -> np.ndarray:
    """Where the dots of one variant's seeds lie, so that equal ones do not hide each other."""
    return np.linspace(-0.22, 0.22, count) if count > 1 else np.zeros(count)


def _seeds(ax: Axes, runs: pd.DataFrame, at: float, look: Look, upright: bool = False) -> None:
    """Every seed's final accuracy as a mark and their mean as a bar, along x or, upright, along y."""
    values = 100 * stats.accuracies(runs)
    if not len(values):
        x, y = (at, 50) if upright else (50, at)
        ax.text(x, y, NOT_RUN, rotation=90 * upright, ha="center", va="center", color=GREY)
        return
    dots, mean = (at + _spread(len(values)), values), ([at - 0.32, at + 0.32], 2 * [values.mean()])
    if not upright:
        dots, mean = dots[::-1], mean[::-1]
    ax.plot(*dots, look.marker, color=look.color, markersize=6, alpha=0.9, markeredgecolor="white", markeredgewidth=0.5)
    ax.plot(*mean, color="black", linewidth=2, zorder=1)


def _counts(runs: pd.DataFrame, published: Mapping[str, PublishedVariant], name: str) -> list[tuple[int, int]]:
    """Solved runs and all runs of a variant: ours, published; 0 of 0 where there are none."""
    mine, other = runs[runs["side"] == name], published.get(name)
    return [(int(mine["solved"].sum()), len(mine)), (other.solved.solved, other.solved.seeds) if other else (0, 0)]


def _shares(ax: Axes, at: float, counts: list[tuple[int, int]], look: Look, upright: bool = False) -> None:
    """Our solved share and, hollow, the published one with Wilson's intervals, side by side."""
    looks: tuple[dict[str, Any], ...] = ({"marker": look.marker, "color": look.color, "markersize": 6}, _hollow(look))
    for (solved, of), shift, style in zip(counts, (-0.18, 0.18) if counts[1][1] else (0.0, 0.0), looks):
        if of:
            share, low, high = (100 * x for x in stats.solved_share(solved, of))
            bars = [[max(share - low, 0)], [max(high - share, 0)]]  # rounding may leave -1e-15
            place: dict[str, Any] = (
                {"x": at + shift, "y": share, "yerr": bars} if upright else {"x": share, "y": at + shift, "xerr": bars}
            )
            ax.errorbar(**place, **style, elinewidth=1.2, capsize=2, clip_on=False)


def _marks(
    ax: Axes, runs: pd.DataFrame, sides: Mapping[str, Side], x: pd.Series, y: pd.Series, nothing: str = NOT_RUN
) -> None:
    """A mark for each run, in the look of its side."""
    if not len(runs):
        write_in_the_middle(ax, nothing)
    # The two sides that all others are compared with come last, so that they lie on top.
    for name, side in sorted(sides.items(), key=lambda item: item[0] in HEADLINE):
        here = runs["side"] == name
        style: dict[str, Any] = {"color": side.look.color, "markersize": 6.5 if name in HEADLINE else 5, "alpha": 0.8}
        if here.any():  # unclipped marks of nothing would upset the layout
            ax.plot(x[here], y[here], side.look.marker, clip_on=False, **style)


def _shares_legend(figure: Figure, hollow: bool) -> Figure:
    """Filled is ours, hollow, if there is any, published; the look is the side's."""
    mark: dict[str, Any] = {"color": GREY, "marker": "o", "linestyle": "none"}
    handles = [
        Line2D([], [], label="here", **mark),
        Line2D([], [], color="black", linewidth=2, label="mean here"),
        *([Line2D([], [], label=_THEIRS, **{**mark, **_HOLLOW})] if hollow else []),
        Line2D([], [], label="solved", **_SOLVED),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2 if hollow else 3)
    return figure


def _marks_legend(figure: Figure, runs: pd.DataFrame, sides: Mapping[str, Side], *more: Line2D, hollow: bool) -> Figure:
    """The sides that have runs, and what hollow marks mean, if there are any."""
    present = set(runs["side"]) if len(runs) else set()
    handles = [
        Line2D([], [], color=side.look.color, marker=side.look.marker, linestyle="none", label=side.title)
        for name, side in sides.items()
        if name in present
    ]
    if hollow:
        look: dict[str, Any] = {"color": GREY, "marker": "o", **_HOLLOW}
        handles.append(Line2D([], [], label=f"hollow: mean, {_THEIRS}", **look))
    handles += more
    figure.legend(handles=handles, loc="outside lower center", ncols=3)
    return figure
