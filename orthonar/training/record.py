"""What is known about one run: its settings, what it measured, and where it ran; and what tells it from others."""

import hashlib
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from ..mlstm.parts import small_init_std

#: Version of the record's layout; a change of meaning raises it.
SCHEMA = 1

#: Final accuracy at the scored positions from which a run counts as solved.
SOLVED_AT = 0.8

#: What a run may come to, each with what it says about the last evaluation's accuracy, None where a loss is not finite.
OUTCOMES = {
    "solved": lambda accuracy: accuracy is not None and accuracy >= SOLVED_AT,
    "plateau": lambda accuracy: accuracy is not None and accuracy < SOLVED_AT,
    "diverged": lambda accuracy: accuracy is None,
}


def outcome_of(accuracy: float | None) -> str:
    """What a run came to, one of `OUTCOMES`.

    Args:
        accuracy: of its last evaluation, 0 to 1; None where a loss was not finite.
    """
    return next(name for name, fits in OUTCOMES.items() if fits(accuracy))


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
        train_loss: mean training loss since the line before, over all training targets, in nats; None likewise.
        seconds: wall time since the run began.
        probes: what else was asked of the model, by name, see `orthonar.training.probes`; None if nothing was. A value
            that is not finite is null in a record.
    """

    step: int
    accuracy: float | None
    loss: float | None
    train_loss: float | None
    seconds: float
    probes: dict[str, float | None] | None = None

    def __str__(self) -> str:
        if self.accuracy is None:
            return f"step {self.step:5d}: the loss is not finite ({self.seconds:.0f} s)"
        losses = f"loss {self.loss:.3f}, training loss {self.train_loss:.3f}"
        return f"step {self.step:5d}: accuracy {100 * self.accuracy:5.1f} %, {losses} ({self.seconds:.0f} s)"


def first_reaching(trace: Sequence[Evaluation], level: float) -> int | None:
    """Step of the first evaluation with at least some accuracy, step 1 excluded; None without one.

    Args:
        trace: evaluations, in order.
        level: the accuracy, 0 to 1.
    """
    return next((e.step for e in trace if e.step > 1 and e.accuracy is not None and e.accuracy >= level), None)


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
        revision: source revision of the code, with "+changes" if a file of the package differed from it, new ones too;
            None if unknown.
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
        return first_reaching(self.trace, SOLVED_AT)

    @property
    def identity(self) -> str:
        """What tells this run from others, see `identity`."""
        return identity(self.settings)

    def to_json(self) -> str:
        """One line of JSON, without the line end; ValueError if a number other than a probe's is not finite."""
        content = asdict(self)
        for evaluation in content["trace"]:
            if evaluation["probes"] is not None:
                evaluation["probes"] = {k: v if _is_finite(v) else None for k, v in evaluation["probes"].items()}
        return json.dumps(content, allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "RunRecord":
        """The record of a line; ValueError if it is damaged, contradicts itself or is of a newer layout."""
        try:
            content = json.loads(line, parse_float=_finite, parse_constant=_finite)
            if content["schema"] > SCHEMA:
                raise ValueError(f"schema {content['schema']} is newer than {SCHEMA}")
            trace = [Evaluation(**e) for e in content.pop("trace")]
            record = cls(trace=trace, **content)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a run record: not JSON ({error})") from None
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"not a run record: {error!r}") from None
        if fault := _fault(record):
            raise ValueError(f"not a run record: {fault}")
        return record


