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


def headline_cell(vocab_size: int, seq_len: int) -> PublishedCell | None:
    """The post's cell for a task, or None where the post has none."""
    return next((c for c in HEADLINE if (c.vocab_size, c.seq_len) == (vocab_size, seq_len)), None)


def published_cells(vocab_size: int, seq_len: int, batch_size: int) -> list[PublishedCell]:
    """All published cells for a task at a batch size, the post's first."""
    wanted = (vocab_size, seq_len, batch_size)
    return [c for c in HEADLINE + REPLICATION if (c.vocab_size, c.seq_len, c.batch_size) == wanted]
