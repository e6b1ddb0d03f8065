"""Reads that map the singular values of the memory: a filter, from its map f alone to the chunks that it reads.

A filter is the leaf y = g(A) z with A = X^T X, z = X^T q and X = C / max(||C||_F, eps): f(s) = s g(s^2). Here are the
kind, the check of a map, and what is computed of it once and kept; the files beside this one hold the maps.
"""

import json
import math
from abc import abstractmethod
from dataclasses import KW_ONLY, fields
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from ..engine.chunk import Chunk, Reading
from ..engine.chunk_filter import filtered_reading, filtered_vector
from ..engine.keys import LEAST_EPS, MOST_EPS
from ..engine.looking import called_while_traced, computed_apart, extremes, has_numbers
from ..settings import number, settings, variant_settings
from .base import LeafRead
from .chebyshev import odd_chebyshev
from .singular_values import map_singular_values

# What float32 rounding is multiplied by: that of X^T q by the gain g = f(s) / s, that of A by s |g'(s^2)|. Up to here
# (eight Newton-Schulz steps: 26 and 111) errors stay within 2e-5 on all inputs tried.
_LARGEST_GAIN, _MOST_SENSITIVE = 30.0, 120.0


@settings
class FilterRead(LeafRead):
    """A read g(A) z, with A = X^T X, z = X^T q and X = C / max(||C||_F, eps).

    The function f(s) = s g(s^2) says what the read does to the singular values s of X; a subclass gives it as
    `scalar_map` and need give no more. One that gives `matrix` too gives the same map in another way, as an oracle;
    what is no map of singular values derives from `LeafRead`. What a class has inherited of another map, its `matrix`
    or `coefficients`, goes with the `scalar_map` that it gives in that one's place.

    Args:
        eps: smallest Frobenius norm divided by.
        tolerance: largest error of the series for f on [0, 1]; None is 4 times the machine epsilon of the tensors'
            dtype, less than the rounding of the plain form.

    Raises:
        ValueError: a setting is or holds a tensor or a module: what is computed once of the settings learns nothing.
    """

    _: KW_ONLY
    eps: float = number(1e-6, least=LEAST_EPS, most=MOST_EPS)
    tolerance: float | None = number(None, above=0, below=1, optional=True)

    def __init_subclass__(cls, **options):
        super().__init_subclass__(**options)
        if "scalar_map" in vars(cls):
            for name in {"matrix", "coefficients"} - vars(cls).keys():
                setattr(cls, name, getattr(FilterRead, name))

    def __post_init__(self):
        super().__post_init__()
        for field in fields(self):
            value = getattr(self, field.name)
            if any(isinstance(held, Tensor | nn.Module) for held in (value if isinstance(value, tuple) else [value])):
                raise ValueError(
                    f"{field.name} must be a constant, not {type(value).__name__}: a filter's series is computed once "
                    "and learns nothing"
                )
        object.__setattr__(self, "_as_text", _as_text(self))

    @property
    def traceable(self) -> bool:  # type: ignore[override]  # its settings', not its class's
        """Whether its settings, as text, are constants that a graph can be made for."""
        return self._as_text is not None

    @abstractmethod
    def scalar_map(self, s: Tensor) -> Tensor:
        """f(s), element by element, by PyTorch's operators; odd and smooth, or it is refused before anything is read.

        Args:
            s: singular values of X, in [-1, 1], float64, of any shape.

        Returns:
            float64, of the same shape.
        """

    def check(self) -> None:
        self.coefficients(torch.float32)

    def matrix(self, memory: Tensor) -> Tensor:
        """U f(S) V^T for X = U S V^T, (..., DH, DH), in float64 inside."""
        return map_singular_values(self.normalised(memory.double()), self.scalar_map).to(memory.dtype)

    def products(self, dtype: torch.dtype) -> int:
        """How many products with A = X^T X the read takes: the degree of its series.

        Args:
            dtype: of the queries, which the error of the series follows if `tolerance` is None.
        """
        return len(self.coefficients(dtype)) - 1

    def normalised(self, c_state: Tensor) -> Tensor:
        """X = C / max(||C||_F, eps)."""
        return normalised(c_state, self.eps)

    def vector(self, memory: Tensor, q: Tensor) -> Tensor:
        """The read for memories (..., DH, DH) and queries (..., DH): A once, then one row times A a degree."""
        dtype, c, _ = self._prepared(q.dtype)
        x = self.normalised(memory.to(dtype))
        return filtered_vector(x, q.to(dtype), c).to(q.dtype)

    def read_chunk(self, chunk: Chunk) -> Reading:
        """The reading by the Chebyshev series, no memory formed but where writes cancel.

        There it is of memories formed anew in float64: by `matrix` with PyTorch's operators, by the same series in
        compiled kernels and graphs.
        """
        dtype = chunk.q.dtype
        working_dtype, coefficients, eps = self._prepared(dtype)
        chunk = chunk.to(working_dtype)
        numerator, n_dot_q = filtered_reading(chunk, coefficients, eps, self.read_plainly)
        return Reading(numerator.to(dtype), n_dot_q)

    def _prepared(self, dtype: torch.dtype) -> tuple[torch.dtype, tuple[float, ...], float]:
        """The working dtype and the coefficients for queries of a dtype, and eps."""
        if torch.compiler.is_dynamo_compiling():  # to which neither an object nor its numbers are constants
            return _prepared_of(type(self), self._as_text, dtype)
        return self.working_dtype(dtype), self.coefficients(dtype), self.eps

    def working_dtype(self, dtype: torch.dtype) -> torch.dtype:
        """What the read computes in.

        Args:
            dtype: of the queries.

        Returns:
            The same, or float64 for maps so steep that they magnify float32 rounding too much.
        """
        return torch.float64 if _magnifies_rounding(self) else dtype

    def coefficients(self, dtype: torch.dtype) -> tuple[float, ...]:
        """Coefficients of g in the Chebyshev polynomials of the third kind (`orthonar.reads.chebyshev`).

        Args:
            dtype: of the queries, which the error of the series follows if `tolerance` is None.

        Returns:
            From degree 0 up, one more than the degree of the series.

        Raises:
            ValueError: the map is not odd, not a number somewhere, or not smooth enough for a series of that error.
        """
        return _coefficients(self, 4 * torch.finfo(dtype).eps if self.tolerance is None else self.tolerance)


