"""MAD's noisy in-context recall: the task, its exact generator and a fast sampler of the same distribution.

Axis letters: B sequences in a batch, P pairs in a sequence, K keys.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..settings import checked_integer, flag, integer, number, settings
from .base import IGNORE_INDEX, VALIDATION_SEED_OFFSET, Task, in_batches, sampling_device

_RANDOM_BITS = 31  # what `Tensor.random_` fills an int32 with


@settings
class NoisyRecall(Task):
    """MAD's noisy in-context recall: recall a key's value, among pairs of distractors.

    A sequence consists of `num_pairs` pairs. All but the last are distractor pairs with probability
    `frac_noise`, except for one pair, at an index drawn uniformly, that never is; the others show a key,
    drawn uniformly, and its value, which is drawn uniformly for each key of each sequence and then stays. The
    last pair queries one of the keys shown, uniform over the distinct ones. The vocabulary is laid out as
    keys, values, distractors:

        vocab_size=16, noise_vocab_size=4: keys 0-5, values 6-11, distractors 12-15

        tokens   0  9  3 10 12 13 15 14  0  9  5  8  2  9
        scored   .  .  .  .  .  .  .  .  .  9  .  .  .  .

    A value is scored if its key was shown before, so that it can be known: above, key 0 comes back and its 9
    is scored. (The row is an excerpt: a sequence that ended here would query 0, 3 or 5, and the answer would
    be scored.) Targets are aligned with the inputs, the target at i being the token at i + 1.

    The task is from Poli et al. 2024, "Mechanistic Design and Scaling of Hybrid Architectures", arXiv
    2403.17844.

    Examples:
        >>> task = NoisyRecall(vocab_size=16, seq_len=14, noise_vocab_size=4, frac_noise=0.4)
        >>> task.keys, task.values, task.distractors
        (range(0, 6), range(6, 12), range(12, 16))
        >>> task.evaluation_targets([0, 9, 3, 10, 12, 13, 15, 14, 0, 9, 5, 8, 2, 9])
        array([-100, -100, -100, -100, -100, -100, -100, -100,    9, -100, -100,
               -100, -100])

    Args:
        vocab_size: number of tokens, all kinds together; must leave at least one key and one value.
        seq_len: tokens in the pairs of a sequence, 2 `num_pairs`; even, at least 4.
        noise_vocab_size: number of distractors, the last tokens of the vocabulary; may be 0 only without
            noise.
        frac_noise: probability in [0, 1] that a pair consists of distractors.
        multi_query: True: every value whose key was shown before is scored. False: only the last value is,
            and the token `vocab_size - 1` is reserved to announce the query, which makes sequences one token
            longer.

    Raises:
        ValueError: a setting is of the wrong type or impossible; the message names it.
    """

    vocab_size: int = integer(80, least=1)
    seq_len: int = integer(512, least=4)
    noise_vocab_size: int = integer(16, least=0)
    frac_noise: float = number(0.8, least=0, most=1)
    multi_query: bool = flag(True)

    def __post_init__(self):
        super().__post_init__()
        if self.seq_len % 2:
            raise ValueError(f"seq_len must be even, since tokens come in pairs, not {self.seq_len}")
        if self.frac_noise > 0 and self.noise_vocab_size < 1:
            raise ValueError(f"noise_vocab_size must be at least 1 with frac_noise {self.frac_noise}, not 0")
        if self._num_recall_tokens < 2:
            others = f"{self.noise_vocab_size} distractors" + ("" if self.multi_query else " and the prefix")
            raise ValueError(f"vocab_size must hold a key and a value beside {others}, not {self.vocab_size}")

    @property
    def _num_recall_tokens(self) -> int:
        return self.vocab_size - self.noise_vocab_size - (0 if self.multi_query else 1)

    @property
    def keys(self) -> range:
        """The tokens that are keys: the first half of those that are neither distractors nor the prefix."""
        return range(self._num_recall_tokens // 2)

    @property
    def values(self) -> range:
        """The tokens that are values: the second half, one longer than the keys' if their number is odd."""
        return range(self._num_recall_tokens // 2, self._num_recall_tokens)

    @property
    def distractors(self) -> range:
        """The tokens that are noise, outside both keys and values."""
        return range(self._num_recall_tokens, self._num_recall_tokens + self.noise_vocab_size)

    @property
    def prefix(self) -> int | None:
        """The token that announces the query, or None with `multi_query`."""
        return None if self.multi_query else self.vocab_size - 1

    @property
    def num_pairs(self) -> int:
        """Number of pairs in a sequence, the query and its answer among them."""
        return self.seq_len // 2

    @property
    def num_tokens(self) -> int:
        """Number of tokens in a sequence: `seq_len`, and one more if the query has a prefix."""
        return self.seq_len + (0 if self.multi_query else 1)

    def generate(self, rng: np.random.Generator, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Draw one sequence: the very tokens that mad-lab's generator draws from the same `numpy` generator.

        The draws, in order: the index of the pair that is never noise; for each pair but the last, whether it
        is noise (not drawn at that index, nor if `frac_noise` is 0), and its two distractors or its key and,
        the first time the key comes, its value; the queried key among those shown, in order of first showing.

        Where mad-lab's generator fails, because the index drawn is the last and all pairs before it are noise
        (probability `frac_noise`^(P-1) / P, 1e-27 in the default task), the last pair is an ordinary first
        showing: its key is drawn from all keys, then its value, which cannot be known and is not scored.

        Args:
            rng: source of all randomness; left where mad-lab's generator would leave it.
            training: True: the targets are all next tokens. False: they are the scored values, elsewhere
                `IGNORE_INDEX`.

        Returns:
            inputs, targets: int64 arrays of shape (num_tokens - 1,), which is (seq_len - 1,) with
            `multi_query`; targets[i] belongs to the prediction made after inputs[i].

        Raises:
            TypeError: `rng` is not a `numpy.random.Generator`.
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
        # `choice(array)` draws its index with `integers(len(array))`, which is several times faster called
        # directly. The integers are drawn one by one since an array of two takes longer than two scalars.
        random: Callable[[], float] = rng.random
        integers: Callable[[int], int] = rng.integers  # NumPy's own integers, which are as good here
        num_keys, num_values, num_distractors = len(self.keys), len(self.values), len(self.distractors)
        first_value, first_distractor = self.values.start, self.distractors.start
        frac_noise, noise_possible = self.frac_noise, self.frac_noise > 0

        value_of: dict[int, int] = {}
        tokens: list[int] = []
        never_noise = integers(self.num_pairs)
        for pair in range(self.num_pairs - 1):
            if noise_possible and pair != never_noise and random() < frac_noise:
                tokens.append(first_distractor + integers(num_distractors))
                tokens.append(first_distractor + integers(num_distractors))
            else:
                key = integers(num_keys)
                if key not in value_of:
                    value_of[key] = first_value + integers(num_values)
                tokens += (key, value_of[key])

        if value_of:
            query = list(value_of)[integers(len(value_of))]
        else:
            query = integers(num_keys)
            value_of[query] = first_value + integers(num_values)
        if self.prefix is not None:
            tokens.append(self.prefix)
        tokens += (query, value_of[query])

        sequence = np.array(tokens, dtype=np.int64)
        return sequence[:-1], sequence[1:].copy() if training else self.evaluation_targets(sequence)

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a training batch from the distribution of `generate`, hundreds of times faster.

        The stream of random numbers is another one, and its resolution (31 bits for each pair, 53 for what
        a sequence draws once) is the only difference: what a pair is has the probability that `generate`
        gives it to within 2^-30. All work is done by tensor operations of fixed shape on `device`, and the
        host never waits for it. Memory: 24 (noise_vocab_size^2 + B K) bytes for tables, and some 60 bytes
        a pair.

        Args:
            batch_size: number of sequences, B.
            generator: source of all randomness, on `device`; None for torch's global one of that device.
            device: where to draw; None for the generator's device or, without a generator, torch's default
                device. It must know float64.

        Returns:
            inputs, targets: int64 tensors of shape (B, num_tokens - 1), which is (B, seq_len - 1) with
            `multi_query`. The targets are all next tokens. Both are views of one tensor of tokens: clone
            before writing into one.

        Raises:
            ValueError: `batch_size` is not a positive integer.
        """
        batch_size = checked_integer("batch_size", batch_size, 1)
        device = sampling_device(device, generator)
        num_keys, num_pairs, num_noise_pairs = len(self.keys), self.num_pairs, len(self.distractors) ** 2

        # What a sequence draws once: a value for each key, shown or not; a priority for each key, by which
        # the query is chosen; the index of the pair that is never noise, and that pair's key.
        values, priorities, index, key = torch.rand(
            batch_size, 2 * num_keys + 2, dtype=torch.float64, device=device, generator=generator
        ).split([num_keys, num_keys, 1, 1], dim=1)

        # A pair is a code, its row in one table: the noise pairs come first, then each sequence's keys.
        table = self._pair_table(values)
        first_key_code = num_noise_pairs + num_keys * torch.arange(batch_size, device=device)[:, None]
        codes = torch.empty(batch_size, num_pairs, dtype=torch.int64, device=device)
        codes[:, :-1] = self._draw_codes(first_key_code, generator)
        codes.scatter_(1, (index * num_pairs).long(), first_key_code + (key * num_keys).long())

        # The last pair is the query. Until that is drawn, the first pair stands in: it shows no further key.
        codes[:, -1] = codes[:, 0]
        shown = torch.zeros(table.numel(), dtype=torch.float64, device=device)
        shown = shown.index_fill_(0, codes.view(-1), 1.0)[num_noise_pairs:].view(batch_size, num_keys)
        # Priorities are below 1: a key shown comes before all that are not, which count only if none is.
        query = (shown + priorities).argmax(1, keepdim=True)
        codes[:, -1:] = first_key_code + query

        tokens = table.index_select(0, codes.view(-1)).view(torch.int64).view(batch_size, -1)
        if self.prefix is not None:
            prefix = tokens.new_full((batch_size, 1), self.prefix)
            tokens = torch.cat([tokens[:, :-2], prefix, tokens[:, -2:]], dim=1)
        return tokens[:, :-1], tokens[:, 1:]

    def _pair_table(self, values: torch.Tensor) -> torch.Tensor:
        """The pairs that codes stand for, from uniforms of shape (B, K) for the keys' values.

        Each of the noise_vocab_size^2 + B K entries is the bytes of two int64 tokens, disguised as one
        complex128, so that a lookup moves a whole pair.
        """
        device = values.device
        num_distractors = len(self.distractors)
        table = torch.empty(num_distractors**2 + values.numel(), 2, dtype=torch.int64, device=device)
        noise_pairs = table[: num_distractors**2].view(num_distractors, num_distractors, 2)
        key_pairs = table[num_distractors**2 :].view(*values.shape, 2)
        distractors = torch.arange(self.distractors.start, self.distractors.stop, device=device)
        noise_pairs[..., 0] = distractors[:, None]
        noise_pairs[..., 1] = distractors
        key_pairs[..., 0] = torch.arange(len(self.keys), device=device)
        key_pairs[..., 1] = (values * len(self.values)).long() + self.values.start
        return table.view(torch.complex128).view(-1)

    def _draw_codes(self, first_key_code: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Independent codes of shape (B, P - 1): a noise pair with probability `frac_noise`, else a key.

        One 31-bit integer decides all of a pair. Those below a threshold are stretched evenly over the noise
        pairs, the others over the keys: a line with a bend, the lower or the upper one of two straight lines.
        (This and the clamping below replace a selection by mask, which on a CPU costs mispredicted branches.)
        """
        num_keys, num_noise_pairs = len(self.keys), len(self.distractors) ** 2
        threshold = round(self.frac_noise * 2**_RANDOM_BITS)
        noise_slope = num_noise_pairs / max(threshold, 1)
        key_slope = num_keys / max(2**_RANDOM_BITS - threshold, 1)
        lower_or_upper = torch.minimum if noise_slope > key_slope else torch.maximum

        shape, device = (first_key_code.shape[0], self.num_pairs - 1), first_key_code.device
        steps = torch.empty(shape, dtype=torch.int32, device=device).random_(generator=generator)
        # Relative to the threshold: noise below zero, keys above it. The half step keeps the products further
        # from the ends of their ranges than rounding in float64 can move them.
        steps = steps.double().add_(0.5 - threshold)
        # Rounded towards zero, noise pairs become 1 - noise_vocab_size^2 to 0, keys 0 to K - 1.
        codes = lower_or_upper(steps * noise_slope, steps * key_slope).int().add_(num_noise_pairs - 1)
        # Only keys move on to their sequence's place: the steps, clamped, are 0 for noise and 0.5 for a key.
        to_place = (first_key_code - (num_noise_pairs - 1)).double()
        return codes.add_(steps.clamp_(0, 0.5).mul_(2 * to_place).int())

    def validation_set(
        self, seed: int, sequences: int = 1024, batch_size: int = 64, device: torch.device | str | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Generate a run's fixed validation set, token for token the study's.

        All sequences are drawn by `generate`, one after the other, from
        `numpy.random.default_rng(10_000 + seed)`.

        Args:
            seed: the run's seed, at least -10,000.
            sequences: number of sequences; the study has 16 of its training batches.
            batch_size: number of sequences in a batch, B; the last may be smaller. The sequences do not depend on it.
            device: where the tensors go; None for torch's default device.

        Returns:
            A list of (inputs, targets), int64 tensors of shape (B, num_tokens - 1); targets are the scored
            values, elsewhere `IGNORE_INDEX`.

        Raises:
            ValueError: an argument is not an integer or too small.
        """
        seed = checked_integer("seed", seed, -VALIDATION_SEED_OFFSET)
        sequences = checked_integer("sequences", sequences, 1)
        batch_size = checked_integer("batch_size", batch_size, 1)
        rng = np.random.default_rng(VALIDATION_SEED_OFFSET + seed)
        drawn = np.array([self.generate(rng, training=False) for _ in range(sequences)])
        return in_batches(drawn[:, 0], drawn[:, 1], batch_size, device)

    def first_showings(self, tokens: np.ndarray) -> np.ndarray:
        """Find the pairs that show a key for the first time.

        Args:
            tokens: whole sequences, integers of shape (..., num_tokens).

        Returns:
            A boolean array of shape (..., P), over all pairs, the query among them.

        Raises:
            ValueError: the last axis is not `num_tokens` long.
        """
        leading = self._leading_tokens(tokens)
        order = np.argsort(leading, axis=-1, kind="stable")
        ordered = np.take_along_axis(leading, order, axis=-1)
        first = np.ones(leading.shape, dtype=bool)
        np.put_along_axis(first, order[..., 1:], ordered[..., 1:] != ordered[..., :-1], axis=-1)
        return first & (leading < len(self.keys))

    def showings(self, tokens: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Count how often the key of each pair is shown.

        Args:
            tokens: whole sequences, integers of shape (..., num_tokens).

        Returns:
            so far, in all: integer arrays of shape (..., P), over all pairs, the query among them; 0 for noise. The
            first counts the pairs up to and including this one, the second all of the sequence.

        Raises:
            ValueError: the last axis is not `num_tokens` long.
        """
        is_key = self._leading_tokens(tokens)[..., None] == np.arange(len(self.keys))
        so_far = is_key.cumsum(-2)
        return (so_far * is_key).sum(-1), (so_far[..., -1:, :] * is_key).sum(-1)

    def evaluation_targets(self, tokens: np.ndarray) -> np.ndarray:
        """Label the tokens that are scored: the values of keys that were shown before.

        Without `multi_query` only the last token is scored.

        Args:
            tokens: whole sequences, integers of shape (..., num_tokens).

        Returns:
            An int64 array of shape (..., num_tokens - 1), aligned with the inputs `tokens[..., :-1]`: the
            value to recall after a key that was shown before, elsewhere `IGNORE_INDEX`.

        Raises:
            ValueError: the last axis is not `num_tokens` long.
        """
        scored = (self._leading_tokens(tokens) < len(self.keys)) & ~self.first_showings(tokens)
        tokens = np.asarray(tokens)
        targets = np.full((*tokens.shape[:-1], self.num_tokens - 1), IGNORE_INDEX, dtype=np.int64)
        targets[..., -1] = np.where(scored[..., -1], tokens[..., -1], IGNORE_INDEX)
        if self.multi_query:
            targets[..., ::2] = np.where(scored, tokens[..., 1::2], IGNORE_INDEX)
        return targets

    def _leading_tokens(self, tokens: np.ndarray) -> np.ndarray:
        """The first token of each pair, shape (..., P)."""
        tokens = np.asarray(tokens)
        if tokens.ndim == 0 or tokens.shape[-1] != self.num_tokens:
            raise ValueError(f"tokens must be sequences of {self.num_tokens}, not of shape {tokens.shape}")
        return np.concatenate([tokens[..., : self.seq_len - 2 : 2], tokens[..., -2:-1]], axis=-1)

    def counts(self, tokens: np.ndarray) -> dict[str, np.ndarray]:
        """Count what sequences hold, to be compared with `expected_counts`.

        Args:
            tokens: whole sequences, integers of shape (..., num_tokens).

        Returns:
            Integer arrays of shape (...): "distractors", the noise tokens; "key-value pairs" before the
            query; "distinct keys" among those; "scored values", the query's included.

        Raises:
            ValueError: the last axis is not `num_tokens` long.
        """
        before_query = self._leading_tokens(tokens)[..., :-1]
        return {
            "distractors": 2 * (before_query >= len(self.keys)).sum(-1),
            "key-value pairs": (before_query < len(self.keys)).sum(-1),
            "distinct keys": self.first_showings(tokens)[..., :-1].sum(-1),
            "scored values": (self.evaluation_targets(tokens) != IGNORE_INDEX).sum(-1),
        }

    def expected_counts(self) -> dict[str, float]:
        """Compute the means of `counts` in closed form.

        A pair before the query is noise with probability f (1 - 1/P), f being `frac_noise`: the pair that is
        never noise is equally likely to be any of the P, the last included. For the distinct keys see
        `expected_distinct_keys`. With `multi_query` every showing of a key but its first is scored, and the
        query, unless no key was shown before it.

        Returns:
            The expected number of each quantity in a sequence, under the names of `counts`.
        """
        num_pairs = self.num_pairs
        noise_pairs = (num_pairs - 1) * self.frac_noise * (1 - 1 / num_pairs)
        key_pairs = num_pairs - 1 - noise_pairs
        distinct_keys = float(self.expected_distinct_keys(num_pairs - 1))
        query_scored = 1 - self.frac_noise ** (num_pairs - 1) / num_pairs
        return {
            "distractors": 2 * noise_pairs,
            "key-value pairs": key_pairs,
            "distinct keys": distinct_keys,
            "scored values": query_scored + (key_pairs - distinct_keys if self.multi_query else 0),
        }

    def expected_distinct_keys(self, num_pairs: np.ndarray | int) -> np.ndarray:
        """Compute how many different keys the first pairs of a sequence show on average.

        With q = (1 - frac_noise) / K, a given key is absent from the first p pairs with probability
        (1 - p/P) (1 - q)^p + (p/P) (1 - 1/K) (1 - q)^(p-1): the pair that is never noise is among them in p
        of P cases and then shows one of the K keys for certain.

        Args:
            num_pairs: number p of pairs from the start, 0 to P - 1; any shape.

        Returns:
            float64 array of the argument's shape, each entry between 0 and K.

        Raises:
            ValueError: a number of pairs is outside 0 to P - 1.
        """
        shown = np.asarray(num_pairs)
        if shown.size and not 0 <= shown.min() <= shown.max() < self.num_pairs:
            raise ValueError(f"num_pairs must be between 0 and {self.num_pairs - 1}, not {num_pairs}")
        num_keys, guaranteed = len(self.keys), shown / self.num_pairs
        missed = 1 - (1 - self.frac_noise) / num_keys
        absent = (1 - guaranteed) * missed**shown
        # With no pair at all the guaranteed one is not among them, and the power -1 must not be taken of 0.
        absent += guaranteed * (1 - 1 / num_keys) * missed ** np.maximum(shown - 1, 0)
        return num_keys * (1 - absent)
