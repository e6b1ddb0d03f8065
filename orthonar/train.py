"""One training run of the study's recipe, from its settings to its record."""

import dataclasses
import difflib
import functools
import inspect
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from .checks import checked_integer
from .data import NoisyRecall
from .model import MLSTMConfig, MLSTMModel
from .probes import contents, dynamics, with_read
from .reads import NewtonSchulzRead, RawRead, Read, read_from_settings, read_settings
from .records import SOLVED_AT, Evaluation, RunRecord, complete_settings, device_name, identity, revision, versions
from .training_step import generator, make_training_step
from .writes import AdditiveWrite, Write, write_from_settings, write_settings

#: Reads that a run with probes is evaluated under too, beside its own, by the names that stand in its trace.
SWAPS = {"accuracy_read_raw": RawRead(), "accuracy_read_orthogonalized": NewtonSchulzRead(steps=5)}


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
        probes: whether each evaluation asks for `orthonar.probes.dynamics`, and the last for `orthonar.probes.contents`
            and the accuracy under other reads too; training itself comes out the same.
        seed: of the initial weights, the training data and, plus 10,000, the validation set.
        form: form of the cell, see `orthonar.mlstm_sequence`.
        precision: of the products in the fused programs, see `orthonar.mlstm_sequence`.
        device: where to run, such as "cpu" or "cuda".
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
        _check_device(self.device)
        if self.engine not in ("auto", "eager", "graph"):
            raise ValueError(f"engine must be 'auto', 'eager' or 'graph', not {self.engine!r}")
        if self.engine == "graph" and torch.device(self.device).type != "cuda":
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


def train(config: RunConfig, on_evaluation: Callable[[Evaluation], None] | None = None) -> RunRecord:
    """Train one model and return its run record.

    AdamW on the cross-entropy of all next tokens, a fresh batch each step, the gradient's norm clipped; evaluated on a
    fixed validation set at the scored positions. Two configurations that differ in the read alone start from the same
    weights and see the same batches. A loss that is not finite ends the run at the next evaluation, as diverged.

    Args:
        config: the settings.
        on_evaluation: called with each line of the trace as soon as it is known.

    Returns:
        RunRecord; the same for the same settings on the same processor, its times aside.
    """
    return train_together([config], None if on_evaluation is None else lambda _, line: on_evaluation(line))[0]


def train_together(
    configs: Sequence[RunConfig], on_evaluation: Callable[[RunConfig, Evaluation], None] | None = None
) -> list[RunRecord]:
    """Train several models in turns, a step each, and return their run records.

    Every run comes out as if it were alone. On a GPU each has a stream and a graph of its own: what one model leaves
    idle of the device, the others use. Their records' times are those of the company, and their device says so.

    Args:
        configs: the settings, all on one device.
        on_evaluation: called with a run's settings and each line of its trace as soon as it is known.

    Returns:
        Their records, in order.
    """
    return [record for record, _ in train_models(configs, on_evaluation)]


def train_models(
    configs: Sequence[RunConfig], on_evaluation: Callable[[RunConfig, Evaluation], None] | None = None
) -> list[tuple[RunRecord, MLSTMModel]]:
    """Do as `train_together`, and return the trained models beside their records."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    runs = fit_together(configs, on_evaluation)
    company = f", {len(configs)} runs at once" if len(configs) > 1 else ""
    trained = []
    for run in runs:
        final = run.trace[-1].accuracy
        record = RunRecord(
            settings=run.config.settings(),
            trace=run.trace,
            outcome="diverged" if final is None else "solved" if final >= SOLVED_AT else "plateau",
            wall_seconds=round(run.seconds, 3),
            device=device_name(torch.device(run.config.device)) + company,
            versions=versions(),
            revision=revision(),
            started=started,
        )
        trained.append((record, run.model))
    return trained


class Run:
    """One run on its way: a model in training and its trace so far.

    Args:
        config: the settings.
        on_evaluation: called with the settings and each line of the trace.
    """

    def __init__(self, config: RunConfig, on_evaluation: Callable[[RunConfig, Evaluation], None] | None = None):
        self.config, self._on_evaluation = config, on_evaluation
        device = torch.device(config.device)
        self._step = make_training_step(config, device)
        self._validation = config.task.validation_set(config.seed, config.eval_batches, config.batch_size, device)
        if config.probes:
            self._probe_draws = generator(config.seed, "probes", device)
        self.trace: list[Evaluation] = []
        self.seconds = 0.0
        self.finished = False
        self._since = 0

    @property
    def model(self) -> MLSTMModel:
        """The model, in whatever state it is."""
        return self._step.model

    def advance(self, begin: float) -> None:
        """Take one step, and evaluate if it is time; begin is the clock's time at which training began."""
        self._step.take()
        step = self._step.taken
        if step % self.config.eval_every == 0 or step == self.config.steps:
            with self._step.on_its_stream():
                self._evaluate(step, begin)

    def _evaluate(self, step: int, begin: float) -> None:
        train_loss = self._step.total.item() / (step - self._since)
        accuracy, loss = evaluate(self.model, self._validation)
        finite = math.isfinite(train_loss) and math.isfinite(loss)
        self.seconds = time.perf_counter() - begin
        numbers = (accuracy, loss, train_loss) if finite else (None, None, None)
        probes = self._probe(step == self.config.steps) if self.config.probes and finite else None
        self.trace.append(Evaluation(step, *numbers, round(self.seconds, 3), probes))
        if self._on_evaluation is not None:
            self._on_evaluation(self.config, self.trace[-1])
        self.finished = step == self.config.steps or not finite
        self._step.total.zero_()
        self._since = step

    def _probe(self, last: bool) -> dict[str, float]:
        task, tokens = self.config.task, self._validation[0][0]
        draws = self._probe_draws
        batches = [task.sample(self.config.batch_size, draws, draws.device) for _ in range(2)]
        probes = dynamics(self.model, tokens, batches)
        if last:
            probes |= contents(self.model, task, tokens)
            for name, read in SWAPS.items():
                probes[name] = evaluate(with_read(self.model, read), self._validation)[0]
        return probes


def fit_together(configs: Sequence[RunConfig], on_evaluation=None) -> list[Run]:
    """Train several models in turns; `train_together` is this with records of it."""
    runs = [Run(config, on_evaluation) for config in configs]
    begin = time.perf_counter()
    going = runs
    while going:
        for run in going:
            run.advance(begin)
        going = [run for run in going if not run.finished]
    return runs


@torch.no_grad()
def evaluate(model: MLSTMModel, batches: list[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Accuracy and mean cross-entropy (nats) at the scored positions of some batches.

    Args:
        model: the model.
        batches: pairs of tokens and targets (B, S), -100 where nothing is scored; see `NoisyRecall.validation_set`.

    Returns:
        (accuracy, loss), the mean over all scored positions.
    """
    right = loss = scored = 0
    for tokens, targets in batches:
        logits = model(tokens)
        here = targets != -100
        right = right + ((logits.argmax(-1) == targets) & here).sum()
        loss = loss + cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="sum").double()
        scored = scored + here.sum()
    return (right / scored).item(), (loss / scored).item()


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"device: {name!r} cannot be used here ({reason})") from None
