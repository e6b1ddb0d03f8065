"""Recorded episodes of a small partially observed world, as a task: what comes of what was shown long before."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch

from ..settings import checked_integer, integer, settings
from .base import IGNORE_INDEX, VALIDATION_SEED_OFFSET, Task, in_batches, sampling_device


@settings
class KeyDoor(Task):
    """Predict what an agent sees next in `orthonar.data.key_door_env`, and above all whether a door opens.

    A recorded episode is what was seen and done in turns, o_0 a_0 o_1 a_1 ... o_T. Actions are tokens too, after those
    for what is seen. In the corridor the recording agent walks on; at a door it takes, each half of the time, the key
    that opens it or one of the others: what is seen then can be told from the sign and the key, and is a coin toss
    without the sign. Training targets are all that is seen, distractions included, and no actions; scored is whether
    each door opened. With 2 doors, 2 keys and 1 distractor, doors are 0 and 1, keys 2 and 3, the distractor is 4, open
    is 5 and shut 6; walking on is 7, and the keys tried are 8 and 9:

        seen     0   3   1   3   4   4   1   6   0   5
        done       7   7   7   7   7   7   8   7   9
        scored                               6       5

    The task is a world model's (Hafner et al. 2023, arXiv 2301.04104: what is seen next and its reward, from all that
    was seen and done), reduced to what its memory must do. Chance is a half.

    Args:
        doors: number of doors, each shown with its key at the start and visited at the end.
        keys: number of keys.
        distractors: number of tokens that distract.
        corridor: distractions between the last sign and the first door.
        episodes: episodes that are recorded to be trained on; a batch draws from them, with replacement.
        recording_seed: of the recording. Validation sets are other episodes, by the run's seed.

    Raises:
        ValueError: a setting is of the wrong type or impossible; the message names it.
    """

    doors: int = integer(4, least=1)
    keys: int = integer(4, least=2)
    distractors: int = integer(8, least=1)
    corridor: int = integer(24, least=0)
    episodes: int = integer(2048, least=1)
    recording_seed: int = integer(0, least=0, most=VALIDATION_SEED_OFFSET - 1)

    @property
    def num_seen(self) -> int:
        """Number of tokens for what can be seen: doors, keys, distractions, "open" and "shut", in that order."""
        return self.doors + self.keys + self.distractors + 2

    @property
    def vocab_size(self) -> int:  # type: ignore[override]  # no setting here
        """Number of tokens V: what can be seen, then walking on, then the keys tried."""
        return self.num_seen + 1 + self.keys

    @property
    def values(self) -> range:
        """The tokens that are scored: "open" and "shut"."""
        return range(self.num_seen - 2, self.num_seen)

    @property
    def seq_len(self) -> int:  # type: ignore[override]
        """Tokens of an episode: 2 doors (signs), the corridor, 2 doors (with outcomes), and what was done between."""
        return 2 * (4 * self.doors + self.corridor) - 1

    def generate(self, rng: np.random.Generator, training: bool) -> tuple[np.ndarray, np.ndarray]:
        """Record one episode.

        Args:
            rng: source of all randomness, the world's and the agent's.
            training: True: the targets are all that is seen. False: they are the doors' outcomes.

        Returns:
            inputs, targets: int64 arrays of shape (seq_len - 1,); `IGNORE_INDEX` where there is no target.

        Raises:
            TypeError: `rng` is not a `numpy.random.Generator`.
            ModuleNotFoundError: Gymnasium is not installed.
        """
        if not isinstance(rng, np.random.Generator):
            raise TypeError(f"rng must be a numpy.random.Generator, not {type(rng).__name__}")
        tokens = self._episode(_environment(self), rng)
        return tokens[:-1], self._targets(tokens, training)

    def _episode(self, env, rng: np.random.Generator) -> np.ndarray:
        """All tokens of one episode, (seq_len,)."""
        seen, info = env.reset(seed=int(rng.integers(2**31)))
        tokens, ended = [seen], False
        while not ended:
            action = info["opens"]
            if action and rng.random() < 0.5:
                others = [key for key in range(1, self.keys + 1) if key != action]
                action = others[rng.integers(len(others))]
            seen, _, ended, _, info = env.step(action)
            tokens += (self.num_seen + action, seen)
        return np.array(tokens, dtype=np.int64)

    def _targets(self, tokens: np.ndarray, training: bool) -> np.ndarray:
        """The targets (..., seq_len - 1) of whole episodes (..., seq_len)."""
        after = tokens[..., 1:]
        seen = after < self.num_seen
        return np.where(seen if training else seen & (after >= self.values.start), after, IGNORE_INDEX)

    def sample(
        self,
        batch_size: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw a training batch from the recorded episodes, which are recorded when they are first asked for.

        Args:
            batch_size: number of episodes, B.
            generator: source of the choice, on `device`; None for torch's global one of that device.
            device: where to draw; None for the generator's device or, without a generator, torch's default device.

        Returns:
            inputs, targets: int64 tensors of shape (B, seq_len - 1); targets are all that is seen, `IGNORE_INDEX` where
            something is done.

        Raises:
            ValueError: `batch_size` is not a positive integer.
            ModuleNotFoundError: Gymnasium is not installed.
        """
        batch_size = checked_integer("batch_size", batch_size, 1)
        device = sampling_device(device, generator)
        recorded = _recorded(self, device)
        chosen = torch.randint(self.episodes, (batch_size,), generator=generator, device=device)
        inputs, targets = recorded.index_select(1, chosen)
        return inputs, targets

    def validation_set(
        self, seed: int, sequences: int = 1024, batch_size: int = 64, device: torch.device | str | None = None
    ) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Record a run's fixed validation set, all in a row, from `numpy.random.default_rng(10_000 + seed)`.

        Args:
            seed: the run's seed, at least 0.
            sequences: number of episodes.
            batch_size: episodes in a batch, B; the last may be smaller. The episodes do not depend on it.
            device: where the tensors go; None for torch's default device.

        Returns:
            A list of (inputs, targets), int64 tensors of shape (B, seq_len - 1); targets are "open" or "shut" where a
            key was tried, elsewhere `IGNORE_INDEX`.

        Raises:
            ValueError: an argument is not an integer or too small.
            ModuleNotFoundError: Gymnasium is not installed.
        """
        seed = checked_integer("seed", seed, 0)
        sequences, batch_size = checked_integer("sequences", sequences, 1), checked_integer("batch_size", batch_size, 1)
        tokens = _episodes(self, np.random.default_rng(VALIDATION_SEED_OFFSET + seed), sequences)
        return in_batches(tokens[:, :-1], self._targets(tokens, training=False), batch_size, device)


def _environment(task: KeyDoor):
    """The world of a task, made by Gymnasium."""
    try:
        import gymnasium

        from .key_door_env import ENVIRONMENT
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"KeyDoor needs {error.name}: pip install 'orthonar[world]'") from None
    sizes = {name: getattr(task, name) for name in ("doors", "keys", "distractors", "corridor")}
    return gymnasium.make(ENVIRONMENT, disable_env_checker=True, **sizes)


def _episodes(task: KeyDoor, rng: np.random.Generator, number: int) -> np.ndarray:
    """Whole episodes, (number, seq_len)."""
    env = _environment(task)
    return np.stack([task._episode(env, rng) for _ in range(number)])


@lru_cache(maxsize=8)
def _recorded(task: KeyDoor, device: torch.device) -> torch.Tensor:
    """Inputs and training targets of the recorded episodes, (2, episodes, seq_len - 1)."""
    tokens = _episodes(task, np.random.default_rng(task.recording_seed), task.episodes)
    return torch.from_numpy(np.stack([tokens[:, :-1], task._targets(tokens, training=True)])).to(device)
