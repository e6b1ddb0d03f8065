"""orthonar: the mLSTM with an orthogonalized read, its task, and the experiments that compare them."""

from .data.key_door import KeyDoor
from .data.mqar import MQAR
from .data.noisy_recall import NoisyRecall
from .mixers.attention import Attention
from .mlstm.cell import MLSTMState, mlstm_sequence
from .mlstm.layer import MLSTM, LayerState, MLSTMLayer
from .mlstm.writes import AdditiveWrite, DeltaWrite, FullDeltaWrite, WriteBack
from .model import MLSTMConfig, MLSTMModel, ModelConfig, SequenceModel
from .reads.base import RawRead
from .reads.composites import BlendRead, MatrixStraightThroughRead, StraightThroughRead
from .reads.filters import MuonRead, PolarRead, RidgeRead
from .reads.low_degree import ShortMuonRead, ShortNewtonSchulzRead, SteepRead
from .reads.mesa import MesaRead
from .reads.newton_schulz import NewtonSchulzRead, newton_schulz
from .reads.rls import RLSRead
from .reads.singular_values import orthogonal_blocks
from .training.anneals import FixedAnneal, GatedAnneal
from .training.config import RunConfig
from .training.evaluation import evaluate
from .training.optimizers import AdamW, Muon
from .training.record import RunRecord
from .training.schedules import Constant, Cosine, LongCosine, WarmUp
from .training.train import train
from .version import VERSION

__version__ = VERSION
__all__ = [
    "AdamW",
    "AdditiveWrite",
    "Attention",
    "BlendRead",
    "Constant",
    "Cosine",
    "DeltaWrite",
    "FixedAnneal",
    "FullDeltaWrite",
    "GatedAnneal",
    "KeyDoor",
    "LayerState",
    "LongCosine",
    "MLSTM",
    "MLSTMConfig",
    "MLSTMLayer",
    "MLSTMModel",
    "MLSTMState",
    "MQAR",
    "MatrixStraightThroughRead",
    "MesaRead",
    "ModelConfig",
    "Muon",
    "MuonRead",
    "NewtonSchulzRead",
    "NoisyRecall",
    "PolarRead",
    "RLSRead",
    "RawRead",
    "RidgeRead",
    "RunConfig",
    "RunRecord",
    "SequenceModel",
    "ShortMuonRead",
    "ShortNewtonSchulzRead",
    "SteepRead",
    "StraightThroughRead",
    "WarmUp",
    "WriteBack",
    "evaluate",
    "mlstm_sequence",
    "newton_schulz",
    "orthogonal_blocks",
    "train",
]
