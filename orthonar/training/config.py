"""Every setting of a run, checked before anything is computed."""

import dataclasses
import difflib
import functools
import inspect
import math
from dataclasses import dataclass, field

import torch

from ..data.noisy_recall import NoisyRecall
from ..mlstm.writes import AdditiveWrite, Write, write_from_settings, write_settings
from ..model import MLSTMConfig
from ..reads.base import RawRead, Read, read_from_settings, read_settings
from ..settings import checked_integer
from .record import complete_settings, identity


def _unknown_settings_are_value_errors(kind: type) -> type:
    """Make a dataclass answer a misspelt setting with a ValueError that names it and the nearest one there is."""
    construct = kind.__init__
    names = [f.name for f in dataclasses.fields(kind)]

    @functools.wraps(construct)
    def init(self, **settings):
        for name in settings:
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                raise ValueError(f"{name} is no setting of {kind.__name__}" + (f": {near[0]}?" if near else ""))
        construct(self, **settings)

    init.__signature__ = inspect.signature(construct)
    kind.__init__ = init
    return kind


@_unknown_settings_are_value_errors
@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Every setting of a run; the defaults are the study's smallest cell.

    Args:
        read: how the memory is read; the one setting in which baseline and orthogonalized runs differ.
        write: how it is written.
        vocab_size: tokens of the task, and of the model.
        seq_len: tokens in a sequence, even.
        noise_vocab_size: how many of the tokens are distractors.
        frac_noise: share of the pairs that are noise.
        multi_query: whether every repeated key is scored, or only the last.
        embedding_dim: width of the model.
        num_heads: heads of its memory.
        embedding_std: standard deviation of its initial embedding, see `orthonar.MLSTMConfig`.
        steps: training steps.
        batch_size: sequences in a batch, in training and validation.
        lr: peak learning rate.
        schedule: "cosine" (from lr to 0 over the run) or "constant".
        weight_decay: AdamW's, as a share of the learning rate.
        beta1, beta2: AdamW's decay rates.
        grad_clip: largest norm of the gradient.
        qk_lr_factor: learning rate of the query and key projections over that of all else.
        frozen_keys: whether the key projection stays at its random initial weights; what it projects still learns.
        eval_every: training steps between evaluations; the last step is always evaluated.
        eval_batches: batches in the validation set.
        probes: whether each evaluation asks for the `dynamics` of `orthonar.training.probes`, and the last one also for
            its `contents` and the accuracy under other reads; training itself comes out the same.
        seed: of the initial weights, the training data and, plus 10,000, the validation set.
        form: form of the cell, see `orthonar.mlstm_sequence`.
        precision: of the products in the fused programs, see `orthonar.mlstm_sequence`.
        device: where to run, such as "cpu" or "cuda"; whether this machine has it is seen when training begins.
        engine: "eager" (operator by operator), "graph" (a captured CUDA graph, replayed) or "auto", which takes a graph
            on CUDA devices, save where a read looks at its results on the way.

    Raises:
        ValueError: naming the setting that is unknown or impossible.
    """

    read: Read = field(default_factory=RawRead)
    write: Write = field(default_factory=AdditiveWrite)
    vocab_size: int = 80
    seq_len: int = 512
    noise_vocab_size: int = 16
    frac_noise: float = 0.8
    multi_query: bool = True
    embedding_dim: int = 94
    num_heads: int = 4
    embedding_std: float = 1.0
    steps: int = 2000
    batch_size: int = 64
    lr: float = 3e-3
    schedule: str = "cosine"
    weight_decay: float = 0.01
    beta1: float = 0.9
    beta2: float = 0.999
    grad_clip: float = 1.0
    qk_lr_factor: float = 1.0
    frozen_keys: bool = False
    eval_every: int = 200
    eval_batches: int = 16
    probes: bool = False
    seed: int = 0
    form: str = "chunkwise"
    precision: str = "float32"
    device: str = "cpu"
    engine: str = "auto"

    def __post_init__(self):
        for name, least in (("steps", 1), ("batch_size", 1), ("eval_every", 1), ("eval_batches", 1), ("seed", 0)):
            object.__setattr__(self, name, checked_integer(name, getattr(self, name), least))
        for name, low, high in (
            ("lr", 0, math.inf), ("grad_clip", 0, math.inf), ("qk_lr_factor", 0, math.inf),
            ("weight_decay", -1e-300, math.inf), ("beta1", -1e-300, 1), ("beta2", -1e-300, 1),
        ):  # fmt: skip
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low < value < high:
                raise ValueError(f"{name} must be a number between {max(low, 0)} and {high}, not {value!r}")
        for name in ("frozen_keys", "probes"):
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be True or False, not {getattr(self, name)!r}")
        if self.probes and self.batch_size < 4:
            raise ValueError(f"batch_size must be at least 4 with probes, not {self.batch_size}")
        if self.schedule not in ("cosine", "constant"):
            raise ValueError(f"schedule must be 'cosine' or 'constant', not {self.schedule!r}")
        # These two check the settings of the task and of the model.
        _, model = self.task, self.model
        object.__setattr__(self, "embedding_std", model.embedding_std)
        device = _device(self.device)
        if self.engine not in ("auto", "eager", "graph"):
            raise ValueError(f"engine must be 'auto', 'eager' or 'graph', not {self.engine!r}")
        if self.engine == "graph" and device.type != "cuda":
            raise ValueError(f"engine: 'graph' needs a CUDA device, not {self.device!r}")

    @property
    def task(self) -> NoisyRecall:
        """The task that these settings describe."""
        return NoisyRecall(self.vocab_size, self.seq_len, self.noise_vocab_size, self.frac_noise, self.multi_query)

    @property
    def model(self) -> MLSTMConfig:
        """The model that these settings describe."""
        return MLSTMConfig(
            vocab_size=self.vocab_size, embedding_dim=self.embedding_dim, num_heads=self.num_heads,
            embedding_std=self.embedding_std, read=self.read, write=self.write,
            form=self.form, precision=self.precision,
        )  # fmt: skip

    def settings(self) -> dict:
        """All settings as plain data, as they stand in a run record."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return plain | {"read": read_settings(self.read), "write": write_settings(self.write)}

    @property
    def identity(self) -> str:
        """What tells this run from others, the same as its record's."""
        return identity(self.settings())

    @classmethod
    def from_settings(cls, settings: dict) -> "RunConfig":
        """The configuration that `settings` described; what older records leave out is as it was for them."""
        settings = complete_settings(settings)
        variants = {"read": read_from_settings(settings["read"]), "write": write_from_settings(settings["write"])}
        return cls(**settings | variants)


def _device(name: str) -> torch.device:
    """A device by its name, which need not be one of this machine."""
    try:
        return torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device: {name!r} is none ({_first_line(error)})") from None


def usable_device(name: str) -> torch.device:
    """A device of this machine by its name; for when training begins, since settings are made and read anywhere.

    Raises:
        ValueError: it cannot be used here.
    """
    device = _device(name)
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {name!r} cannot be used here ({_first_line(error)})") from None
    return device


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
