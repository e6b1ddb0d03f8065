"""What trained models answer when their kept weights are asked, after the fact: a file of its own beside the weights.

The questions are those that a run with probes is asked at its end, `orthonar.training.evaluation.questions`, and the
numbers have the same names. The weights are rounded to float16, so the last digits may differ.
"""

import json
import math
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from ..training.config import RunConfig
from ..training.environment import revision, versions
from ..training.evaluation import QUESTIONS, QUESTIONS_VERSION, questions
from ..training.record import RunRecord
from .jsonl import Damage, append_line, read_lines
from .weights import trained_model, weights_path

#: What was asked, beside the version of it.
ASKED = "questions"


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
    asked: str = ASKED
    version: int = QUESTIONS_VERSION

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


def read_answers(folder: str | os.PathLike, damaged: list[Damage] | None = None) -> dict[str, Answer]:
    """The answers to what is asked now, by the run's identity, the first of each; none where there is no file.

    Args:
        folder: the folder of the records.
        damaged: takes the lines that are none; None warns of each instead.
    """
    found: dict[str, Answer] = {}
    for answer in read_lines(answers_path(folder), Answer.from_json, damaged):
        if (answer.asked, answer.version) == (ASKED, QUESTIONS_VERSION):
            found.setdefault(answer.identity, answer)
    return found


def answer_table(folder: str | os.PathLike, damaged: list[Damage] | None = None) -> pd.DataFrame:
    """One row an answer, by identity, a column each of `QUESTIONS`; arguments as of `read_answers`."""
    answers = read_answers(folder, damaged).values()
    index = pd.Index([answer.identity for answer in answers], name="identity", dtype=object)
    return pd.DataFrame([answer.numbers for answer in answers], index, QUESTIONS, dtype=float)


def unasked(folder: str | os.PathLike, records: Iterable[RunRecord]) -> list[RunRecord]:
    """The runs that kept their weights and answered neither in their trace nor here.

    Args:
        folder: the folder of the records.
        records: run records.
    """
    answered = read_answers(folder, damaged=[])
    return [
        record
        for record in records
        if record.identity not in answered and not _answered(record) and weights_path(folder, record).is_file()
    ]


def _answered(record: RunRecord) -> bool:
    return set(QUESTIONS) <= set(record.trace[-1].probes or {})


def ask(folder: str | os.PathLike, record: RunRecord) -> Answer:
    """Ask the model that a run ended with, on the run's own validation set, on the CPU.

    Args:
        folder: the folder of the records.
        record: the run.

    Raises:
        FileNotFoundError: the run kept no weights.
        ValueError: their file is damaged, or the run's settings do not allow to ask.
    """
    model = trained_model(folder, record)
    config = RunConfig.from_settings(record.settings | {"device": "cpu", "engine": "auto"})
    batches = config.task.validation_set(config.seed, config.validation_sequences, config.batch_size, "cpu")
    numbers = {
        name: value if math.isfinite(value) else None for name, value in questions(model, config.task, batches).items()
    }
    time = datetime.now(UTC).isoformat(timespec="seconds")
    return Answer(record.identity, numbers, versions(), revision(), time)


def add_answer(folder: str | os.PathLike, answer: Answer) -> bool:
    """Append an answer to its file, unless the run's is there; whether it was added.

    Args:
        folder: the folder of the records.
        answer: what `ask` returned.

    Raises:
        OSError: it cannot be written; nothing of it is left in the file.
    """
    line = answer.to_json()
    Answer.from_json(line)
    return append_line(answers_path(folder), line, unless=lambda: answer.identity in read_answers(folder, damaged=[]))
