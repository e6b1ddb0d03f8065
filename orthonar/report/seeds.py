"""How seeds are written, in sentences and in the table of a whole run alike."""

from collections.abc import Collection


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
