"""Recall split by how often a key occurs, against a loop over the tokens."""

from collections import Counter

import numpy as np
import pytest
import torch
from test_model import small_model
from torch import nn

from orthonar import NoisyRecall
from orthonar.data.base import IGNORE_INDEX
from orthonar.training.evaluation import OccurrenceRecall, evaluate, recall_by_occurrences

TASKS = {"multi-query": NoisyRecall(20, 40, 6, 0.3), "single-query": NoisyRecall(21, 40, 6, 0.3, multi_query=False)}
every_task = pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)


class Remembers(nn.Module):
    """Answers with what followed the same token last, except at a third of the positions."""

    def forward(self, tokens):
        logits = torch.zeros(*tokens.shape, 21)
        for b, row in enumerate(tokens.tolist()):
            followed = {}
            for t, token in enumerate(row):
                logits[b, t, followed.get(token, 0) if (t + sum(row)) % 3 else 20] = 1.0
                followed[token] = row[t + 1] if t + 1 < len(row) else None
        return logits


@every_task
@pytest.mark.parametrize("count", ["before", "sequence"])
def test_it_is_the_plain_count(task, count):
    batches = task.validation_set(seed=3, sequences=30, batch_size=8)
    model = Remembers().train()
    scored, right = Counter(), Counter()
    for inputs, targets in batches:
        answers = model(inputs).argmax(-1).tolist()
        for row, labels, answer in zip(inputs.tolist(), targets.tolist(), answers, strict=True):
            keys = [row[i] for i in (*range(0, task.seq_len - 2, 2), len(row) - 1)]
            for i, label in enumerate(labels):
                if label == IGNORE_INDEX:
                    continue
                pair = i // 2 if i < task.seq_len - 2 else len(keys) - 1
                n = keys[:pair].count(row[i]) if count == "before" else keys.count(row[i])
                scored[n] += 1
                right[n] += answer[i] == label
    found = recall_by_occurrences(model, task, batches, count=count)
    assert found == [OccurrenceRecall(n, scored[n], right[n]) for n in sorted(scored)] and model.training
    assert len(found) > 2 and found[0].occurrences == (1 if count == "before" else 2)
    assert 0 < sum(right.values()) < sum(scored.values())


def test_its_counts_are_those_of_the_accuracy():
    task = NoisyRecall(11, 30, 3, 0.5)
    model, batches = small_model(), task.validation_set(seed=3, sequences=9, batch_size=4)
    found = recall_by_occurrences(model, task, batches)
    right, scored = (sum(getattr(line, name) for line in found) for name in ("right", "scored"))
    assert right / scored == pytest.approx(evaluate(model, batches)[0])
    assert OccurrenceRecall(1, 4, 3).accuracy == 0.75


@every_task
def test_showings_are_counted_pair_by_pair(task):
    rng = np.random.default_rng(0)
    for _ in range(20):
        inputs, targets = task.generate(rng, training=True)
        tokens = [*inputs.tolist(), targets[-1]]
        leading = [*tokens[: task.seq_len - 2 : 2], tokens[-2]]
        so_far, in_all = task.showings(tokens)
        for pair, key in enumerate(leading):
            is_key = key in task.keys
            assert so_far[pair] == (leading[: pair + 1].count(key) if is_key else 0)
            assert in_all[pair] == (leading.count(key) if is_key else 0)


def test_wrong_arguments_are_named():
    task = TASKS["multi-query"]
    for name, arguments in (("count", ([], "often")), ("batches", ([], "before"))):
        with pytest.raises(ValueError, match=name):
            recall_by_occurrences(Remembers(), task, arguments[0], count=arguments[1])
    unscored = torch.zeros(2, 8, dtype=torch.int64)
    with pytest.raises(ValueError, match="batches: no position is scored"):
        evaluate(Remembers(), [(unscored, torch.full_like(unscored, IGNORE_INDEX))])
