"""What a memory stores, whatever the model makes of it: a linear decoder, and what it would find without the memory.

Wherever a value is scored, its key k_u is taken from an earlier showing of the pair and applied to the memory of that
moment, phi_t = k_u^T C_t, and a linear map is to name the value. So it is asked by the follow-up study (Aquino-Michaels
2026, arXiv 2607.19390); two of the controls here are not its own. Axes: B batch, NH heads, S sequence, DH head size,
N scored positions.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ..data.base import IGNORE_INDEX
from ..data.noisy_recall import NoisyRecall
from ..mlstm.cell import mlstm_sequence
from ..mlstm.writes import AdditiveWrite, Write
from ..model import SequenceModel
from ..reads.base import RawRead
from .probes import twin

#: Where the key is taken from: the position of the value (1 after the key's), where the convolution sees both, or of
#: the key.
OFFSETS = (1, 0)
#: With fewer sequences there are not two to fit and two to score.
LEAST_SEQUENCES = 4

_PENALTIES = (0.1, 1.0, 10.0, 100.0)
# Sequences whose keys and values are computed at a time.
_AT_ONCE = 16
# A feature that varies by less than this share of its size is rounding.
_LEAST_SPREAD = 1e-9


class Decoded(NamedTuple):
    """Shares of the scored positions whose value is decoded, 0 to 1; NaN where there was none to judge by."""

    share: float  #: from what the pair's key takes out of the memory.
    wrong_key: float  #: by the same decoder, from what the key of another pair of the sequence takes out.
    key_alone: float  #: from the pair's key itself, no memory; a decoder of its own.
    other_memory: float  #: from what the key takes out of another sequence's memory; a decoder of its own.

    @property
    def added(self) -> float:
        """What the right memory adds to another one."""
        return self.share - self.other_memory


#: Names of what `contents` returns.
CONTENTS = tuple(
    f"decode{offset}" + ("" if name == "share" else f"_{name}") for offset in OFFSETS for name in Decoded._fields
)


class Written(NamedTuple):
    """All that a cell's memory is made of, for whole sequences; as of `orthonar.mlstm_sequence`."""

    k: Tensor  #: (B, NH, S, DH).
    v: Tensor  #: (B, NH, S, DH).
    igate_preact: Tensor  #: (B, NH, S).
    fgate_preact: Tensor  #: (B, NH, S).


def contents(model: SequenceModel, task: NoisyRecall, tokens: Tensor, targets: Tensor) -> dict[str, float]:
    """What a decoder finds in a model's memory, see `decode`; changes nothing.

    Args:
        model: the model, with an mLSTM layer.
        task: its task.
        tokens: inputs of validation sequences, (B, S), B at least 4.
        targets: their scored values, elsewhere `IGNORE_INDEX`.

    Returns:
        For each offset "decode1" (or 0), "decode1_wrong_key", "decode1_key_alone" and "decode1_other_memory".
    """
    decoded = decode(task, tokens, targets, written(model, tokens), model.config.mixer.write)
    return dict(zip(CONTENTS, (share for offset in OFFSETS for share in decoded[offset])))


@torch.no_grad()
def written(model: SequenceModel, tokens: Tensor) -> Written:
    """What a model's memory is made of when it reads tokens (B, S)."""
    # Keys, values and gates know nothing of what is read or kept: the cheapest way of both will do.
    plain = twin(model, read=RawRead(), write=AdditiveWrite(), form="chunkwise")
    seen: list[Written] = []
    plain.layer.mlstm_cell.register_forward_pre_hook(lambda _, arguments: seen.append(Written(*arguments[1:5])))
    for some in tokens.split(_AT_ONCE):
        plain(some)
    return Written(*(torch.cat(parts) for parts in zip(*seen)))


