"""Numbers as published, each with its source; nothing measured here.

Accuracies are in percent at the scored positions, means over seeds; a pair is a range that was published
as such; None was not published.
"""

from dataclasses import dataclass

POST = "Tambde, Matrix Orthogonalization Improves Memory in Recurrent Models, 30 June 2026"
FOLLOW_UP = "Aquino-Michaels, The Orthogonalized Read Is a Removable Training Scaffold, arXiv 2607.19390, July 2026"

#: Seeds behind every cell of the post's table.
POST_SEEDS = 24

Percent = float | tuple[float, float]


@dataclass(frozen=True)
class HeadlineCell:
    """One cell of the post's table.

    Args:
        vocab_size: of the task.
        seq_len: of the task.
        baseline_accuracy: mean accuracy of the raw read, percent.
        orthogonalized_accuracy: mean accuracy of the orthogonalized read, percent.
        baseline_solved: seeds of 24 with a final accuracy of at least 80 %.
        orthogonalized_solved: likewise.
    """

    vocab_size: int
    seq_len: int
    baseline_accuracy: Percent
    orthogonalized_accuracy: Percent
    baseline_solved: int | None
    orthogonalized_solved: int | None
    source: str = POST


HEADLINE = (
    HeadlineCell(80, 512, 69.1, 87.5, None, None),
    HeadlineCell(96, 768, (22, 23), (68, 69), 4, 14),
    HeadlineCell(96, 1024, (22, 23), (68, 69), 4, 16),
)


def headline_cell(vocab_size: int, seq_len: int) -> HeadlineCell | None:
    """The post's cell for a task, or None where the post has none."""
    return next((c for c in HEADLINE if (c.vocab_size, c.seq_len) == (vocab_size, seq_len)), None)
