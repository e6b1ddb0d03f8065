"""The decoder: against loops in numpy, on memories made for it, and with every way to write and to read."""

import math

import numpy as np
import pytest
import torch

from orthonar import FullDeltaWrite, MesaRead, MLSTMModel, NewtonSchulzRead, NoisyRecall, RunConfig, WriteBack
from orthonar.model import MLSTMConfig
from orthonar.training.decoding import Written, contents, decode, written

TASK = NoisyRecall(20, 32, 4, frac_noise=0.2)
SIZE = 32


def sequences(count: int, task: NoisyRecall = TASK):
    [batch] = task.validation_set(0, count, count)
    return batch


def a_model(**settings) -> MLSTMModel:
    generator = torch.Generator().manual_seed(0)
    model = MLSTMModel(MLSTMConfig(vocab_size=20, embedding_dim=8, num_heads=2, **settings), generator=generator)
    cell = model.layer.mlstm_cell
    with torch.no_grad():
        for gate in (cell.igate, cell.fgate):
            gate.weight.normal_(0, 3, generator=generator)
    return model.double()


def cell_inputs(model, tokens):
    seen = []
    hook = model.layer.mlstm_cell.register_forward_pre_hook(lambda _, arguments: seen.extend(arguments[1:5]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return [x.numpy() for x in seen]


def additive_memories(k, v, igate, fgate):
    """C_t exp(-m_t) of every sequence, position by position, (S, B, NH, DH, DH)."""
    batch, heads, length, size = k.shape
    c, m = np.zeros((batch, heads, size, size)), np.zeros((batch, heads))
    memories = []
    for t in range(length):
        for b in range(batch):
            for h in range(heads):
                carried = m[b, h] - math.log1p(math.exp(-fgate[b, h, t]))
                new = max(carried, igate[b, h, t])
                write = math.exp(igate[b, h, t] - new) / math.sqrt(size) * np.outer(k[b, h, t], v[b, h, t])
                c[b, h] = math.exp(carried - new) * c[b, h] + write
                m[b, h] = new
        memories.append(c.copy())
    return memories


def stepped_memories(model, tokens):
    state, memories = None, []
    for t in range(tokens.shape[1]):
        with torch.no_grad():
            _, state = model.step(tokens[:, t], state)
        c_state = state.memory.c_state
        memories.append(c_state[..., : c_state.shape[-2]].numpy())
    return memories


def ridge(x, y, penalty):
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


def fitted_share(train, labels, test, test_labels, classes=8):
    x, shift, scale = np.array(train), np.mean(train, 0), np.std(train, 0)
    x, y = (x - shift) / scale, np.eye(classes)[list(labels)]
    first = len(x) - len(x) // 5
    hits = []
    for penalty in (0.1, 1, 10, 100):
        guess = (x[first:] @ ridge(x[:first], y[:first], penalty)).argmax(1)
        hits.append((guess == np.array(labels[first:])).mean())
    weights = ridge(x, y, (0.1, 1, 10, 100)[int(np.argmax(hits))])
    return [((np.array(t) - shift) / scale @ weights).argmax(1) == np.array(a) for t, a in zip(test, test_labels)]


def oracle(tokens, targets, k, memories, offset):
    tokens, targets = tokens.numpy(), targets.numpy()
    batch, part = len(tokens), int(0.7 * len(tokens))
    samples = {"fit": [], "test": []}
    for b in range(batch):
        for t in range(tokens.shape[1]):
            if targets[b, t] == -100:
                continue
            u = max(s for s in range(t) if tokens[b, s] == tokens[b, t])
            others = [s for s in range(t) if tokens[b, s] < 8 and tokens[b, s] != tokens[b, t]]
            first, size = (0, part) if b < part else (part, batch - part)
            stranger = first + (b - first + 1) % size
            key = k[b, :, u + offset]

            def taken(key, c):
                return np.concatenate([key[h] @ c[h] for h in range(len(key))])

            wrong = taken(k[b, :, others[-1] + offset], memories[t][b]) if others else None
            samples["fit" if b < part else "test"].append((
                taken(key, memories[t][b]), key.ravel(), taken(key, memories[t][stranger]), wrong, targets[b, t] - 8,
            ))  # fmt: skip
    (own, key, strange, _, label), (own_, key_, strange_, wrong_, label_) = (zip(*s) for s in samples.values())
    wrongs = [(w, y) for w, y in zip(wrong_, label_) if w is not None]
    right, wrong = fitted_share(own, label, [own_, [w for w, _ in wrongs]], [label_, [y for _, y in wrongs]])
    [alone], [other] = fitted_share(key, label, [key_], [label_]), fitted_share(strange, label, [strange_], [label_])
    return [x.mean() for x in (right, wrong, alone, other)]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"read": NewtonSchulzRead()},
        {"read": MesaRead()},
        {"write": FullDeltaWrite()},
        {"write": WriteBack(every=3)},
    ],
    ids=["raw", "orthogonalized", "keys kept", "delta write", "written back"],
)
def test_the_decoder_is_the_one_of_plain_loops(settings):
    model, (tokens, targets) = a_model(**settings), sequences(20)
    inputs = cell_inputs(model, tokens)
    memories = stepped_memories(model, tokens) if "write" in settings else additive_memories(*inputs)
    found = contents(model, TASK, tokens, targets)
    for offset in (0, 1):
        names = [f"decode{offset}{end}" for end in ("", "_wrong_key", "_key_alone", "_other_memory")]
        assert [found[name] for name in names] == pytest.approx(oracle(tokens, targets, inputs[0], memories, offset))
    assert len(found) == 8


