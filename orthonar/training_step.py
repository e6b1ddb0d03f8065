"""One training step of the study's recipe: taken operator by operator, or captured once as a CUDA graph and replayed.

Both do the same: a fresh batch from the run's own generator, forward, cross-entropy of all next tokens, backward, the
gradient's norm clipped, AdamW, the schedule. Nothing in either waits for the host.
"""

import math
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from .model import MLSTMModel

# Steps taken before a graph is captured, so that all that is set up on first use is set up; they count as the others.
_WARM_UP = 3


class TrainingStep:
    """A model in training, operator by operator.

    Args:
        config: the settings, an `orthonar.RunConfig`.
        device: where to compute.
    """

    def __init__(self, config, device: torch.device):
        self.config, self.device, self.task = config, device, config.task
        self.taken = 0
        self.model = MLSTMModel(config.model, generator=generator(config.seed, "weights")).to(device)
        self.batches = generator(config.seed, "batches", device)
        #: Sum of the losses since it was last set to zero, on the device.
        self.total = torch.zeros((), device=device)
        self.optimizer = self._make_optimizer(lr=config.lr)

    def _make_optimizer(self, **options) -> torch.optim.AdamW:
        betas = self.config.beta1, self.config.beta2
        weight_decay = self.config.weight_decay
        return torch.optim.AdamW(self.model.parameters(), betas=betas, weight_decay=weight_decay, fused=True, **options)

    def take(self) -> None:
        """Take one step."""
        self._step()
        self.taken += 1

    def on_its_stream(self) -> AbstractContextManager:
        """What is computed inside follows the steps taken."""
        return nullcontext()

    def _step(self) -> None:
        tokens, targets = self.task.sample(self.config.batch_size, self.batches, self.device)
        loss = cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self._set_rate()
        self.optimizer.step()
        self.total += loss.detach()

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * relative_rate(self.config, self.taken)


class ScheduledOnDevice(TrainingStep):
    """The same with the schedule on the device too: every step asks for the very same operations."""

    def _make_optimizer(self, lr: float) -> torch.optim.AdamW:
        rates = [lr * relative_rate(self.config, step) for step in range(self.config.steps)]
        self._rates = torch.tensor(rates, dtype=torch.float32, device=self.device)
        self._next = torch.zeros(1, dtype=torch.int64, device=self.device)
        self._rate = torch.zeros((), dtype=torch.float32, device=self.device)
        # Only GPUs know "capturable": a step counter on the device.
        return super()._make_optimizer(lr=self._rate, capturable=self.device.type == "cuda")

    def _set_rate(self) -> None:
        self._rate.copy_(self._rates.index_select(0, self._next)[0])
        self._next += 1


class GraphStep(ScheduledOnDevice):
    """The same captured as a CUDA graph, on a stream of its own: a step costs the host one call."""

    def __init__(self, config, device: torch.device):
        super().__init__(config, device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))

    def take(self) -> None:
        """Take one step; the fourth captures the graph first."""
        with self.on_its_stream():
            if self.taken < _WARM_UP:
                self._step()
            else:
                if self._graph is None:
                    self._capture()
                self._graph.replay()
        self.taken += 1

    def on_its_stream(self) -> AbstractContextManager:
        return torch.cuda.stream(self.stream)

    def _capture(self) -> None:
        self.optimizer.zero_grad()  # so that the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.batches)
        with torch.cuda.graph(graph, stream=self.stream):
            self._step()
        self._graph = graph


def make_training_step(config, device: torch.device) -> TrainingStep:
    """The step that the setting engine asks for: "auto" is a graph on CUDA devices, "eager" elsewhere."""
    if config.engine == "graph" or (config.engine == "auto" and device.type == "cuda"):
        return GraphStep(config, device)
    return TrainingStep(config, device)


def relative_rate(config, step: int) -> float:
    """Learning rate of a step (from 0), over the peak."""
    return 1.0 if config.schedule == "constant" else 0.5 * (1 + math.cos(math.pi * step / config.steps))


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one use of a run's seed, unrelated to those of the other uses."""
    entropy = np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(entropy) >> 1)
