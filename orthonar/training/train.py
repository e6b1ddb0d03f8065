"""One training run of the study's recipe, from its settings to its record."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

from ..data.base import IGNORE_INDEX
from ..data.noisy_recall import NoisyRecall
from ..model import SequenceModel
from .config import RunConfig, usable_device
from .environment import device_name, revision, usual_defaults, versions
from .evaluation import evaluate, questions
from .probes import dynamics
from .record import Evaluation, RunRecord, outcome_of
from .step import generator, make_training_step


def train(config: RunConfig, on_evaluation: Callable[[Evaluation], None] | None = None) -> RunRecord:
    """Train one model and return its run record.

    The cross-entropy of the task's training targets, all next tokens in the study's, a fresh batch each step, the
    gradient's norm clipped; evaluated on a fixed validation set at the scored positions. Two configurations that differ
    in the read alone start from the same weights and see the same batches. A loss that is not finite ends the run at
    the next evaluation, as diverged.

    Args:
        config: the settings.
        on_evaluation: called with each line of the trace as soon as it is known.

    Returns:
        RunRecord; the same for the same settings on the same processor, its times aside.

    Raises:
        ValueError: config is not a `RunConfig`, its device cannot be used here, or on_evaluation cannot be called.
    """
    _check_config("config", config)
    _check_callable(on_evaluation)
    return train_together([config], None if on_evaluation is None else lambda _, line: on_evaluation(line))[0]


def _check_config(name: str, config: RunConfig) -> None:
    if not isinstance(config, RunConfig):
        hint = ": RunConfig(**settings) makes one" if isinstance(config, dict) else ""
        raise ValueError(f"{name} must be a RunConfig, not a {type(config).__name__}{hint}")


def _check_callable(on_evaluation) -> None:
    if on_evaluation is not None and not callable(on_evaluation):
        raise ValueError(f"on_evaluation must be a function, not {on_evaluation!r}")


def train_together(
    configs: Sequence[RunConfig], on_evaluation: Callable[[RunConfig, Evaluation], None] | None = None
) -> list[RunRecord]:
    """Train several models in turns, a step each, and return their run records.

    Every run comes out as if it were alone. On a GPU each has a stream and a graph of its own: what one model leaves
    idle of the device, the others use. Their records' times are those of all of them, and their device says how many.

    Args:
        configs: the settings, all on one device.
        on_evaluation: called with a run's settings and each line of its trace as soon as it is known.

    Returns:
        Their records, in order.
    """
    return [record for record, _ in train_models(configs, on_evaluation)]


def train_models(
    configs: Sequence[RunConfig], on_evaluation: Callable[[RunConfig, Evaluation], None] | None = None
) -> list[tuple[RunRecord, SequenceModel]]:
    """Do as `train_together`, with its arguments and errors, and return the trained models beside the records."""
    if not isinstance(configs, Sequence):
        raise ValueError(f"configs must be several RunConfig, not a {type(configs).__name__}")
    for config in configs:
        _check_config("configs", config)
    _check_callable(on_evaluation)
    started, source = datetime.now(UTC).isoformat(timespec="seconds"), revision()  # before the files can change
    runs = fit_together(configs, on_evaluation)
    others = f", {len(configs)} runs at once" if len(configs) > 1 else ""
    trained = []
    for run in runs:
        record = RunRecord(
            settings=run.config.settings(),
            trace=run.trace,
            outcome=outcome_of(run.trace[-1].accuracy),
            wall_seconds=round(run.seconds, 3),
            device=device_name(torch.device(run.config.device)) + others,
            versions=versions(),
            revision=source,
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
        device = usable_device(config.device)
        self._step = make_training_step(config, device)
        with self._step.on_its_stream():  # where they are used
            sizes = config.validation_sequences, config.batch_size
            self._validation = config.task.validation_set(config.seed, *sizes, device)
            if not any((targets != IGNORE_INDEX).any() for _, targets in self._validation):
                what = f"{config.validation_sequences} of {config.task!r} and seed {config.seed}"
                raise ValueError(f"validation_sequences: no position is scored in the {what}")
            self._probe_draws = generator(config.seed, "probes", device)
        self.trace: list[Evaluation] = []
        self.seconds = 0.0
        self.finished = False
        self._since = 0

    @property
    def _last_step(self) -> int:
        return self.config.anneal.last_step(self.config.steps, self._step.escaped_at)

    @property
    def model(self) -> SequenceModel:
        """The model, in whatever state it is."""
        return self._step.model

    def advance(self, begin: float) -> None:
        """Take one step, and evaluate if it is time; begin is the clock's time at which training began."""
        self._step.step()
        step = self._step.steps_done
        if step % self.config.eval_every == 0 or step in (self.config.steps, self._last_step):
            with self._step.on_its_stream():
                self._evaluate(step, begin)

    def _evaluate(self, step: int, begin: float) -> None:
        train_loss = self._step.loss_sum.item() / (step - self._since)
        accuracy, loss = evaluate(self.model, self._validation)
        finite = math.isfinite(train_loss) and math.isfinite(loss)
        self.seconds = time.perf_counter() - begin
        numbers = (accuracy, loss, train_loss) if finite else (None, None, None)
        line = Evaluation(step, *numbers, round(self.seconds, 3))
        self._step.escaped_at = self.config.anneal.escape([*self.trace, line])
        last = step == self._last_step
        probes = self._probe(last) if self.config.probes and finite else None
        self.trace.append(replace(line, probes=probes))
        if self._on_evaluation is not None:
            self._on_evaluation(self.config, self.trace[-1])
        self.finished = last or not finite
        self._step.loss_sum.zero_()
        self._since = step

    def _probe(self, last: bool) -> dict[str, float | None]:
        task, tokens = self.config.task, self._validation[0][0]
        draws = self._probe_draws
        batches = [task.sample(self.config.batch_size, draws, draws.device) for _ in range(2)]
        probes: dict[str, float | None] = {**dynamics(self.model, tokens, batches)}
        if last:
            assert isinstance(task, NoisyRecall)  # its settings saw to that
            probes |= questions(self.model, task, self._validation)
        return probes


@usual_defaults()
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
