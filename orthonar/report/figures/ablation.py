"""Figures of the ablation notebooks, from `orthonar.report.tables.ablation`: filled is ours, hollow published.

A variant without runs says so.
"""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...training.record import SOLVED_AT
from .. import stats
from ..published import PublishedDecode, PublishedSwap, PublishedVariant
from ..words import NOT_RUN

_BASELINE, _NS5, _OTHER, _GREY = "#E69F00", "#0072B2", "#777777", "#555555"
#: Colour and marker of the two variants that everything is compared with; all others share one look.
_LOOKS = {"baseline": (_BASELINE, "s"), "ns5": (_NS5, "o")}
_OTHERS = (_OTHER, "x")
_HOLLOW = {"marker": "^", "linestyle": "none", "markerfacecolor": "none", "markeredgewidth": 1.6, "markersize": 7}
#: Whose numbers the hollow marks are, and of which task.
_THEIRS = "follow-up (vocabulary 80, length 512)"
_SOLVED = {"color": _GREY, "linestyle": ":", "linewidth": 1}


def elimination(
    runs: pd.DataFrame, variants: Sequence[str], published: Mapping[str, PublishedVariant], axes=None
) -> Figure:
    """Draw what becomes of each variant: every seed's final accuracy, and solved shares beside the published ones.

    Args:
        runs: a row a run, with columns side, accuracy (0 to 1; NaN where it diverged, drawn at 0) and solved.
        variants: from top to bottom.
        published: by variant.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left a dot a seed and a bar at the mean, right solved shares with Wilson's intervals.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(9, 0.34 * len(variants) + 1.4), sharey=True, layout="constrained")
    rows = np.arange(len(variants))
    for row, name in enumerate(variants):
        _seeds(axes[0], runs[runs["side"] == name], row)
        counts = _counts(runs, published, name)
        _shares(axes[1], row, counts)
        text = [f"{solved}/{of}" if of else "–" for solved, of in counts]
        axes[1].text(103, row, " · ".join(text), va="center", fontsize=7.5)
    axes[1].text(103, -0.6, "here · follow-up", va="bottom", fontsize=7.5)
    axes[0].axvline(100 * SOLVED_AT, **_SOLVED)
    axes[0].set_yticks(rows, [name.replace("_", " ") for name in variants])
    axes[0].set(xlabel="final accuracy (%)", xlim=(-2, 102), ylim=(len(variants) - 0.5, -0.5))
    axes[1].set(xlabel="solved runs (%), with 95 % interval", xlim=(-2, 102))
    for ax in axes:
        ax.hlines(rows, -2, 102, color="#DDDDDD", linewidth=0.6, zorder=0)
        ax.spines[["top", "right"]].set_visible(False)
    return _legend(axes[0].figure)


def dose_response(
    runs: pd.DataFrame, doses: Mapping[str, str], published: Mapping[str, PublishedVariant], axes=None
) -> Figure:
    """Draw final accuracy and solved share against the number of Newton-Schulz steps.

    Args:
        runs: as of `elimination`.
        doses: variant -> its number of steps, as of `orthonar.report.tables.ablation.doses`.
        published: by variant.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: left a dot a seed and a bar at the mean, right solved shares with Wilson's intervals.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(8, 3.6), layout="constrained")
    for at, name in enumerate(doses):
        _seeds(axes[0], runs[runs["side"] == name], at, upright=True)
        _shares(axes[1], at, _counts(runs, published, name), upright=True)
    axes[0].axhline(100 * SOLVED_AT, **_SOLVED)
    for ax, label in zip(axes, ("final accuracy (%)", "solved runs (%), with 95 % interval")):
        ax.set_xticks(range(len(doses)), doses.values())
        ax.set(xlabel="Newton-Schulz steps of the read", ylabel=label, ylim=(-3, 103), xlim=(-0.6, len(doses) - 0.4))
        ax.spines[["top", "right"]].set_visible(False)
    return _legend(axes[0].figure)


