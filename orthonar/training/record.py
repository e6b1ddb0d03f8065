"""What is known about one run: its settings, what it measured, and where it ran; and what tells it from others."""

import hashlib
import json
from dataclasses import asdict, dataclass, field

from ..mlstm.layer import small_init_std

#: Version of the record's layout; a change of meaning raises it.
SCHEMA = 1

#: Final accuracy at the scored positions from which a run counts as solved.
SOLVED_AT = 0.8

#: Settings that say where a run was computed or what it was asked on the way, not what it is: they are recorded, but do
#: not tell runs apart.
_NOT_IDENTIFYING = ("device", "engine", "probes")


@dataclass(frozen=True)
class Evaluation:
    """One line of a run's trace.

    Args:
        step: training steps done.
        accuracy: share of the validation set's scored positions that are right; None if the loss is not finite.
        loss: mean cross-entropy at the scored positions of the validation set, in nats; None likewise.
        train_loss: mean training loss since the line before, over all positions, in nats; None likewise.
        seconds: wall time since the run began.
        probes: what else was asked of the model, by name, see `orthonar.training.probes`; None if nothing was.
    """

    step: int
    accuracy: float | None
    loss: float | None
    train_loss: float | None
    seconds: float
    probes: dict[str, float] | None = None

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"step {self.step:5d}: the loss is not finite ({self.seconds:.0f} s)"
        losses = f"loss {self.loss:.3f}, training loss {self.train_loss:.3f}"
        return f"step {self.step:5d}: accuracy {100 * self.accuracy:5.1f} %, {losses} ({self.seconds:.0f} s)"


@dataclass(frozen=True)
class RunRecord:
    """All that is known about one run.

    Args:
        settings: every setting of the run, resolved, as plain data.
        trace: its evaluations, in order.
        outcome: "solved" (final accuracy at least 0.8), "plateau" (less) or "diverged" (a loss was not finite).
        wall_seconds: duration of training and evaluation, set-up excluded.
        device: name of the device that it ran on.
        versions: Python, torch, numpy and orthonar.
        revision: source revision of the code, with "+changes" if tracked code differed from it; None if unknown.
        started: UTC time, ISO 8601.
        schema: version of this layout.
    """

    settings: dict
    trace: list[Evaluation]
    outcome: str
    wall_seconds: float
    device: str
    versions: dict[str, str]
    revision: str | None
    started: str
    schema: int = field(default=SCHEMA)

    @property
    def accuracy(self) -> float | None:
        """Accuracy of the last evaluation, None where the run diverged."""
        return self.trace[-1].accuracy if self.trace else None

    @property
    def escape_step(self) -> int | None:
        """Step of the first evaluation with an accuracy of at least 0.8, step 1 excluded; None without one."""
        reached = (e.step for e in self.trace if e.step > 1 and e.accuracy is not None and e.accuracy >= SOLVED_AT)
        return next(reached, None)

    @property
    def identity(self) -> str:
        """What tells this run from others, see `identity`."""
        return identity(self.settings)

    def to_json(self) -> str:
        """One line of JSON, without the line end."""
        return json.dumps(asdict(self), allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """The record of a line; ValueError if it is damaged or of a newer layout."""
        try:
            content = json.loads(line)
            if content["schema"] > SCHEMA:
                raise ValueError(f"schema {content['schema']} is newer than {SCHEMA}")
            trace = [Evaluation(**e) for e in content.pop("trace")]
            return cls(trace=trace, **content)
        except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"not a run record: {error!r}") from None


def _implied(settings: dict) -> dict:
    """Settings that older records do not have, with the value that was theirs."""
    implied = {
        "task": "NoisyRecall",
        "model": "ModelConfig",
        "mixer": "MLSTM",
        "optimizer": "AdamW",
        "frozen_keys": False,
        "orthogonal_keys": False,
        "qk_lr_factor": 1.0,
        "probes": False,
        # Before it was a setting, the embedding was drawn as small as the layer's projections.
        "embedding_std": small_init_std(settings["embedding_dim"]),
    }
    if settings.get("mixer", "MLSTM") == "MLSTM":
        implied |= {
            "write": {"name": "AdditiveWrite"},
            "proj_factor": 2.0,
            "conv_kernel_size": 4,
            "qkv_block_size": 4,
            "precision": "float32",
        }
    return implied


def complete_settings(settings: dict) -> dict:
    """A record's settings, with what older ones do not have at the value that was theirs.

    Args:
        settings: as they stand in a record.
    """
    complete = _implied(settings) | settings
    if "eval_batches" in complete:  # of the size of training batches
        complete["validation_sequences"] = complete.pop("eval_batches") * complete["batch_size"]
    return complete


def identifying_settings(settings: dict) -> dict:
    """The settings that tell runs apart: not where it was computed, nor what older records do not have but imply."""
    implied, settings = _implied(settings), dict(settings)
    sequences = settings.get("validation_sequences")
    if sequences is not None and sequences % settings["batch_size"] == 0:  # as in older records
        settings["eval_batches"] = settings.pop("validation_sequences") // settings["batch_size"]
    return {
        name: value
        for name, value in settings.items()
        if name not in _NOT_IDENTIFYING and not (name in implied and value == implied[name])
    }


def identity(settings: dict) -> str:
    """A short hash of the settings that tell runs apart."""
    return hashlib.sha256(json.dumps(identifying_settings(settings), sort_keys=True).encode()).hexdigest()[:16]
