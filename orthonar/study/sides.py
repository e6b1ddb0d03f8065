"""The sides of the comparisons: what each is called, which settings it stands for, and how it looks in every figure.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and grey. A colour with a marker is one side's.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ..mixers.attention import Attention
from ..mlstm.parts import small_init_std
from ..mlstm.writes import DeltaWrite, FullDeltaWrite, WriteBack
from ..reads.base import RawRead
from ..reads.composites import BlendRead, MatrixStraightThroughRead, StraightThroughRead
from ..reads.filters import MuonRead, PolarRead, RidgeRead
from ..reads.low_degree import ShortMuonRead, SteepRead
from ..reads.mesa import MesaRead
from ..reads.newton_schulz import NewtonSchulzRead
from ..reads.rls import RLSRead
from ..training.anneals import FixedAnneal, GatedAnneal
from ..training.optimizers import Muon
from ..training.schedules import Constant

_BLACK, _ORANGE, _GREEN = "#000000", "#E69F00", "#009E73"
_BLUE, _VERMILLION, _PURPLE, _GREY = "#0072B2", "#D55E00", "#CC79A7", "#777777"
# Fewer and more Newton-Schulz steps than the orthogonalized read's five: lighter and darker than its blue.
_STEPS = {0: "#8FA1AE", 1: "#74ABD1", 2: "#4E98C8", 3: "#2A86BF", 8: "#003A5C"}
# As many of Muon's polynomial.
_MUON = {1: "#C9A3DB", 2: "#9E66BE", 3: "#6B2C91"}
# Few products to many: light green to dark.
_PRODUCTS = ("#93CC83", "#7CC275", "#66B767", "#50AB5B", "#3A9D50", "#268C46", "#177A3D", "#0D6432", "#004322")
# The baseline from another start or on another schedule: darker than its orange, since their curves lie on each other.
_BASELINES = {"small embedding": "#B87A00", "4,000 steps": "#8F5A00", "constant rate": "#5E3B00"}


@dataclass(frozen=True)
class Look:
    """How a side is drawn.

    Args:
        color: as matplotlib names it.
        marker: of its points.
        line: style of its lines, likewise.
    """

    color: str
    marker: str
    line: str | tuple = "-"

    @property
    def of_line(self) -> dict[str, Any]:
        """Arguments that draw a line with marks in matplotlib."""
        return {"color": self.color, "linestyle": self.line, "marker": self.marker}


@dataclass(frozen=True)
class Side:
    """One side of a comparison.

    Args:
        name: how tables and figures call it, the follow-up's name where it has one.
        settings: what tells it apart, settings of `RunConfig`.
        label: what it is, in a few words.
        look: how it is drawn.
    """

    name: str
    settings: Mapping = field(hash=False)
    label: str
    look: Look

    @property
    def title(self) -> str:
        """The name as readers are shown it."""
        return title(self.name)


#: What readers see of names that are short for something, or would break a sentence.
_TITLES = {
    "ns0_normalise_only": "normalised, no step",
    "qk_lr_x4": "queries, keys at 4x rate",
    "rls_read": "recursive least squares",
    "short_muon3": "Muon's 3 steps in 21 products",
    "baseline, Muon": "baseline with Muon",
    "orthogonalized, Muon": "orthogonalized with Muon",
    "baseline, 4,000 steps": "baseline over 4,000 steps",
    "baseline, constant rate": "baseline at a constant rate",
    "ns5, constant rate": "orthogonalized at a constant rate",
    "small embedding": "baseline from a small embedding",
    "orthogonalized, small embedding": "orthogonalized from a small embedding",
    "attention, rotary": "rotary attention",
}


def title(name: str) -> str:
    """A side's name as readers are shown it: "ns3" is "3 steps", "degree4" "4 products"; other names pass."""
    for short, one, of in (("ns", "step", ""), ("degree", "product", ""), ("muon", "step", " of Muon's polynomial")):
        if (count := name.removeprefix(short)).isdigit() and name.startswith(short):
            return f"{count} {one}{'s'[: count != '1']}{of}"
    return _TITLES.get(name, name.replace("_", " "))


def by_name(*sides: Side) -> Mapping[str, Side]:
    """Sides by their names, in order.

    Raises:
        ValueError: two have the same name.
    """
    named = {side.name: side for side in sides}
    if len(named) < len(sides):
        raise ValueError(f"sides: a name comes twice among {', '.join(side.name for side in sides)}")
    return MappingProxyType(named)


def _reading(name: str, label: str, look: Look, read, **settings) -> Side:
    return Side(name, MappingProxyType({"read": read, **settings}), label, look)


#: The two sides of the post's comparison.
BASELINE = _reading("baseline", "raw read, Cᵀ q", Look(_ORANGE, "s", "--"), RawRead())
ORTHOGONALIZED = _reading(
    "orthogonalized",
    "orthogonalized read: 5 Newton-Schulz steps (ns5)",
    Look(_BLUE, "o", "-"),
    NewtonSchulzRead(steps=5),
)
HEADLINE = by_name(BASELINE, ORTHOGONALIZED)