def test_memories_are_made_of_what_the_cell_is_given():
    model, (tokens, _) = a_model(read=NewtonSchulzRead(), write=WriteBack(every=3)), sequences(20)
    for ours, given in zip(written(model, tokens), cell_inputs(model, tokens), strict=True):
        torch.testing.assert_close(ours, torch.from_numpy(given))


def closed_gates(tokens, key_of, value_of, task):
    """A cell that forgets nothing and writes keys' values alone, at the positions of the values."""
    k = torch.zeros(len(tokens), 1, tokens.shape[1], SIZE)
    v, igate = k.clone(), torch.full(k.shape[:3], -50.0)
    for b, row in enumerate(tokens.tolist()):
        for t in range(0, len(row) - 1, 2):
            if row[t] in task.keys:
                k[b, 0, t] = k[b, 0, t + 1] = key_of(row[t], row[t + 1])
                v[b, 0, t + 1] = value_of[row[t + 1]]
                igate[b, 0, t + 1] = 0.0
    return Written(k, v, igate, torch.full_like(igate, 50.0))


def random_rows(seed: int):
    return torch.randn(20, SIZE, generator=torch.Generator().manual_seed(seed))


def test_what_only_the_memory_tells_is_decoded_by_the_right_key_alone():
    tokens, targets = sequences(96)
    directions = torch.linalg.qr(random_rows(1).T)[0].T
    of = closed_gates(tokens, lambda key, value: directions[key], random_rows(2), TASK)
    for found in decode(TASK, tokens, targets, of).values():
        assert found.share > 0.99
        assert max(found.wrong_key, found.key_alone, found.other_memory) < 0.25, "one of eight by guessing"
        assert found.added == found.share - found.other_memory
    empty = of._replace(v=0 * of.v)
    assert decode(TASK, tokens, targets, empty)[1].share < 0.25


def test_keys_that_tell_the_value_by_themselves_are_noticed():
    """Every sequence holds every value under a key that is the value's own: one memory is as good as another."""
    task = NoisyRecall(20, 128, 4, frac_noise=0.2)
    tokens, targets = sequences(64, task)
    place = torch.arange(tokens.shape[1])
    every = torch.where(place % 2 == 1, tokens, task.values.start + place // 2 % len(task.values))
    told = torch.nn.functional.one_hot(every, SIZE).float()[:, None]
    still = torch.zeros(told.shape[:3])
    found = decode(task, tokens, targets, Written(told, told, still, still + 50))[1]
    assert found.key_alone > 0.99
    assert found.share > 0.99 and abs(found.added) < 0.05
    assert found.wrong_key < 0.3


def test_too_few_sequences_are_said():
    tokens, targets = sequences(3)
    with pytest.raises(ValueError, match="at least 4"):
        contents(a_model(), TASK, tokens, targets)
    with pytest.raises(ValueError, match="validation_sequences must be at least 4"):
        RunConfig(probes=True, validation_sequences=3)
