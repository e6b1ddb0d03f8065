"""Figures of the task: a sequence's tokens, and how often keys come."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch, Rectangle

from ...data.base import IGNORE_INDEX
from ...data.noisy_recall import NoisyRecall
from ..style import GREY, WIDTH

_KINDS = {
    # kind of token: (its cell's colour, its number's colour), greys, since colours belong to the reads
    "key": ("#404040", "white"),
    "value": ("#B0B0B0", "black"),
    "distractor": ("#F0F0F0", "#777777"),
    "prefix": ("#000000", "white"),
}


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

    noisy = any(token in task.distractors for token in tokens.tolist())
    columns = min(columns, len(tokens))
    rows = -(-len(tokens) // columns)
    if ax is None:
        cell = min(0.3, (WIDTH - 0.6) / columns)  # inches
        figure, ax = plt.subplots(figsize=(columns * cell + 0.6, rows * cell + 1.0), layout="constrained")
        figure.suptitle("Pairs of key and value" + " among noise" * noisy + "; what comes back is asked for")
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
    for position in np.flatnonzero(scored).tolist():
        row, column = divmod(position, columns)
        frame: dict[str, Any] = {"edgecolor": "black", "facecolor": "none", "linewidth": 1.8}
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
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderpad": 0}
    ax.legend(handles=handles, ncols=len(handles), **place)
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
    ax.set_title("New keys become rarer as a sequence goes on")
    low, high = np.quantile(shown, [0.1, 0.9], axis=0)
    ax.fill_between(2 * pairs, low, high, step="post", color="#C4E4F7", linewidth=0, label="middle 80 % of sequences")
    mean = shown.mean(0)
    ax.plot(2 * pairs, mean, color="#0072B2", linewidth=3, label=f"mean of {len(shown):,} sequences")
    expected = task.expected_distinct_keys(pairs)
    ax.plot(2 * pairs, expected, color="black", linestyle="--", linewidth=1, label="expected")
    ax.axhline(len(task.keys), color=GREY, linestyle=":", label=f"all {len(task.keys)} keys")
    ax.set(xlabel="position (tokens)", ylabel="different keys shown", xlim=(0, task.seq_len), ylim=(0, None))
    ax.legend(loc="lower right")
    return ax
