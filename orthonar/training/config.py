"""Every setting of a run, checked before anything is computed."""

import json
from dataclasses import replace

import torch

from ..data.base import Task
from ..data.noisy_recall import NoisyRecall
from ..mlstm.layer import MLSTM
from ..model import ModelConfig
from ..reads.base import RawRead
from ..settings import (
    Settings,
    check_names,
    choice,
    flag,
    flat_settings,
    integer,
    number,
    part,
    setting_names,
    settings,
)
from .anneals import Anneal, FixedAnneal, GatedAnneal, NoAnneal
from .decoding import LEAST_SEQUENCES
from .optimizers import AdamW, Optimizer
from .record import TAKEN_NAMES, RunRecord, complete_settings, identity, settings_fault
from .schedules import Constant, Cosine, Schedule

#: Batches of the study's validation set, each as large as a training batch.
_VALIDATION_BATCHES = 16


@settings
class RunConfig(Settings):
    """Every setting of a run; the defaults are the study's smallest cell.

    A setting of a part may be given in the part's place: `RunConfig(read=NewtonSchulzRead(), vocab_size=96, lr=1e-3)`.

    Args:
        task: what is learnt, such as `orthonar.NoisyRecall`.
        model: the model, `orthonar.ModelConfig`; its vocabulary is the task's.
        optimizer: `orthonar.AdamW`.
        schedule: `orthonar.Cosine` (from the peak rate to 0 over the run), "cosine" for short, or `Constant`.
        anneal: whether and when the read is taken down in the course of training, `orthonar.FixedAnneal` or
            `GatedAnneal`; "none" is the default.
        steps: training steps.
        batch_size: sequences in a batch.
        grad_clip: largest norm of the gradient.
        qk_lr_factor: learning rate of the query and key projections over that of all else.
        frozen_keys: whether the key projection stays at its random initial weights; what it projects still learns.
        orthogonal_keys: whether each block of the initial key projection is replaced by its polar factor, so that it
            only rotates; the follow-up's random keys are such ones, frozen.
        eval_every: training steps between evaluations; the last step is always evaluated.
        validation_sequences: size of the validation set; None is 16 training batches, the study's, of the batch size
            that it is built with: a copy with another batch size keeps it.
        probes: whether each evaluation asks for the `dynamics` of `orthonar.training.probes`, and the last one also
            the `questions` of `orthonar.training.evaluation`; training itself comes out the same.
        seed: of the initial weights, the training data and, plus 10,000, the validation set.
        device: where to run, such as "cpu" or "cuda"; whether this machine has it is seen when training begins.
        engine: "eager" (operator by operator), "graph" (a captured CUDA graph, replayed) or "auto", which takes a graph
            on CUDA devices, save where a read looks at its results on the way.

    Raises:
        ValueError: naming the setting that is unknown or impossible.
    """

    task: Task = part(NoisyRecall, Task)
    model: ModelConfig = part(ModelConfig, ModelConfig)
    optimizer: Optimizer = part(AdamW, Optimizer)
    schedule: Schedule = part(Cosine, Schedule)
    anneal: Anneal = part(NoAnneal, Anneal)
    steps: int = integer(2000, least=1)
    batch_size: int = integer(64, least=1)
    grad_clip: float = number(1.0, above=0)
    qk_lr_factor: float = number(1.0, above=0)
    frozen_keys: bool = flag(False)
    orthogonal_keys: bool = flag(False)
    eval_every: int = integer(200, least=1)
    validation_sequences: int = integer(None, least=1, optional=True)
    probes: bool = flag(False)
    seed: int = integer(0, least=0)
    device: str = "cpu"
    engine: str = choice("auto", ("auto", "eager", "graph"))  # type: ignore[misc]  # its default is not seen

    def __post_init__(self):
        super().__post_init__()
        for what, name in (("task", "vocab_size"), ("task", "seq_len"), ("optimizer", "lr")):
            if not hasattr(getattr(self, what), name):
                raise ValueError(f"{what}: {type(getattr(self, what)).__name__} must have {name}")
        check_names(self, shared=["vocab_size"])  # the task's is the model's
        if taken := TAKEN_NAMES.intersection(setting_names(self, {})):
            raise ValueError(
                f"{min(taken)}: no setting may be called so, which means something else in records and tables"
            )
        if isinstance(self.device, torch.device):
            object.__setattr__(self, "device", str(self.device))
        if not isinstance(self.device, str):
            raise ValueError(f"device must be a name such as 'cpu' or 'cuda', not {self.device!r}")
        if self.validation_sequences is None:
            object.__setattr__(self, "validation_sequences", _VALIDATION_BATCHES * self.batch_size)
        if self.model.vocab_size != self.task.vocab_size:
            object.__setattr__(self, "model", replace(self.model, vocab_size=self.task.vocab_size))
        if self.probes and self.validation_sequences < LEAST_SEQUENCES:
            least = f"at least {LEAST_SEQUENCES} with probes"
            raise ValueError(f"validation_sequences must be {least}, not {self.validation_sequences}")
        asked_of_memory = [name for name in ("probes", "orthogonal_keys") if getattr(self, name)]
        if asked_of_memory and not isinstance(self.model.mixer, MLSTM):
            raise ValueError(f"{asked_of_memory[0]}: only an mLSTM has what it asks for, not {self.model.mixer!r}")
        if self.probes and not isinstance(self.task, NoisyRecall):
            raise ValueError(f"probes: they ask for values of NoisyRecall, not of {self.task!r}")
        self._check_anneal()
        if _device(self.device).type != "cuda" and self.engine == "graph":
            raise ValueError(f"engine: 'graph' needs a CUDA device, not {self.device!r}")
        self._check_record()

    def _check_record(self) -> None:
        """Whether a record can hold the settings: else a run of a part of one's own is lost at its end."""
        if fault := settings_fault(self.settings()):
            raise ValueError(fault)
        for name, value in self.settings().items():
            try:
                read_back = json.loads(json.dumps(value, allow_nan=False))
            except (TypeError, ValueError):
                read_back = None
            if read_back != value:
                raise ValueError(f"{name}: {value!r} is no plain data, which a record could hold and give back")

    def _check_anneal(self) -> None:
        if self.anneal == NoAnneal():
            return
        read = getattr(self.model.mixer, "read", RawRead())
        if read == RawRead():
            raise ValueError(f"anneal: there is no read to take down in {self.model.mixer!r}")
        if isinstance(self.anneal, FixedAnneal) and self.anneal.anneal_to > self.steps:
            raise ValueError(f"anneal_to must be at most steps, {self.steps}, not {self.anneal.anneal_to}")
        if isinstance(self.anneal, GatedAnneal) and not isinstance(self.schedule, Constant):
            raise ValueError(f"anneal: a gated one extends the budget and needs a constant rate, not {self.schedule!r}")
        if self.engine == "graph":
            raise ValueError("engine: no graph can be captured of a read that is taken down")

    def settings(self) -> dict:
        """All settings as plain data, as they stand in a run record."""
        return flat_settings(self)

    @property
    def identity(self) -> str:
        """What tells this run from others, the same as its record's."""
        return identity(self.settings())

    @classmethod
    def from_settings(cls, settings: dict) -> "RunConfig":
        """The configuration that `settings` described.

        Args:
            settings: as plain data, of a record; what older ones leave out is as it was for them.

        Raises:
            ValueError: naming the setting that is unknown or impossible.
        """
        if not isinstance(settings, dict):
            raise ValueError(f"settings must be a dictionary, not {settings!r}")
        if fault := settings_fault(settings):
            raise ValueError(fault)
        return cls(**complete_settings(settings))

    @classmethod
    def of_record(cls, record: RunRecord, **changes) -> "RunConfig":
        """The configuration of a recorded run, on the CPU wherever it ran.

        Args:
            record: the run.
            changes: settings to take in the place of its own, as `RunConfig` takes them.
        """
        own = cls.from_settings(record.settings | {"device": "cpu", "engine": "auto"})
        return replace(own, **changes) if changes else own


def _device(name: str) -> torch.device:
    """A device by its name, which need not be one of this machine."""
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: {name!r} is none ({_first_line(error)})") from None


def usable_device(name: str) -> torch.device:
    """A device of this machine by its name; for when training begins, since settings are made and read anywhere.

    Args:
        name: as PyTorch names it, "cpu", "cuda" or "cuda:1".

    Raises:
        ValueError: it cannot be used here.
    """
    device = _device(name)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, ImportError) as error:  # a backend may be a package of its own
        raise ValueError(f"device: {name!r} cannot be used here ({_first_line(error)})") from None
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