def over_training(
    traces: pd.DataFrame,
    column: str,
    label: str,
    variants: Sequence[str],
    published: Mapping[str, float] | None = None,
) -> Figure:
    """Draw what a probe sees over training, a panel a variant, the baseline's mean behind each.

    Args:
        traces: as of `orthonar.report.tables.ablation.traces`.
        column: which probe.
        label: its name for readers.
        variants: a panel each.
        published: variant -> value on the follow-up's plateau, drawn as a level.

    Returns:
        The figure: a thin line a seed, its escape marked by a dot, a thick one for the mean.
    """
    columns = min(4, len(variants))
    lines = -(-len(variants) // columns)
    size = (2.4 * columns, 1.7 * lines + 0.8)
    figure, axes = plt.subplots(lines, columns, figsize=size, sharex=True, sharey=True, layout="constrained")
    axes = np.ravel(axes)
    means = traces.groupby(["side", "step"])[column].mean()
    for ax, name in zip(axes, variants):
        mine = traces[traces["side"] == name]
        color = _LOOKS.get(name, ("#009E73",))[0]
        if len(mine) and name != "baseline" and "baseline" in means.index:
            ax.plot(means["baseline"], color=_BASELINE, linewidth=1.6, linestyle="--")
        for _, seed in mine.groupby("seed"):
            ax.plot(seed["step"], seed[column], color=color, linewidth=0.7, alpha=0.6)
            escape = seed[seed["step"] == seed["escape_step"]]
            ax.plot(escape["step"], escape[column], "o", color=color, markersize=4)
        if len(mine):
            ax.plot(means[name], color=color, linewidth=2.2)
        else:
            ax.text(0.5, 0.5, NOT_RUN, transform=ax.transAxes, ha="center", color=_GREY, fontsize=8)
        if published and name in published:
            ax.axhline(published[name], color="black", linestyle=":", linewidth=1.2)
        seeds = mine["seed"].nunique()
        ax.set_title(f"{name.replace('_', ' ')} ({seeds} seed{'s'[: seeds != 1]})", fontsize=7.5)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(variants) :]:
        ax.set_visible(False)
    for ax in axes[len(variants) - columns : len(variants)]:
        ax.set_xlabel("training step", fontsize=9)
        ax.tick_params(labelbottom=True)
    figure.supylabel(label, fontsize=9)
    handles = [
        Line2D([], [], color=_OTHER, linewidth=0.7, marker="o", markersize=4, label="one seed, its escape"),
        Line2D([], [], color=_OTHER, linewidth=2.2, label="mean"),
        Line2D([], [], color=_BASELINE, linewidth=1.6, linestyle="--", label="baseline's mean"),
    ]
    if published:
        handles.append(Line2D([], [], color="black", linestyle=":", label=f"plateau, {_THEIRS}"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure


def decoded(
    runs: pd.DataFrame, published: Mapping[tuple[str, str], PublishedDecode], chance: float, axes=None
) -> Figure:
    """Draw what a decoder finds in the memory at the end of training against what the model itself recalls.

    Args:
        runs: as of `orthonar.report.tables.ablation.probed_runs`.
        published: by variant and end.
        chance: share of right answers of a guess, 0 to 1.
        axes: three, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: the share decoded, and the same with another sequence's memory and with another pair's key; a mark a
        run.
    """
    if axes is None:
        _, axes = plt.subplots(1, 3, figsize=(9, 3.5), sharex=True, sharey=True, layout="constrained")
    panels = {
        "decoded": "own key, own memory",
        "decoded_wrong_memory": "control: memory of another sequence",
        "decoded_wrong_key": "control: key of another pair",
    }
    theirs = {"decoded": "decoded", "decoded_wrong_key": "wrong_key"}
    for ax, (column, title) in zip(axes, panels.items()):
        _marks(ax, runs, 100 * runs["accuracy"], 100 * runs[column])
        for (name, _), other in published.items():
            if column in theirs:
                behaviour = np.atleast_1d(other.behaviour)
                y = getattr(other, theirs[column])
                half = [np.ptp(behaviour) / 2] if np.ptp(behaviour) else None
                ax.errorbar(behaviour.mean(), y, xerr=half, color=_LOOKS[name][0], **_HOLLOW)
        ax.axhline(100 * chance, color=_GREY, linestyle="--", linewidth=1)
        ax.set(xlim=(-2, 102), ylim=(-2, 102))
        ax.set_title(title, fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("accuracy of the model itself (%)")
    axes[0].set_ylabel("pairs decoded (%)")
    return _legend(axes[0].figure, looks=True, chance=True)


def swaps(runs: pd.DataFrame, published: Mapping[tuple[str, str, str], PublishedSwap], axes=None) -> Figure:
    """Draw trained models' accuracy under another read against that under their own.

    Args:
        runs: as of `orthonar.report.tables.ablation.probed_runs`.
        published: by variant, end and read evaluated with; means alone are drawn.
        axes: two, of one figure with constrained layout; None for new ones.

    Returns:
        The figure: a panel a read put in, a mark a run, below the diagonal where the swap costs.
    """
    if axes is None:
        _, axes = plt.subplots(1, 2, figsize=(7.6, 4.2), sharex=True, sharey=True, layout="constrained")
    for ax, read in zip(axes, ("raw", "orthogonalized")):
        _marks(ax, runs, 100 * runs["accuracy"], 100 * runs[f"accuracy_read_{read}"])
        for (name, _, other), swap in published.items():
            if other == read and swap.before is not None:
                ax.plot(swap.before, swap.after, color=_LOOKS[name][0], **_HOLLOW)
        ax.plot([0, 100], [0, 100], color=_GREY, linewidth=0.8)
        ax.axhline(100 * SOLVED_AT, **_SOLVED)
        ax.axvline(100 * SOLVED_AT, **_SOLVED)
        ax.set(xlim=(-2, 102), ylim=(-2, 102), aspect="equal", xlabel="accuracy with its own read (%)")
        ax.set_title(f"every model read {read}", fontsize=9)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("accuracy with the read put in (%)")
    return _legend(axes[0].figure, looks=True)


def _spread(count: int) -> np.ndarray:
    """Where the dots of one variant's seeds lie, so that equal ones do not hide each other."""
    return np.linspace(-0.22, 0.22, count) if count > 1 else np.zeros(count)


def _seeds(ax: Axes, runs: pd.DataFrame, at: float, upright: bool = False) -> None:
    """Every seed's final accuracy as a dot and their mean as a bar, along x or, upright, along y."""
    values = 100 * stats.accuracies(runs)
    if not len(values):
        x, y = (at, 50) if upright else (50, at)
        ax.text(x, y, NOT_RUN, rotation=90 * upright, ha="center", va="center", color=_GREY, fontsize=7.5)
        return
    dots, mean = (at + _spread(len(values)), values), ([at - 0.32, at + 0.32], 2 * [values.mean()])
    if not upright:
        dots, mean = dots[::-1], mean[::-1]
    ax.plot(*dots, "o", color=_NS5, markersize=5, alpha=0.75, markeredgecolor="white", markeredgewidth=0.5)
    ax.plot(*mean, color="black", linewidth=2, zorder=1)


def _counts(runs: pd.DataFrame, published: Mapping[str, PublishedVariant], name: str) -> list[tuple[int, int]]:
    """Solved runs and all runs of a variant: ours, published; 0 of 0 where there are none."""
    mine, other = runs[runs["side"] == name], published.get(name)
    return [(int(mine["solved"].sum()), len(mine)), (other.solved.solved, other.solved.seeds) if other else (0, 0)]


def _shares(ax: Axes, at: float, counts: list[tuple[int, int]], upright: bool = False) -> None:
    """Our solved share and the published one with Wilson's intervals, side by side."""
    looks = ({"marker": "o", "color": _NS5, "markersize": 5}, {"color": "#D55E00", **_HOLLOW})
    for (solved, of), shift, look in zip(counts, (-0.14, 0.14), looks):
        if of:
            share, low, high = (100 * x for x in stats.solved_share(solved, of))
            bars = [[max(share - low, 0)], [max(high - share, 0)]]  # rounding may leave -1e-15
            place = (
                {"x": at + shift, "y": share, "yerr": bars} if upright else {"x": share, "y": at + shift, "xerr": bars}
            )
            ax.errorbar(**place, **look, elinewidth=1.2, capsize=2, clip_on=False)


def _marks(ax: Axes, runs: pd.DataFrame, x: pd.Series, y: pd.Series) -> None:
    """A mark a run, in the look of its variant."""
    if not len(runs):
        ax.text(0.5, 0.5, NOT_RUN, transform=ax.transAxes, ha="center", color=_GREY)
    for name, (color, marker) in {None: _OTHERS, **_LOOKS}.items():
        here = runs["side"] == name if name else ~runs["side"].isin(list(_LOOKS))
        ax.plot(x[here], y[here], marker, color=color, markersize=5, alpha=0.8, clip_on=False)


def _legend(figure: Figure, looks: bool = False, chance: bool = False) -> Figure:
    hollow = {"markeredgecolor": "black" if looks else "#D55E00", **_HOLLOW}
    if looks:
        names = {**_LOOKS, "other variants": _OTHERS}
        handles = [
            Line2D([], [], color=color, marker=marker, linestyle="none", label=name)
            for name, (color, marker) in names.items()
        ]
        handles.append(Line2D([], [], label=f"mean, {_THEIRS}", **hollow))
    else:
        handles = [
            Line2D([], [], color=_NS5, marker="o", linestyle="none", label="here"),
            Line2D([], [], color="black", linewidth=2, label="mean here"),
            Line2D([], [], label=_THEIRS, **hollow),
        ]
    if chance:
        handles.append(Line2D([], [], color=_GREY, linestyle="--", linewidth=1, label="guessing, here"))
    else:
        handles.append(Line2D([], [], label="solved", **_SOLVED))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
    return figure
