"""What it means to read the memory: a map from the memory matrix C and a query q to a vector.

A read is a small frozen object. The cell asks three things of it: the matrix that it puts in the place of C (the plain
form, and every test's oracle), the result for one memory and one query (one token at a time), and, if the read is
y = g(X^T X) X^T q with X = C / max(||C||_F, eps), the Chebyshev coefficients of g (the chunkwise form, which never
forms C).
"""

from dataclasses import KW_ONLY, asdict, dataclass, fields
from functools import lru_cache

import torch
from torch import Tensor

from .newton_schulz import check_iteration, newton_schulz, newton_schulz_scalar, odd_chebyshev


@dataclass(frozen=True)
class RawRead:
    """The mLSTM's own read, C^T q (Beck et al. 2024, arXiv 2405.04517, equation 21)."""

    def matrix(self, c_state: Tensor) -> Tensor:
        """The memory itself, (..., DH, DH)."""
        return c_state

    def vector(self, c_state: Tensor, q: Tensor) -> Tensor:
        """C^T q for memories (..., DH, DH) and queries (..., DH)."""
        return _read(c_state, q)

    def coefficients(self, dtype: torch.dtype) -> None:
        """None: the raw read is no filter of the normalised memory."""
        return None


@dataclass(frozen=True)
class FilterRead:
    """A read g(A) z, with A = X^T X, z = X^T q and X = C / max(||C||_F, eps).

    The function f(s) = s g(s^2) says what the read does to the singular values s of X; a subclass gives it as
    `scalar_map` and the plain form as `matrix`.

    Args:
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series for f on [0, 1]; None is 4 times the machine epsilon of the tensors'
            dtype, less than the rounding of the plain form.
    """

    _: KW_ONLY
    eps: float = 1e-6
    tolerance: float | None = None

    def __post_init__(self):
        check_iteration(0, self.eps)
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise ValueError(f"tolerance must lie between 0 and 1, not {self.tolerance!r}")

    def scalar_map(self, s):
        """f(s) for singular values s in [-1, 1]; odd in s."""
        raise NotImplementedError

    def matrix(self, c_state: Tensor) -> Tensor:
        """The matrix in the place of C, (..., DH, DH), by the definition: the oracle of the two others."""
        raise NotImplementedError

    def vector(self, c_state: Tensor, q: Tensor) -> Tensor:
        """The read for memories (..., DH, DH) and queries (..., DH): matrix-vector products only."""
        norm = torch.linalg.vector_norm(c_state, dim=(-2, -1)).clamp_min(self.eps)
        x = c_state / norm[..., None, None]
        c = self.coefficients(q.dtype)
        # Chebyshev polynomials of the third kind: V_0 = 1, V_1 = 2 s - 1 and V_{k+1} = 2 s V_k - V_{k-1} at
        # s = 2 A - I. With V_{-1} = V_0 the recurrence gives V_1 too.
        previous = current = _read(x, q)
        y = c[0] * current
        for c_k in c[1:]:
            applied = _read(x, (x @ current[..., None])[..., 0])
            previous, current = current, 4 * applied - 2 * current - previous
            y = y + c_k * current
        return y

    def coefficients(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Coefficients of g in the Chebyshev polynomials of the third kind, as many as the dtype asks for."""
        return _coefficients(self, 4 * torch.finfo(dtype).eps if self.tolerance is None else self.tolerance)


@dataclass(frozen=True)
class NewtonSchulzRead(FilterRead):
    """The orthogonalized read, NS_k(C)^T q: what is read is pushed towards the polar factor of C, C stays as it is.

    X <- X (3 I - X^T X) / 2, ``steps`` times from X = C / max(||C||_F, eps); see `orthonar.newton_schulz`. The
    normalisation throws the scale of C away, so, unlike the raw read, this one changes when a factor is moved from the
    keys to the queries. Source: Tambde, "Matrix Orthogonalization Improves Memory in Recurrent Models", June 2026.

    Args:
        steps: number of iterations, at least 0; the study uses 5. 0 only normalises.
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series on the singular values; None is 4 times the dtype's machine epsilon.
    """

    steps: int = 5

    def __post_init__(self):
        super().__post_init__()
        check_iteration(self.steps, self.eps)

    def scalar_map(self, s):
        return newton_schulz_scalar(s, self.steps)

    def matrix(self, c_state: Tensor) -> Tensor:
        return newton_schulz(c_state, self.steps, self.eps)


Read = RawRead | FilterRead


def _read(matrix: Tensor, q: Tensor) -> Tensor:
    return (q[..., None, :] @ matrix)[..., 0, :]


@lru_cache(maxsize=256)
def _coefficients(read: FilterRead, tolerance: float) -> tuple[float, ...]:
    return odd_chebyshev(read.scalar_map, tolerance)


def read_settings(read: Read) -> dict:
    """A read as plain data, for run records: its class's name under "name", and its settings."""
    return {"name": type(read).__name__, **asdict(read)}


def read_from_settings(settings: dict) -> Read:
    """The read that `read_settings` described; ValueError if there is no such read or setting."""
    settings = dict(settings)
    name = settings.pop("name", None)
    kinds = {kind.__name__: kind for kind in (RawRead, *_subclasses(FilterRead))}
    if name not in kinds:
        raise ValueError(f"read: there is no {name!r}, only {', '.join(sorted(kinds))}")
    unknown = settings.keys() - {f.name for f in fields(kinds[name])}
    if unknown:
        raise ValueError(f"read: {name} has no setting {', '.join(sorted(unknown))}")
    return kinds[name](**settings)


def _subclasses(kind: type) -> list[type]:
    direct = kind.__subclasses__()
    return direct + [below for child in direct for below in _subclasses(child)]
