"""A small partially observed world, as a Gymnasium environment: which key opens which door is shown once, long before.

Importing this registers `orthonar/KeyDoor-v0`; `gymnasium.make("orthonar.data.key_door_env:orthonar/KeyDoor-v0")` does
both. It needs the extra `world`.
"""

import gymnasium
import numpy as np
from gymnasium import spaces

from ..settings import checked_integer

#: Under which name the environment is registered.
ENVIRONMENT = "orthonar/KeyDoor-v0"


class KeyDoorEnv(gymnasium.Env):
    """Signs that say which key opens which door, a corridor of distractions, and then the doors, in another order.

    One thing is seen at a time, a number: a door, from 0; a key; a distraction; at last "open" or "shut". A sign is a
    door and then, a step later, its key, drawn uniformly (two doors may have the same). At the end the agent comes to
    every door once. What it does there is its key, or 0, to walk on, which opens nothing; it then sees whether the door
    is open, with a reward of 1 if so, and goes on to the next. Anywhere else whatever it does makes it walk on. It is
    the T-maze of Bakker 2002 ("Reinforcement learning with long short-term memory") with several junctions, whose signs
    all stand at the start.

    `info["opens"]` is the action that opens the door ahead, 0 where there is none: for whoever records, not for agents.

    Args:
        doors: number of doors, and of signs.
        keys: number of keys.
        distractors: number of distractions, drawn uniformly along the corridor.
        corridor: steps between the last sign and the first door.

    Raises:
        ValueError: naming the number that is impossible.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own)

    def __init__(self, doors: int = 4, keys: int = 4, distractors: int = 8, corridor: int = 24):
        self.doors = checked_integer("doors", doors, 1)
        self.keys = checked_integer("keys", keys, 2)
        self.corridor = checked_integer("corridor", corridor, 0)
        self.distractors = checked_integer("distractors", distractors, 1 if corridor else 0)
        #: What is seen where a door opened, and where it did not.
        self.open = doors + keys + distractors
        self.shut = self.open + 1
        self.observation_space = spaces.Discrete(self.shut + 1)
        self.action_space = spaces.Discrete(1 + keys)
        #: The action that opens the door stood before; 0 before none.
        self._opens = 0

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[int, dict]:
        """Draw what opens what, and stand before the first sign; arguments and results as of `gymnasium.Env`."""
        super().reset(seed=seed)
        draw = self.np_random
        self._key_of = draw.integers(self.keys, size=self.doors)
        signs = draw.permutation(self.doors)
        distractions = self.doors + self.keys + draw.integers(max(1, self.distractors), size=self.corridor)
        shown = np.stack([signs, self.doors + self._key_of[signs]], 1).ravel()
        #: What is still to be seen, the next one last, the outcomes apart.
        self._ahead = [*draw.permutation(self.doors).tolist(), *distractions[::-1].tolist(), *shown[::-1].tolist()]
        return self._walk_on()

    def step(self, action: int) -> tuple[int, float, bool, bool, dict]:
        """Walk on, or try a key; arguments and results as of `gymnasium.Env`."""
        if not self.action_space.contains(action):
            raise ValueError(f"action must be from 0 to {self.keys}, not {action!r}")
        if self._opens:
            opened = action == self._opens
            self._opens = 0
            return self.open if opened else self.shut, float(opened), not self._ahead, False, {"opens": 0}
        seen, info = self._walk_on()
        return seen, 0.0, False, False, info

    def _walk_on(self) -> tuple[int, dict]:
        at_a_door = len(self._ahead) <= self.doors
        seen = self._ahead.pop()
        self._opens = 1 + int(self._key_of[seen]) if at_a_door else 0
        return seen, {"opens": self._opens}


gymnasium.register(ENVIRONMENT, entry_point=KeyDoorEnv)  # type: ignore[arg-type]  # its arguments have names
