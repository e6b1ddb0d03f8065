"""Figures: each function draws on the axes it is given, or on new ones, and returns them; none is shown.

The colours are Okabe and Ito's, which colour-blind readers can tell apart, picked to differ in lightness too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from orthonar import paths
from orthonar.data import IGNORE_INDEX, NoisyRecall
from orthonar.records import SOLVED_AT, RunRecord

#: How readers know the reads.
READ_LABELS = {"RawRead": "baseline", "NewtonSchulzRead": "orthogonalized"}

_KINDS = {
    # kind of token: (its cell's colour, its number's colour)
    "key": ("#0072B2", "white"),
    "value": ("#E69F00", "black"),
    "distractor": ("#EAEAEA", "#555555"),
    "prefix": ("#009E73", "white"),
}


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


def token_strip(
    tokens: np.ndarray,
    task: NoisyRecall,
    targets: np.ndarray | None = None,
    ax: Axes | None = None,
    columns: int = 32,
) -> Axes:
    """Draw a sequence as a strip of coloured cells, one a token, the scored tokens framed.

    Args:
        tokens: one whole sequence, integers of shape (num_tokens,), or, with `targets`, any run of inputs.
        task: tells keys, values and distractors apart.
        targets: evaluation targets, aligned with the tokens: where targets[i] is not `IGNORE_INDEX`,
            token i + 1 is scored. If there are as many targets as tokens, the last one is drawn as the answer
            that follows. None: the tokens are a whole sequence, and `task.evaluation_targets` labels it.
        ax: the axes to draw on; None for new ones.
        columns: tokens in a row; longer sequences continue in the next row, whose first position is at its
            left.

    Returns:
        The axes.

    Raises:
        ValueError: the tokens are no sequence, or targets do not fit them.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not tokens.size:
        raise ValueError(f"tokens must be one sequence, not of shape {tokens.shape}")
    targets = task.evaluation_targets(tokens) if targets is None else np.asarray(targets)
    if targets.ndim != 1 or len(tokens) - len(targets) not in (0, 1):
        raise ValueError(f"targets of shape {targets.shape} do not fit tokens of shape {tokens.shape}")
    scored = np.concatenate([[False], targets != IGNORE_INDEX])
    if len(targets) == len(tokens):
        if scored[-1]:
            tokens = np.append(tokens, targets[-1])
        else:
            scored = scored[:-1]

    columns = min(columns, len(tokens))
    rows = -(-len(tokens) // columns)
    if ax is None:
        cell = 0.3  # inches
        _, ax = plt.subplots(figsize=(columns * cell + 0.6, rows * cell + 0.7), layout="constrained")
    fills = np.zeros((rows * columns, 4))
    for position, token in enumerate(tokens):
        row, column = divmod(position, columns)
        fill, ink = _KINDS[_kind(token, task)]
        fills[position] = to_rgba(fill)
        # Hundreds of numbers are slow to lay out, and need not be: they lie inside their cells.
        number = ax.text(column + 0.5, row + 0.52, str(token), color=ink, fontsize=7, ha="center", va="center")
        number.set_in_layout(False)
    corners = np.arange(columns + 1), np.arange(rows + 1)
    ax.pcolormesh(*corners, fills.reshape(rows, columns, 4), edgecolors="white", linewidth=0.8)
    for position in np.flatnonzero(scored):
        row, column = divmod(int(position), columns)
        frame = {"edgecolor": "black", "facecolor": "none", "linewidth": 1.8}
        ax.add_patch(Rectangle((column + 0.05, row + 0.05), 0.9, 0.9, **frame))

    ax.set(xlim=(0, columns), ylim=(rows, 0), aspect="equal", xticks=[], yticks=[])
    if rows > 1:
        ax.set_yticks(np.arange(rows) + 0.5, [str(row * columns) for row in range(rows)])
        ax.set_ylabel("position of the row's first token")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    kinds = [kind for kind in _KINDS if kind in {_kind(token, task) for token in tokens}]
    handles = [Patch(facecolor=_KINDS[kind][0], label=kind) for kind in kinds]
    handles.append(Patch(facecolor="none", edgecolor="black", linewidth=1.8, label="scored"))
    place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}
    ax.legend(handles=handles, ncols=len(handles), fontsize=8, frameon=False, **place)
    return ax


