"""What a model in training can be asked without disturbing it: its memory's spectrum, its gradients, what it stored.

Nothing here touches parameters, their gradients, an optimizer or the generator that training draws from: a run with
probes has the very numbers of one without. Axes: B batch, NH heads, DH head size, P pairs of a sequence.
"""

import dataclasses
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from ..data.noisy_recall import NoisyRecall
from ..model import SequenceModel
from ..reads.base import Read

# A singular value counts as no smaller than this share of the largest: beyond, float32 knows nothing.
_SMALLEST_SHARE = 1e-7
_RIDGE = 1e-3


def with_read(model: SequenceModel, read: Read) -> SequenceModel:
    """A model with the same parameters, not copies of them, that reads its memory in another way.

    Args:
        model: any model.
        read: the read to swap in; no read has parameters.
    """
    with torch.device("meta"):
        twin = SequenceModel(dataclasses.replace(model.config, read=read))
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.train(model.training)
    return twin


class Memory(NamedTuple):
    """What a layer holds after a sequence, and the keys it wrote with."""

    c_state: Tensor  #: C exp(-m) after the last position, (B, NH, DH, DH), rows keys, columns values.
    keys: Tensor  #: keys of all positions, (B, NH, S, DH).


@torch.no_grad()
def memory(model: SequenceModel, tokens: Tensor) -> Memory:
    """Run a model over tokens (B, S) and return what its memory holds at the end."""
    keys = []
    hook = model.layer.mlstm_cell.register_forward_pre_hook(lambda _, arguments: keys.append(arguments[1]))
    try:
        state = model.state_after(tokens)
    finally:
        hook.remove()
    return Memory(state.memory.c_state[..., : keys[0].shape[-1]], keys[0])


def effective_rank(c_state: Tensor) -> Tensor:
    """exp of the entropy of the singular values' shares, between 1 and DH (Roy and Vetterli 2007).

    Args:
        c_state: memories, (..., DH, DH); zero ones count as rank 1.

    Returns:
        (...), float64.
    """
    s = torch.linalg.svdvals(c_state.double())
    total = s.sum(-1, keepdim=True)
    share = torch.where(total > 0, s / total.clamp_min(torch.finfo(s.dtype).tiny), 0.0)
    return torch.exp(-torch.xlogy(share, share).sum(-1))


def condition(c_state: Tensor) -> Tensor:
    """Largest over smallest singular value, at most 1e7, which stands for all that float32 cannot tell from infinity.

    Args:
        c_state: memories, (..., DH, DH); 1e7 for zero ones.

    Returns:
        (...), float64.
    """
    s = torch.linalg.svdvals(c_state.double())
    largest = s[..., 0].clamp_min(torch.finfo(s.dtype).tiny)
    return 1 / (s[..., -1] / largest).clamp_min(_SMALLEST_SHARE)


def gradient_coherence(model: SequenceModel, batches: list[tuple[Tensor, Tensor]]) -> float:
    """Cosine between two batches' gradients of the training loss by the query and key projections.

    Args:
        model: the model.
        batches: two pairs of tokens and targets (B, S), all next tokens.

    Returns:
        Between -1 and 1; 0 if a gradient vanishes.
    """
    weights = [model.layer.q_proj.weight, model.layer.k_proj.weight]
    needed = [w.requires_grad for w in weights]
    try:
        for w in weights:
            w.requires_grad_(True)
        first, second = (
            torch.cat([
                g.flatten().double()
                for g in torch.autograd.grad(cross_entropy(model(x).flatten(0, 1), y.flatten()), weights)
            ])
            for x, y in batches
        )  # fmt: skip
    finally:
        for w, need in zip(weights, needed, strict=True):
            w.requires_grad_(need)
    return torch.nn.functional.cosine_similarity(first, second, dim=0).item()


class Decoded(NamedTuple):
    """Shares of the stored pairs whose value a linear map finds in what a key takes out of the memory."""

    share: float  #: with the pair's own key and its own memory.
    wrong_key: float  #: with the key of another pair of the sequence; chance if the memory tells keys apart.
    wrong_memory: float  #: with the memory of another sequence: what the key alone gives away.


