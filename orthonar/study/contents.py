"""What trained models answer when their kept weights are asked, after the fact: a file of its own beside the weights.

There are four things to ask, see `ASKINGS`. `MEMORY` is what a run with probes is asked at its end,
`orthonar.training.evaluation.questions`, and the numbers have the same names. The weights are rounded to float16, so
the last digits may differ.
"""

import json
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd
import torch

from ..data.noisy_recall import NoisyRecall
from ..mlstm.layer import MLSTM
from ..mlstm.writes import AdditiveWrite
from ..model import SequenceModel
from ..reads.base import RawRead
from ..training.anneals import NoAnneal, final_model
from ..training.config import RunConfig
from ..training.environment import revision, usual_defaults, versions
from ..training.evaluation import QUESTIONS, QUESTIONS_VERSION, evaluate, questions, recall_by_occurrences
from ..training.record import RunRecord
from ..training.streaming import recall_by_delay
from ..xlstm import StockModel
from .jsonl import Damage, append_line, read_lines
from .weights import trained_model, weights_path

#: Tokens between the last pair shown and the query, at which recall is asked for; pairs shown and sequences of them.
DELAYS, DELAYED_PAIRS, DELAYED_SEQUENCES = (10, 100, 1_000, 10_000, 100_000), 8, 8
#: Occurrences of a key up to which recall is told apart; the last stands for as many or more.
OCCURRENCES = range(1, 9)


@dataclass(frozen=True)
class Asking:
    """Something to ask kept weights.

    Args:
        name: how the file calls it.
        version: of what is asked; a change of meaning raises it.
        numbers: names of what comes out, all from 0 to 1.
        of: what works them out, from the model and its run's settings.
        needed: whether to ask the model of a run.
    """

    name: str
    version: int
    numbers: tuple[str, ...]
    of: Callable[[SequenceModel, RunConfig], dict[str, float]]
    needed: Callable[[RunRecord, RunConfig], bool]


def _validation_set(config: RunConfig) -> list:
    return config.task.validation_set(config.seed, config.validation_sequences, config.batch_size, "cpu")


def _task(config: RunConfig) -> NoisyRecall:
    assert isinstance(config.task, NoisyRecall)  # no other run is asked
    return config.task


def _memory(model: SequenceModel, config: RunConfig) -> dict[str, float]:
    return questions(model, _task(config), _validation_set(config))


def _occurrences(model: SequenceModel, config: RunConfig) -> dict[str, float]:
    counted = recall_by_occurrences(model, _task(config), _validation_set(config))
    everything, numbers = sum(line.scored for line in counted), {}
    for n in OCCURRENCES:
        here = [line for line in counted if line.occurrences == n or line.occurrences > n == OCCURRENCES[-1]]
        scored = sum(line.scored for line in here)
        numbers[f"share_{n}"] = scored / everything
        numbers[f"recall_{n}"] = sum(line.right for line in here) / scored if scored else math.nan
    return numbers


def _delays(model: SequenceModel, config: RunConfig) -> dict[str, float]:
    task = _task(config)
    sizes = {"pairs": min(DELAYED_PAIRS, len(task.keys)), "sequences": DELAYED_SEQUENCES}
    found = recall_by_delay(model, task, DELAYS, **sizes, seed=config.seed)
    return {f"delay_{line.delay}": line.accuracy for line in found}


@torch.no_grad()
def _stock(model: SequenceModel, config: RunConfig) -> dict[str, float]:
    batches = _validation_set(config)
    try:
        stock = StockModel(model.config, config.task.seq_len).eval()
    except ImportError as error:
        raise ValueError(str(error)) from None
    stock.load_state_dict(model.state_dict(), strict=True)
    model = model.eval()
    accuracies = {"accuracy_here": evaluate(model, batches)[0], "accuracy_stock": evaluate(stock, batches)[0]}
    # In float32 the two orders of rounding alone are up to 3e-5 apart, more than the two layers are.
    model, stock = model.double(), stock.double()
    logits = [(model(tokens), stock(tokens)) for tokens, _ in batches]
    apart = max(((ours - theirs).abs().max() / ours.abs().max()).item() for ours, theirs in logits)
    return accuracies | {"logits_apart": min(apart, 1.0)}


def _is_taken_down(record: RunRecord, config: RunConfig) -> bool:
    if config.anneal == NoAnneal():
        return False
    mixer = final_model(config.model, config.anneal, record.trace).mixer
    return isinstance(mixer, MLSTM) and mixer.read == RawRead() and mixer.write == AdditiveWrite()


def _recalls(record: RunRecord, config: RunConfig) -> bool:
    return isinstance(config.task, NoisyRecall)


