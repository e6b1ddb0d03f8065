"""Numbers as published, each with its source; nothing measured here.

Accuracies are in percent at the scored positions, means over seeds; a pair is a range that was published
as such; None was not published.
"""

from dataclasses import dataclass

POST = "Tambde, Matrix Orthogonalization Improves Memory in Recurrent Models, 30 June 2026"
FOLLOW_UP = "Aquino-Michaels, The Orthogonalized Read Is a Removable Training Scaffold, arXiv 2607.19390, July 2026"

Percent = float | tuple[float, float]


@dataclass(frozen=True)
class PublishedCell:
    """Baseline against orthogonalized on one task, as published.

    Args:
        vocab_size: of the task.
        seq_len: of the task.
        baseline_accuracy: mean accuracy of the raw read, percent.
        orthogonalized_accuracy: mean accuracy of the orthogonalized read, percent.
        baseline_solved: seeds with a final accuracy of at least 80 %.
        orthogonalized_solved: likewise.
        batch_size: sequences in a training batch.
        seeds: seeds behind each number.
        source: where it was published.
        short: the same in two words.
    """

    vocab_size: int
    seq_len: int
    baseline_accuracy: Percent | None
    orthogonalized_accuracy: Percent | None
    baseline_solved: int | None
    orthogonalized_solved: int | None
    batch_size: int = 64
    seeds: int = 24
    source: str = POST
    short: str = "post"

    def accuracy(self, side: str) -> Percent | None:
        """Mean accuracy of "baseline" or "orthogonalized"."""
        return {"baseline": self.baseline_accuracy, "orthogonalized": self.orthogonalized_accuracy}[side]

    def solved(self, side: str) -> int | None:
        """Solved seeds of "baseline" or "orthogonalized"."""
        return {"baseline": self.baseline_solved, "orthogonalized": self.orthogonalized_solved}[side]


#: The post's table.
HEADLINE = (
    PublishedCell(80, 512, 69.1, 87.5, None, None),
    PublishedCell(96, 768, (22, 23), (68, 69), 4, 14),
    PublishedCell(96, 1024, (22, 23), (68, 69), 4, 16),
)

_FOLLOW_UP = {"source": FOLLOW_UP, "short": "follow-up"}
#: The follow-up's replication: learning rate 3e-3, seeds 11 to 26; the last cell 8 seeds at the post's batch.
REPLICATION = (
    PublishedCell(80, 512, None, None, 3, 9, 16, 16, **_FOLLOW_UP),
    PublishedCell(80, 1024, None, None, 4, 10, 16, 16, **_FOLLOW_UP),
    PublishedCell(96, 768, 22, 67, 1, 5, 64, 8, **_FOLLOW_UP),
)


@dataclass(frozen=True)
class PublishedCount:
    """Solved runs, of so many."""

    solved: int
    seeds: int
    source: str = FOLLOW_UP


#: The follow-up's runs at a constant 3e-3: vocabularies 80, 88 and 96, length 768, batch 16, 3,000 steps, 8 seeds each.
SOLVED_AT_3E_3 = {"baseline": PublishedCount(14, 24), "orthogonalized": PublishedCount(24, 24)}


@dataclass(frozen=True)
class PublishedCost:
    """How long a training run takes on some device, as published.

    Args:
        vocab_size: of the task.
        seq_len: of the task.
        batch_size: sequences in a training batch.
        device: as the source names it.
        baseline: seconds of a run with the raw read.
        orthogonalized: seconds of a run with five Newton-Schulz steps.
        steps: training steps of a run.
        source: where it was published.
        short: the same in two words.
    """

    vocab_size: int
    seq_len: int
    batch_size: int
    device: str
    baseline: float
    orthogonalized: float
    steps: int = 2000
    source: str = FOLLOW_UP
    short: str = "follow-up"


#: The follow-up's seconds a run, evaluations perhaps included.
COSTS = (
    PublishedCost(80, 512, 16, "L4", 116, 730),
    PublishedCost(96, 768, 64, "A100", 594, 1522),
)


#: The recipe of all that follows, the follow-up's; seeds 11 to 26 where there are 16, cosine to 2,000 steps.
RECIPE = "vocabulary 80, length 512, batch 16, learning rate 3e-3, seeds 11 to 26"


