"""Streams: blocks with the state carried on against token by token, and recall over delays."""

import numpy as np
import pytest
import torch
from test_model import every_read, seeded, small_model
from torch import nn

from orthonar import MQAR, NoisyRecall
from orthonar.training.streaming import DelayedRecall, recall_by_delay, stream


@every_read
def test_blocks_are_the_whole_sequence_and_token_by_token(read):
    model, length = small_model(read), 150
    tokens = torch.randint(11, (2, length), generator=seeded())
    checkpoints = {}
    for logits, state in stream(model, tokens, block_size=32):
        assert not logits.requires_grad
        checkpoints[len(checkpoints) * 32 + logits.shape[1]] = logits[:, -1], state
    assert list(checkpoints) == [32, 64, 96, 128, 150]
    with torch.no_grad():
        whole = model(tokens)
        state = None
        for t in range(length):
            logits, state = model.step(tokens[:, t], state)
            if t + 1 in checkpoints:
                at, held = checkpoints[t + 1]
                torch.testing.assert_close(at, logits, rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(at, whole[:, t], rtol=1e-9, atol=1e-9)
                torch.testing.assert_close(held.memory, state.memory, rtol=1e-9, atol=1e-9)


def test_a_stream_may_come_in_pieces_and_go_on():
    model = small_model()
    tokens = torch.randint(11, (1, 90), generator=seeded())
    *_, (_, state) = stream(model, tokens[:, :40], block_size=64)
    pieces = (tokens[:, 40:90].split([7, 30, 13], 1)[i] for i in range(3))
    logits = torch.cat([logits for logits, _ in stream(model, pieces, state, block_size=8)], 1)
    torch.testing.assert_close(logits, model(tokens)[:, 40:], rtol=1e-9, atol=1e-9)


def test_what_is_carried_on_holds_nothing_of_what_was_read():
    model = small_model()
    sizes = []
    for length in (50, 2000):
        *_, (_, state) = stream(model, torch.randint(11, (1, length), generator=seeded()))
        sizes.append(sum(x.untyped_storage().nbytes() for x in (state.conv, *state.memory)))
    assert sizes[0] == sizes[1]


class Recalls(nn.Module):
    """Knows every pair until it has read `limit` distractors; what it carries on is plain Python."""

    def __init__(self, task, limit):
        super().__init__()
        self.task, self.limit, self.head = task, limit, nn.Linear(1, 1)

    def forward(self, tokens, state=None, return_state=False):
        pairs, distractors = state or ([], 0)
        row = tokens[0].tolist()
        if row[0] in self.task.keys:
            pairs = [*pairs, *tokens.unflatten(1, (-1, 2)).unbind(1)]
        distractors += sum(token in self.task.distractors for token in row)
        return torch.zeros(*tokens.shape, 1), (pairs, distractors)

    def step(self, token, state):
        pairs, distractors = state
        logits = torch.zeros(len(token), self.task.vocab_size)
        for pair in pairs if distractors <= self.limit else []:
            logits[(pair[:, 0] == token).nonzero()[:, 0], pair[pair[:, 0] == token, 1]] = 1.0
        return logits, state


def test_recall_is_asked_at_each_delay_on_a_branch_of_its_own():
    task = NoisyRecall(20, 16, 4, 0.5)
    model = Recalls(task, limit=100).train()
    found = recall_by_delay(model, task, (4, 40, 400), pairs=3, sequences=5, block_size=7)
    assert found == [DelayedRecall(4, 15, 15), DelayedRecall(40, 15, 15), DelayedRecall(400, 15, 0)]
    assert [line.accuracy for line in found] == [1.0, 1.0, 0.0] and model.training


def test_a_task_that_asks_once_is_asked_with_its_prefix():
    """Where a sequence has one query, a token of its own comes before it, after any delay."""
    task = NoisyRecall(20, 16, 4, 0.5, multi_query=False)
    model = Recalls(task, limit=100)
    fed, step = [], model.step
    model.step = lambda token, state: fed.append(token.tolist()) or step(token, state)
    found = recall_by_delay(model, task, (4, 40), pairs=3, sequences=2, block_size=7)
    assert [line.accuracy for line in found] == [1.0, 1.0]
    assert fed[::4] == 2 * [2 * [task.prefix]] and len(fed) == 8


@pytest.mark.parametrize(
    ("name", "bad"),
    [("delays", {"delays": (3,)}), ("delays", {"delays": (4, 2)}), ("delays", {"delays": ()}), ("pairs", {"pairs": 9}),
     ("sequences", {"sequences": 0}), ("block_size", {"block_size": 0}), ("seed", {"seed": -1})],
)  # fmt: skip
def test_wrong_arguments_are_named(name, bad):
    with pytest.raises(ValueError, match=name):
        recall_by_delay(small_model(), NoisyRecall(20, 16, 4, 0.5), **{"delays": (2,)} | bad)


def test_recall_by_delay_is_of_the_task_with_distractors():
    with pytest.raises(ValueError, match="^task must be a NoisyRecall, .*MQAR"):
        recall_by_delay(small_model(), MQAR(), (0, 4))


@pytest.mark.parametrize("tokens", [[[1, 2, 3]], np.ones((1, 3), int), torch.tensor(3)], ids=lambda t: type(t).__name__)
def test_what_is_no_tensor_of_tokens_is_named(tokens):
    with pytest.raises(ValueError, match="tokens"):
        list(stream(small_model(), tokens))


def test_every_delay_is_what_the_whole_sequence_answers(monkeypatch):
    """The queries on branches against whole sequences that end with the query."""
    model, task = small_model("five_steps"), NoisyRecall(11, 16, 3, 0.5)
    forward, step, seen, answers = type(model).forward, type(model).step, [], []

    def watched_forward(self, tokens, *args, **options):
        seen.append(tokens)
        return forward(self, tokens, *args, **options)

    def watched_step(self, token, state):
        answers.append((token, step(self, token, state)))
        return answers[-1][1]

    monkeypatch.setattr(type(model), "forward", watched_forward)
    monkeypatch.setattr(type(model), "step", watched_step)
    recall_by_delay(model, task, (2, 30), pairs=2, sequences=3, block_size=9)
    monkeypatch.undo()
    assert [x.shape[1] for x in seen] == [4, 2, 9, 9, 9, 1]
    for stop, asked in ((2, answers[:2]), (6, answers[2:])):
        for key, (logits, _) in asked:
            whole = model(torch.cat([*seen[:stop], key[:, None]], 1))[:, -1]
            torch.testing.assert_close(logits, whole, rtol=1e-9, atol=1e-9)
