"""Figures of the task, the read and training: what they were given stands in them."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from tiny import SETTINGS, TASKS, record_of

from orthonar import NoisyRecall, RunConfig
from orthonar.reads.newton_schulz import newton_schulz_scalar
from orthonar.report import style
from orthonar.report.figures import read, task, training
from orthonar.study.sides import ELIMINATION, HEADLINE

EXAMPLE = NoisyRecall(vocab_size=16, seq_len=14, noise_vocab_size=4, frac_noise=0.4)
TOKENS = np.array([0, 9, 3, 10, 12, 13, 15, 14, 0, 9, 5, 8, 3, 10])
SPECTRA = {steps: newton_schulz_scalar(np.linspace(1, 0.01, 24), steps) for steps in (0, 1, 3, 5, 8)}


pytestmark = pytest.mark.usefixtures("figures_closed")


def labels(ax) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_every_token_has_its_cell():
    ax = task.token_strip(TOKENS, EXAMPLE)
    numbers = [text.get_text() for text in ax.texts if text.get_text().isdigit()]
    assert numbers[: len(TOKENS)] == [str(token) for token in TOKENS]
    with pytest.raises(ValueError, match="token 99 is outside the vocabulary of 16"):
        task.token_strip(np.array([99, 9] * 7), EXAMPLE)


def test_a_long_sequence_goes_on_in_the_next_row():
    one, two = (task.token_strip(TOKENS, EXAMPLE, columns=columns) for columns in (14, 7))
    assert abs(np.diff(two.get_ylim())).item() > abs(np.diff(one.get_ylim())).item()


def test_keys_shown_so_far():
    rng = np.random.default_rng(0)
    inputs, targets = zip(*(EXAMPLE.generate(rng, training=True) for _ in range(20)))
    tokens = np.concatenate([np.array(inputs), np.array(targets)[:, -1:]], 1)
    ax = task.key_occupancy(tokens, EXAMPLE)
    assert "mean of 20 sequences" in labels(ax) and "all 6 keys" in labels(ax)
    mean = next(line for line in ax.lines if line.get_label() == "mean of 20 sequences").get_ydata()
    assert (np.diff(mean) >= 0).all() and mean[-1] == EXAMPLE.first_showings(tokens)[:, :-1].sum(1).mean()


def test_the_reads_figures_have_a_line_for_each_number_of_steps():
    s = np.linspace(0.01, 1, 48)
    errors = pd.DataFrame({steps: np.geomspace(1, 1e-12, 30) for steps in (1, 3, 5, 8)})
    for ax, steps in (
        (read.singular_values(SPECTRA), (0, 1, 3, 5, 8)),
        (read.scalar_maps(s, {k: newton_schulz_scalar(s, k) for k in SPECTRA}), (0, 1, 3, 5, 8)),
        (read.series_errors(errors, 1e-7), (1, 3, 5, 8)),
    ):
        wanted = [f"{k} step{'s'[: k != 1]}" for k in steps]
        assert [label for label in labels(ax) if "step" in label] == wanted
        looks = {(line.get_color(), line.get_marker()) for line in ax.lines if "step" in str(line.get_label())}
        assert len(looks) == len(steps)


def test_the_cost_of_reads_is_drawn_over_the_length():
    ax = read.read_cost(pd.DataFrame({"slow": [1.0, 2.0], "fast": [0.1, 0.2]}, index=[128, 256]), "somewhere")
    assert labels(ax) == ["slow", "fast"] and ax.get_title().endswith("\nsomewhere")
    assert [list(line.get_ydata()) for line in ax.lines[:2]] == [[1.0, 2.0], [0.1, 0.2]]


def test_accuracy_curves_tell_the_reads_apart_and_leave_gaps():
    runs = {
        name: [
            record_of(RunConfig(**SETTINGS | TASKS[0] | side.settings, seed=seed), accuracy)
            for seed, accuracy in ((0, 0.9), (1, None))
        ]
        for name, side in HEADLINE.items()
    }
    figure = training.accuracy_curves(runs | {"ns1": []}, {**HEADLINE, "ns1": ELIMINATION["ns1"]}, "a scale")
    assert figure.get_suptitle().endswith(": a scale")
    first, second, third = figure.axes
    assert [ax.get_title() for ax in (first, second)] == ["baseline: 1 of 2 solved", "orthogonalized: 1 of 2 solved"]
    for ax in (first, second):
        assert ax.lines[0].get_ydata()[-1] == 90 and np.isnan(ax.lines[1].get_ydata()[-1])
    assert first.lines[0].get_color() != second.lines[0].get_color()
    assert third.get_title() == "1 step" and third.texts[0].get_text() == "not run yet"


@pytest.mark.parametrize(
    ("panels", "grid"), [(1, (1, 1)), (2, (1, 2)), (3, (1, 3)), (4, (2, 2)), (5, (2, 3)), (6, (2, 3))]
)
def test_panels_fill_their_lines(panels, grid):
    assert style.panel_grid(panels) == grid


def test_a_figure_that_does_not_fit_the_page_or_says_nothing_is_not_saved(tmp_path):
    wide, small = plt.figure(figsize=(7, 2)), plt.figure(figsize=(3, 2))
    small.text(0.5, 0.5, "a footnote", fontsize=6)
    untitled, _ = plt.subplots(figsize=(3, 2))
    for figure, named in ((wide, "7"), (small, "a footnote"), (untitled, "title")):
        with pytest.raises(ValueError, match=named):
            style.save(figure, "it", tmp_path)
    assert not list(tmp_path.rglob("*.png"))


def test_a_figure_that_does_not_fit_the_disk_leaves_the_one_before(small_disk):
    figure = read.singular_values(SPECTRA).figure
    for path in (small_disk / "it.png", small_disk / "it.pdf"):
        path.write_bytes(b"before")
    (small_disk / "filler").write_bytes(bytes(80 << 10))
    with pytest.raises(OSError, match=r"^figures: .*it\.png cannot be written \(No space left on device\)$"):
        style.save(figure, "it", small_disk)
    assert sorted(path.name for path in small_disk.iterdir()) == ["filler", "it.pdf", "it.png"]
    assert (small_disk / "it.png").read_bytes() == (small_disk / "it.pdf").read_bytes() == b"before"


def test_the_same_figure_is_the_same_bytes(tmp_path):
    paths = [style.save(read.singular_values(SPECTRA).figure, "it", tmp_path / name) for name in "ab"]
    assert [p.name for p in paths[0]] == ["it.png", "it.pdf"]
    for first, second in zip(*paths):
        assert first.read_bytes() == second.read_bytes()
