"""The study's shell: embedding, a mixer between LayerNorms with a residual, linear head.

Embedding and head are the study's: plain `torch.nn.Embedding` and `torch.nn.Linear`.

Axes: B batch, S sequence, V vocabulary, E width of the residual stream.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from .mixer import Mixer
from .mlstm.layer import MLSTM, LayerNorm, unset
from .settings import Settings, integer, number, part, settings


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

    def __init__(self, config: ModelConfig | None = None, *, generator: torch.Generator | None = None):
        super().__init__()
        self.config = config = ModelConfig() if config is None else config
        width = config.embedding_dim
        self.embedding = unset(nn.Embedding, config.vocab_size, width)
        self._reset_embedding(generator)
        self.norm = LayerNorm(width)
        self.layer = config.mixer.build(width, generator)
        self.post_norm = LayerNorm(width)
        self.head = unset(nn.Linear, width, config.vocab_size)
        self._reset_head(generator)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, S, V) for tokens (B, S)."""
        return self._advance(tokens, self.layer, None)[0]

    def step(self, token: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Logits after one more token, from a state.

        Args:
            token: the next token of every row, (B,).
            state: what `step` returned before; None at the start.

        Returns:
            logits (B, V) and the new state; the same logits as `forward` gives at this position.

        Raises:
            ValueError: token is not (B,).
        """
        if token.ndim != 1:
            raise ValueError(f"token must be (B,), one token a row, not {tuple(token.shape)}")
        logits, state = self._advance(token[:, None], self.layer.step, state)
        return logits[:, 0], state

    def state_after(self, tokens: Tensor) -> Any:
        """What the model carries on from tokens (B, S), to `step` or to be looked at."""
        return self._advance(tokens, self.layer, None)[1]

    def _advance(self, tokens: Tensor, layer, state: Any) -> tuple[Tensor, Any]:
        x = self.embedding(tokens)
        y, state = layer(self.norm(x), state)
        return self.head(self.post_norm(x + y)), state

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: embedding and head as the study does, the layer by its own rule."""
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


#: The names of the model with the mLSTM, the study's own mixer and the default.
MLSTMConfig, MLSTMModel = ModelConfig, SequenceModel
