"""What the fast forms are held against: a numpy loop written out from the equations, hostile inputs, an error measure.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from orthonar import ModelConfig, SequenceModel

#: The chunk that the pairs of "straddling" families straddle.
CHUNK = 16
NAMES = ("q", "k", "v", "igate_preact", "fgate_preact")


class Inputs(NamedTuple):
    """The five arguments of the cell; q, k, v (B, NH, S, DH), gate pre-activations (B, NH, S), k unscaled."""

    q: Tensor
    k: Tensor
    v: Tensor
    igate_preact: Tensor
    fgate_preact: Tensor

    def to(self, dtype: torch.dtype) -> "Inputs":
        """The same numbers in another dtype."""
        return Inputs(*(x.to(dtype) for x in self))

    def part(self, positions: slice) -> "Inputs":
        """The same sequence at these positions only."""
        return Inputs(*(x[:, :, positions] for x in self))


def mlstm_by_hand(
    inputs, steps: int | None = None, eps: float = 1e-6, state=None, matrix: Callable | None = None, keys: bool = False
):
    """Run the mLSTM in float64, one position and head at a time.

    m_t = max(log f_t + m_{t-1}, i_t),   C_t = f' C_{t-1} + i' k_t v_t^T,   n_t = f' n_{t-1} + i' k_t,
    f' = exp(log f_t + m_{t-1} - m_t),   i' = exp(i_t - m_t),   k_t already divided by sqrt(DH),
    h_t = X_t^T q_t / (max(|n_t . q_t|, exp(-m_t)) + 1e-6)

    Args:
        inputs: the five arguments of the cell.
        steps: X_t is C_t if this is None, else this many Newton-Schulz steps from C_t / max(||C_t||_F, eps).
        eps: smallest norm divided by.
        state: (C, n, m), arrays (B, NH, ...), to start from; None is all zeros.
        matrix: X_t is this function of C_t, whatever `steps`.
        keys: C_t is [C_t, H_t] = f' [C_{t-1}, H_{t-1}] + i' k_t [v_t, k_t]^T.

    Returns:
        h (B, NH, S, DH) and the last (C, n, m), float64 arrays.
    """
    q, k, v, i, f = (x.detach().double().numpy() for x in inputs)
    batch, heads, length, size = q.shape
    if state is None:
        state = (
            np.zeros((batch, heads, size, size * (1 + keys))),
            np.zeros((batch, heads, size)),
            np.zeros((batch, heads)),
        )
    c_state, n_state, m_state = (np.array(x, dtype=np.float64) for x in state)
    h = np.zeros_like(q)
    for b in range(batch):
        for head in range(heads):
            c, n, m = c_state[b, head], n_state[b, head], m_state[b, head]
            for t in range(length):
                q_t, k_t, v_t = q[b, head, t], k[b, head, t] / math.sqrt(size), v[b, head, t]
                log_f = -np.logaddexp(0.0, -f[b, head, t])
                m_new = max(log_f + m, i[b, head, t])
                forget, write = math.exp(log_f + m - m_new), math.exp(i[b, head, t] - m_new)
                c = forget * c + write * np.outer(k_t, np.append(v_t, k_t) if keys else v_t)
                n = forget * n + write * k_t
                m = m_new
                x = c
                if matrix is not None:
                    x = matrix(c)
                elif steps is not None:
                    x = c / max(np.linalg.norm(c), eps)
                    for _ in range(steps):
                        x = 1.5 * x - 0.5 * x @ x.T @ x
                h[b, head, t] = x.T @ q_t / (max(abs(n @ q_t), math.exp(-m)) + 1e-6)
            c_state[b, head], n_state[b, head], m_state[b, head] = c, n, m
    return h, (c_state, n_state, m_state)


def _keep_keys(keep: Callable[[int], bool]) -> Callable:
    """Keys zero wherever `keep` says so."""

    def change(x: Inputs, draw) -> Inputs:
        erased = torch.tensor([not keep(t) for t in range(x.q.shape[2])])
        return x._replace(k=x.k.masked_fill(erased[:, None], 0.0))

    return change


def _gates(igate: Callable | float | None = None, fgate: Callable | float | None = None) -> Callable:
    """Gate pre-activations set to a number or drawn by a function; None leaves them."""

    def value(old: Tensor, new, draw) -> Tensor:
        if new is None:
            return old
        return new(old, draw) if callable(new) else torch.full_like(old, new)

    def change(x: Inputs, draw) -> Inputs:
        return x._replace(
            igate_preact=value(x.igate_preact, igate, draw), fgate_preact=value(x.fgate_preact, fgate, draw)
        )

    return change


def _opposite(pairs: Callable[[int], list[int]], left: float = 0.0) -> Callable:
    """Write the key of position t again at t + 1, with the opposite value, for each t in `pairs(S)`.

    This fraction of the value is left where the gates are open.
    """

    def change(x: Inputs, draw) -> Inputs:
        k, v = x.k.clone(), x.v.clone()
        for t in pairs(x.q.shape[2]):
            k[:, :, t + 1], v[:, :, t + 1] = k[:, :, t], (left - 1) * v[:, :, t]
        return x._replace(k=k, v=v)

    return change


def _both(*changes: Callable) -> Callable:
    def change(x: Inputs, draw) -> Inputs:
        for one in changes:
            x = one(x, draw)
        return x

    return change


def _either(old: Tensor, draw) -> Tensor:
    return torch.where(draw.random(old.shape) < 0.5, 50.0, -50.0)


def _anywhere(old: Tensor, draw) -> Tensor:
    return draw.uniform(old.shape) * 100.0 - 50.0


class _Draw:
    """float32 numbers as float64 tensors, so that every dtype computes with the very same inputs."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator).double()

    def uniform(self, shape) -> Tensor:
        return torch.rand(shape, generator=self.generator).double()

    random = uniform


