"""How a model is judged, and what it is asked when its training is over."""

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.base import IGNORE_INDEX
from ..data.noisy_recall import NoisyRecall
from ..model import SequenceModel
from ..reads.base import RawRead
from ..reads.newton_schulz import NewtonSchulzRead
from .decoding import CONTENTS, contents
from .probes import twin

#: Reads that a trained model is evaluated under, beside its own, by the names of the accuracies.
SWAPS = {"accuracy_read_raw": RawRead(), "accuracy_read_orthogonalized": NewtonSchulzRead(steps=5)}

#: Names of what `questions` returns.
QUESTIONS = (*CONTENTS, *SWAPS)
#: Version of what it asks; a change of meaning raises it, or gives it another name.
QUESTIONS_VERSION = 1

#: Sequences of the validation set whose memories are decoded: the follow-up's, its first six batches of 16.
_DECODED_SEQUENCES = 96


@torch.no_grad()
def evaluate(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Accuracy and mean cross-entropy (nats) at the scored positions of some batches, in evaluation mode.

    Args:
        model: one that makes logits (B, S, V) of tokens (B, S).
        batches: pairs of tokens and targets (B, S), -100 where nothing is scored; see `NoisyRecall.validation_set`.

    Returns:
        (accuracy, loss), the mean over all scored positions.

    Raises:
        ValueError: there is no batch, one is not a pair of tensors of one shape, or nothing is scored in any.
    """
    right = scored = torch.zeros((), dtype=torch.int64)
    loss = torch.zeros((), dtype=torch.float64)
    for _, targets, logits in _judged(model, batches):
        here = targets != IGNORE_INDEX
        right = right + ((logits.argmax(-1) == targets) & here).sum()
        loss = loss + cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double()
        scored = scored + here.sum()
    if not scored:
        raise ValueError("batches: no position is scored, all targets are -100")
    # As Python's numbers, in float64: 0.9 of float32 lies below 0.9.
    return right.item() / scored.item(), loss.item() / scored.item()


def _judged(model: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Tokens, targets and the model's logits, batch by batch, in evaluation mode; ValueError before the first."""
    batches = list(batches)
    if not batches:
        raise ValueError("batches must be pairs of tokens and targets, at least one")
    for batch in batches:
        _check_batch(batch)
    training = model.training
    model.eval()
    try:
        for tokens, targets in batches:
            yield tokens, targets, model(tokens)
    finally:
        model.train(training)


class OccurrenceRecall(NamedTuple):
    """How well keys that occur equally often were recalled."""

    occurrences: int  #: how often the key occurs.
    scored: int  #: scored positions of such keys.
    right: int  #: those answered with the value.

    @property
    def accuracy(self) -> float:
        """Share of the scored positions that are right."""
        return self.right / self.scored


@torch.no_grad()
def recall_by_occurrences(
    model: SequenceModel, task: NoisyRecall, batches: list[tuple[Tensor, Tensor]], *, count: str = "before"
) -> list[OccurrenceRecall]:
    """Accuracy at the scored positions, split by how often the key that is asked for occurs: recall of the tail.

    Args:
        model: the model; it is judged in evaluation mode.
        task: the task of the batches.
        batches: its validation set, see `NoisyRecall.validation_set`.
        count: "before": how often the key was shown before it is asked for, at least once, so the same key counts
            differently from query to query; "sequence": how often its sequence shows it in all, the last query
            included, so at least twice.

    Returns:
        One `OccurrenceRecall` a number of occurrences that is there, ascending; `scored` and `right` add up to those of
        all scored positions.

    Raises:
        ValueError: there is no such count, or no batch, or one is not a pair of tensors of one shape.
    """
    if count not in ("before", "sequence"):
        raise ValueError(f"count must be 'before' or 'sequence', not {count!r}")
    scored: Counter[int] = Counter()
    right: Counter[int] = Counter()
    for inputs, targets, logits in _judged(model, batches):
        # Where nothing is scored at the end, the last token is not among the targets, and is not needed.
        whole = torch.cat([inputs, targets[:, -1:]], 1).cpu().numpy()
        so_far, in_all = task.showings(whole)
        occurrences = so_far - 1 if count == "before" else in_all
        # The prediction of a pair's second token is made at its first.
        at = [*range(0, task.seq_len - 2, 2), inputs.shape[1] - 1]
        here = (targets[:, at] != IGNORE_INDEX).cpu().numpy()
        is_right = (logits.argmax(-1) == targets)[:, at].cpu().numpy()
        scored.update(occurrences[here].tolist())
        right.update(occurrences[here & is_right].tolist())
    return [OccurrenceRecall(n, scored[n], right[n]) for n in sorted(scored)]


def _check_batch(batch: tuple[Tensor, Tensor]) -> None:
    pair = isinstance(batch, tuple | list) and len(batch) == 2 and all(isinstance(x, Tensor) for x in batch)
    if not pair:
        raise ValueError(f"batches must be pairs of tensors, tokens and targets, not of a {type(batch).__name__}")
    tokens, targets = batch
    if targets.shape != tokens.shape or targets.dtype != torch.int64:
        raise ValueError(
            f"batches: targets must be int64 of the tokens' shape {tuple(tokens.shape)}, "
            f"not {targets.dtype} of {tuple(targets.shape)}"
        )


def questions(model: SequenceModel, task: NoisyRecall, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """What a trained model is asked, as it stands at the end of a run's trace or is found from its kept weights.

    Args:
        model: the model.
        task: its task.
        batches: its whole validation set, as of `evaluate`; its first 96 sequences, or all it has, are decoded.

    Returns:
        `orthonar.training.decoding.contents`, and the accuracy under each read of `SWAPS`, by name.
    """
    tokens, targets = (torch.cat(parts)[:_DECODED_SEQUENCES] for parts in zip(*batches))
    answers = contents(model, task, tokens, targets)
    for name, read in SWAPS.items():
        answers[name] = evaluate(twin(model, read=read), batches)[0]
    return answers
