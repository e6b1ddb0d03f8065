"""Zoology's multi-query associative recall (MQAR): key-value pairs first, then every key once more, among fillers.

Axis letters: B sequences in a batch, S tokens in a sequence, P pairs, G places where a key may be queried.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..settings import checked_integer, flag, integer, number, settings
from .base import IGNORE_INDEX, VALIDATION_SEED_OFFSET, Task, in_batches, sampling_device


@settings
class MQAR(Task):
    """Multi-query associative recall: recall the value of every key, most of them soon and some of them late.

    A sequence begins with P different keys, each followed by its value, no two values alike (`num_passes` times the
    same). What is left of it are G places of two tokens, at the first of which a key may stand again: every key does
    once, and the prediction there is scored. In the order of the keys, each takes a place that none before it took,
    place g = 1, ..., G with a probability proportional to g^(power_a - 1): a power law that leaves most queries near
    the pairs where power_a is small, and a uniform law at 1. All other tokens are fillers: any token at all, or 0.

        vocab_size=12, num_kv_pairs=2, seq_len=14: keys 1-5, values 6-11, filler 0

        tokens   2  8  4  7  0  0  4  0  0  0  0  0  2  0
        targets  .  .  .  .  .  .  7  .  .  .  .  .  8  .

    The target at i belongs to the prediction made after token i, and is the value itself, which need not be what
    stands at i + 1: it does not stand there. Both training and evaluation are judged at the queries alone, as in the
    source:

    >>> task = MQAR(vocab_size=12, seq_len=14, num_kv_pairs=2, random_non_queries=False)
    >>> task.keys, task.values, task.num_places
    (range(1, 6), range(6, 12), 5)
    >>> task.evaluation_targets([2, 8, 4, 7, 0, 0, 4, 0, 0, 0, 0, 0, 2, 0], places=[4, 1])
    array([-100, -100, -100, -100, -100, -100,    7, -100, -100, -100, -100,
           -100,    8, -100])

    The task is from Arora et al. 2023, "Zoology: Measuring and Improving Recall in Efficient Language Models", arXiv
    2312.04927; several passes are from Arora et al. 2024, arXiv 2407.05483, where the published generator (commit
    d88d6f5) fails for all but one. It also wants a vocabulary larger than the length, on which nothing here depends.

    Args:
        vocab_size: number of tokens V: the keys are 1 to V // 2 - 1, the values V // 2 to V - 1.
        seq_len: tokens in a sequence, S; even, and at least 2 `num_kv_pairs` (`num_passes` + 1).
        num_kv_pairs: pairs in a sequence, P; at most as many as there are keys.
        num_passes: how often all pairs are shown.
        power_a: exponent of the power law, plus 1; above 0.
        random_non_queries: True: fillers are drawn uniformly from all tokens, keys and values among them. False: they
            are 0.

    Raises:
        ValueError: a setting is of the wrong type or impossible; the message names it.
    """

    vocab_size: int = integer(8192, least=4)
    seq_len: int = integer(64, least=4)
    num_kv_pairs: int = integer(4, least=1)
    num_passes: int = integer(1, least=1)
    power_a: float = number(0.01, above=0, most=100)
    random_non_queries: bool = flag(True)

    def __post_init__(self):
        super().__post_init__()
        if self.seq_len % 2:
            raise ValueError(f"seq_len must be even, since tokens come in pairs, not {self.seq_len}")
        if self.num_kv_pairs > len(self.keys):
            raise ValueError(f"num_kv_pairs must be at most the {len(self.keys)} keys, not {self.num_kv_pairs}")
        if self.num_places < self.num_kv_pairs:
            least = 2 * self.num_kv_pairs * (self.num_passes + 1)
            raise ValueError(
                f"seq_len must be at least {least} to hold the pairs and their queries, not {self.seq_len}"
            )
        if np.count_nonzero(self.place_probabilities()) < self.num_kv_pairs:
            raise ValueError(
                f"power_a: with {self.power_a:g} fewer than num_kv_pairs, {self.num_kv_pairs}, of {self.num_places} "
                "places have a probability above 0"
            )

    @property
    def keys(self) -> range:
        """The tokens that are keys: all below the values but 0, the filler."""
        return range(1, self.vocab_size // 2)

    @property
    def values(self) -> range:
        """The tokens that are values: the upper half of the vocabulary."""
        return range(self.vocab_size // 2, self.vocab_size)

    @property
    def num_shown(self) -> int:
        """Number of tokens that show the pairs, at the start of a sequence."""
        return 2 * self.num_kv_pairs * self.num_passes

    @property
    def num_places(self) -> int:
        """Number of places where a key may be queried, G."""
        return (self.seq_len - self.num_shown) // 2

    def place_probabilities(self) -> np.ndarray:
        """Probability of each place, first of all: place g has g^(power_a - 1) over the sum of them; (G,), float64."""
        weights = (np.arange(1, self.num_places + 1) / self.num_places) ** (self.power_a - 1)
        return weights / weights.sum()

    def generate(
        self, rng: np.random.Generator | np.random.RandomState, sequences: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """Draw sequences: the very tokens that Zoology's generator draws from the same `numpy.random.RandomState`.

        The draws, in order: the keys of every sequence, one after the other; the values of every sequence; the places
        of every sequence; last the fillers, in one, where they are random. (Zoology draws those from torch's global
        generator: with them, all but the fillers are the same.)

        Args:
            rng: source of all randomness.
            sequences: how many, B.

        Returns:
            inputs, targets: int64 arrays of shape (B, S); the targets are the scored values, elsewhere `IGNORE_INDEX`.

        Raises:
            TypeError: `rng` is none of NumPy's.
            ValueError: `sequences` is not a positive integer.
        """
        if not isinstance(rng, np.random.Generator | np.random.RandomState):
            raise TypeError(f"rng must be a numpy.random.Generator or RandomState, not {type(rng).__name__}")
        sequences = checked_integer("sequences", sequences, 1)

        def drawn(choices, p=None) -> np.ndarray:
            several = [rng.choice(choices, self.num_kv_pairs, replace=False, p=p) for _ in range(sequences)]
            return np.stack(several).astype(np.int64)

        keys, values = drawn(np.asarray(self.keys)), drawn(np.asarray(self.values))
        places = drawn(np.arange(self.num_places), self.place_probabilities())
        tokens = np.zeros((sequences, self.seq_len), dtype=np.int64)
        if self.random_non_queries:
            integers = rng.integers if isinstance(rng, np.random.Generator) else rng.randint
            tokens[:] = integers(self.vocab_size, size=tokens.shape)
        pairs = np.stack([keys, values], 2).reshape(sequences, -1)
        tokens[:, : self.num_shown] = np.tile(pairs, self.num_passes)
        np.put_along_axis(tokens, self.num_shown + 2 * places, keys, axis=1)
        return tokens, self.evaluation_targets(tokens, places)

    def evaluation_targets(self, tokens: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Label the tokens that are scored: the queries, with the values of their keys.

        Random fillers may be keys too and are no queries: where the queries stand must be said.

        Args:
            tokens: whole sequences, integers of shape (..., S).
            places: of each pair's query, from 0, in the order of the pairs; integers of shape (..., P).

        Returns:
            An int64 array of shape (..., S), aligned with the tokens.

        Raises:
            ValueError: the last axes are not S and P long.
        """
        tokens, places = np.asarray(tokens), np.asarray(places)
        for name, array, length in (("tokens", tokens, self.seq_len), ("places", places, self.num_kv_pairs)):
            if array.ndim == 0 or array.shape[-1] != length:
                raise ValueError(f"{name} must have {length} in the last axis, not be of shape {array.shape}")
        targets = np.full(tokens.shape, IGNORE_INDEX, dtype=np.int64)
        np.put_along_axis(targets, self.num_shown + 2 * places, tokens[..., 1 : 2 * self.num_kv_pairs : 2], axis=-1)
        return targets

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a training batch from the distribution of `generate`, by tensor operations of fixed shape on `device`.

        What is drawn without replacement is what is largest after random numbers are added to the logarithms of the
        weights, in that order: -log(-log u), with u uniform, makes the largest one a draw, the next one a draw from the
        others, and so on (Yellott 1977; Vieira 2014 for several). The host never waits.

        Args:
            batch_size: number of sequences, B.
            generator: source of all randomness, on `device`; None for torch's global one of that device.
            device: where to draw; None for the generator's device or, without a generator, torch's default device. It
                must know float64.

        Returns:
            inputs, targets: int64 tensors of shape (B, S); the targets are the scored values, elsewhere `IGNORE_INDEX`.

        Raises:
            ValueError: `batch_size` is not a positive integer.
        """
        batch_size = checked_integer("batch_size", batch_size, 1)
        device = sampling_device(device, generator)
        new: dict[str, Any] = {"device": device, "generator": generator}

        def drawn(count: int, log_weights: torch.Tensor | float = 0.0) -> torch.Tensor:
            noise = torch.rand(batch_size, count, dtype=torch.float64, **new)
            return (log_weights - (-noise.log()).log()).topk(self.num_kv_pairs, dim=1).indices

        keys = self.keys.start + drawn(len(self.keys))
        values = self.values.start + drawn(len(self.values))
        places = torch.arange(1, self.num_places + 1, dtype=torch.float64, device=device)
        queries = self.num_shown + 2 * drawn(self.num_places, (self.power_a - 1) * places.log())
        if self.random_non_queries:
            tokens = torch.randint(self.vocab_size, (batch_size, self.seq_len), **new)
        else:
            tokens = torch.zeros(batch_size, self.seq_len, dtype=torch.int64, device=device)
        tokens[:, : self.num_shown] = torch.stack([keys, values], 2).flatten(1).repeat(1, self.num_passes)
        targets = torch.full_like(tokens, IGNORE_INDEX).scatter_(1, queries, values)
        return tokens.scatter_(1, queries, keys), targets

    def validation_set(
        self, seed: int, sequences: int = 1024, batch_size: int = 64, device: torch.device | str | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Generate a run's fixed validation set, in one by `generate` from `numpy.random.default_rng(10_000 + seed)`.

        Args:
            seed: the run's seed, at least -10,000.
            sequences: number of sequences.
            batch_size: number of sequences in a batch, B; the last may be smaller. The sequences do not depend on it.
            device: where the tensors go; None for torch's default device.

        Returns:
            A list of (inputs, targets), int64 tensors of shape (B, S).

        Raises:
            ValueError: an argument is not an integer or too small.
        """
        seed = checked_integer("seed", seed, -VALIDATION_SEED_OFFSET)
        batch_size = checked_integer("batch_size", batch_size, 1)
        inputs, targets = self.generate(np.random.default_rng(VALIDATION_SEED_OFFSET + seed), sequences)
        return in_batches(inputs, targets, batch_size, device)
