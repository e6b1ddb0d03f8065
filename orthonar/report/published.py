"""Numbers as published, each with its source; nothing measured here.

Accuracies are in percent at the scored positions, means over seeds; a pair is a range that was published
as such; None was not published.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

POST = "Tambde, Matrix Orthogonalization Improves Memory in Recurrent Models, 30 June 2026"
FOLLOW_UP = "Aquino-Michaels, The Orthogonalized Read Is a Removable Training Scaffold, arXiv 2607.19390, July 2026"

Percent = float | tuple[float, float]


@dataclass(frozen=True)
class PublishedCell:
    """What was published of the sides of a comparison on one task; sides by the names of `orthonar.study.sides`.

    No source gives the spread over seeds behind a mean, so none of these means can be compared with one measured here
    by a test.

    Args:
        vocab_size: of the task.
        seq_len: of the task.
        accuracies: mean accuracy, percent, by side.
        solved_runs: seeds with a final accuracy of at least 80 %, by side.
        batch_size: sequences in a training batch.
        seeds: seeds behind each number.
        source: where it was published.
        short: the same in two words.
        second_hand: whether the means are not from the source itself but from reports about it.
        pairs: pairs of seeds that solve neither, the baseline only, the orthogonalized read only, both; None where
            that is not known.
        logrank_p: p-value of the source's log-rank test between its two sides.
        lr: peak learning rate of all sides; None where it was chosen for each task.
    """

    vocab_size: int
    seq_len: int
    accuracies: Mapping[str, Percent] = field(default_factory=dict)
    solved_runs: Mapping[str, int] = field(default_factory=dict)
    batch_size: int = 64
    seeds: int = 24
    source: str = POST
    short: str = "post"
    second_hand: bool = False
    pairs: tuple[int, int, int, int] | None = None
    logrank_p: float | None = None
    lr: float | None = None

    def accuracy(self, side: str) -> Percent | None:
        """Mean accuracy of a side, percent; None where none was published."""
        return self.accuracies.get(side)

    def solved(self, side: str) -> int | None:
        """Solved seeds of a side; None where no number was published."""
        return self.solved_runs.get(side)


def _both(baseline, orthogonalized) -> dict:
    return {"baseline": baseline, "orthogonalized": orthogonalized}


# Of the post's text at hand only the numbers of solved seeds are the post's own; its means are from reports about it.
_SECOND_HAND: dict[str, Any] = {"second_hand": True}
#: The post's table.
HEADLINE = (
    PublishedCell(80, 512, _both(69.1, 87.5), **_SECOND_HAND),
    PublishedCell(96, 768, _both((22, 23), (68, 69)), _both(4, 14), **_SECOND_HAND),
    PublishedCell(96, 1024, _both((22, 23), (68, 69)), _both(4, 16), **_SECOND_HAND),
)

_FOLLOW_UP: dict[str, Any] = {"source": FOLLOW_UP, "short": "follow-up", "lr": 3e-3}
#: The follow-up's runs at batch 16: seeds 11 to 26. Its log-rank p-value is of length 512 alone.
REPLICATION = (
    PublishedCell(
        80,
        512,
        solved_runs=_both(3, 9)
        | {"baseline, 4,000 steps": 13, "baseline, constant rate": 8}
        | {"ns5, constant rate": 13, "anneal, fixed": 12, "anneal, gated": 13},
        batch_size=16,
        seeds=16,
        pairs=(7, 0, 6, 3),
        logrank_p=0.020,
        **_FOLLOW_UP,
    ),
    PublishedCell(80, 1024, solved_runs=_both(4, 10), batch_size=16, seeds=16, **_FOLLOW_UP),
    # 8 seeds at the post's batch
    PublishedCell(96, 768, _both(22, 67), _both(1, 5), batch_size=64, seeds=8, **_FOLLOW_UP),
)
#: Fisher's test of the follow-up, both lengths at batch 16 together: 7 against 19 of 32 runs.
POOLED_FISHER_P = 0.005


@dataclass(frozen=True)
class PublishedCount:
    """Solved runs, out of how many."""

    solved: int
    seeds: int
    source: str = FOLLOW_UP


#: The follow-up's baselines over 4,000 steps that have reached 80 % by step 2,000, and the step by which half have.
REACHED_BY_2000, MEDIAN_ESCAPE_4000 = PublishedCount(11, 16), 1600
#: Of its runs with five Newton-Schulz steps over 4,000 steps, and the step by which half have escaped.
ORTHOGONALIZED_4000, MEDIAN_ORTHOGONALIZED_4000 = PublishedCount(16, 16), 1200
#: Of its baselines at a constant rate over 12,000 steps.
CONSTANT_12000 = PublishedCount(14, 16)
#: Of its runs whose read is taken down after the escape, vocabulary 96, length 768, 4,000 steps.
ANNEALED_96 = PublishedCount(7, 8)


@dataclass(frozen=True)
class PublishedPart:
    """How many runs in a part of the follow-up's map ended so, as published.

    Args:
        side: by its name in `orthonar.study.sides`.
        lr: the constant learning rate.
        vocab_size: the vocabulary; None for all three.
        ended: "solved" or "collapsed".
        count: how many of how many.
    """

    side: str
    lr: float
    vocab_size: int | None
    ended: str
    count: PublishedCount


#: The follow-up's map: constant rates 1e-3, 3e-3 and 1e-2, vocabularies 80, 88 and 96, length 768, batch 16, 3,000
#: steps, 8 seeds a cell. What it publishes of parts of it, and the read's hazard ratio with its 95 % interval.
BASIN_MAP = (
    PublishedPart("baseline", 3e-3, None, "solved", PublishedCount(14, 24)),
    PublishedPart("orthogonalized", 3e-3, None, "solved", PublishedCount(24, 24)),
    PublishedPart("baseline", 1e-3, 88, "solved", PublishedCount(0, 8)),
    PublishedPart("orthogonalized", 1e-3, 88, "solved", PublishedCount(6, 8)),
    PublishedPart("baseline", 1e-2, None, "collapsed", PublishedCount(19, 24)),
)
BASIN_HAZARD_RATIO = (6.4, 3.5, 11.7)
#: Elasticities of the baseline's hazard over learning rates and batch sizes at (80, 512), with 95 % intervals: to what
#: the follow-up calls heat, and to gradient noise.
HEAT_ELASTICITY, NOISE_ELASTICITY = (3.0, 2.0, 4.1), (-1.65, -2.1, -1.2)


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
        recomputed: what its published runs give instead, seconds in a few words, means unless said.
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
    recomputed: str = ""


#: The follow-up's seconds per run, evaluations perhaps included.
COSTS = (
    PublishedCost(80, 512, 16, "L4", 116, 730, recomputed="116 and 734 to 744"),
    PublishedCost(96, 768, 64, "A100", 594, 1522, recomputed="586 (median) and 1522"),
)


# The recipe of all that follows is the follow-up's: vocabulary 80, length 512, batch 16, learning rate 3e-3, cosine to
# 2,000 steps, seeds 11 to 26 where there are 16.


@dataclass(frozen=True)
class PublishedVariant:
    """One way to change the model or its training, and what became of it, as published.

    Args:
        solved: runs with at least 80 %.
        effective_rank: of the memory, mean of steps 200 and 600; None was not published.
        coherence: cosine between two batches' gradients by query and key projections, likewise.
        source: where it was published.
    """

    solved: PublishedCount
    effective_rank: float | None = None
    coherence: float | None = None
    source: str = FOLLOW_UP


#: The follow-up's elimination, a number for each of `orthonar.study.sides.ELIMINATION`.
ELIMINATION = {
    "baseline": PublishedVariant(PublishedCount(3, 16), 2.6, 0.20),
    "orthogonalized": PublishedVariant(PublishedCount(9, 16), 4.2, 0.42),
    "ns0_normalise_only": PublishedVariant(PublishedCount(1, 16)),
    "ns1": PublishedVariant(PublishedCount(0, 16), 3.3, 0.27),
    "ns3": PublishedVariant(PublishedCount(6, 16), 3.8, 0.41),
    "qk_lr_x4": PublishedVariant(PublishedCount(4, 16)),
    "straight_through_forward_only": PublishedVariant(PublishedCount(0, 8)),
    "straight_through_backward_only": PublishedVariant(PublishedCount(0, 8)),
    "frozen_random_keys": PublishedVariant(PublishedCount(3, 16)),
    "delta_write": PublishedVariant(PublishedCount(2, 16), 9.9, 0.21),
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
        recomputed: what its published runs give instead, in a few words.
    """

    solved: PublishedCount | None = None
    before: float | None = None
    after: float | None = None
    gain: float | None = None
    source: str = FOLLOW_UP
    recomputed: str = ""