#: What a run with probes is asked at its end.
MEMORY = Asking(
    "questions", QUESTIONS_VERSION, QUESTIONS, _memory,
    lambda record, config: (
        _recalls(record, config)
        and isinstance(config.model.mixer, MLSTM)
        and not set(QUESTIONS) <= set(record.trace[-1].probes or {})
    ),
)  # fmt: skip
#: Recall by how often a key was shown before it is asked for, `recall_by_occurrences`: share_n of the scored positions,
#: and recall_n among them.
SHOWINGS = Asking(
    "occurrences", 1, tuple(f"{name}_{n}" for n in OCCURRENCES for name in ("share", "recall")), _occurrences, _recalls
)
#: Recall after so many distractors, of solved runs whose state does not grow, `recall_by_delay`.
DELAYED = Asking(
    "delays", 1, tuple(f"delay_{delay}" for delay in DELAYS), _delays,
    lambda record, config: (
        _recalls(record, config)
        and record.outcome == "solved"
        and isinstance(config.model.mixer, MLSTM)
        and len(config.task.distractors) > 0
    ),
)  # fmt: skip
#: Of runs whose read was taken down to the raw one: accuracy on the validation set, here and in the package `xlstm`'s
#: own layer, and how far the logits are apart in float64, the largest difference as a share of the largest logit.
STOCK = Asking("stock", 2, ("accuracy_here", "accuracy_stock", "logits_apart"), _stock, _is_taken_down)
#: All of them, by name.
ASKINGS = {asking.name: asking for asking in (MEMORY, SHOWINGS, DELAYED, STOCK)}


@dataclass(frozen=True)
class Answer:
    """One line of the file: what a run's kept weights answered.

    Args:
        identity: of the run.
        numbers: by name, 0 to 1; None where there was nothing to judge by.
        versions: Python, torch, numpy and orthonar.
        revision: source revision, as in a run's record.
        time: UTC, ISO 8601.
        asked: what was asked.
        version: of what was asked.
    """

    identity: str
    numbers: dict[str, float | None]
    versions: dict[str, str]
    revision: str | None
    time: str
    asked: str = MEMORY.name
    version: int = MEMORY.version

    def to_json(self) -> str:
        """One line of JSON, without the line end."""
        return json.dumps(asdict(self), allow_nan=False, sort_keys=True)

    @classmethod
    def from_json(cls, line: str) -> "Answer":
        """The answer of a line; ValueError if it is damaged."""
        try:
            answer = cls(**json.loads(line))
            where = answer.identity, answer.asked, answer.time
            numbers = answer.numbers.items()
            sound = all(isinstance(text, str) for text in where) and type(answer.version) is int
            sound &= all(isinstance(name, str) and _is_share(value) for name, value in numbers)
        except (TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
            raise ValueError(f"not an answer: {error!r}") from None
        if not sound:
            raise ValueError("not an answer: a text is none, or a number is not between 0 and 1")
        return answer


def _is_share(value) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1)


def answers_path(folder: str | os.PathLike) -> Path:
    """The file of answers to the records of a folder."""
    return Path(folder) / "weights" / "contents.jsonl"


def read_answers(
    folder: str | os.PathLike, damaged: list[Damage] | None = None, asking: Asking = MEMORY
) -> dict[str, Answer]:
    """The answers to what is asked now, by the run's identity, the first of each; none where there is no file.

    Args:
        folder: the folder of the records.
        damaged: takes the lines that are none; None warns of each instead.
        asking: what was asked.
    """
    found: dict[str, Answer] = {}
    for answer in read_lines(answers_path(folder), Answer.from_json, damaged):
        if (answer.asked, answer.version) == (asking.name, asking.version):
            found.setdefault(answer.identity, answer)
    return found


def answer_table(
    folder: str | os.PathLike, damaged: list[Damage] | None = None, asking: Asking = MEMORY
) -> pd.DataFrame:
    """One row an answer, by identity, a column each of the numbers asked for; arguments as of `read_answers`."""
    answers = read_answers(folder, damaged, asking).values()
    index = pd.Index([answer.identity for answer in answers], name="identity", dtype=object)
    return pd.DataFrame([answer.numbers for answer in answers], index, asking.numbers, dtype=float)


def unasked(folder: str | os.PathLike, records: Iterable[RunRecord], asking: Asking = MEMORY) -> list[RunRecord]:
    """The runs that kept their weights, that are to be asked, and that answered neither in their trace nor here.

    Args:
        folder: the folder of the records.
        records: run records.
        asking: what to ask.
    """
    answered = read_answers(folder, [], asking)
    return [
        record
        for record in records
        if record.identity not in answered and weights_path(folder, record).is_file() and _is_needed(asking, record)
    ]


def _is_needed(asking: Asking, record: RunRecord) -> bool:
    try:
        config = RunConfig.of_record(record)
    except ValueError:  # a kind of read, say, that is not imported here: asking will name it
        return True
    return asking.needed(record, config)


@usual_defaults()
def ask(folder: str | os.PathLike, record: RunRecord, asking: Asking = MEMORY) -> Answer:
    """Ask the model that a run ended with, on the CPU; the run's own validation set, where one is needed.

    Args:
        folder: the folder of the records.
        record: the run.
        asking: what to ask.

    Raises:
        FileNotFoundError: the run kept no weights.
        ValueError: their file is damaged, or the run's settings do not allow to ask.
    """
    numbers = asking.of(trained_model(folder, record), RunConfig.of_record(record))
    known = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return Answer(record.identity, known, versions(), revision(), time, asking.name, asking.version)


def add_answer(folder: str | os.PathLike, answer: Answer) -> bool:
    """Append an answer to its file, unless the run's to the same is there; whether it was added.

    Args:
        folder: the folder of the records.
        answer: what `ask` returned.

    Raises:
        OSError: it cannot be written; nothing of it is left in the file.
    """
    line, asking = answer.to_json(), ASKINGS[answer.asked]
    Answer.from_json(line)

    def there() -> bool:
        return answer.identity in read_answers(folder, [], asking)

    return append_line(answers_path(folder), line, unless=there)
