"""Learning rate schedules."""

import math
from abc import ABC, abstractmethod

from ..settings import Settings, integer, settings, variant


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


@settings
class LongCosine(Schedule):
    """From the peak along half a cosine of a length of its own, of which a run may see a part; then 0.

    Args:
        period: steps from the peak to 0.
    """

    kind = "long cosine"

    period: int = integer(4000, least=1)

    def relative_rate(self, step: int, steps: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(step / self.period, 1.0)))


@settings
class WarmUp(Schedule):
    """In a line from 0 to another schedule, and then that: relative_rate(t) = min(1, (t + 1) / warm_up) then(t).

    Args:
        warm_up: steps until nothing is held back any more.
        then: the other schedule.
    """

    kind = "warm-up"

    warm_up: int = integer(200, least=1)
    then: Schedule = variant(Cosine, Schedule)

    def relative_rate(self, step: int, steps: int) -> float:
        return min(1.0, (step + 1) / self.warm_up) * self.then.relative_rate(step, steps)