def _finite(text: str) -> float:
    """A number of JSON; Python's parser alone would take NaN and 1e999 too."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"not a run record: {text} is no finite number")
    return value


def _is_finite(probe: float | None) -> bool:
    return probe is not None and math.isfinite(probe)  # None where the record was read from a file


def _is_number(value, low: float = 0, high: float = sys.float_info.max) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_integer(value, low: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value < 2**63


def _are_probes(probes) -> bool:
    return isinstance(probes, dict) and all(v is None or _is_number(v, -sys.float_info.max) for v in probes.values())


def _fault(record: RunRecord) -> str | None:
    """What no run can have left behind in this record, the first that is found; None if it may be one."""
    if not _is_integer(record.schema, 1):
        return f"schema is {record.schema!r}"
    return settings_fault(record.settings) or _trace_fault(record) or _origin_fault(record)


def settings_fault(settings: dict) -> str | None:
    """What a record refuses of settings as plain data, the first that is found; None if it can hold them.

    Those that tell what the run was must be there, no other is judged.

    Args:
        settings: as `orthonar.RunConfig.settings` returns them.
    """
    if not isinstance(settings, dict):
        return f"settings are {settings!r}"
    # The mLSTM has a read; other mixers need not, or mean something else by it, and the oldest records name no write.
    is_mlstm = settings.get("mixer", "MLSTM") == "MLSTM"
    if is_mlstm and "read" not in settings:
        return "settings: read is missing"
    for name in ("read", "write") if is_mlstm else ():
        variant = settings.get(name, {"name": ""})
        if not isinstance(variant, dict) or not isinstance(variant.get("name"), str):
            return f"settings: {name} is {variant!r}"
    for name, least in (("steps", 1), ("embedding_dim", 1), ("seed", 0)):
        if not _is_integer(settings.get(name), least):
            return f"settings: {name} is {settings.get(name)!r}"
    sizes = ("vocab_size", "seq_len", "batch_size", "validation_sequences", "eval_batches")
    for name in (*sizes, "num_heads") if is_mlstm else sizes:
        if name in settings and not _is_integer(settings[name], 1):
            return f"settings: {name} is {settings[name]!r}"
    if "batch_size" not in settings and not settings.keys().isdisjoint({"validation_sequences", "eval_batches"}):
        return "settings: batch_size is missing"
    if "lr" in settings and not (_is_number(settings["lr"]) and settings["lr"] > 0):
        return f"settings: lr is {settings['lr']!r}"
    if not isinstance(settings.get("device", ""), str):
        return f"settings: device is {settings['device']!r}"
    return None


def _most_steps(settings: dict) -> float:
    """Steps that a run may have taken: a gated anneal that begins at the last of them comes after.

    How far an anneal of one's own extends the budget is not known here.
    """
    anneal = settings.get("anneal", "none")
    if anneal not in ("none", "fixed", "gated"):
        return math.inf
    extra = [settings.get(name, 0) for name in ("dwell", "ramp")] if anneal == "gated" else []
    return settings["steps"] + sum(value for value in extra if _is_integer(value))


def _trace_fault(record: RunRecord) -> str | None:
    """What is wrong with the trace, or with the outcome as far as the trace tells it."""
    if not record.trace:
        return "the trace is empty"
    before, seconds, end = 0, 0.0, _most_steps(record.settings)
    for e in record.trace:
        if not _is_integer(e.step, 1) or not before < e.step <= end:
            return f"trace: step {e.step!r} after {before}, of {end}"
        if not _is_number(e.seconds, seconds):
            return f"trace: {e.seconds!r} seconds at step {e.step}, after {seconds}"
        for name in ("accuracy", "loss", "train_loss"):
            value = getattr(e, name)
            most = 1 if name == "accuracy" else sys.float_info.max
            if not (_is_number(value, high=most) or (value is None and e.accuracy is None)):
                return f"trace: {name} is {value!r} at step {e.step}"
        if e.accuracy is None and e is not record.trace[-1]:
            return f"trace: it goes on after step {e.step}, whose loss was not finite"
        if e.probes is not None and not _are_probes(e.probes):
            return f"trace: probes are {e.probes!r} at step {e.step}"
        before, seconds = e.step, e.seconds
    if not isinstance(record.outcome, str) or record.outcome not in OUTCOMES:
        return f"outcome is {record.outcome!r}, none of {', '.join(OUTCOMES)}"
    if not OUTCOMES[record.outcome](record.accuracy):
        return f"outcome is {record.outcome!r}, and the last accuracy {record.accuracy!r}"
    return None


def _origin_fault(record: RunRecord) -> str | None:
    """What is wrong with where and when it ran."""
    if not _is_number(record.wall_seconds):
        return f"wall_seconds is {record.wall_seconds!r}"
    if not isinstance(record.device, str) or not record.device:
        return f"device is {record.device!r}"
    versions = record.versions
    if not isinstance(versions, dict) or not versions or not all(isinstance(v, str) and v for v in versions.values()):
        return f"versions are {versions!r}"
    if not isinstance(record.revision, str | None):
        return f"revision is {record.revision!r}"
    try:
        datetime.fromisoformat(record.started)
    except (TypeError, ValueError):
        return f"started is {record.started!r}, no time in ISO 8601"
    return None


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
        "anneal": "none",
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


#: What tables call what came out of a run and where.
OUTCOME_COLUMNS = (
    "accuracy", "escape_step", "solved", "outcome", "wall_seconds",
    "device_name", "torch", "revision", "started", "identity",
)  # fmt: skip
#: Names that no setting of a run may have: those, and one that older records have for another.
TAKEN_NAMES = frozenset({*OUTCOME_COLUMNS, "eval_batches"})


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
