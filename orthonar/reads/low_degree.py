"""Reads of a chosen number of products with the memory's Gram matrix: polynomials of low degree for an iteration.

Five Newton-Schulz steps are a polynomial of degree 121, of which float32 sees 23 products with A = X^T X. These reads
have as many as they are told, n, and the best odd polynomial of degree 2 n + 1 in s for what they want, bounded by 1.
"""

from abc import abstractmethod
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from ..engine.looking import computed_apart
from ..settings import choice, integer, number, settings
from .best_polynomials import best_odd, odd_series, steepest_odd, truncated_series
from .filter_read import FilterRead
from .filters import muon_scalar
from .newton_schulz import newton_schulz_scalar


@settings
class PolynomialRead(FilterRead):
    """A filter that is a polynomial: f(s) = sum_k c_k T_{2k+1}(s), k = 0 ... n, costs n products with A, exactly.

    Args:
        degree: n, at least 1.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None keeps all n + 1 coefficients.
    """

    degree: int = integer(4, least=1, most=64)

    @abstractmethod
    def polynomial(self) -> np.ndarray:
        """c_0 ... c_n, n at most the degree."""

    @cached_property
    def series(self) -> tuple[float, ...]:
        """What `polynomial` gives, computed once."""
        return tuple(map(float, computed_apart(self.polynomial)))

    def scalar_map(self, s):
        return odd_series(self.series, s)

    def matrix(self, memory: Tensor) -> Tensor:
        x = self.normalised(memory)
        quadruple = 4 * x.mT @ x
        before = current = x
        total = self.series[0] * x
        for c in self.series[1:]:
            before, current = current, current @ quadruple - 2 * current - before
            total = total + c * current
        return total

    def coefficients(self, dtype: torch.dtype) -> tuple[float, ...]:
        return self.series if self.tolerance is None else super().coefficients(dtype)


@settings
class SteepRead(PolynomialRead):
    """The read that lifts small singular values as far as its number of products can, all others alike.

    f rises from 0 to 1 - ripple sooner than any other odd polynomial of degree 2 n + 1 that then stays within
    [1 - ripple, 1]; see `orthonar.reads.best_polynomials.steepest_odd`. Its slope at 0 is about 1.25 n + 0.7 for the
    default ripple, where k Newton-Schulz steps have 1.5^k: n = 6 is steeper than the study's five steps, which cost 23.
    The ripple is what this costs: Muon's quintic, whose values hover between 0.68 and 1.2, shows that much more does no
    harm there. From n = 21 on the map is so steep that the chunkwise form computes in float64.

    Args:
        degree: n, 1 to 64.
        ripple: how far f may fall below 1, 0.01 to 0.9. Small values are dear: 1 - ripple is reached at s = 0.17 for
            0.1 and n = 6, at s = 0.11 for 0.25.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None keeps all n + 1 coefficients.
    """

    ripple: float = number(0.25, least=0.01, most=0.9)

    def polynomial(self) -> np.ndarray:
        return steepest_odd(self.degree, self.ripple)


@settings
class ShortNewtonSchulzRead(PolynomialRead):
    """Newton-Schulz steps, as well as a number of products with its Gram matrix can give them.

    f is the odd polynomial of degree 2 n + 1 nearest to NS_k on [0, 1] among those that stay below 1, in the largest
    error ("minimax") or, divided by its largest value, in the mean square ("series", the Chebyshev series that
    `orthonar.NewtonSchulzRead` is computed by, cut at n). For five steps and n = 2, 4, 6, 8, 12 the largest error is
    0.35, 0.16, 0.061, 0.018, 0.0017.

    Args:
        degree: n, 1 to 64.
        steps: number of iterations k that are approximated, 1 to 8.
        fit: "minimax" or "series".
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None keeps all n + 1 coefficients.
    """

    steps: int = integer(5, least=1, most=8)
    fit: str = choice("minimax", ("minimax", "series"))

    def polynomial(self) -> np.ndarray:
        nearest = best_odd if self.fit == "minimax" else truncated_series
        return nearest(lambda s: newton_schulz_scalar(s, self.steps), self.degree)


@settings
class ShortMuonRead(PolynomialRead):
    """Steps of Muon's polynomial, as well as a number of products with its Gram matrix can give them.

    f is the Chebyshev series of the map of `orthonar.MuonRead` cut at n, divided by its largest value. It hovers as
    that does, and is far flatter at 1 than a `SteepRead` as steep at 0. Three steps have a slope of 40.9 at 0, 34 times
    their largest value, and cost 41 products in float64; with n = 21 the slope is 24, and float32 is enough.

    Args:
        degree: n, 1 to 64.
        steps: number of iterations that are approximated, 1 to 5.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None keeps all n + 1 coefficients.
    """

    degree: int = integer(21, least=1, most=64)
    steps: int = integer(3, least=1, most=5)

    def polynomial(self) -> np.ndarray:
        return truncated_series(lambda s: muon_scalar(s, self.steps), self.degree)