def normalised(x: Tensor, eps: float) -> Tensor:
    """x / max(||x||_F, eps), also where the norm overflows the dtype; differentiable as often as wanted, also at 0.

    Args:
        x: matrices, (..., M, N), of any floating dtype.
        eps: smallest norm divided by.

    Returns:
        (..., M, N).
    """
    if has_numbers(x):
        norm = torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True)
        found = extremes(norm)
        if found is not None and 0 < found[0] and found[1] < torch.finfo(x.dtype).max ** 0.5 / 1e4:
            return x / norm.clamp_min(eps)
    with torch.no_grad():
        size = x.abs().amax((-2, -1), keepdim=True)
        # Powers of two, so that nothing is rounded: the largest entry, or eps, comes to lie between 2 and 4.
        _, exponent = torch.frexp(size.clamp_min(eps))
        most = math.frexp(torch.finfo(x.dtype).max)[1] - 2
        scale = torch.ldexp(torch.ones_like(exponent, dtype=x.dtype), (2 - exponent).clamp_max(most))
        smallest = eps * scale
        small = size * math.sqrt(x.shape[-2] * x.shape[-1]) <= eps
    x = x * scale
    # Of what is certainly below eps no norm is taken: at 0 it has no second derivative.
    norm = torch.linalg.vector_norm(x.masked_fill(small, 1), dim=(-2, -1), keepdim=True)
    return x / torch.where(small, smallest, norm.maximum(smallest))


@called_while_traced
def _prepared_of(
    kind: type[FilterRead], as_text: str, dtype: torch.dtype
) -> tuple[torch.dtype, tuple[float, ...], float]:
    return kind(**_from_text(as_text))._prepared(dtype)


def _as_text(read: FilterRead) -> str | None:
    """Settings as JSON, of which `_from_text` makes the same ones; None where JSON has no words for one, a function."""
    settings = {field.name: field for field in fields(read)}
    values = variant_settings(read)
    try:
        text = json.dumps({name: values[name] for name in settings})
        again = _from_text(text)
        for name, field in settings.items():
            if (plain := field.metadata.get("plain")) is not None:
                again[name] = plain(name, again[name])
    except (TypeError, ValueError):
        return None
    # Their texts tell types apart that equal each other: 1 and True, a tuple and a named one.
    return text if all(repr(again[name]) == repr(getattr(read, name)) for name in settings) else None


def _from_text(as_text: str) -> dict[str, Any]:
    return {name: _with_tuples(value) for name, value in json.loads(as_text).items()}


def _with_tuples(value: Any) -> Any:
    """A setting as it was before it was written as JSON, which has lists alone."""
    return tuple(map(_with_tuples, value)) if isinstance(value, list) else value


@lru_cache(maxsize=256)
def _magnifies_rounding(read: FilterRead) -> bool:
    def magnifies() -> bool:
        _check_map(read)
        s = torch.linspace(0, 1, 4097, dtype=torch.float64, device="cpu")[1:]
        gain = read.scalar_map(s) / s
        sensitivity = gain.diff() / s.diff() / 2
        return gain.abs().max().item() > _LARGEST_GAIN or sensitivity.abs().max().item() > _MOST_SENSITIVE

    return computed_apart(magnifies)


@lru_cache(maxsize=256)
def _coefficients(read: FilterRead, tolerance: float) -> tuple[float, ...]:
    def made() -> tuple[float, ...]:
        _check_map(read)
        try:
            return odd_chebyshev(lambda s: read.scalar_map(torch.from_numpy(s)).numpy(), tolerance)
        except ValueError as error:
            raise ValueError(f"read: the map of {read} is not smooth enough: {error}") from None

    return computed_apart(made)


def _check_map(read: FilterRead) -> None:
    """Raise a ValueError if a map is not what a filter can be made of: its even part would be lost without a word."""
    s = torch.linspace(-1, 1, 65, dtype=torch.float64, device="cpu")
    values = read.scalar_map(s)
    of = f"read: the map of {read}"
    if not isinstance(values, Tensor) or values.shape != s.shape or values.dtype != s.dtype:
        got = f"{values.dtype} {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(f"{of} must give float64 of its argument's shape, not {got}")
    if not values.isfinite().all():
        raise ValueError(f"{of} is not a finite number at {s[~values.isfinite()][0].item():g}")
    if (values + values.flip(0)).abs().max() > 1e-9 * values.abs().max().clamp_min(1):
        raise ValueError(f"{of} must be odd, f(-s) = -f(s)")
    with torch.enable_grad():
        s.requires_grad_()
        try:
            torch.autograd.grad(read.scalar_map(s).sum(), s)
        except RuntimeError as error:
            raise ValueError(f"{of} must have a derivative, of PyTorch's operators alone: {error}") from None
