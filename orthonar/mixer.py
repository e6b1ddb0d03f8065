"""What mixes the positions of a sequence: the one thing in which models of the study's shell differ."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from .settings import Settings


class MixerLayer(nn.Module, ABC):
    """A layer of the residual stream: outputs (B, S, E) for inputs (B, S, E), each position seeing those before it.

    A layer whose rows may hold several sequences, or positions that are not there, also takes `reset` and `padding`,
    masks (B, S), as `orthonar.MLSTMLayer` does; the model hands on what it is given, and only then.
    """

    @abstractmethod
    def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """Mix a sequence.

        Args:
            x: inputs, (B, S, E).
            state: what the layer carried on before them, as it returns it; None: nothing was before.

        Returns:
            Outputs (B, S, E), and what the layer carries on.
        """

    @abstractmethod
    def step(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
        """The same for one position, as fast as that can be.

        Args:
            x: input, (B, 1, E).
            state: as of `forward`.
        """

    @abstractmethod
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew.

        Args:
            generator: source of the weights; None is PyTorch's own.
        """


class Mixer(Settings, ABC):
    """Settings of a layer that mixes positions. A class that derives from it is one: nothing has to be registered."""

    @abstractmethod
    def build(self, width: int, generator: torch.Generator | None = None) -> MixerLayer:
        """The layer, its weights drawn.

        Args:
            width: width E of the residual stream.
            generator: source of the weights; None is PyTorch's own.
        """

    def check(self, width: int) -> None:
        """Whether these settings go with a model's width.

        Args:
            width: width E of the residual stream.

        Raises:
            ValueError: naming the setting that does not.
        """

    def needs_host_sync(self, width: int, length: int, device: torch.device) -> bool:
        """Whether the layer looks at what it computes on the way, so that no CUDA graph can be captured of it.

        Args:
            width: width E of the residual stream.
            length: positions S of a sequence.
            device: where it is to run.
        """
        return False