@torch.no_grad()
def decode(
    task: NoisyRecall,
    tokens: Tensor,
    targets: Tensor,
    of: Written,
    write: Write = AdditiveWrite(),  # noqa: B008 (frozen)
) -> dict[int, Decoded]:
    """Decode the scored values from phi_t = k_u^T C_t, concatenated over heads.

    C_t is the memory as it is stored, C exp(-m), after the scored position t; k_u the key at the latest earlier showing
    of the pair asked for, at the position of its value (offset 1) or of its key (offset 0). The decoder is fitted on
    the first 70 % of the sequences and judged on the others: ridge regression of one-hot targets, without an intercept,
    on features that the fitted samples standardise; its penalty, 0.1, 1, 10 or 100, is the one that is right most often
    on the last fifth of the fitted samples when fitted on those before (of equally good ones the smallest). The wrong
    key is that of the latest earlier showing of another key of the sequence; positions before which there is none do
    not count there. The other memory is the next sequence's of the same part, at the same position.

    Args:
        task: the task that the tokens are of.
        tokens: (B, S), B at least 4.
        targets: scored values, elsewhere `IGNORE_INDEX`, (B, S).
        of: what the memories are made of.
        write: how they are written.

    Returns:
        What is decoded, by offset.

    Raises:
        ValueError: there are too few sequences.
    """
    batch = len(tokens)
    if batch < LEAST_SEQUENCES:
        raise ValueError(f"tokens must be of at least {LEAST_SEQUENCES} sequences, not {batch}")
    asked = _asked(task, tokens, targets)
    part = batch * 7 // 10
    fitted = asked.row < part
    start, size = torch.where(fitted, 0, part), torch.where(fitted, part, batch - part)
    elsewhere = start + (asked.row - start + 1) % size

    # Both keys of the pair, then both of another pair, taken out of the right memory and out of another one.
    shown = asked.shown, asked.other.clamp_min(0)
    keys = torch.stack([_at(of.k, asked.row, u + offset) for u in shown for offset in OFFSETS], 2)
    rows, positions = torch.cat([asked.row, elsewhere]), asked.position.repeat(2)
    here, there = _taken_out(keys.repeat(2, 1, 1, 1), rows, positions, of, write).chunk(2)

    def right(fit_on: Tensor, judged: Tensor, where: Tensor) -> float:
        if not fitted.any():
            return torch.nan
        decoder = _fit(fit_on[fitted], asked.label[fitted], len(task.values))
        return _share(decoder(judged[where]), asked.label[where])

    decoded = {}
    for i, offset in enumerate(OFFSETS):
        own, wrong, key, other = (
            x.flatten(1).double() for x in (here[:, :, i], here[:, :, len(OFFSETS) + i], keys[:, :, i], there[:, :, i])
        )
        decoded[offset] = Decoded(
            right(own, own, ~fitted),
            right(own, wrong, ~fitted & (asked.other >= 0)),
            right(key, key, ~fitted),
            right(other, other, ~fitted),
        )
    return decoded


class _Asked(NamedTuple):
    """The scored positions, one after the other, each (N,)."""

    row: Tensor  #: the sequence.
    position: Tensor  #: of the key that is asked for.
    shown: Tensor  #: position of that key's latest earlier showing.
    other: Tensor  #: position of the latest earlier showing of any other key; -1 if there is none.
    label: Tensor  #: the value, counted from the first.


def _asked(task: NoisyRecall, tokens: Tensor, targets: Tensor) -> _Asked:
    row, position = (targets != IGNORE_INDEX).nonzero(as_tuple=True)
    order = torch.arange(tokens.shape[1], device=tokens.device)
    earlier, same = order < position[:, None], tokens[row] == tokens[row, position][:, None]
    is_key = tokens[row] < len(task.keys)
    shown, other = (torch.where(earlier & wanted, order, -1).amax(1) for wanted in (same, is_key & ~same))
    return _Asked(row, position, shown, other, targets[row, position] - task.values.start)


def _at(k: Tensor, row: Tensor, position: Tensor) -> Tensor:
    """Keys (N, NH, DH) at some positions of some sequences, of k (B, NH, S, DH)."""
    return k[row, :, position]


def _taken_out(keys: Tensor, row: Tensor, position: Tensor, of: Written, write: Write) -> Tensor:
    """k^T C_t for several keys each, (N, NH, keys, DH), of the memories of sequences `row` after `position`."""
    taken, state = torch.empty_like(keys), None
    length = int(position.max()) + 1 if len(position) else 0
    by_position = position.argsort().split(torch.bincount(position, minlength=length).tolist())
    for t, now in enumerate(by_position):
        k, v, *gates = (x[:, :, t : t + 1] for x in of)
        _, state = mlstm_sequence(
            k, k, v, *gates, read=RawRead(), write=write, form="recurrent",
            initial_state=state, position=t, return_state=True,
        )  # fmt: skip
        if len(now):
            taken[now] = keys[now] @ state.c_state[row[now]]
    return taken


def _share(scores: Tensor, labels: Tensor) -> float:
    return (scores.argmax(-1) == labels).double().mean().item()


def _fit(x: Tensor, labels: Tensor, classes: int):
    """The linear map from features (N, D) to scores (N, classes) by ridge regression, its penalty chosen here."""
    mean, spread = x.mean(0), x.std(0, correction=0)
    spread = torch.where(spread > _LEAST_SPREAD * x.abs().amax(0), spread, 1.0)
    x, y = (x - mean) / spread, one_hot(labels, classes).to(x.dtype)
    before = len(x) - len(x) // 5
    chosen = max(
        _PENALTIES, key=lambda penalty: _share(x[before:] @ _ridge(x[:before], y[:before], penalty), labels[before:])
    )
    weights = _ridge(x, y, chosen)
    return lambda features: (features - mean) / spread @ weights


def _ridge(x: Tensor, y: Tensor, penalty: float) -> Tensor:
    gram = x.mT @ x
    return torch.linalg.solve(gram + penalty * torch.eye(len(gram), dtype=x.dtype, device=x.device), x.mT @ y)