def reading(name: str) -> Side:
    """The side of the post's comparison that a read belongs to.

    Args:
        name: class of the read, "RawRead" or "NewtonSchulzRead".

    Raises:
        ValueError: neither side reads so.
    """
    for side in HEADLINE.values():
        if type(side.settings["read"]).__name__ == name:
            return side
    raise ValueError(f"read: {name} is on neither side of the post's comparison")


#: The follow-up's elimination, by its names: what in the read does the work, and what in the write.
ELIMINATION = by_name(
    BASELINE,
    ORTHOGONALIZED,
    _reading(
        "ns0_normalise_only",
        "memory divided by its norm, no step",
        Look(_STEPS[0], "v", ":"),
        NewtonSchulzRead(steps=0),
    ),
    _reading("ns1", "1 Newton-Schulz step", Look(_STEPS[1], "^", "--"), NewtonSchulzRead(steps=1)),
    _reading("ns3", "3 Newton-Schulz steps", Look(_STEPS[3], "D", "-."), NewtonSchulzRead(steps=3)),
    _reading(
        "straight_through_forward_only",
        "reads orthogonalized, memory learns as if raw",
        Look(_VERMILLION, "o", "-"),
        MatrixStraightThroughRead(NewtonSchulzRead(), RawRead()),
    ),
    _reading(
        "straight_through_backward_only",
        "reads raw, memory learns as if orthogonalized",
        Look(_VERMILLION, "s", "--"),
        MatrixStraightThroughRead(RawRead(), NewtonSchulzRead()),
    ),
    _reading(
        "frozen_random_keys",
        "raw read, keys stay a random rotation",
        Look(_PURPLE, "o", "-"),
        RawRead(),
        frozen_keys=True,
        orthogonal_keys=True,
    ),
    _reading(
        "delta_write",
        "raw read, delta rule that erases all under a key",
        Look(_GREEN, "o", "-"),
        RawRead(),
        write=FullDeltaWrite(),
    ),
    _reading("rls_read", "recursive least squares on unit keys", Look(_BLACK, "o", "-"), RLSRead()),
    _reading(
        "qk_lr_x4",
        "raw read, queries and keys learn 4 times faster",
        Look(_PURPLE, "P", "--"),
        RawRead(),
        qk_lr_factor=4.0,
    ),
)
#: Variants that the follow-up does not have; what differs from one of its own in a detail has a name of its own.
VARIANTS = by_name(
    _reading(
        "forward_orthogonalized",
        "reads orthogonalized, learns as if raw",
        Look(_VERMILLION, "^", "-"),
        StraightThroughRead(NewtonSchulzRead(), RawRead()),
    ),
    _reading(
        "backward_orthogonalized",
        "reads raw, learns as if orthogonalized",
        Look(_VERMILLION, "<", "--"),
        StraightThroughRead(RawRead(), NewtonSchulzRead()),
    ),
    _reading("frozen_keys", "raw read, keys stay as drawn", Look(_PURPLE, "X", "-"), RawRead(), frozen_keys=True),
    _reading(
        "gated_delta_write",
        "raw read, delta rule that erases by the gated share",
        Look(_GREEN, "s", "-"),
        RawRead(),
        write=DeltaWrite(),
    ),
    _reading(
        "write_back_each_chunk",
        "ns5, and what is read is kept, every 16 positions",
        Look(_GREEN, "<", "--"),
        NewtonSchulzRead(steps=5),
        write=WriteBack(every=16),
    ),
    _reading("mesa_read", "least-squares read under the gates (Mesa layer)", Look(_BLACK, "*", "-"), MesaRead()),
    _reading("blend_half", "half raw, half orthogonalized read", Look(_BLACK, "p", "--"), BlendRead(0.5)),
    _reading("ns2", "2 Newton-Schulz steps", Look(_STEPS[2], "X", ":"), NewtonSchulzRead(steps=2)),
    _reading("ridge", "ridge regression's singular values", Look(_GREY, "D", "-"), RidgeRead()),
    _reading("polar", "polar factor: singular values become 1", Look(_GREY, "h", "--"), PolarRead()),
    _reading("ns8", "8 Newton-Schulz steps", Look(_STEPS[8], "X", ":"), NewtonSchulzRead(steps=8)),
    _reading("muon3", "3 steps of Muon's polynomial, trained by AdamW", Look(_MUON[3], ">", "-."), MuonRead(steps=3)),
    # Last, since every position waits for the one before: half an hour for what takes others minutes.
    _reading(
        "write_back",
        "ns5, and what is read is kept, at every position",
        Look(_GREEN, "v", ":"),
        NewtonSchulzRead(steps=5),
        write=WriteBack(),
    ),
)