def _kind(token: int, task: NoisyRecall) -> str:
    if token == task.prefix:
        return "prefix"
    for kind, tokens in (("key", task.keys), ("value", task.values), ("distractor", task.distractors)):
        if token in tokens:
            return kind
    raise ValueError(f"token {token} is outside the vocabulary of {task.vocab_size}")


def key_occupancy(tokens: np.ndarray, task: NoisyRecall, ax: Axes | None = None) -> Axes:
    """Draw how many key-value pairs a memory has to hold as sequences go on: measured, and in closed form.

    Args:
        tokens: whole sequences, integers of shape (N, num_tokens).
        task: the task that they are from.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: over the position in tokens, the mean number of different keys shown up to there, the range
        that holds 80 % of the sequences, `task.expected_distinct_keys`, and the number of all keys.
    """
    shown = np.cumsum(task.first_showings(tokens)[:, :-1], axis=1)
    pairs = np.arange(1, task.num_pairs)
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
    low, high = np.quantile(shown, [0.1, 0.9], axis=0)
    ax.fill_between(2 * pairs, low, high, color="#56B4E9", alpha=0.35, linewidth=0, label="80 % of sequences")
    mean = shown.mean(0)
    ax.plot(2 * pairs, mean, color="#0072B2", linewidth=2.5, label=f"mean of {len(shown):,} sequences")
    expected = task.expected_distinct_keys(pairs)
    ax.plot(2 * pairs, expected, color="black", linestyle="--", linewidth=1, label="expected")
    ax.axhline(len(task.keys), color="#555555", linestyle=":", label=f"all {len(task.keys)} keys")
    ax.set(xlabel="position (tokens)", ylabel="different keys shown", xlim=(0, task.seq_len), ylim=(0, None))
    ax.legend(frameon=False, loc="lower right")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def accuracy_curves(records: Sequence[RunRecord], ax: Axes | None = None) -> Axes:
    """Draw the accuracy of every run over its training, baseline and orthogonalized apart by colour and line.

    Args:
        records: the runs, of one task and any reads and seeds.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: a line a run, one style a read, its last evaluation marked, and the level from which a run counts as
        solved.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    styles = {"RawRead": ("#E69F00", "--", "s"), "NewtonSchulzRead": ("#0072B2", "-", "o")}
    for name, (color, line, marker) in styles.items():
        runs = [r for r in records if r.settings["read"]["name"] == name]
        for i, run in enumerate(runs):
            # None, where the loss was not finite, leaves a gap.
            trace = np.array([(e.step, 100 * (np.nan if e.accuracy is None else e.accuracy)) for e in run.trace])
            label = f"{READ_LABELS[name]} ({len(runs)} seed{'s'[: len(runs) > 1]})" if i == 0 else None
            ax.plot(*trace.T, line, color=color, linewidth=1.4, marker=marker, markevery=[-1], label=label)
    ax.axhline(100 * SOLVED_AT, color="#555555", linestyle=":", linewidth=1, label="solved")
    ax.set(xlabel="training step", ylabel="accuracy at scored positions (%)", xlim=(0, None), ylim=(0, 102))
    ax.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


# One style a curve, in the order drawn: (colour, line, marker).
_STYLES = (
    ("#000000", "-", "o"),
    ("#56B4E9", "--", "s"),
    ("#E69F00", "-.", "^"),
    ("#0072B2", "-", "D"),
    ("#D55E00", ":", "v"),
)


def _steps_style(steps: int) -> dict:
    """The same look for a number of Newton-Schulz steps in every figure; the study's five stand out."""
    color, line, marker = _STYLES[(0, 1, 3, 5, 8).index(steps)]
    label = f"{steps} step{'' if steps == 1 else 's'}"
    look = {"color": color, "linestyle": line, "marker": marker, "markersize": 4}
    return {**look, "linewidth": 2.4 if steps == 5 else 1.5, "label": label}


