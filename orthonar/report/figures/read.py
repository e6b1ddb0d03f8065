"""Figures of the orthogonalized read: singular values, scalar maps, errors of the series, time."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from ...study.sides import BASELINE, ELIMINATION, ORTHOGONALIZED, VARIANTS, Look
from ..style import GREY

#: The looks of the sides that read with so many Newton-Schulz steps.
_STEPS = {
    0: ELIMINATION["ns0_normalise_only"].look,
    1: ELIMINATION["ns1"].look,
    3: ELIMINATION["ns3"].look,
    5: ORTHOGONALIZED.look,
    8: VARIANTS["ns8"].look,
}
#: Ways to read, the slowest first: the plain form, and both sides in their own looks.
_WAYS = (Look("#D55E00", "v", ":"), ORTHOGONALIZED.look, BASELINE.look)


def _steps_style(steps: int) -> dict:
    """The same look for a number of Newton-Schulz steps in every figure; the study's five stand out."""
    label = f"{steps} step{'' if steps == 1 else 's'}"
    look = {**_STEPS[steps].of_line, "markersize": 4}
    return {**look, "linewidth": 2.4 if steps == 5 else 1.5, "label": label}


def singular_values(spectra: Mapping[int, np.ndarray], ax: Axes | None = None) -> Axes:
    """Draw a memory's singular values after some numbers of Newton-Schulz steps.

    Args:
        spectra: number of steps (of 0, 1, 3, 5, 8) -> singular values in falling order.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the singular values in order on a logarithmic scale, a line per number of steps.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for steps, values in spectra.items():
        ax.plot(np.arange(1, len(values) + 1), values, markevery=4, **_steps_style(steps))
    ax.set_title("Every step brings a memory's singular values closer together")
    ax.set(xlabel="singular value, from the largest", ylabel="its size", yscale="log", xlim=(0, None))
    ax.legend(loc="lower left")
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
    ax.axhline(1, color=GREY, linewidth=0.8, linestyle=(0, (1, 3)), label="polar factor")
    ax.set_title("The more steps, the smaller the singular values that are lifted to 1")
    for steps, values in maps.items():
        ax.plot(s, values, markevery=len(s) // 12, **_steps_style(steps))
    ax.set(xlabel="singular value $s$ before", ylabel=r"$\mathrm{NS}_k(s)$ after $k$ steps", xscale="log")
    ax.set(xlim=(s.min(), s.max()), ylim=(0, 1.04))
    ax.legend(loc="upper left", bbox_to_anchor=(0, 0.95))  # below the polar factor's line
    return ax


def series_errors(errors: pd.DataFrame, tolerance: float, ax: Axes | None = None) -> Axes:
    """Draw how well Chebyshev series of growing degree stand in for Newton-Schulz steps.

    Args:
        errors: largest error on the singular values in [0, 1]; a row per degree, a column per number of steps (of 1, 3,
            5, 8).
        tolerance: the error to mark, at which a series for float32 is cut: four times its machine epsilon.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: the errors over the degree on a logarithmic scale, a line per number of steps.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for steps, error in errors.items():
        ax.plot(errors.index, error, markevery=4, **_steps_style(steps))
    ax.axhline(tolerance, color=GREY, linestyle="--", linewidth=1)
    text, place = "4 float32 epsilon,\nwhere a series is cut", (0.3 * errors.index[-1], tolerance)
    ax.annotate(text, place, (0, 4), textcoords="offset points")
    ax.set_title("A polynomial of low degree does what the steps do, to rounding")
    ax.set(xlabel="degree, in products with $A$", ylabel="largest error on [0, 1]", yscale="log")
    ax.set(xlim=(-1, errors.index[-1]), ylim=(1e-13, 2))
    ax.legend(loc="lower right")
    return ax


def read_cost(seconds: pd.DataFrame, title: str, ax: Axes | None = None) -> Axes:
    """Draw the time that reads take against the length of the sequence.

    Args:
        seconds: a row per length, a column per way to read, the slowest first; its name is shown.
        title: where they were measured.
        ax: the axes to draw on; None for new ones.

    Returns:
        The axes: seconds over the length, both logarithmic, a line per column.
    """
    if ax is None:
        _, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    for (name, times), look in zip(seconds.items(), _WAYS):
        ax.plot(seconds.index, times, **look.of_line, linewidth=1.8, label=name)
    ax.set(xscale="log", yscale="log", xlabel="sequence length (tokens)", ylabel="seconds")
    ax.set_xticks(seconds.index, [f"{length:,}" for length in seconds.index])
    ax.set_ylim(None, 8 * seconds.max(axis=None))  # room for the legend
    ax.minorticks_off()
    ax.set_title(f"What a read costs, forward and backward\n{title}", fontsize=9)
    ax.legend(loc="upper left")
    return ax