def decodable_share(task: NoisyRecall, tokens: Tensor, held: Memory) -> Decoded:
    """Decode stored pairs from k_u^T C by ridge regression, fitted on one half of the sequences, judged on the other.

    u is the position of a pair's value, where the convolution sees key and value together: there the pair is written.
    Only the last showing of a key in a sequence counts, so that sequences do not vote twice for one pair.

    Args:
        task: the task that the tokens are of.
        tokens: (B, S), B at least 4.
        held: memory after these tokens, (B, ...), and their keys.

    Returns:
        Shares, 0 to 1. After the follow-up study (Aquino-Michaels 2026, arXiv 2607.19390), which decodes memories of
        models that fail; how it fits its decoder is not known here.
    """
    batch = len(tokens)
    leading, following = tokens[:, 0:-1:2], tokens[:, 1::2]
    is_key = leading < len(task.keys)
    order = torch.arange(leading.shape[1], device=tokens.device)
    shown_later = ((leading[:, :, None] == leading[:, None, :]) & (order[None, :] > order[:, None])).any(-1)
    row, pair = (is_key & ~shown_later).nonzero(as_tuple=True)
    labels = following[row, pair] - task.values.start

    def asked(rows: Tensor, pairs: Tensor, memories: Tensor) -> Tensor:
        keys = held.keys[rows, :, 2 * pairs + 1].double()
        return torch.einsum("nhd,nhde->nhe", keys, held.c_state[memories].double()).flatten(1)

    half = row < batch // 2
    decode = _ridge(asked(row, pair, row)[half], one_hot(labels[half], len(task.values)).double())
    test_row, test_pair, test_labels = row[~half], pair[~half], labels[~half]
    # The pair before in the list: of the same sequence, but for each sequence's first, which is left out.
    same = torch.zeros_like(test_row, dtype=torch.bool)
    same[1:] = test_row[1:] == test_row[:-1]
    other = batch // 2 + (test_row - batch // 2 + 1) % (batch - batch // 2)

    def right(features: Tensor, labels: Tensor) -> float:
        return (decode(features).argmax(-1) == labels).double().mean().item()

    wrong = asked(test_row.roll(1), test_pair.roll(1), test_row)[same]
    return Decoded(
        right(asked(test_row, test_pair, test_row), test_labels),
        right(wrong, test_labels[same]),
        right(asked(test_row, test_pair, other), test_labels),
    )


def _ridge(x: Tensor, y: Tensor):
    """The linear map that ridge regression fits, with an intercept; the penalty is relative to the features' size."""
    x_mean, y_mean = x.mean(0), y.mean(0)
    centred = x - x_mean
    gram = centred.mT @ centred
    penalty = _RIDGE * gram.diagonal().mean().clamp_min(torch.finfo(x.dtype).tiny)
    weights = torch.linalg.solve(
        gram + penalty * torch.eye(len(gram), dtype=x.dtype, device=x.device), centred.mT @ (y - y_mean)
    )
    return lambda features: (features - x_mean) @ weights + y_mean


def dynamics(model: SequenceModel, tokens: Tensor, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """What shows how training moves, as it stands in a run's trace; cheap enough for every evaluation.

    Args:
        model: the model.
        tokens: inputs of a validation batch, (B, S).
        batches: two fresh training batches.

    Returns:
        "effective_rank" (mean over sequences and heads), "log10_condition" (median) and "qk_coherence".
    """
    c_state = memory(model, tokens).c_state
    return {
        "effective_rank": effective_rank(c_state).mean().item(),
        "log10_condition": condition(c_state).log10().median().item(),
        "qk_coherence": gradient_coherence(model, batches),
    }


def contents(model: SequenceModel, task: NoisyRecall, tokens: Tensor) -> dict[str, float]:
    """What a decoder finds in a model's memory, as it stands at the end of a run's trace.

    Args:
        model: the model.
        task: its task.
        tokens: inputs of a validation batch, (B, S).

    Returns:
        "decoded", "decoded_wrong_key" and "decoded_wrong_memory", see `Decoded`.
    """
    decoded = decodable_share(task, tokens, memory(model, tokens))
    return {
        "decoded": decoded.share,
        "decoded_wrong_key": decoded.wrong_key,
        "decoded_wrong_memory": decoded.wrong_memory,
    }
