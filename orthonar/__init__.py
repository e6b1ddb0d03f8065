"""orthonar: the mLSTM with an orthogonalized read, its task, and the experiments that compare them."""

from .composites import BlendRead, StraightThroughRead
from .data import NoisyRecall
from .filters import MuonRead, PolarRead, RidgeRead
from .mesa import MesaRead
from .mlstm import MLSTMState, mlstm_sequence
from .model import MLSTMConfig, MLSTMModel
from .newton_schulz import newton_schulz
from .reads import NewtonSchulzRead, RawRead
from .records import RunRecord
from .train import RunConfig, evaluate, train
from .writes import AdditiveWrite, DeltaWrite, WriteBack

__version__ = "0.1.0"
__all__ = [
    "AdditiveWrite",
    "BlendRead",
    "DeltaWrite",
    "MLSTMConfig",
    "MLSTMModel",
    "MLSTMState",
    "MesaRead",
    "MuonRead",
    "NewtonSchulzRead",
    "NoisyRecall",
    "PolarRead",
    "RawRead",
    "RidgeRead",
    "RunConfig",
    "RunRecord",
    "StraightThroughRead",
    "WriteBack",
    "evaluate",
    "mlstm_sequence",
    "newton_schulz",
    "train",
]
