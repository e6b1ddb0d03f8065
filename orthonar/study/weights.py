"""Final weights of recorded runs, in half the bytes: one file a run, named by the run's identity.

float16 keeps 11 bits of each weight: enough to ask a trained model anything that a notebook asks, at 155 KB for the
study's. A run trained again from its settings on the same processor gives the same weights: where they were lost,
`orthonar.study.rescue.adopt` takes them from there.
"""

import io
import os
from dataclasses import replace
from pathlib import Path

import torch

from ..model import SequenceModel
from ..training.anneals import final_model
from ..training.config import RunConfig
from ..training.record import RunRecord
from .jsonl import write_file
from .records import RunStore


def packed(model: SequenceModel) -> bytes:
    """A model's weights as the bytes of a file: float16, on no device.

    Args:
        model: any model.

    Raises:
        ValueError: a weight is too large for float16.
    """
    half = {name: weight.detach().cpu().half() for name, weight in model.state_dict().items()}
    if not all(weight.isfinite().all() for weight in half.values()):
        raise ValueError("weights: some are not finite in float16")
    file = io.BytesIO()
    torch.save(half, file)
    return file.getvalue()


def weights_path(folder: str | os.PathLike, record: RunRecord) -> Path:
    """Where a run's weights lie beside its record.

    Args:
        folder: the folder of the records.
        record: the run.
    """
    return Path(folder) / "weights" / f"{record.identity}.pt"


def save_weights(store: RunStore, record: RunRecord, content: bytes) -> bool:
    """Write a run's weights in one piece beside its record, before it or after.

    Of a run that is not recorded they replace what lies there, which is left of a training that ended before it was
    recorded. Of one that is recorded they replace what is missing or damaged, and only if the training came out as the
    recorded one, step by step to the last digit: of any other they would not be those of its record.

    Args:
        store: the records.
        record: the run, of the training that the weights are of.
        content: what `packed` made.

    Returns:
        Whether they were written.

    Raises:
        OSError: the file cannot be written; nothing is left of it.
    """
    path = weights_path(store.folder, record)
    with store.alone():
        recorded = store.find(record.identity)
        if recorded is not None and not (_same_training(recorded, record) and _is_lost(store.folder, record)):
            return False
        write_file(path, content)
        return True


def _same_training(one: RunRecord, other: RunRecord) -> bool:
    """Whether two records are of trainings that came out the same, and so with the same weights."""

    def course(record: RunRecord) -> list[tuple]:
        return [(e.step, e.accuracy, e.loss, e.train_loss) for e in record.trace]

    return one.identity == other.identity and course(one) == course(other)


def _is_lost(folder: Path, record: RunRecord) -> bool:
    """Whether a run's weights are missing or damaged; not if its settings cannot be made here, which says nothing."""
    try:
        trained_model(folder, record)
    except (FileNotFoundError, DamagedWeights):
        return True
    except (ValueError, ImportError):
        return False
    return False


class DamagedWeights(ValueError):
    """A file holds no weights of the run that it is named by."""


def trained_model(folder: str | os.PathLike, record: RunRecord) -> SequenceModel:
    """The model that a recorded run ended with, up to the rounding of its weights; float32, on any machine's CPU.

    Args:
        folder: the folder of the records.
        record: the run.

    Raises:
        FileNotFoundError: the run kept no weights.
        DamagedWeights: their file is damaged, or is another model's; a ValueError.
    """
    path = weights_path(folder, record)
    content = path.read_bytes()
    config = RunConfig.of_record(record)
    if config.form == "fused":  # the same function, which runs on GPUs alone
        config = replace(config, form="chunkwise")
    with torch.device("meta"):  # no weights are drawn
        model = SequenceModel(final_model(config.model, config.anneal, record.trace))
    try:
        half = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        model.load_state_dict({name: weight.float() for name, weight in half.items()}, assign=True)
    except Exception as error:  # whatever its unpickler trips over, and weights of another model
        what = f"weights: {path} is damaged ({type(error).__name__})"
        again = "train the run again into another folder and adopt its file, `python -m orthonar.sweep --adopt`"
        raise DamagedWeights(f"{what}; {again}") from None
    return model
