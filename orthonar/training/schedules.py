"""Learning rate schedules."""

import math
from abc import ABC, abstractmethod

from ..settings import Settings, settings


class Schedule(Settings, ABC):
    """The learning rate over a run, relative to its peak."""

    @abstractmethod
    def relative_rate(self, step: int, steps: int) -> float:
        """The rate of a step, over the peak.

        Args:
            step: the step, from 0.
            steps: steps of the run.
        """


@settings
class Cosine(Schedule):
    """From the peak to 0 along half a cosine (Loshchilov and Hutter 2017, arXiv 1608.03983), the study's."""

    kind = "cosine"

    def relative_rate(self, step: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * step / steps))


@settings
class Constant(Schedule):
    """The peak, throughout."""

    kind = "constant"

    def relative_rate(self, step: int, steps: int) -> float:
        return 1.0
