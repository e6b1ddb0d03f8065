"""Optimizers: their settings, and what they build."""

from abc import ABC, abstractmethod

import torch

from ..settings import Settings, number, settings


class Optimizer(Settings, ABC):
    """Settings of an optimizer."""

    #: Peak learning rate.
    lr: float

    @abstractmethod
    def build(self, groups: list[dict], **options) -> torch.optim.Optimizer:
        """The optimizer of some groups of parameters, each with its learning rate under "lr".

        Args:
            groups: parameter groups as PyTorch takes them.
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
        return torch.optim.AdamW(groups, betas=betas, weight_decay=self.weight_decay, fused=True, **options)
