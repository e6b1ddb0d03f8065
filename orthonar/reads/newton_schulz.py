"""The cubic Newton-Schulz iteration: on matrices, on scalars, and as a Chebyshev filter.

The iteration X <- X (3 I - X^T X) / 2 (Björck and Bowie 1971; Kovarik 1970) acts on each singular value s by
s <- s (3 - s^2) / 2 and drives every s in (0, sqrt 3) to 1. A few steps do *not* reach 1: after five, a singular value
of 0.01 has become 0.076. This is not the tuned quintic of the Muon optimizer, whose values hover around 1.
"""

from torch import Tensor

from ..engine.by_hand import without_autocast
from ..engine.keys import LEAST_EPS, MOST_EPS
from ..settings import checked_integer, checked_number, integer, settings
from .filter_read import FilterRead, normalised


@settings
class NewtonSchulzRead(FilterRead):
    """The orthogonalized read, NS_k(C)^T q: what is read is pushed towards the polar factor of C, C stays as it is.

    X <- X (3 I - X^T X) / 2, ``steps`` times from X = C / max(||C||_F, eps); see `orthonar.newton_schulz`. The
    normalisation throws the scale of C away, so, unlike the raw read, this one changes when a factor is moved from the
    keys to the queries. Source: Tambde, "Matrix Orthogonalization Improves Memory in Recurrent Models", June 2026.

    Args:
        steps: number of iterations, 0 to 12; the study uses 5. 0 only normalises, and more than 12 would take a series
            of more than a thousand terms: `PolarRead` is where they lead.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None is 4 times the dtype's machine epsilon.
    """

    steps: int = integer(5, least=0, most=12)

    def scalar_map(self, s):
        return newton_schulz_scalar(s, self.steps)

    def matrix(self, memory: Tensor) -> Tensor:
        return newton_schulz(memory, self.steps, self.eps)


def newton_schulz(x: Tensor, steps: int = 5, eps: float = 1e-6) -> Tensor:
    """Push the singular values of each matrix towards 1, after dividing the matrix by its Frobenius norm.

    X_0 = x / max(||x||_F, eps), then ``steps`` times X <- X (3 I - X^T X) / 2. Differentiable throughout, and outside
    autocast. The result does not depend on the scale of x as long as ||x||_F is at least eps. A smaller x is divided by
    eps and no more: its result shrinks with it, towards 1.5^steps x / eps, which for five steps and the default eps
    has a Frobenius norm of 0.00076 where that of x is 1e-10. All-zero matrices stay zero.

    Args:
        x: matrices, (..., M, N), any floating dtype; no finite one is too large.
        steps: number of iterations, at least 0 (0 only normalises).
        eps: smallest norm divided by.

    Returns:
        Tensor of the same shape and dtype; the singular values lie in [0, 1], the singular vectors are those of x.

    Raises:
        ValueError: if x is not a floating matrix or has no rows or columns, or steps or eps is out of range.
    """
    if not isinstance(x, Tensor):
        raise ValueError(f"x must be a floating-point tensor (..., M, N), not {type(x).__name__}")
    if x.ndim < 2 or 0 in x.shape[-2:] or not x.is_floating_point():
        raise ValueError(f"x must be a floating-point tensor (..., M, N), not {x.dtype} {tuple(x.shape)}")
    check_iteration(steps, eps)
    x = normalised(x, eps)
    # The smaller of the two Gram matrices gives the same product.
    wide = x.shape[-1] > x.shape[-2]
    with without_autocast(x.device):
        for _ in range(steps):
            cubic = x @ x.mT @ x if wide else x @ (x.mT @ x)
            x = 1.5 * x - 0.5 * cubic
    return x


def check_iteration(steps: int, eps: float) -> None:
    """Raise a ValueError naming the setting if an iteration count or a norm floor is unusable."""
    checked_integer("steps", steps, 0)
    checked_number("eps", eps, least=LEAST_EPS, most=MOST_EPS)


def newton_schulz_scalar(s, steps: int = 5):
    """What ``steps`` iterations do to a singular value: s <- s (3 - s^2) / 2, repeated.

    Args:
        s: singular values in [0, 1], array, tensor or number.
        steps: number of iterations.

    Returns:
        The mapped values, of the same kind as ``s``.
    """
    for _ in range(steps):
        s = 1.5 * s - 0.5 * s**3
    return s