#: The follow-up's swaps: (variant trained, how its runs ended, read evaluated with). It says "0 of 12 from chance"; its
#: published runs hold 13 failed baselines, 10 at chance and three at 30, 46 and 78 %.
SWAPPED = {
    ("baseline", "not solved", "orthogonalized"): PublishedSwap(
        solved=PublishedCount(0, 12), recomputed="its runs: 1 of 13, 78 to 82 %"
    ),
    ("baseline", "solved", "orthogonalized"): PublishedSwap(gain=1.6),
    ("orthogonalized", "solved", "raw"): PublishedSwap(solved=PublishedCount(7, 9), before=97.0, after=88.0),
}


@dataclass(frozen=True)
class PublishedDecode:
    """How much of what was stored a decoder finds in the memory, as published, in percent.

    Args:
        behaviour: accuracy of the model itself.
        decoded: share of the scored values that the decoder finds.
        wrong_key: the same asked with another pair's key.
        other_memory: not published but computed from its published models: with another sequence's memory, the decoder
            fitted anew.
        source: where it was published.
        recomputed: what its published runs give instead, in a few words.
    """

    behaviour: Percent
    decoded: float
    wrong_key: float
    other_memory: float
    source: str = FOLLOW_UP
    recomputed: str = ""


#: The follow-up's decoded memories: (variant, how its runs ended). Taken to be by the key at the value's position.
DECODED = {
    ("baseline", "not solved"): PublishedDecode((3, 14), 52.3, 5.2, 29, recomputed="its 10 at chance: 3.2, 45.6"),
    ("orthogonalized", "not solved"): PublishedDecode(3, 52.3, 4.8, 34),
    ("baseline", "solved"): PublishedDecode(93.3, 88.4, 5.0, 10),
    ("orthogonalized", "solved"): PublishedDecode(97.1, 98.3, 5.0, 25),
}


def headline_cell(vocab_size: int, seq_len: int) -> PublishedCell | None:
    """The post's cell for a task, or None where the post has none."""
    return next((c for c in HEADLINE if (c.vocab_size, c.seq_len) == (vocab_size, seq_len)), None)


def published_cells(vocab_size: int, seq_len: int, batch_size: int) -> list[PublishedCell]:
    """All published cells for a task at a batch size, the post's first."""
    wanted = (vocab_size, seq_len, batch_size)
    return [c for c in HEADLINE + REPLICATION if (c.vocab_size, c.seq_len, c.batch_size) == wanted]
