"""The study's shell: embedding, a mixer between LayerNorms with a residual, linear head.

Embedding and head are the study's: plain `torch.nn.Embedding` and `torch.nn.Linear`.

Axes: B batch, S sequence, V vocabulary, E width of the residual stream.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .mixer import Mixer
from .mlstm.layer import MLSTM
from .mlstm.parts import LayerNorm, unset
from .settings import Settings, checked_kind, integer, number, part, settings


@settings
class ModelConfig(Settings):
    """Settings of a model; the defaults are the study's at vocabulary 80.

    Args:
        vocab_size: number of tokens V.
        embedding_dim: width E of the residual stream.
        embedding_std: standard deviation of the initial embedding. It decides the outcome on the study's task: what the
            layer adds to the residual stream starts small beside an embedding of 1 and large beside one of 0.065.
        mixer: what mixes positions, `orthonar.MLSTM`; its settings may be given in its place.

    Raises:
        ValueError: naming the setting that is impossible.
    """

    vocab_size: int = integer(80, least=1)
    embedding_dim: int = integer(94, least=1)
    embedding_std: float = number(1.0, above=0)
    mixer: Mixer = part(MLSTM, Mixer)

    def __post_init__(self):
        super().__post_init__()
        self.mixer.check(self.embedding_dim)


class SequenceModel(nn.Module):
    """The study's one-block model: 77,716 parameters with the defaults, the same for every read and write.

    logits = head(post_norm(x + layer(norm(x)))), x = embedding(tokens).

    Args:
        config: its settings; None for the study's.
        generator: source of the initial weights; None is PyTorch's own, which `torch.manual_seed` sets.
    """

    #: A `MixerLayer`; its settings say of what kind.
    layer: Any

    def __init__(self, config: ModelConfig | None = None, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config = ModelConfig() if config is None else checked_kind("config", config, ModelConfig)
        width = config.embedding_dim
        self.embedding = unset(nn.Embedding, config.vocab_size, width)
        self._reset_embedding(generator)
        self.norm = LayerNorm(width)
        self.layer = config.mixer.build(width, generator)
        self.post_norm = LayerNorm(width)
        self.head = unset(nn.Linear, width, config.vocab_size)
        self._reset_head(generator)

    def forward(
        self,
        tokens: Tensor,
        state: Any = None,
        *,
        reset: Tensor | None = None,
        padding: Tensor | None = None,
        return_state: bool = False,
    ) -> Tensor | tuple[Tensor, Any]:
        """Logits for tokens, from a state if there is one.

        Args:
            tokens: (B, S), int64 or int32, each from 0 to V - 1; a segment of any length.
            state: what the model returned for the tokens before; None at the start.
            reset: True where a sequence starts, (B, S): its logits are those that it has alone. None: nowhere.
            padding: True at positions that are not there, (B, S), at the left, at the right or between: the others'
                logits are those that they have alone, and those here mean nothing. None: nowhere.
            return_state: also return the state after the tokens.

        Returns:
            logits (B, S, V); with return_state a pair of them and the state.

        Raises:
            ValueError: naming the argument whose shape, dtype, kind or value does not fit. Tokens that are out of range
                are found on a CPU; a GPU would have to be waited for, and stops with PyTorch's own assertion.
        """
        if not isinstance(tokens, Tensor) or tokens.ndim != 2 or 0 in tokens.shape:
            raise ValueError(f"tokens must be a tensor (B, S), none of them 0, not {_described(tokens)}")
        masks = {name: mask for name, mask in (("reset", reset), ("padding", padding)) if mask is not None}
        logits, state = self._advance("tokens", tokens, self.layer, state, masks)
        return (logits, state) if return_state else logits

    def step(self, token: Tensor, state: Any = None, *, reset: Tensor | None = None) -> tuple[Tensor, Any]:
        """Logits after one more token, from a state.

        Args:
            token: the next token of every row, (B,).
            state: what `step` or the model itself returned before; None at the start.
            reset: True for rows of which a sequence starts here, (B,). None: for none.

        Returns:
            logits (B, V) and the new state; the same logits as `forward` gives at this position.

        Raises:
            ValueError: as `forward`.
        """
        if not isinstance(token, Tensor) or token.ndim != 1 or not len(token):
            raise ValueError(f"token must be a tensor (B,), one token a row, not {_described(token)}")
        masks = {}
        if reset is not None:
            if not isinstance(reset, Tensor) or reset.shape != token.shape:
                raise ValueError(f"reset must be a tensor {tuple(token.shape)}, not {_described(reset)}")
            masks["reset"] = reset[:, None]
        logits, state = self._advance("token", token[:, None], self.layer.step, state, masks)
        return logits[:, 0], state

    def state_after(self, tokens: Tensor) -> Any:
        """What the model carries on from a sequence, to `step` or to be looked at.

        Args:
            tokens: (B, S), int64 or int32.
        """
        return self(tokens, return_state=True)[1]

    def _advance(self, name: str, tokens: Tensor, layer, state: Any, masks: dict) -> tuple[Tensor, Any]:
        if tokens.dtype not in (torch.int64, torch.int32):
            raise ValueError(f"{name} must be int64 or int32, not {tokens.dtype}")
        try:
            x = self.embedding(tokens)
        except (IndexError, RuntimeError) as error:  # looked for beforehand, it would cost time in every step
            if (reason := self._misfit(tokens)) is None:
                raise
            raise ValueError(f"{name} must be {reason}") from error
        y, state = layer(self.norm(x), state, **masks)
        return self.head(self.post_norm(x + y)), state

    def _misfit(self, tokens: Tensor) -> str | None:
        """Why tokens cannot be embedded."""
        place = self.embedding.weight.device
        if tokens.device != place:
            return f"on {place} like the model, not on {tokens.device}"
        least, most, last = tokens.min().item(), tokens.max().item(), self.config.vocab_size - 1
        return None if 0 <= least and most <= last else f"from 0 to {last}, not from {least} to {most}"

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: embedding and head as the study does, the layer by its own rule.

        Args:
            generator: source of the weights; None is PyTorch's own.
        """
        self._reset_embedding(generator)
        self.norm.reset_parameters()
        self.layer.reset_parameters(generator)
        self.post_norm.reset_parameters()
        self._reset_head(generator)

    def _reset_embedding(self, generator: torch.Generator | None) -> None:
        nn.init.normal_(self.embedding.weight, 0, self.config.embedding_std, generator)

    def _reset_head(self, generator: torch.Generator | None) -> None:
        bound = 1 / math.sqrt(self.config.embedding_dim)
        nn.init.uniform_(self.head.weight, -bound, bound, generator)
        nn.init.uniform_(self.head.bias, -bound, bound, generator)


def _described(value: Any) -> str:
    return f"one of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


#: The names of the model with the mLSTM, the study's own mixer and the default.
MLSTMConfig, MLSTMModel = ModelConfig, SequenceModel