def _unchanged(x: Inputs, draw) -> Inputs:
    return x


def _same_key(x: Inputs, draw) -> Inputs:
    return x._replace(k=x.k[:, :, :1].expand_as(x.k).clone())


def _zero_values(x: Inputs, draw) -> Inputs:
    return x._replace(v=torch.zeros_like(x.v))


def _one_open_gate(old: Tensor, draw) -> Tensor:
    new = torch.full_like(old, -50.0)
    new[..., old.shape[-1] // 3] = 0.0
    return new


def _inside(length: int) -> list[int]:
    return [5]


def _straddling(length: int) -> list[int]:
    return [CHUNK - 1]


def _every(length: int) -> list[int]:
    return list(range(0, length - 1, 2))


def _alone(t: int) -> Callable[[int], bool]:
    """Nothing is written before a pair at t, nor for a while after it, so that nothing is left of the memory."""
    return lambda u: u in (t, t + 1) or u > t + 12


_OPEN = _gates(0.0, 50.0)
_CHANGES: dict[str, Callable] = {
    "random": _unchanged,
    "zero_keys": _keep_keys(lambda t: False),
    "zero_values": _zero_values,
    "one_write": _keep_keys(lambda t: t == 7),
    "one_open_gate": _gates(_one_open_gate, 50.0),
    "same_key": _same_key,
    "opposite_in_chunk_open": _both(_keep_keys(_alone(5)), _opposite(_inside), _OPEN),
    "opposite_in_chunk_random": _both(_keep_keys(_alone(5)), _opposite(_inside)),
    "opposite_straddling_open": _both(_keep_keys(_alone(CHUNK - 1)), _opposite(_straddling), _OPEN),
    "opposite_straddling_random": _both(_keep_keys(_alone(CHUNK - 1)), _opposite(_straddling)),
    "opposite_every_pair_open": _both(_opposite(_every), _OPEN),
    "opposite_every_pair_random": _opposite(_every),
    "almost_opposite_in_chunk_open": _both(_keep_keys(_alone(5)), _opposite(_inside, 2**-6), _OPEN),
    "almost_opposite_straddling_open": _both(_keep_keys(_alone(CHUNK - 1)), _opposite(_straddling, 2**-6), _OPEN),
    "almost_opposite_every_pair_open": _both(_opposite(_every, 2**-6), _OPEN),
    "igate_-50": _gates(-50.0),
    "igate_+50": _gates(50.0),
    "fgate_-50": _gates(None, -50.0),
    "fgate_+50": _gates(None, 50.0),
    "igate_-50_fgate_-50": _gates(-50.0, -50.0),
    "igate_-50_fgate_+50": _gates(-50.0, 50.0),
    "igate_+50_fgate_-50": _gates(50.0, -50.0),
    "igate_+50_fgate_+50": _gates(50.0, 50.0),
    "gates_either_50": _gates(_either, _either),
    "gates_within_50": _gates(_anywhere, _anywhere),
}
_LENGTHS = {f"length_{length}": length for length in (1, 2, 15, 16, 17, 63, 77)}
#: Every family of inputs, by name.
FAMILIES = (*_CHANGES, *_LENGTHS)


def hostile_inputs(
    name: str, *, batch: int = 1, heads: int = 2, length: int = 40, size: int = 12, seed: int = 0
) -> Inputs:
    """Make the inputs of one family.

    Args:
        name: one of `FAMILIES`; those called length_S overrule `length`.
        batch, heads, length, size: B, NH, S, DH. The pairs of opposite values want S > 30.
        seed: of all random numbers.

    Returns:
        Inputs in float64, each number representable in float32.

    Raises:
        ValueError: there is no such family.
    """
    if name not in FAMILIES:
        raise ValueError(f"name must be one of {', '.join(FAMILIES)}, not {name!r}")
    draw = _Draw(seed)
    length = _LENGTHS.get(name, length)
    q, k, v = (draw.normal(batch, heads, length, size) for _ in range(3))
    inputs = Inputs(q, k, v, draw.normal(batch, heads, length), 3.0 + 2.0 * draw.normal(batch, heads, length))
    # float64 arithmetic above may have left more digits than float32 has.
    return _CHANGES.get(name, _unchanged)(inputs, draw).to(torch.float32).to(torch.float64)


def run_with_grads(function: Callable[..., Tensor], inputs: Inputs, seed: int = 1) -> tuple[Tensor, list[Tensor]]:
    """The outputs of function(*inputs), and the five gradients of their inner product with a fixed random tensor."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    h = function(*leaves)
    grads = torch.autograd.grad(h, leaves, _Draw(seed).normal(*h.shape).to(h))
    return h.detach().cpu(), [grad.cpu() for grad in grads]


def relative_errors(h: Tensor, grads: list[Tensor], reference: tuple[Tensor, list[Tensor]]) -> dict[str, float]:
    """How far outputs and gradients are from the reference's.

    The outputs' error is relative to the norm of the outputs, every gradient's to the largest norm of the five
    gradients. 0 / 0 counts as 0, anything else over 0 as infinite, and so does what is not finite.

    Returns:
        {"h": ..., "q": ..., "k": ..., "v": ..., "igate_preact": ..., "fgate_preact": ...}
    """
    h_reference, grads_reference = reference
    largest = max(_norm(g) for g in grads_reference)
    errors = {"h": _ratio(h, h_reference, _norm(h_reference))}
    for name, g, g_reference in zip(NAMES, grads, grads_reference, strict=True):
        errors[name] = _ratio(g, g_reference, largest)
    return errors


def assert_accurate(fast: Callable, plain: Callable, inputs: Inputs, wanted: tuple[Tensor, list[Tensor]]) -> None:
    """In float32 `fast` is finite and off `wanted` by at most 2e-5, or twice what `plain` in float32 is off by."""
    single = inputs.to(torch.float32)
    off = relative_errors(*run_with_grads(plain, single), wanted)
    h, grads = run_with_grads(fast, single)
    assert all(x.dtype == torch.float32 and torch.isfinite(x).all() for x in (h, *grads))
    for name, error in relative_errors(h, grads, wanted).items():
        assert error <= max(2 * off[name], 2e-5), f"{name}: {error:.1e}, plain {off[name]:.1e}"


def saved_elements(function: Callable[..., Tensor], inputs: Inputs) -> tuple[int, int]:
    """Numbers that function(*inputs) keeps for the backward pass: in the largest storage, and in all together."""
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        elements = storage.nbytes() // tensor.element_size()
        storages[storage.data_ptr()] = elements, tensor  # kept alive, so that no address comes twice
        return tensor

    leaves = [x.clone().requires_grad_() for x in inputs]
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(*leaves)
    sizes = [elements for elements, _ in storages.values()]
    return max(sizes), sum(sizes)


def _norm(x: Tensor) -> float:
    return torch.linalg.vector_norm(x.double()).item()


def _ratio(x: Tensor, reference: Tensor, norm: float) -> float:
    distance = _norm(x.double() - reference.double())
    if not math.isfinite(distance):
        return math.inf
    return distance / norm if norm > 0 else (0.0 if distance == 0 else math.inf)


def assert_model_steps_as_it_runs(tolerance: float, **settings) -> None:
    """A small model with these settings gives token by token what it gives for the sequence, and finite gradients."""
    config = ModelConfig(vocab_size=11, embedding_dim=8, num_heads=2, **settings)
    model = SequenceModel(config, generator=torch.Generator().manual_seed(0)).double()
    tokens = torch.randint(11, (2, 9), generator=torch.Generator().manual_seed(1))
    logits, state, stepped = model(tokens), None, []
    for token in tokens.unbind(1):
        one, state = model.step(token, state)
        stepped.append(one)
    torch.testing.assert_close(torch.stack(stepped, 1), logits, rtol=tolerance, atol=tolerance)
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