#: How few products with the memory's Gram matrix keep what five Newton-Schulz steps do. Of the polynomials of a degree
#: the steepest, which lifts weak associations most for its cost.
DEGREES = by_name(
    *(
        _reading(
            f"degree{n}",
            f"steepest read with {n} product{'s'[: n != 1]}",
            Look(color, marker, "-"),
            SteepRead(degree=n),
        )
        for n, marker, color in zip((1, 2, 3, 4, 6, 8, 10, 12, 23), "osDvPX^*h", _PRODUCTS)
    )
)
#: As steep at 0 as some of those, and far flatter at 1, where the steepest polynomials of a degree ripple most: by that
#: slope a gradient through the read is multiplied.
MUON_STEPS = by_name(
    _reading("muon1", "1 step of Muon's polynomial", Look(_MUON[1], "<", "--"), MuonRead(steps=1)),
    _reading("muon2", "2 steps of Muon's polynomial", Look(_MUON[2], ">", "-."), MuonRead(steps=2)),
)
#: Two maps of one cost, both about as steep at 0 as float32 allows: the steepest polynomial, which has slopes of 200
#: near 1, and Muon's, which has slopes of 40 there.
STEEP = by_name(
    _reading("degree20", "steepest read with 20 products", Look(_GREEN, "d", "-"), SteepRead(degree=20)),
    _reading("short_muon3", "3 steps of Muon's polynomial in 21 products", Look(_MUON[3], "D", "-"), ShortMuonRead()),
)
#: The study's read, against which the others are held, the raw one, fewer steps, every degree, and Muon's polynomial.
FRONTIER = by_name(
    ORTHOGONALIZED, BASELINE, ELIMINATION["ns1"], VARIANTS["ns2"], ELIMINATION["ns3"], *DEGREES.values(),
    *MUON_STEPS.values(),
)  # fmt: skip

#: Both reads from an embedding as small as the layer's projections, which is not the study's.
SMALL_EMBEDDING = _reading(
    "small embedding", f"raw read, embedding std {small_init_std(94):.3f}",
    Look(_BASELINES["small embedding"], "D", "-."), RawRead(), embedding_std=small_init_std(94),
)  # fmt: skip
ORTHOGONALIZED_SMALL_EMBEDDING = _reading(
    "orthogonalized, small embedding", f"orthogonalized read, embedding std {small_init_std(94):.3f}",
    Look(_BLUE, "D", "-."), NewtonSchulzRead(steps=5), embedding_std=small_init_std(94),
)  # fmt: skip

#: The raw read over twice the steps, and at a constant rate.
COSINE_4000 = _reading(
    "baseline, 4,000 steps", "raw read, cosine over 4,000 steps", Look(_BASELINES["4,000 steps"], "^", ":"), RawRead(),
    steps=4000,
)  # fmt: skip
CONSTANT = _reading(
    "baseline, constant rate", "raw read, constant learning rate", Look(_BASELINES["constant rate"], "P", (0, (5, 1))),
    RawRead(), schedule=Constant(),
)  # fmt: skip
ORTHOGONALIZED_CONSTANT = _reading(
    "ns5, constant rate", "orthogonalized read, constant learning rate", Look(_BLUE, "P", (0, (5, 1))),
    NewtonSchulzRead(steps=5), schedule=Constant(),
)  # fmt: skip

#: The orthogonalized read taken down in the course of training, as the follow-up does at a constant rate.
FIXED_ANNEAL = _reading(
    "anneal, fixed", "orthogonalized read, taken down from step 1,400 to 2,000", Look(_BLUE, "v", ":"),
    NewtonSchulzRead(steps=5), schedule=Constant(), anneal=FixedAnneal(),
)  # fmt: skip
GATED_ANNEAL = _reading(
    "anneal, gated", "orthogonalized read, taken down from the escape on", Look(_BLUE, "^", ":"),
    NewtonSchulzRead(steps=5), schedule=Constant(), anneal=GatedAnneal(),
)  # fmt: skip
#: The window at the same shares of the pocket scale's 3,000 steps.
POCKET_FIXED_ANNEAL = _reading(
    "anneal, 2,100 to 3,000", "orthogonalized read, taken down from step 2,100 to 3,000", Look(_BLUE, "X", ":"),
    NewtonSchulzRead(steps=5), schedule=Constant(), anneal=FixedAnneal(anneal_from=2100, anneal_to=3000),
)  # fmt: skip

#: What the post sets beside recurrent networks: attention, with as many parameters as the mLSTM.
ATTENTION = Side(
    "attention", MappingProxyType({"mixer": Attention(num_heads=2), "probes": False}),
    "softmax attention, no positions", Look(_GREEN, "P", (0, (1, 1))),
)  # fmt: skip
ROTARY_ATTENTION = Side(
    "attention, rotary", MappingProxyType({"mixer": Attention(num_heads=2, rotary=True), "probes": False}),
    "softmax attention, rotary positions", Look(_GREEN, "X", (0, (3, 1, 1, 1))),
)  # fmt: skip
#: Where the idea comes from: the update orthogonalized instead of the read, and both.
MUON = _reading("baseline, Muon", "raw read, trained by Muon", Look(_ORANGE, "*", "-."), RawRead(), optimizer=Muon())
ORTHOGONALIZED_MUON = _reading(
    "orthogonalized, Muon", "orthogonalized read, trained by Muon", Look(_BLUE, "*", "-."), NewtonSchulzRead(steps=5),
    optimizer=Muon(),
)  # fmt: skip
