"""What a model in training can be asked without disturbing it: its memory's spectrum, its gradients.

Nothing here touches parameters, their gradients, an optimizer or the generator that training draws from: a run with
probes has the very numbers of one without. What the memory stores is asked in `orthonar.training.decoding`. Axes: B
batch, NH heads, DH head size.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..model import SequenceModel

# A singular value counts as no smaller than this share of the largest: beyond, float32 knows nothing.
_SMALLEST_SHARE = 1e-7


def twin(model: SequenceModel, **settings) -> SequenceModel:
    """A model with the same parameters, not copies of them, and other settings, such as another read.

    Args:
        model: any model.
        settings: of `orthonar.ModelConfig`, none that has to do with parameters.
    """
    with torch.device("meta"):
        other = SequenceModel(dataclasses.replace(model.config, **settings))
    other.load_state_dict(model.state_dict(), assign=True)
    other.train(model.training)
    return other


@torch.no_grad()
def memory(model: SequenceModel, tokens: Tensor) -> Tensor:
    """What a model holds after tokens (B, S): C exp(-m), (B, NH, DH, DH), rows keys, columns values."""
    c_state = model.state_after(tokens).memory.c_state
    return c_state[..., : c_state.shape[-2]]  # without the keys that some reads have kept beside


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


def dynamics(model: SequenceModel, tokens: Tensor, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """What shows how training moves, as it stands in a run's trace; cheap enough for every evaluation.

    Args:
        model: the model.
        tokens: inputs of a validation batch, (B, S).
        batches: two fresh training batches.

    Returns:
        "effective_rank" (mean over sequences and heads), "log10_condition" (median) and "qk_coherence".
    """
    c_state = memory(model, tokens)
    return {
        "effective_rank": effective_rank(c_state).mean().item(),
        "log10_condition": condition(c_state).log10().median().item(),
        "qk_coherence": gradient_coherence(model, batches),
    }
