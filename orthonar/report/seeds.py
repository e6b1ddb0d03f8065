"""Seeds: how they are written, in sentences and in tables alike, and on which of them a read was picked."""

from collections.abc import Collection, Mapping

#: Seeds of the pocket scale on which a read was picked, by what came out there, for a question of its own: a test on
#: these would flatter it. The one in 21 products was made after the whole polynomial had been run on seeds 0 to 23,
#: of which it is a shorter form; it was picked on those that the whole one was.
PICKED_ON: Mapping[str, range] = {
    "rls_read": range(8),
    "muon3": range(8),
    "degree8": range(9),
    "short_muon3": range(8),
}


def seeds_text(seeds: Collection[int]) -> str:
    """Seeds in as few words as they take: "seed 3", "seeds 0 to 23", "seeds 0 to 4, 7 and 8", "no seeds"."""
    if not len(seeds):
        return "no seeds"
    spans: list[list[int]] = []
    for seed in sorted(seeds):
        if spans and seed == spans[-1][1] + 1:
            spans[-1][1] = seed
        else:
            spans.append([seed, seed])
    texts = []
    for first, last in spans:
        texts += [f"{first} to {last}"] if last > first + 1 else [str(seed) for seed in range(first, last + 1)]
    before = ", ".join(texts[:-1])
    return f"seed{'s'[: len(seeds) > 1]} {f'{before} and ' if before else ''}{texts[-1]}"
