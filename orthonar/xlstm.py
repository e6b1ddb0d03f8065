"""The read in existing models of the package `xlstm` (from PyPI, versions 2.0), whose weights stay as they are; and the
study's model with that package's own layer.

`put_read` changes how every `mLSTMCell` of a model reads its memory, in the whole sequence and in `step`; `take_out`
makes it the stock model again. `state_dict_from_xlstm` lets a model of this package take over the weights of a
language model of that one, and `StockModel` takes over those of one of this. The package itself need not be installed
to import this module.

Axes: B batch, NH heads, S sequence, DH head size.
"""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from .mlstm.cell import MLSTMState, check_form, mlstm_sequence
from .mlstm.layer import MLSTM
from .model import ModelConfig, SequenceModel
from .reads.base import Read, check_read
from .settings import checked_integer, checked_kind


class StockModel(nn.Module):
    """The study's model put together from others' parts: PyTorch's embedding and head, the package's layer and norms.

    Its state dict is that of `orthonar.SequenceModel` with an mLSTM, both ways and with `strict=True`: what was trained
    here, with the raw read at its end, runs there as it is. Built alone, it is initialised by its parts.

    Args:
        config: sizes; of the mixer neither read nor write nor form are looked at, the stock layer has its own.
        context_length: length of the causal mask that the stock layer keeps; sequences may be shorter, not longer.

    Raises:
        ValueError: config is no `ModelConfig`, its mixer no `MLSTM`, or the length none.
        ImportError: the package `xlstm` is not installed: pip install 'orthonar[xlstm]'.
    """

    def __init__(self, config: ModelConfig, context_length: int):
        super().__init__()
        layers, norms = _package("blocks.mlstm.layer"), _package("components.ln")
        width, mixer = checked_kind("config", config, ModelConfig).embedding_dim, config.mixer
        if not isinstance(mixer, MLSTM):
            raise ValueError(f"config: the mixer must be an MLSTM, not {type(mixer).__name__}")
        context_length = checked_integer("context_length", context_length, 1)
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.norm = norms.LayerNorm(width)
        self.layer = layers.mLSTMLayer(
            layers.mLSTMLayerConfig(
                embedding_dim=width,
                num_heads=mixer.num_heads,
                proj_factor=mixer.proj_factor,
                conv1d_kernel_size=mixer.conv_kernel_size,
                qkv_proj_blocksize=mixer.qkv_block_size,
                context_length=context_length,
                bias=False,
                dropout=0.0,
            )
        )
        self.post_norm = norms.LayerNorm(width)
        self.head = nn.Linear(width, config.vocab_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (B, S, V) for tokens (B, S), int64; ValueError if they are longer than the context."""
        longest = self.layer.config.context_length
        if tokens.shape[1] > longest:
            raise ValueError(
                f"tokens: {tokens.shape[1]} positions are more than the stock layer's context of {longest}"
            )
        x = self.embedding(tokens)
        return self.head(self.post_norm(x + self.layer(self.norm(x))))


@dataclass(frozen=True)
class _Sequence:
    """In the place of a cell's `backend_fn`."""

    read: Read
    form: str
    stock: Any  #: what was there before.

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor, igate_preact: Tensor, fgate_preact: Tensor, **_):
        gates = igate_preact[..., 0], fgate_preact[..., 0]
        return mlstm_sequence(queries, keys, values, *gates, read=self.read, form=self.form)


@dataclass(frozen=True)
class _Step:
    """In the place of a cell's `backend_fn_step`."""

    read: Read
    stock: Any

    def __call__(
        self, c_state: Tensor, n_state: Tensor, m_state: Tensor, q: Tensor, k: Tensor, v: Tensor,
        igate_preact: Tensor, fgate_preact: Tensor, **_,
    ):  # fmt: skip
        if self.read.keys is not None:
            raise ValueError(f"read: {self.read} keeps keys beside C, for which the state of xlstm's step has no room")
        state = MLSTMState(c_state, n_state[..., 0], m_state[..., 0, 0])
        gates = igate_preact[..., 0], fgate_preact[..., 0]
        h, state = mlstm_sequence(
            q, k, v, *gates, read=self.read, form="recurrent", initial_state=state, return_state=True
        )
        return h, (state.c_state, state.n_state[..., None], state.m_state[..., None, None])


