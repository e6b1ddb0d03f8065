"""Figures of what a training step costs, from `orthonar.report.tables.cost.table`.

A panel per kind of device that was measured; a figure without measurements says so.
"""

from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from ...study.sides import BASELINE, ORTHOGONALIZED
from ..style import WIDTH, write_in_the_middle
from ..tables.cost import several_steps
from ..words import NOT_RUN, model_name

#: Contender: (colour, marker, line, label). The fast forms are the sides of the comparison, the others other
#: programs for the same.
_LOOKS = {
    "plain": ("#D55E00", "v", ":", "orthogonalized, plain form"),
    "orthogonalized": (*astuple(ORTHOGONALIZED.look), "orthogonalized, fast form"),
    "stock": ("#000000", "^", "-.", "raw, package xlstm"),
    "raw": (*astuple(BASELINE.look), "raw, fast form"),
}
_DEVICES = {"cpu": "CPU", "cuda": "GPU"}


def time_against_length(measured: pd.DataFrame, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw the time of a whole training step, for each sequence of its batch, against the length.

    Args:
        measured: as of `orthonar.report.tables.cost.table`.
        axes: one for each kind of device that was measured, of one figure with constrained layout; None for new ones.

    Returns:
        The figure, a panel for each: medians, bars from the fastest to the slowest timing, both
        scales logarithmic.
    """

    def draw(ax: Axes, rows: pd.DataFrame) -> None:
        _against_length(ax, rows, "ms", bars=True)

    return _panels(measured, draw, "What a training step costs in time", "time of a step, a sequence (ms)", axes)


def memory_against_length(measured: pd.DataFrame, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw the extra peak memory of training steps, for each sequence of the batch, against the length.

    Args:
        measured: as of `orthonar.report.tables.cost.table`.
        axes: as of `time_against_length`.

    Returns:
        The figure, a panel for each, both scales logarithmic.
    """

    def draw(ax: Axes, rows: pd.DataFrame) -> None:
        _against_length(ax, rows, "mib")

    return _panels(measured, draw, "What a training step costs in memory", "extra peak memory, a sequence (MiB)", axes)


def share_of_peak(measured: pd.DataFrame, axes: Sequence[Axes] | None = None) -> Figure:
    """Draw which share of the device's fastest float32 matrix product the steps' operations reach.

    Args:
        measured: as of `orthonar.report.tables.cost.table`.
        axes: as of `time_against_length`.

    Returns:
        The figure, a panel for each: percent over the length.
    """

    def draw(ax: Axes, rows: pd.DataFrame) -> None:
        _against_length(ax, rows.assign(percent=100 * rows["share"] * rows["batch"]), "percent")
        ax.set(yscale="linear", ylim=(0, None))

    title = "How much of what the device can do a training step uses"
    return _panels(measured, draw, title, "operations a second\n(% of the fastest matrix product)", axes)


def against_newton_schulz(measured: pd.DataFrame) -> Figure:
    """Draw time and operations of a whole step against the number of Newton-Schulz steps, plain and fast form.

    Args:
        measured: as of `orthonar.report.tables.cost.table`.

    Returns:
        The figure, a row for each kind of device at the one length that was measured with several numbers: time at the
        left, operations at the right, both scales logarithmic.
    """
    rows = len(_devices(measured))
    figure, grid = plt.subplots(rows, 2, figsize=(WIDTH, 0.7 + 2.5 * rows), layout="constrained", squeeze=False)
    figure.suptitle("What more Newton-Schulz steps cost")
    beside = dict(zip(grid[:, 0], grid[:, 1]))

    def draw(ax: Axes, rows: pd.DataFrame) -> None:
        several = several_steps(rows.dropna(subset="ms"))
        for panel, column in ((ax, "ms"), (beside[ax], "gflop")):
            if several.empty:
                _say_not_run(panel)
                continue
            for contender in ("plain", "orthogonalized"):
                color, marker, line, label = _LOOKS[contender]
                of = several[several["contender"] == contender]
                panel.plot(of["steps"], of[column], color=color, marker=marker, linestyle=line, label=label)
            panel.set_xticks(sorted(set(several["steps"].astype(int))))
            _logarithmic(panel)
        if len(several):
            first = several.iloc[0]
            ax.set_title(f"{ax.get_title()}\nlength {first['length']}, batch {first['batch']}")

    for panel in grid[:, 1]:
        panel.set(xlabel="Newton-Schulz steps", ylabel="operations of a step (Gflop)")
        if "" in _devices(measured):
            _say_not_run(panel)
    return _panels(measured, draw, "", "time of a step (ms)", list(grid[:, 0]), xlabel="Newton-Schulz steps")


def _against_length(ax: Axes, rows: pd.DataFrame, column: str, bars: bool = False) -> None:
    """One line a contender, with the study's five Newton-Schulz steps; numbers divided by the batch size."""
    rows = rows[rows["steps"].isna() | (rows["steps"] == 5)].dropna(subset=column)
    for place, (contender, (color, marker, line, label)) in enumerate(_LOOKS.items()):
        of = rows[rows["contender"] == contender].sort_values("length")
        values = of[column] / of["batch"]
        spread = [values - of["low"] / of["batch"], of["high"] / of["batch"] - values] if bars else None
        look: dict[str, Any] = {"color": color, "marker": marker, "linestyle": line, "linewidth": 1.8, "markersize": 5}
        beside = 1.025 ** (place - (len(_LOOKS) - 1) / 2)  # bars of one length side by side
        ax.errorbar(beside * of["length"], values, spread, **look, capsize=2, elinewidth=1, label=label)
    _logarithmic(ax)
    lengths = sorted(set(rows["length"]))
    ax.set_xscale("log")
    ax.set_xticks(lengths, [f"{length:,}" for length in lengths])
    ax.xaxis.set_minor_locator(NullLocator())


def _logarithmic(ax: Axes) -> None:
    """A logarithmic scale whose numbers can be read even where it spans less than ten times."""
    ax.set_yscale("log")
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.yaxis.set_major_formatter("{x:g}")
    ax.yaxis.set_minor_locator(NullLocator())


def _say_not_run(ax: Axes) -> None:
    write_in_the_middle(ax)
    ax.set(xticks=[], yticks=[])


def _devices(measured: pd.DataFrame) -> dict[str, str]:
    """Kinds of devices whose steps were measured, and what they are called; without any one that is not run."""
    steps = measured[measured["what"] == "step"]
    return {device: name for device, name in _DEVICES.items() if (steps["device"] == device).any()} or {"": NOT_RUN}


def _panels(
    measured: pd.DataFrame,
    draw: Callable[[Axes, pd.DataFrame], None],
    title: str,
    ylabel: str,
    axes: Sequence[Axes] | None,
    xlabel: str = "sequence length (tokens)",
) -> Figure:
    steps, there = measured[measured["what"] == "step"], _devices(measured)
    if axes is None:
        new, made = plt.subplots(1, len(there), figsize=(WIDTH, 3.6), layout="constrained", squeeze=False)
        new.suptitle(title)
        axes = list(made.flat)
    handles: dict[str, Any] = {}
    for ax, (device, name) in zip(axes, there.items(), strict=True):
        rows = steps[steps["device"] == device]
        ax.set_title(f"{name}: {', '.join(dict.fromkeys(map(model_name, rows['device_name'])))}" if device else "")
        ax.set(xlabel=xlabel, ylabel=ylabel)
        if len(rows):
            draw(ax, rows)
            for drawn in ax.figure.axes:
                handles |= {label: handle for handle, label in zip(*drawn.get_legend_handles_labels())}
        else:
            _say_not_run(ax)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    if handles:
        figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2)
    return figure
