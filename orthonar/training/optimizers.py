"""Optimizers: their settings, and what they build."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ..settings import Settings, number, settings


class Optimizer(Settings, ABC):
    """Settings of an optimizer."""

    #: Peak learning rate.
    lr: float

    #: Whether a step can be captured in a CUDA graph, the learning rate being a tensor on the device then.
    capturable = True

    @abstractmethod
    def build(self, groups: list[dict], **options) -> torch.optim.Optimizer:
        """The optimizer of some groups of parameters.

        Args:
            groups: parameter groups as PyTorch takes them; beside its "params" each has their "names" in the model, and
                its learning rate under "lr", if that is not this optimizer's.
            options: what else PyTorch's optimizer is to be told, "capturable" for a CUDA graph.
        """


@settings
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), with the study's settings.

    Args:
        lr: peak learning rate.
        weight_decay: as a share of the learning rate.
        beta1, beta2: decay rates of the moments.
    """

    lr: float = number(3e-3, above=0)
    weight_decay: float = number(0.01, least=0)
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.999, least=0, below=1)

    def build(self, groups: list[dict], **options) -> torch.optim.AdamW:
        betas = self.beta1, self.beta2
        decay = self.weight_decay
        return torch.optim.AdamW(groups, lr=self.lr, betas=betas, weight_decay=decay, fused=True, **options)


@settings
class Muon(Optimizer):
    """Muon (Jordan et al. 2024) for the matrices of the layer, AdamW for everything else.

    B <- momentum B + (1 - momentum) G;  W <- (1 - lr weight_decay) W - 0.2 lr sqrt(max(rows, columns)) NS(G + momentum
    (B - G)), where NS is five steps of the quintic iteration that `orthonar.MuonRead` is about, which leaves singular
    values between 0.68 and 1.2 of all but the smallest. The factor gives an update entries as large as AdamW's are
    (Liu et al. 2025, arXiv 2502.16982), so that both go by one rate: what differs from an AdamW run is the direction.

    Of the shell, embedding, norms and head are AdamW's, and of the layer what is no matrix: biases, norms, skips, the
    taps of a convolution. A weight that holds blocks, as the mLSTM's query, key and value projections do, is so many
    matrices: the polar factor of a block-diagonal matrix is made of those of its blocks.

    Args:
        lr: peak learning rate, of all parameters.
        weight_decay: as a share of the learning rate, likewise.
        momentum: decay rate of Muon's one moment; Nesterov's.
        beta1, beta2: decay rates of AdamW's moments.
    """

    capturable = False  # PyTorch's Muon takes its rate from the host

    lr: float = number(3e-3, above=0)
    weight_decay: float = number(0.01, least=0)
    momentum: float = number(0.95, least=0, below=1)
    beta1: float = number(0.9, least=0, below=1)
    beta2: float = number(0.999, least=0, below=1)

    def build(self, groups: list[dict], **options) -> "MuonAndAdamW":
        """The two optimizers as one.

        Raises:
            ValueError: this PyTorch has no Muon, or a group has no names.
        """
        if any("names" not in group for group in groups):
            raise ValueError(
                "groups: each must have the 'names' of its params, by which Muon knows the layer's matrices"
            )
        if not hasattr(torch.optim, "Muon"):
            raise ValueError(f"optimizer: Muon needs PyTorch 2.9 or newer (torch.optim.Muon), not {torch.__version__}")
        return MuonAndAdamW(groups, self, options)


def is_layer_matrix(name: str, parameter: Tensor) -> bool:
    """Whether a parameter of the shell is a matrix of its layer, or several.

    Args:
        name: its name in the model.
        parameter: the parameter itself; a matrix has no side of 1.
    """
    return name.startswith("layer.") and parameter.ndim >= 2 and min(parameter.shape[-2:]) > 1


class MuonAndAdamW(torch.optim.Optimizer):
    """Two optimizers that look like one; their groups and their state are shared with it.

    Args:
        groups: as of `Optimizer.build`.
        config: the settings, a `Muon`.
        options: what else PyTorch's AdamW is to be told.
    """

    def __init__(self, groups: list[dict], config: Muon, options: dict):
        #: Weights that hold several matrices, each with its matrices: parameters that lie where the weight does.
        self._held: list[tuple[nn.Parameter, list[nn.Parameter]]] = []
        matrices: list[dict] = []
        others: list[dict] = []
        for group in groups:
            named = list(zip(group["names"], group["params"], strict=True))
            for_muon = [is_layer_matrix(*pair) for pair in named]
            for kind, chosen in ((matrices, True), (others, False)):
                mine = [pair for pair, muon in zip(named, for_muon) if muon == chosen]
                if mine:
                    parameters = [matrix for _, weight in mine for matrix in self._matrices_of(weight, chosen)]
                    kind.append(group | {"params": parameters, "names": [name for name, _ in mine]})
        lr, betas, decay = config.lr, (config.beta1, config.beta2), config.weight_decay
        self._both: list[torch.optim.Optimizer] = []
        if matrices:
            like_adamw, momentum = "match_rms_adamw", config.momentum
            muon = torch.optim.Muon(matrices, lr=lr, weight_decay=decay, momentum=momentum, adjust_lr_fn=like_adamw)
            self._both.append(muon)
        if others:
            self._both.append(torch.optim.AdamW(others, lr=lr, betas=betas, weight_decay=decay, fused=True, **options))
        super().__init__([group for optimizer in self._both for group in optimizer.param_groups], {})
        self._share()

    def _matrices_of(self, weight: nn.Parameter, split: bool) -> list[nn.Parameter]:
        if not split or weight.ndim == 2:
            return [weight]
        self._held.append((weight, [nn.Parameter(matrix) for matrix in weight.detach().flatten(0, -3)]))
        return self._held[-1][1]

    def __reduce__(self) -> Any:
        raise TypeError("MuonAndAdamW cannot be copied or pickled: build it anew and load its state_dict")

    def _share(self) -> None:
        """Let both have the groups and the state that this has."""
        done = 0
        for optimizer in self._both:
            count = len(optimizer.param_groups)
            optimizer.param_groups, optimizer.state = self.param_groups[done : done + count], self.state
            done += count

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        self._share()

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for weight, _ in self._held:
            weight.grad = None

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]  # a closure would be called twice
        """Take a step of both.

        Args:
            closure: none.

        Raises:
            ValueError: there is one.
        """
        if closure is not None:
            raise ValueError("closure: two optimizers would each call it; compute the gradients before the step")
        for weight, matrices in self._held:
            grads = [None] * len(matrices) if weight.grad is None else weight.grad.flatten(0, -3).unbind()
            for matrix, place, grad in zip(matrices, weight.flatten(0, -3).unbind(), grads):
                matrix.data, matrix.grad = place, grad  # wherever the weight lies by now
        for optimizer in self._both:
            optimizer.step()