def singular_values(spectra: Mapping[int, np.ndarray], ax: Axes | None = None) -> Axes:
    """Draw a memory's singular values after some numbers of Newton-Schulz steps.

    Args:
        spectra: number of steps (of 0, 1, 3, 5, 8) -> singular values in falling order.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the singular values in order on a logarithmic scale, a line a number of steps.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for steps, values in spectra.items():
        ax.plot(np.arange(1, len(values) + 1), values, markevery=4, **_steps_style(steps))
    ax.set(xlabel="singular value, from the largest", ylabel="its size", yscale="log", xlim=(0, None))
    ax.legend(frameon=False, loc="lower left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def scalar_maps(s: np.ndarray, maps: Mapping[int, np.ndarray], ax: Axes | None = None) -> Axes:
    """Draw what Newton-Schulz steps do to a single singular value.

    Args:
        s: singular values in (0, 1].
        maps: number of steps (of 0, 1, 3, 5, 8) -> what the values have become.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the values after the steps over the values before them, on a logarithmic scale, and the polar
        factor's 1.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    ax.axhline(1, color="#555555", linewidth=0.8, linestyle=(0, (1, 3)), label="polar factor")
    for steps, values in maps.items():
        ax.plot(s, values, markevery=len(s) // 12, **_steps_style(steps))
    ax.set(xlabel="singular value $s$ before", ylabel=r"$\mathrm{NS}_k(s)$ after $k$ steps", xscale="log")
    ax.set(xlim=(s.min(), s.max()), ylim=(0, 1.04))
    ax.legend(frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def series_errors(errors: pd.DataFrame, tolerance: float, ax: Axes | None = None) -> Axes:
    """Draw how well Chebyshev series of growing degree stand in for Newton-Schulz steps.

    Args:
        errors: largest error on the singular values in [0, 1]; a row a degree, a column a number of steps (of 1, 3,
            5, 8).
        tolerance: the error to mark, float32's machine epsilon.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the errors over the degree on a logarithmic scale, a line a number of steps.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for steps, error in errors.items():
        ax.plot(errors.index, error, markevery=4, **_steps_style(steps))
    ax.axhline(tolerance, color="#555555", linestyle="--", linewidth=1)
    ax.annotate("float32 epsilon", (0.3 * errors.index[-1], tolerance), (0, 4), textcoords="offset points")
    ax.set(xlabel="degree, in products with $A$", ylabel="largest error on [0, 1]", yscale="log")
    ax.set(xlim=(-1, errors.index[-1]), ylim=(1e-13, 2))
    ax.legend(frameon=False, loc="lower right")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def read_cost(seconds: pd.DataFrame, title: str, ax: Axes | None = None) -> Axes:
    """Draw the time that reads take against the length of the sequence.

    Args:
        seconds: a row a length, a column a way to read, the slowest first; its name is shown.
        title: where they were measured.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: seconds over the length, both logarithmic, a line a column.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, times), style in zip(seconds.items(), (_STYLES[4], _STYLES[3], _STYLES[0])):
        color, line, marker = style
        ax.plot(seconds.index, times, color=color, linestyle=line, marker=marker, linewidth=1.8, label=name)
    ax.set(xscale="log", yscale="log", xlabel="sequence length (tokens)", ylabel="seconds, forward and backward")
    ax.set_xticks(seconds.index, [f"{length:,}" for length in seconds.index])
    ax.set_ylim(None, 8 * seconds.max(axis=None))  # room for the legend
    ax.minorticks_off()
    ax.set_title(title, fontsize=9)
    ax.legend(frameon=False, loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


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
        published: as of `orthonar.tables.published_points`.
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
        curves: side -> its curve, as of `orthonar.stats.survival`.
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
        published: the task's published means, as of `orthonar.tables.published_points`, drawn as levels: the post
            does not say at which rate.
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
