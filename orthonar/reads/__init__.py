"""Reads: what an mLSTM makes of its memory and a query. One kind of read a file."""

from .base import FilterRead, LeafRead, RawRead, Read
from .composites import BlendRead, CompositeRead, StraightThroughRead
from .filters import MuonRead, PolarRead, RidgeRead
from .mesa import MesaRead
from .newton_schulz import NewtonSchulzRead, newton_schulz

__all__ = [
    "BlendRead",
    "CompositeRead",
    "FilterRead",
    "LeafRead",
    "MesaRead",
    "MuonRead",
    "NewtonSchulzRead",
    "PolarRead",
    "RawRead",
    "Read",
    "RidgeRead",
    "StraightThroughRead",
    "newton_schulz",
]
