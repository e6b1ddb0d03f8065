"""One training step of the study's recipe: done operator by operator, or captured once as a CUDA graph and replayed.

Both do the same: a fresh batch from the run's own generator, forward, cross-entropy of the task's targets, backward,
the gradient's norm clipped, the optimizer, the schedule. Neither waits for the host, unless the read does.
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..model import SequenceModel
from ..reads.singular_values import orthogonal_blocks
from .anneals import NoAnneal, annealed, set_read

# Steps done before a graph is captured, so that all that is set up on first use is set up; they count as the others.
_WARM_UP = 3


class TrainingStep:
    """A model in training, operator by operator.

    Args:
        config: the settings, an `orthonar.RunConfig`.
        device: where to compute.
    """

    def __init__(self, config, device: torch.device):
        self.config, self.device, self.task = config, device, config.task
        self.steps_done = 0
        #: The step at which the run escaped, if its anneal waits for that; whoever evaluates says so.
        self.escaped_at: int | None = None
        self.model = SequenceModel(config.model, generator=generator(config.seed, "weights")).to(device)
        if config.orthogonal_keys:
            keys = self.model.layer.k_proj.weight
            keys.data.copy_(orthogonal_blocks(keys.detach()))
        self.batches = generator(config.seed, "batches", device)
        #: Sum of the losses since it was last set to zero, on the device.
        self.loss_sum = torch.zeros((), device=device)
        self.optimizer = self._make_optimizer()

    def _make_optimizer(self) -> torch.optim.Optimizer:
        config, projections = self.config, []
        if config.frozen_keys or config.qk_lr_factor != 1:
            if not (hasattr(self.model.layer, "q_proj") and hasattr(self.model.layer, "k_proj")):
                name = "frozen_keys" if config.frozen_keys else "qk_lr_factor"
                raise ValueError(f"{name}: the layer of {config.model.mixer!r} has no projections of queries and keys")
            projections = [self.model.layer.q_proj.weight, self.model.layer.k_proj.weight]
        if config.frozen_keys:
            projections.pop().requires_grad_(False)
        trained = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        faster = {name for name, p in trained.items() if any(p is q for q in projections) and config.qk_lr_factor != 1}
        groups = []
        for names, factor in ((trained.keys() - faster, 1.0), (faster, config.qk_lr_factor)):
            if names:
                in_order = [name for name in trained if name in names]
                group = {"params": [trained[name] for name in in_order], "names": in_order, "factor": factor}
                groups.append(group | {"lr": self._first_rate(factor)})
        return config.optimizer.build(groups, **self._options)

    #: What else the optimizer is to be told.
    _options: Mapping[str, Any] = MappingProxyType({})

    def _first_rate(self, factor: float) -> float | Tensor:
        return factor * self.config.optimizer.lr

    def step(self) -> None:
        """Take one step."""
        self._compute()
        self.steps_done += 1
        self.take_down()

    def take_down(self) -> None:
        """Let the model read as the run's anneal has it after the steps done."""
        if self.config.anneal != NoAnneal():
            weight = self.config.anneal.weight(self.steps_done, self.escaped_at)
            set_read(self.model, annealed(self.config.read, weight))

    def on_its_stream(self) -> AbstractContextManager:
        """What is computed inside follows the steps done."""
        return nullcontext()

    def _compute(self) -> None:
        tokens, targets = self.task.sample(self.config.batch_size, self.batches, self.device)
        loss = cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self._set_rate()
        self.optimizer.step()
        self.loss_sum += loss.detach()

    def _set_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * scheduled_rate(self.config, self.steps_done)


class ScheduledOnDevice(TrainingStep):
    """The same with the schedule on the device too: every step asks for the very same operations."""

    def _make_optimizer(self) -> torch.optim.Optimizer:
        rates = [scheduled_rate(self.config, step) for step in range(self.config.steps)]
        self._rates = torch.tensor(rates, dtype=torch.float32, device=self.device)
        self._next = torch.zeros(1, dtype=torch.int64, device=self.device)
        # Only GPUs know "capturable": a step counter on the device.
        self._options = {"capturable": self.device.type == "cuda"}
        return super()._make_optimizer()

    def _first_rate(self, factor: float) -> Tensor:
        return torch.zeros((), dtype=torch.float32, device=self.device)

    def _set_rate(self) -> None:
        rate = self._rates.index_select(0, self._next)[0]
        for group in self.optimizer.param_groups:
            group["lr"].copy_(group["factor"] * rate)
        self._next += 1


class GraphStep(ScheduledOnDevice):
    """The same captured as a CUDA graph, on a stream of its own: a step costs the host one call."""

    def __init__(self, config, device: torch.device):
        super().__init__(config, device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(device)
        self.stream.wait_stream(torch.cuda.current_stream(device))

    def step(self) -> None:
        """Take one step; the fourth captures the graph first."""
        with self.on_its_stream():
            if self.steps_done < _WARM_UP:
                self._compute()
            else:
                if self._graph is None:
                    self._graph = self._captured()
                self._graph.replay()
        self.steps_done += 1

    def on_its_stream(self) -> AbstractContextManager:
        return torch.cuda.stream(self.stream)

    def _captured(self) -> torch.cuda.CUDAGraph:
        self.optimizer.zero_grad()  # so that the graph has gradients of its own
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.batches)
        with torch.cuda.graph(graph, stream=self.stream):
            self._compute()
        return graph


def make_training_step(config, device: torch.device) -> TrainingStep:
    """The step that the setting engine asks for, see `takes_graph`."""
    return (GraphStep if takes_graph(config, device) else TrainingStep)(config, device)


def takes_graph(config, device: torch.device) -> bool:
    """Whether a run's steps are captured as a CUDA graph: "auto" does so on CUDA devices wherever it is possible.

    Raises:
        ValueError: a graph was asked for, and the mixer or the optimizer waits for the host on the way.
    """
    if device.type != "cuda" or config.engine == "eager" or config.anneal != NoAnneal():
        return False
    sizes = config.model.embedding_dim, config.task.seq_len
    waiting = [config.model.mixer] if config.model.mixer.needs_host_sync(*sizes, device) else []
    waiting += [] if config.optimizer.capturable else [config.optimizer]
    if waiting and config.engine == "graph":
        raise ValueError(f"engine: no graph can be captured of {waiting[0]!r} on {device}, which waits for the host")
    return not waiting


def scheduled_rate(config, step: int) -> float:
    """Learning rate of a step (from 0), of parameters without a factor of their own."""
    return config.optimizer.lr * config.schedule.relative_rate(step, config.steps)


def generator(seed: int, stream: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator for one use of a run's seed, unrelated to those of the other uses."""
    entropy = np.random.SeedSequence([seed, *stream.encode()]).generate_state(1, np.uint64)[0]
    return torch.Generator(device).manual_seed(int(entropy) >> 1)
