"""Reads: what an mLSTM makes of its memory and a query. One kind of read a file."""

from .base import LeafRead, RawRead, Read
from .composites import BlendRead, CompositeRead, MatrixStraightThroughRead, StraightThroughRead
from .filter_read import FilterRead
from .filters import MuonRead, PolarRead, RidgeRead
from .low_degree import ShortMuonRead, ShortNewtonSchulzRead, SteepRead
from .mesa import MesaRead
from .newton_schulz import NewtonSchulzRead, newton_schulz
from .rls import RLSRead

__all__ = [
    "BlendRead",
    "CompositeRead",
    "FilterRead",
    "LeafRead",
    "MatrixStraightThroughRead",
    "MesaRead",
    "MuonRead",
    "NewtonSchulzRead",
    "PolarRead",
    "RLSRead",
    "RawRead",
    "Read",
    "RidgeRead",
    "ShortMuonRead",
    "ShortNewtonSchulzRead",
    "SteepRead",
    "StraightThroughRead",
    "newton_schulz",
]
