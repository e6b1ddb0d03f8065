"""A model read as a stream: blocks of tokens with the state carried on, and recall over delays of any length.

Axes: B sequences, S tokens, V vocabulary, P pairs.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..data.noisy_recall import NoisyRecall
from ..model import SequenceModel
from ..settings import checked_integer

#: Tokens of a block: with more, the time per token does not fall, and intermediate results take more memory.
_BLOCK = 1024


def stream(
    model: SequenceModel, tokens: Tensor | Iterable[Tensor], state: Any = None, *, block_size: int = _BLOCK
) -> Iterator[tuple[Tensor, Any]]:
    """Read tokens block after block and give the logits of each, in memory that their number does not change.

    The logits are those of `model(tokens)` and of `model.step` token by token, at the speed of the former: a block is
    one pass of the chunkwise form from the state that the last one left. No gradients are kept, and the model is as the
    caller has set it, in training or evaluation mode. A mixer whose own state grows, such as attention's cache, still
    grows.

    Args:
        model: the model.
        tokens: (B, S), or any number of such tensors, one after the other, S of each at least 1; they may be made
            while they are read.
        state: what the model returned for the tokens before; None at the start.
        block_size: most tokens of a sequence read at once.

    Yields:
        logits (B, up to block_size, V) and the state after them, to be stepped or streamed on from.

    Raises:
        ValueError: an argument that does not fit, as `model` says it.
    """
    block_size = checked_integer("block_size", block_size, 1)
    return _stream(model, [tokens] if isinstance(tokens, Tensor) else tokens, state, block_size)


def _stream(model, segments, state, block_size) -> Iterator[tuple[Tensor, Any]]:
    for segment in segments:
        if not isinstance(segment, Tensor) or not segment.ndim:
            raise ValueError(f"tokens must be tensors (B, S), not {segment!r}")
        for block in segment.split(block_size, dim=-1):
            logits, state = _read(model, block, state)
            yield logits, state


@torch.no_grad()
def _read(model: SequenceModel, block: Tensor, state: Any) -> tuple[Tensor, Any]:
    return model(block, state, return_state=True)


class DelayedRecall(NamedTuple):
    """How well values were recalled after a delay."""

    delay: int  #: tokens between the last pair shown and the query.
    asked: int  #: queries.
    right: int  #: those answered with the value.

    @property
    def accuracy(self) -> float:
        """Share of the queries that were answered with the value."""
        return self.right / self.asked


def recall_by_delay(
    model: SequenceModel,
    task: NoisyRecall,
    delays: Sequence[int] = (10, 100, 1_000, 10_000, 100_000),
    *,
    pairs: int = 1,
    sequences: int = 32,
    seed: int = 0,
    block_size: int = _BLOCK,
) -> list[DelayedRecall]:
    """Measure recall as the delay between pairs and query grows, with nothing but distractors between.

    Every sequence shows `pairs` different keys, each with a value, all drawn uniformly, and then pairs of distractors.
    At each delay the stream is left as it is and each key is asked for on a branch of its own, from the state there: so
    all delays cost one pass of the longest. Nothing of the kind is among the sequences that the model was trained on,
    whose queries come a few pairs of distractors after the last showing.

    Args:
        model: a trained model; what it answers is its likeliest token.
        task: what it was trained on.
        delays: tokens between the last pair shown and the query, even since distractors come in pairs, ascending.
        pairs: pairs shown, P, at most as many as the task has keys.
        sequences: B, each asked for all its pairs.
        seed: of keys, values and distractors.
        block_size: distractors of a sequence that are read at once.

    Returns:
        One `DelayedRecall` a delay, in order, of P B queries each.

    Raises:
        ValueError: naming the argument that does not fit.
    """
    if not isinstance(task, NoisyRecall):
        raise ValueError(f"task must be a NoisyRecall, whose pairs and distractors are drawn here, not {task!r}")
    delays = [checked_integer("delays", delay, 0) for delay in delays]
    if not delays or any(delay % 2 for delay in delays) or sorted(set(delays)) != delays:
        raise ValueError(f"delays must be even and ascend, at least one, not {delays}")
    if delays[-1] and not task.distractors:
        raise ValueError("delays: the task has no distractors to fill them with")
    pairs = checked_integer("pairs", pairs, 1, len(task.keys))
    sequences = checked_integer("sequences", sequences, 1)
    block_size = checked_integer("block_size", block_size, 1)
    device = model.head.weight.device
    draws = torch.Generator().manual_seed(checked_integer("seed", seed, 0))

    keys = torch.rand(sequences, len(task.keys), generator=draws).argsort(1)[:, :pairs]
    values = torch.randint(task.values.start, task.values.stop, keys.shape, generator=draws)
    keys, values = keys.to(device), values.to(device)
    training = model.training
    model.eval()
    try:
        _, state = _read(model, torch.stack([keys, values], 2).flatten(1), None)
        found, read = [], 0
        for delay in delays:
            while read < delay:
                count = min(block_size, delay - read)
                low, high = task.distractors.start, task.distractors.stop
                noise = torch.randint(low, high, (sequences, count), generator=draws).to(device)
                _, state = _read(model, noise, state)
                read += count
            found.append(DelayedRecall(delay, values.numel(), _right(model, state, keys, values, task.prefix)))
        return found
    finally:
        model.train(training)


@torch.no_grad()
def _right(model: SequenceModel, state: Any, keys: Tensor, values: Tensor, prefix: int | None) -> int:
    """How many of the values (B, P) are the model's answers to their keys (B, P), each asked from the same state.

    Where the task puts a token before its query, it comes before each.
    """
    if prefix is not None:
        _, state = model.step(torch.full_like(keys[:, 0], prefix), state)
    answers = [model.step(key, state)[0].argmax(-1) for key in keys.unbind(1)]
    return int((torch.stack(answers, 1) == values).sum())
