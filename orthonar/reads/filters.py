"""Other maps of the memory's singular values: the polar factor, Muon's quintic, ridge regression.

Each is a filter of the normalised memory, X = C / max(||C||_F, eps): f says what becomes of a singular value of X. A
read of one's own is one more such class.
"""

import torch
from torch import Tensor

from ..settings import integer, number, settings
from .filter_read import FilterRead

#: Muon's a, b, c in X <- a X + b X (X^T X) + c X (X^T X)^2.
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def muon_scalar(s, steps: int):
    """The map of singular values that so many of Muon's steps are, s <- a s + b s^3 + c s^5 each.

    Args:
        s: singular values, array or tensor.
        steps: number of iterations.
    """
    a, b, c = MUON_COEFFICIENTS
    for _ in range(steps):
        s = s * (a + s**2 * (b + c * s**2))
    return s


# 1 - erf(3.5) = 7e-7: at the cut-off the polar factor is reached to about float32 accuracy.
_AT_CUTOFF = 3.5


@settings
class PolarRead(FilterRead):
    """The polar factor of C, U V^T for C = U S V^T, cut off: what all the Newton-Schulz steps in the world lead to.

    f(s) = erf(3.5 s / cutoff), the smooth stand-in for the sign function of Low and Chuang 2017 (arXiv 1707.05391,
    appendix A): 1 within 7.5e-7 for every s >= cutoff, and a straight line through 0 for s far below it. The true polar
    factor, f = 1 for all s > 0, has a jump at 0 and therefore no series. The degree in A, what a read costs, goes as
    1 / cutoff: at float32 accuracy 58 for 0.2, 77 for 0.15, 115 for 0.1, 231 for 0.05. Below about 0.15 the map is so
    steep that the chunkwise form computes in float64.

    Args:
        cutoff: the singular value of X from which on the polar factor is reached, 0.05 to 1. The singular values of
            a memory of rank r have mean square 1 / r: they are 0.15 if all 44 are the same.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None is 4 times the dtype's machine epsilon.
    """

    cutoff: float = number(0.15, least=0.05, most=1)

    def scalar_map(self, s):
        return torch.erf(s * (_AT_CUTOFF / self.cutoff))


@settings
class MuonRead(FilterRead):
    """The quintic iteration of the Muon optimizer, X <- a X + b X (X^T X) + c X (X^T X)^2, in the place of the cubic.

    a, b, c = 3.4445, -4.7750, 2.0315 (Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks").
    They are tuned for a steep slope at 0, a^k after k steps, and do *not* converge to the polar factor: from about
    three steps on, singular values hover between 0.68 and 1.2. The price is the degree, at float32 accuracy 2, 12, 41,
    142 and 490 for 1 to 5 steps; the chunkwise form keeps that many vectors a position for the backward pass, and from
    three steps on computes in float64.

    Args:
        steps: number of iterations, 0 to 5; Muon uses 5. 0 only normalises.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None is 4 times the dtype's machine epsilon.
    """

    steps: int = integer(5, least=0, most=5)

    def scalar_map(self, s):
        return muon_scalar(s, self.steps)

    def matrix(self, memory: Tensor) -> Tensor:
        a, b, c = MUON_COEFFICIENTS
        x = self.normalised(memory)
        for _ in range(self.steps):
            gram = x.mT @ x
            x = a * x + x @ (b * gram + c * gram @ gram)
        return x


@settings
class RidgeRead(FilterRead):
    """Least squares in the place of correlation: the value whose image under the memory comes closest to the query.

    y = (1 + ridge) argmin_y ||X y - q||^2 + ridge ||y||^2 = (1 + ridge) (X^T X + ridge I)^{-1} X^T q, ridge regression
    (Hoerl and Kennard 1970) on the memory itself; f(s) = s (1 + ridge) / (s^2 + ridge). It leaves a singular value of
    1 alone, lifts the others up to (1 + ridge) / (2 sqrt(ridge)) at s = sqrt(ridge), and lets smaller ones fall to 0.
    The recursive least squares of `orthonar.MesaRead`, on the keys, is another thing. The degree in A goes as
    1 / sqrt(ridge): at float32 accuracy 25 for 0.1, 36 for 0.05, 58 for 0.02, 84 for 0.01. Below 1 / 29 the map is so
    steep that the chunkwise form computes in float64.

    Args:
        ridge: the penalty, 0.001 to 1. The default, 0.05, is the squared singular value of a memory that holds 20
            associations equally strong.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None is 4 times the dtype's machine epsilon.
    """

    ridge: float = number(0.05, least=0.001, most=1)

    def scalar_map(self, s):
        return s * (1 + self.ridge) / (s**2 + self.ridge)

    def matrix(self, memory: Tensor) -> Tensor:
        x = self.normalised(memory)
        penalty = self.ridge * torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return (1 + self.ridge) * torch.linalg.solve(x.mT @ x + penalty, x.mT).mT