@dataclass(frozen=True)
class PublishedVariant:
    """One way to change the model or its training, and what became of it, as published.

    Args:
        solved: runs with at least 80 %.
        effective_rank: of the memory, on the plateau; None was not published.
        coherence: cosine between two batches' gradients by query and key projections, on the plateau; None likewise.
        source: where it was published.
        recipe: how the runs were made.
    """

    solved: PublishedCount
    effective_rank: float | None = None
    coherence: float | None = None
    source: str = FOLLOW_UP
    recipe: str = RECIPE


#: The follow-up's elimination, by the names of `orthonar.study.presets.VARIANTS`.
ELIMINATION = {
    "baseline": PublishedVariant(PublishedCount(3, 16), 2.6, 0.20),
    "delta_write": PublishedVariant(PublishedCount(2, 16), 9.9, 0.21),
    "frozen_random_keys": PublishedVariant(PublishedCount(3, 16)),
    "qk_lr_x4": PublishedVariant(PublishedCount(4, 16)),
    "straight_through_forward_only": PublishedVariant(PublishedCount(0, 8)),
    "straight_through_backward_only": PublishedVariant(PublishedCount(0, 8)),
    "ns0_normalise_only": PublishedVariant(PublishedCount(1, 16)),
    "ns1": PublishedVariant(PublishedCount(0, 16), 3.3, 0.27),
    "ns3": PublishedVariant(PublishedCount(6, 16), 3.8, 0.41),
    "ns5": PublishedVariant(PublishedCount(9, 16), 4.2, 0.42),
    "rls_read": PublishedVariant(PublishedCount(5, 8), 4.3, 0.28),
}


@dataclass(frozen=True)
class PublishedSwap:
    """Trained models evaluated with another read, as published.

    Args:
        solved: how many reach 80 % with the other read; None was not published.
        before: their mean accuracy with their own read, percent; None likewise.
        after: their mean accuracy with the other read, percent; None likewise.
        gain: after less before, points, where only that was published.
        source: where it was published.
        recipe: how the runs were made.
    """

    solved: PublishedCount | None = None
    before: float | None = None
    after: float | None = None
    gain: float | None = None
    source: str = FOLLOW_UP
    recipe: str = RECIPE


#: The follow-up's swaps: (variant trained, how its runs ended, read evaluated with). The 12 are baselines at chance.
SWAPPED = {
    ("baseline", "failed", "orthogonalized"): PublishedSwap(solved=PublishedCount(0, 12)),
    ("baseline", "solved", "orthogonalized"): PublishedSwap(gain=1.6),
    ("ns5", "solved", "raw"): PublishedSwap(solved=PublishedCount(7, 9), before=97.0, after=88.0),
}


@dataclass(frozen=True)
class PublishedDecode:
    """How much of what was stored a decoder finds in the memory, as published, in percent.

    Args:
        behaviour: accuracy of the model itself.
        decoded: share of the stored pairs that the decoder finds.
        wrong_key: the same asked with another pair's key.
        source: where it was published.
        recipe: how the runs were made.
    """

    behaviour: Percent
    decoded: float
    wrong_key: float
    source: str = FOLLOW_UP
    recipe: str = RECIPE


#: The follow-up's decoded memories: (variant, how its runs ended).
DECODED = {
    ("baseline", "failed"): PublishedDecode((3, 14), 52.3, 5.2),
    ("ns5", "failed"): PublishedDecode(3, 52.3, 4.8),
    ("baseline", "solved"): PublishedDecode(93.3, 88.4, 5.0),
    ("ns5", "solved"): PublishedDecode(97.1, 98.3, 5.0),
}


def headline_cell(vocab_size: int, seq_len: int) -> PublishedCell | None:
    """The post's cell for a task, or None where the post has none."""
    return next((c for c in HEADLINE if (c.vocab_size, c.seq_len) == (vocab_size, seq_len)), None)


def published_cells(vocab_size: int, seq_len: int, batch_size: int) -> list[PublishedCell]:
    """All published cells for a task at a batch size, the post's first."""
    wanted = (vocab_size, seq_len, batch_size)
    return [c for c in HEADLINE + REPLICATION if (c.vocab_size, c.seq_len, c.batch_size) == wanted]