def put_read(model: nn.Module, read: Read, *, form: str = "chunkwise") -> list[str]:
    """Let every mLSTM cell of a model of the package `xlstm` read its memory another way, until `take_out`.

    h_t = read(C_t)^T q_t / (max(|n_t . q_t|, exp(-m_t)) + 1e-6), as of `orthonar.mlstm_sequence`, in the whole sequence
    and in `step` alike. Nothing else changes: weights, parameters, state dicts and the states of `step` are the stock
    ones, sLSTM blocks go on as ever, and copies and pickles of the model have the read in. With `RawRead()` the outputs
    are the stock model's but for rounding; in the whole sequence also but for its 1e-6, which it adds in the frame of
    another log-scale.

    Args:
        model: an `xLSTMBlockStack`, `xLSTMLMModel`, `mLSTMBlock`, `mLSTMLayer` or any module that has some of them.
        read: `NewtonSchulzRead(steps=5)` or any other; one that keeps keys, such as `MesaRead`, cannot `step`.
        form: of the whole sequence, see `orthonar.mlstm_sequence`.

    Returns:
        The names of the cells, as of `model.named_modules()`.

    Raises:
        ValueError: the model has no such cell, or read or form is none.
        ImportError: the package `xlstm` is not installed.
    """
    check_read("read", read)
    check_form(form)
    cells = _cells(model)
    for cell in cells.values():
        cell.backend_fn = _Sequence(read, form, _stock(cell.backend_fn))
        cell.backend_fn_step = _Step(read, _stock(cell.backend_fn_step))
    return list(cells)


def take_out(model: nn.Module) -> list[str]:
    """Make a model the stock one again, bit for bit; where no read was put in, nothing changes.

    Args:
        model: as of `put_read`.

    Returns:
        The names of the cells that had one.

    Raises:
        ValueError: the model has no mLSTM cell of the package `xlstm`.
        ImportError: the package `xlstm` is not installed.
    """
    cells = {name: cell for name, cell in _cells(model).items() if isinstance(cell.backend_fn, _Sequence)}
    for cell in cells.values():
        cell.backend_fn, cell.backend_fn_step = _stock(cell.backend_fn), _stock(cell.backend_fn_step)
    return list(cells)


def _package(module: str) -> ModuleType:
    try:
        return importlib.import_module(f"xlstm.{module}")
    except ModuleNotFoundError as error:
        raise ImportError(f"the package xlstm is needed: pip install 'orthonar[xlstm]' ({error})") from None


def _cells(model: nn.Module) -> dict[str, Any]:
    cell = _package("blocks.mlstm.cell").mLSTMCell
    if not isinstance(model, nn.Module):
        raise ValueError(f"model must be a torch.nn.Module, not a {type(model).__name__}")
    cells = {name: module for name, module in model.named_modules() if isinstance(module, cell)}
    if not cells:
        raise ValueError(f"model: this {type(model).__name__} has no mLSTMCell of the package xlstm")
    return cells


def _stock(backend: Any) -> Any:
    return backend.stock if isinstance(backend, _Sequence | _Step) else backend


#: What the parts of an xLSTMLMModel are called in `orthonar.SequenceModel`.
_NAMES = {
    "token_embedding.": "embedding.",
    "xlstm_block_stack.blocks.0.xlstm_norm.": "norm.",
    "xlstm_block_stack.blocks.0.xlstm.": "layer.",
    "xlstm_block_stack.post_blocks_norm.": "post_norm.",
    "lm_head.": "head.",
}


def state_dict_from_xlstm(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of an `xLSTMLMModel` of one mLSTM block under the names that `orthonar.SequenceModel` has.

    The two are the same model; only the head here has a bias, which becomes 0. A model of equal sizes loads the result
    with `strict=True`. The layer alone needs no mapping: the state dict of `mLSTMLayer` is that of
    `orthonar.MLSTMLayer`.

    Args:
        state_dict: of an `xLSTMLMModel` whose only block is an mLSTM, without biases, as they are by default.

    Returns:
        The same tensors under other names, and head.bias (V,).

    Raises:
        ValueError: naming what has no place, such as a second block, a bias or an sLSTM, or what is missing.
    """
    sizes = ModelConfig(mixer=MLSTM(num_heads=1), embedding_dim=8, vocab_size=2)
    with torch.device("meta"):  # for its names
        smallest = SequenceModel(sizes)
    wanted = {name for name, _ in smallest.named_parameters()} - {"head.bias"}
    mapped = {}
    for name, tensor in state_dict.items():
        start = next((start for start in _NAMES if name.startswith(start)), "")
        place = _NAMES.get(start, "") + name.removeprefix(start)
        if not start or place not in wanted:
            raise ValueError(f"state_dict: {name} has no place in a model of one mLSTM block without biases")
        mapped[place] = tensor
    if missing := sorted(wanted - mapped.keys()):
        theirs = next(name for name, ours in _NAMES.items() if missing[0].startswith(ours))
        there = theirs + missing[0].removeprefix(_NAMES[theirs])
        raise ValueError(f"state_dict must be that of an xLSTMLMModel of one mLSTM block, and has no {there}")
    head = mapped["head.weight"]
    return mapped | {"head.bias": torch.zeros(len(head), dtype=head.dtype, device=head.device)}
