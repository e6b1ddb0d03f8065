"""Causal multi-head attention in the place of the mLSTM: all pairs of positions instead of a memory.

Axes: B batch, S sequence, T positions kept from before, E width of the residual stream, NH heads, DH head size, A =
NH DH.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.serialization import add_safe_globals

from ..mixer import Mixer, MixerLayer
from ..mlstm.layer import MLSTM, CausalConv, small_init_std, unset
from ..mlstm.rows import check_inputs, check_mask, check_part, in_front, moved
from ..settings import checked_integer, checked_kind, flag, integer, number, settings


@settings
class Attention(Mixer):
    """Settings of an attention layer; the defaults match the study's mLSTM.

    Args:
        num_heads: heads NH.
        head_size: size DH of a head; None is the size that brings the layer's parameters nearest to those of the mLSTM
            with as many heads and its other settings at their defaults: 41 for the study's width of 94, 62,134 (0.4 %
            fewer), and 55 for width 64 with 2 heads, 28,480 (0.2 % fewer).
        conv_kernel_size: taps of the causal convolution before queries and keys, the mLSTM's 4. With 0 there is none,
            and then one layer cannot recall the token that came after another: what it matches are single tokens.
        rotary: whether queries and keys are rotated by their positions; the mLSTM knows none.
        rotary_base: ratio of the slowest rotation's period to the fastest's.

    Raises:
        ValueError: naming the setting that is impossible.
    """

    num_heads: int = integer(4, least=1)
    head_size: int | None = integer(None, least=1, optional=True)
    conv_kernel_size: int = integer(4, least=0)
    rotary: bool = flag(False)
    rotary_base: float = number(10_000.0, above=1)

    def size_of_head(self, width: int) -> int:
        """Size DH of a head at this width of the residual stream, see `head_size`."""
        if self.head_size is not None:
            return self.head_size
        wanted = _mlstm_parameters(width, self.num_heads) - self._conv_parameters(width)
        return max(1, round(wanted / (4 * width * self.num_heads)))

    def _conv_parameters(self, width: int) -> int:
        return width * (self.conv_kernel_size + 1) if self.conv_kernel_size else 0

    def check(self, width: int) -> None:
        if self.rotary and self.size_of_head(width) < 2:
            raise ValueError(f"rotary: heads of {self.size_of_head(width)} have no two channels to rotate")

    def build(self, width: int, generator: torch.Generator | None = None) -> "AttentionLayer":
        return AttentionLayer(self, width, generator=generator)


def _mlstm_parameters(width: int, num_heads: int) -> int:
    """Parameters of the mLSTM layer with these heads and its other settings at their defaults."""
    mixer = MLSTM()
    inner = mixer.inner_dim(width)
    projections = 3 * width * inner + 3 * inner * mixer.qkv_block_size
    gates = 2 * num_heads * (3 * inner + 1)
    return projections + gates + inner * (mixer.conv_kernel_size + 1) + 2 * inner


class AttentionState(NamedTuple):
    """What the layer carries from token to token: all keys and values so far. It grows with what was read."""

    conv: Tensor  #: the last inputs of the convolution, (B, conv_kernel_size - 1, E).
    keys: Tensor  #: (B, NH, T, DH), rotated if they are.
    values: Tensor  #: (B, NH, T, DH).
    seen: Tensor | None = None  #: which of them what follows sees, (B, T): not padding, nor a sequence that is over.

    def detach(self) -> "AttentionState":
        """The same state, through which no gradient flows."""
        return AttentionState(*(x.detach() for x in self[:3]), self.seen)

    def to(self, *args, **options) -> "AttentionState":
        """The same state on another device or of another dtype; arguments as of `torch.Tensor.to`."""
        conv, keys, values = (x.to(*args, **options) for x in self[:3])
        return AttentionState(conv, keys, values, None if self.seen is None else self.seen.to(keys.device))


add_safe_globals([AttentionState])


class AttentionLayer(MixerLayer):
    """Causal multi-head attention after the mLSTM's short convolution.

    With c = SiLU(conv(x)): q = W_q c, k = W_k c, v = W_v x, by head, and y_t = W_o sum_u softmax_u(k_u . q_t /
    sqrt(DH)) v_u over u <= t (Vaswani et al. 2017, arXiv 1706.03762, section 3.2; the convolution as in Beck et al.
    2024, arXiv 2405.04517, figure 11). With rotary, channels j and j + DH // 2 of q_t and k_t are turned as one complex
    number by the angle t base^(-j / (DH // 2)), so that only t - u counts (Su et al. 2021, arXiv 2104.09864); an odd
    channel stays.

    Queries and keys see the tokens before through the convolution, as in the mLSTM: a value is found by the key that
    came before it. The layer has neither residual nor norm of its own.

    Args:
        mixer: its settings.
        width: width E of the residual stream.
        generator: source of the initial weights; None is PyTorch's own.

    Raises:
        ValueError: the settings do not go with this width.
    """

    def __init__(self, mixer: Attention, width: int, *, generator: torch.Generator | None = None):
        super().__init__()
        mixer, width = checked_kind("mixer", mixer, Attention), checked_integer("width", width, 1)
        mixer.check(width)
        inner = mixer.num_heads * mixer.size_of_head(width)
        self.mixer, self.width = mixer, width
        self.conv1d = CausalConv(width, mixer.conv_kernel_size) if mixer.conv_kernel_size else None
        self.q_proj = unset(nn.Linear, width, inner, bias=False)
        self.k_proj = unset(nn.Linear, width, inner, bias=False)
        self.v_proj = unset(nn.Linear, width, inner, bias=False)
        self.out_proj = unset(nn.Linear, inner, width, bias=False)
        self.reset_parameters(generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: projections N(0, 2 / (5 E)), the last one N(0, 4 / E), as the mLSTM's."""
        for projection in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(projection.weight, 0, small_init_std(self.width), generator)
        nn.init.normal_(self.out_proj.weight, 0, 2 / math.sqrt(self.width), generator)
        if self.conv1d is not None:
            self.conv1d.reset_parameters(generator)

    def forward(
        self,
        x: Tensor,
        state: AttentionState | None = None,
        *,
        reset: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, AttentionState]:
        """Outputs for a segment of any length, and the state after it.

        Args:
            x: inputs, (B, S, E).
            state: what this or `step` returned for what came before, or a plain tuple of its parts; None at the start.
            reset: True where a sequence starts, (B, S): what follows comes out as it does alone. None: nowhere.
            padding: True at positions that are not there, (B, S), anywhere in a row: the others come out as if alone.
                A reset there holds for what follows. None: nowhere.

        Returns:
            (B, S, E) and the new state. With resets or padding, and from then on, all pairs of positions have a mask
            in memory, and what is never seen again stays in the state.

        Raises:
            ValueError: naming the argument whose shape, dtype or kind does not fit.
        """
        conv, *past, seen = self._checked(x, state)
        check_mask("reset", reset, x)
        check_mask("padding", padding, x)
        sequence = None if reset is None else reset.cumsum(1)
        back = lengths = None
        if padding is not None:
            lengths = (~padding).sum(1)
            x, padding, sequence, back = in_front(x, padding, sequence)
        c = x
        if self.conv1d is not None:
            c, conv = self.conv1d(x, conv, sequence, lengths)
            c = F.silu(c)
        heads, before = self.mixer.num_heads, past[0].shape[2]
        q, k, v = (
            projection(of).unflatten(-1, (heads, -1)).transpose(1, 2)
            for projection, of in ((self.q_proj, c), (self.k_proj, c), (self.v_proj, x))
        )
        position, mask = torch.arange(before, before + x.shape[1], device=x.device), None
        if sequence is not None or padding is not None or seen is not None:
            mask, position, seen = _visible(x, before, seen, sequence, padding)
        if self.mixer.rotary:
            q, k = (_rotated(of, position, self.mixer.rotary_base) for of in (q, k))
        keys, values = (torch.cat([old, new], 2) if before else new for old, new in zip(past, (k, v), strict=True))
        y = self.out_proj(_attended(q, keys, values, mask).transpose(1, 2).flatten(2))
        return (y if back is None else moved(y, back)), AttentionState(conv, keys, values, seen)

    step = forward

    def _checked(self, x: Tensor, state: AttentionState | None) -> AttentionState:
        """The state to go on from; ValueError naming the argument that does not fit."""
        like, heads = self.q_proj.weight, self.mixer.num_heads
        size, taps = len(like) // heads, max(0, self.mixer.conv_kernel_size - 1)
        exact = check_inputs(x, self.width, like)
        if state is None:
            none = x.new_zeros(len(x), heads, 0, size)
            return AttentionState(x.new_zeros(len(x), taps, self.width), none, none)
        parts = state if isinstance(state, tuple | list) else ()
        if not 3 <= len(parts) <= 4 or not all(isinstance(part, Tensor) for part in parts[:3]):
            kind = type(state).__name__
            raise ValueError(f"state must be an AttentionState, as this layer returned it, not a {kind}")
        state = AttentionState(*parts)
        length = state.keys.shape[2] if state.keys.ndim == 4 else "T"
        kept = (len(x), heads, length, size)
        for name, wanted in (("conv", (len(x), taps, self.width)), ("keys", kept), ("values", kept)):
            check_part(name, getattr(state, name), wanted, x, {x.dtype} if exact else None)
        check_mask("state.seen", state.seen, state.keys[:, 0])
        return state


def _visible(
    x: Tensor, before: int, seen: Tensor | None, sequence: Tensor | None, padding: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Who sees whom, where rows hold several sequences or positions that are not there.

    Args:
        x: inputs, (B, S, E).
        before: how many positions are kept from before, T.
        seen: which of these are seen, (B, T); None is all.
        sequence: number of the sequence that each position belongs to, (B, S), as of `CausalConv`; None: all of one.
        padding: positions that are not there, (B, S); None is none.

    Returns:
        For each position those that it sees, (B, 1, S, T + S), itself always; its number in its own sequence, (B, 1,
        S); and which of all T + S what follows sees, (B, T + S).
    """
    batch, length = x.shape[:2]
    seen = torch.ones(batch, before, dtype=torch.bool, device=x.device) if seen is None else seen
    sequence = torch.zeros(batch, length, dtype=torch.int64, device=x.device) if sequence is None else sequence
    there = torch.ones_like(sequence, dtype=torch.bool) if padding is None else ~padding
    of = torch.cat([torch.zeros_like(seen, dtype=torch.int64), sequence], 1)
    there = torch.cat([seen, there], 1)
    earlier = (sequence[..., None] == of[:, None]) & there[:, None]
    earlier = earlier.tril(before - 1)
    itself = torch.ones(length, before + length, dtype=torch.bool, device=x.device).tril(before).triu(before)
    return (earlier | itself)[:, None], earlier.sum(-1)[:, None], there & (of == sequence[:, -1:])


def _attended(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the last S of T positions see: q (B, NH, S, DH), the others (B, NH, T, DH).

    Those in the mask (B, 1, S, T), or without one each itself and all before.
    """
    if mask is not None:
        return F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
    length, before = q.shape[2], keys.shape[2] - q.shape[2]
    if before == 0 or length == 1:
        return F.scaled_dot_product_attention(q, keys, values, is_causal=length > 1)
    # PyTorch's own causal mask would let the first of the S see the first of the T alone.
    seen = torch.ones(length, before + length, dtype=torch.bool, device=q.device).tril(before)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def _rotated(x: Tensor, position: Tensor, base: float) -> Tensor:
    """x (B, NH, S, DH), each position turned by its angles; their numbers (S,) or (B, 1, S)."""
    half = x.shape[-1] // 2
    of_channel = base ** (-torch.arange(half, dtype=torch.float64, device=x.device) / half)
    angle = position[..., None].double() * of_channel
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    one, other, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return torch.cat([one * cos - other * sin, one * sin + other * cos, rest], -1)
