"""Figures of the headline comparison: final accuracies, survival, learning rates."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ...training.record import SOLVED_AT

#: Colour and marker of each side, the same in every figure.
_SIDES = {"baseline": ("#E69F00", "s", "--"), "orthogonalized": ("#0072B2", "o", "-")}

_SOURCES = {"post": "D", "follow-up": "^"}


def headline(
    panels: Mapping[str, Sequence[str]], runs: pd.DataFrame, published: pd.DataFrame, axes: Sequence[Axes] | None = None
) -> Figure:
    """Draw every seed's final accuracy, baseline and orthogonalized side by side, beside what was published.

    Args:
        panels: title -> labels of the tasks below it, from left to right.
        runs: a row a run, with columns task, side and accuracy (0 to 1; NaN where it diverged, drawn at 0).
        published: as of `orthonar.report.tables.headline.published_points`.
        axes: one for each panel, of a figure with constrained layout; None for new ones.

    Returns:
        The figure: a dot a seed, a bar at the mean of a side, hollow marks at the published means, the level of solved
        runs, how many were solved above each column, and "not run yet" where a task has no runs.
    """
    if axes is None:
        widths = [len(tasks) for tasks in panels.values()]
        width = max(7.0, 1.9 * sum(widths) + 1)
        ratios = {"width_ratios": widths}
        _, axes = plt.subplots(
            1, len(panels), figsize=(width, 4.4), sharey=True, layout="constrained", squeeze=False, gridspec_kw=ratios
        )
        axes = axes[0]
    shown = runs.assign(percent=100 * runs["accuracy"].fillna(0.0))
    for ax, (title, tasks) in zip(axes, panels.items(), strict=True):
        here = shown[shown["task"].isin(tasks)]
        if len(here):
            sns.swarmplot(
                here, x="task", y="percent", hue="side", order=list(tasks), hue_order=list(_SIDES), dodge=True,
                palette={side: color for side, (color, _, _) in _SIDES.items()}, size=4, alpha=0.8, warn_thresh=1,
                linewidth=0.5, edgecolor="white", legend=False, ax=ax,
            )  # fmt: skip
        for i, task in enumerate(tasks):
            for side, at in zip(_SIDES, (i - 0.2, i + 0.2)):
                color = _SIDES[side][0]
                values = here.loc[(here["task"] == task) & (here["side"] == side), "percent"]
                if len(values):
                    ax.plot([at - 0.14, at + 0.14], 2 * [values.mean()], color="black", linewidth=2.2)
                else:
                    ax.text(at, 34, "not run yet", rotation=90, ha="center", va="bottom", color="#555555", fontsize=8)
                there = published[(published["task"] == task) & (published["side"] == side)]
                solved = [f"{(values >= 100 * SOLVED_AT).sum()}/{len(values)} here"] if len(values) else []
                solved += [f"{row['solved']} {row['source']}" for _, row in there.iterrows() if row["solved"]]
                ax.text(at, 103, "\n".join(solved), ha="center", va="bottom", fontsize=6.5)
                for _, row in there.dropna(subset="low").iterrows():
                    middle, half = (row["low"] + row["high"]) / 2, (row["high"] - row["low"]) / 2
                    style = {
                        "marker": _SOURCES[row["source"]],
                        "markersize": 8,
                        "markerfacecolor": "none",
                        "markeredgecolor": color,
                    }
                    ax.errorbar(at, middle, half or None, color=color, markeredgewidth=2, zorder=5, **style)
        ax.axhline(100 * SOLVED_AT, color="#555555", linestyle=":", linewidth=1)
        labels = [task.replace(", ", "\n") for task in tasks]
        ax.set(xlabel="", ylabel="", xlim=(-0.5, len(tasks) - 0.5), ylim=(-2, 102))
        ax.set_xticks(range(len(tasks)), labels, fontsize=8)
        ax.set_title(f"{title}; solved:", fontsize=9, pad=26)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("final accuracy at scored positions (%)")
    dots = [
        Line2D([], [], color=color, marker="o", linestyle="none", label=f"{side}, one seed")
        for side, (color, _, _) in _SIDES.items()
    ]
    hollow = {"markersize": 8, "markerfacecolor": "none", "markeredgewidth": 2, "linestyle": "none"}
    dots += [
        Line2D([], [], color="black", linewidth=2.2, label="mean here"),
        *(
            Line2D([], [], marker=marker, markeredgecolor="#555555", label=f"mean in the {source}", **hollow)
            for source, marker in _SOURCES.items()
            if source in set(published.dropna(subset="low")["source"])
        ),
        Line2D([], [], color="#555555", linestyle=":", label="solved"),
    ]
    figure = axes[0].figure
    figure.legend(handles=dots, loc="outside lower center", ncols=len(dots), frameon=False, fontsize=8)
    return figure


def survival_curves(curves: Mapping[str, pd.DataFrame], title: str, ax: Axes | None = None) -> Axes:
    """Draw the share of runs that still wait for 80 % over training, a Kaplan-Meier curve a side.

    Args:
        curves: side -> its curve, as of `orthonar.report.stats.survival`.
        title: the task, and how many seeds.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the share over the step, with its 95 % interval where there is one.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(4.6, 3.4), layout="constrained")
    for side, curve in curves.items():
        color, _, line = _SIDES[side]
        ax.step(curve["step"], curve["waiting"], where="post", color=color, linestyle=line, linewidth=2, label=side)
        band = {"step": "post", "color": color, "alpha": 0.15, "linewidth": 0}
        ax.fill_between(curve["step"], curve["low"], curve["high"], **band)
    ax.set(xlabel="training step", ylabel="share of runs below 80 %", xlim=(0, None), ylim=(0, 1.03))
    ax.set_title(title, fontsize=9)
    if curves:
        ax.legend(frameon=False, loc="lower left", fontsize=8)
    else:
        ax.text(0.5, 0.5, "not run yet", transform=ax.transAxes, ha="center", color="#555555")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def learning_rates(runs: pd.DataFrame, published: pd.DataFrame, title: str, ax: Axes | None = None) -> Axes:
    """Draw final accuracy against the learning rate, every seed a dot, the means joined.

    Args:
        runs: a row a run of one task, with columns side, lr and accuracy (0 to 1; NaN where it diverged, drawn at 0).
        published: the task's published means, as of `orthonar.report.tables.headline.published_points`, drawn as
            levels: the post does not say at which rate.
        title: the task.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes, the rate on a logarithmic scale.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
    shown = runs.assign(percent=100 * runs["accuracy"].fillna(0.0))
    for (side, (color, marker, line)), shift in zip(_SIDES.items(), (0.96, 1.04)):
        side_runs = shown[shown["side"] == side]
        ax.plot(shift * side_runs["lr"], side_runs["percent"], marker, color=color, alpha=0.6, markersize=4.5)
        means = side_runs.groupby("lr")["percent"].mean()
        count = f" ({side_runs['seed'].nunique()} seeds)" if len(side_runs) else " (not run yet)"
        ax.plot(shift * means.index, means, line, color=color, linewidth=1.8, label=f"{side}, mean{count}")
        for _, row in published[published["side"] == side].dropna(subset="low").iterrows():
            label = f"{side}, published ({row['source']})"
            ax.axhspan(row["low"], max(row["high"], row["low"] + 0.5), color=color, alpha=0.35, label=label)
    ax.axhline(100 * SOLVED_AT, color="#555555", linestyle=":", linewidth=1, label="solved")
    ax.set(xscale="log", xlabel="peak learning rate", ylabel="final accuracy (%)", ylim=(-2, 102))
    rates = sorted(set(runs["lr"])) if len(runs) else [3e-4, 1e-3, 3e-3, 1e-2]
    ax.set_xticks(rates, [f"{lr:g}" for lr in rates])
    ax.minorticks_off()
    ax.set_xlim(rates[0] / 1.5, rates[-1] * 1.5)
    ax.set_title(title, fontsize=9)
    ax.legend(frameon=False, fontsize=8, loc="best")
    ax.spines[["top", "right"]].set_visible(False)
    return ax
