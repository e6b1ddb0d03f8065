"""The pages: what they link to is there, every figure is shown and described, and the site knows every page."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from docs import findings as written
from orthonar.report import stats
from orthonar.report.tables import cost, further_seeds, headline, maps, memory, other_reads, pace, read_raw, slopes
from orthonar.report.tables.compared import solved_counts
from orthonar.report.tables.compared import tested as compare
from orthonar.report.tables.equal_time import equal_time_answer
from orthonar.report.tables.findings import beside_published, findings
from orthonar.report.tables.frontier import KEEPS, ratio_text
from orthonar.report.tables.runs import on_shared_seeds, study_runs, with_all_seeds
from orthonar.report.tables.schedules import constant_rate, longer_schedule, reads_at_constant_rate
from orthonar.report.words import estimate_text, p_text
from orthonar.study.contents import answer_table
from orthonar.study.presets import PRESETS, find_study, preset_names
from orthonar.study.records import RunStore
from orthonar.study.sides import COSINE_4000, HEADLINE, MUON

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "results" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    """A page without its code, in which brackets are no links."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    return re.sub(r"`[^`\n]*`", "", text)


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked to by."""
    heads = re.findall(r"^#+ (.*)$", text_of(page), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_is_linked_is_there(page):
    for image, words, target in LINK.findall(text_of(page)):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target
        assert not image or len(words) > 20, f"{target}: it needs an alternative text"


def test_every_figure_is_in_the_gallery_once():
    shown = [Path(target).name for image, _, target in LINK.findall(text_of(ROOT / "docs" / "gallery.md")) if image]
    assert sorted(shown) == sorted(path.name for path in ROOT.glob("figures/*.png"))


def leaves(tree) -> list[str]:
    """The pages that a navigation names."""
    if isinstance(tree, str):
        return [tree]
    return [leaf for part in (tree.values() if isinstance(tree, dict) else tree) for leaf in leaves(part)]


def test_the_site_has_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    there = [page.relative_to(ROOT / "docs").as_posix() for page in ROOT.glob("docs/**/*.md")]
    assert sorted(leaves(site["nav"])) == sorted([*there, "readme.md"])  # which docs/site.py adds


def test_the_reference_names_modules_that_are_there():
    named = [name for page in ROOT.glob("docs/api/*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.M)]
    assert len(named) > 20
    assert [name for name in named if find_spec(name) is None] == []


def test_the_presets_are_named_with_their_sizes():
    row = re.compile(r"^\| (`[^|]*`) \| [^|]+ \| ([\d, ]+) \|$", re.M)
    told = {}
    for names, sizes in row.findall((ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")):
        told |= dict(zip(re.findall("`([^`]+)`", names), map(int, sizes.split(", ")), strict=True))
    assert told == {name: find_study(name)[1].size() for name in preset_names()}


def test_the_readme_holds_the_tables_of_the_records():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, section in written.sections().items():
        assert written.put(page, name, section) == page, f"{name}: make findings"
    with pytest.raises(SystemExit, match="end of nothing"):
        written.put(page, "nothing", "")


def reached(runs, level: float) -> int:
    """How many runs end at an accuracy or above."""
    return int((stats.accuracies(runs) >= level).sum())


def test_what_the_readme_says_first_is_what_was_counted():
    records = RunStore(ROOT / "results").records()
    opening = " ".join((ROOT / "README.md").read_text(encoding="utf-8").partition("![")[0].split())
    recipe = PRESETS["replication"]["paper"]
    compared = [*headline.cells(PRESETS["headline"]["pocket"], records), *headline.cells(recipe, records)]
    for first, other in zip(compared[::2], compared[1::2], strict=True):
        assert f"{other.solved} of {len(other.runs)} runs against {first.solved}" in opening, first.task
    again = with_all_seeds(PRESETS["headline"]["pocket"].only(tasks=1), records)
    runs = study_runs(again, records)
    both = [runs[runs["side"] == side] for side in again.sides]
    on_new = [side[side["seed"] >= 24] for side in both]
    (raw, five), (shared, _) = solved_counts(*on_new)
    said = f"on {shared} new seeds, run to see whether that holds, {five} of {shared} runs against {raw}"
    assert f"{said} (p = {p_text(compare(*on_new).p)})" in opening
    assert "On one of two settings of a small task of ours the read solves more" in opening
    assert stats.is_told(compare(*on_new).p)
    (raw, five), (pairs, _) = solved_counts(*both)
    assert f"Together it is {five} of {pairs} against {raw} (p = {p_text(compare(*both).p)}, which counts" in opening
    mapped = maps.answer(PRESETS["basin-map"]["pocket"], records, "vocab_size")
    form = r"all 9 cells .* (\d+) of 72 runs, .* (\d+) of 72: more than chance .* \(exact sign-flip .*, (p = .*?)\);"
    raw, five, p = re.search(form, mapped).groups()
    assert f"three vocabularies it solves {five} of 72 runs against {raw} (8 seeds, {p}, by itself;" in opening
    table = findings(records).set_index(["recipe", "compared"])
    held = table["p"]
    for small in (held[of, "raw, orthogonalized read, vocabulary 56"] for of in ("pocket", "pocket, new seeds")):
        assert "either half alone is too weak to stay once it is corrected for all comparisons below" in opening
        assert "**" not in small
    assert ("too weak likewise" in opening) == ("**" not in held["pocket, MQAR", "raw, orthogonalized read, attention"])
    assert not RunStore(ROOT / "results").path("headline").exists(), "the post's own experiments are not run"
    muon = headline.cells(PRESETS["muon"]["paper"].only([MUON.name]), records)[0]
    longer = headline.cells(longer_schedule().only([COSINE_4000.name]), records)[0]
    assert f"Muon instead of AdamW solves {muon.solved} of {len(muon.runs)} runs" in opening
    soon = int((longer.runs["escape_step"] <= 2000).sum())
    assert f"twice the steps {longer.solved} of {len(longer.runs)}, of which {soon} had reached 80 %" in opening
    falls, constant = headline.cells(constant_rate(), records)
    half_way = [int((stats.accuracies(cell.runs) >= 0.5).sum()) for cell in (constant, falls)]
    said = f"At a constant rate the raw read solves {constant.solved} of {len(constant.runs)}: no difference is shown "
    said += f"(p = {p_text(compare(falls.runs, constant.runs).p)}, the least that four differing pairs can give), but "
    assert said + "{} of its runs end at 50 % or more, against {} with the cosine.".format(*half_way) in opening
    assert not stats.is_told(compare(falls.runs, constant.runs).p)
    differing = stats.pairs(falls.runs, constant.runs)
    assert (differing.first_only, differing.second_only) == (0, 4), "p is the least of four"
    at_constant = headline.cells(reads_at_constant_rate(), records)
    both = on_shared_seeds([cell.runs for cell in at_constant])
    (raw, five), (runs, _) = solved_counts(*both)
    theirs = [cell.published[0].solved(cell.side) for cell in at_constant]
    (few, many), (half, other_half) = ([reached(side, level) for side in both] for level in (0.9, 0.5))
    assert (
        f"a constant learning rate instead of one that falls along a cosine it solves {five} of {runs} against {raw} "
        f"(published {theirs[1]} against {theirs[0]}); no difference is shown there either. It hangs on what counts as "
        f"solved: from 90 % on instead of 80 % it is {many} against {few}, from 50 % on {other_half} against {half}."
    ) in opening
    [together] = beside_published(records)
    over_all = r"Over all 5 experiments .*?, (\d+ of 80) against (\d+ of 80) \((.*?), by itself (p = .*?)\); why"
    said = re.search(over_all, opening)
    assert all(text in together for text in said.groups()) and "fewer, by more than chance" in together
    assert together.startswith("Over the 5 experiments that both ran")
    assert not stats.is_told(compare(*both).p)
    others = other_reads.other_reads(records, pace.read_records(cost.folder()))
    *_, eight = headline.cells(PRESETS["frontier"]["paper"].only(["baseline", "degree8"]), records)
    cheap = others.loc["degree8"]
    new = PRESETS["new-seeds"]["pocket"]
    keeps = further_seeds.by_seeds(new, records, "degree8", further_seeds.groups("degree8")).loc[further_seeds.OTHERS]
    assert len(keeps["seeds"]) == len(cheap["seeds"]) and keeps["low"] > KEEPS == 0.7 > keeps["low_apart"]
    steps = " and ".join(f"{cheap['step'][processor]:.1f}" for processor in ("AMD EPYC", "Intel Xeon"))
    assert (
        f"8 matrix-vector products instead of 23, takes {steps} times as long a step and solves {cheap['solved']} of "
        f"{len(cheap['seeds'])} runs where the orthogonalized read solves {cheap['solved_five']} and the raw one "
        f"{cheap['solved_raw']}. A run still below 80 % is {ratio_text(keeps)} times as likely to reach it by the next "
        "evaluation as with the orthogonalized read. Whether it keeps the effect, for which we asked for a lower bound "
        "above 0.7, is not settled: this interval is by seed, which we adopted after these runs were known; run by run "
        f"it is [{keeps['low_apart']:.2f}, {keeps['high_apart']:.2f}] ([how](notebooks/10_cheapest_read.ipynb)). At "
        f"the follow-up's recipe it solves {eight.solved} of {len(eight.runs)}, which is not shown to be more "
    ) in opening
    stays = {compared for (_, compared), p in held.items() if "**" in p and not compared.startswith("raw read: ")}
    assert stays == {"raw read, 3 steps of Muon's polynomial"}, "corrected for all comparisons only one read stays"
    assert others["p"].min() > 0.05, "none is shown to solve more than the orthogonalized one"
    assert float(table.loc[("follow-up's", "raw read, a read of 8 products"), "p"]) > 0.05
    assert (others["solved"] > others["solved_raw"]).all()
    timed = pace.read_records(cost.folder())
    mqar = PRESETS["mqar"]["pocket"]
    forms = {
        "{raw} of {runs} raw runs have reached 80 %, the read has brought there {} on the former (p = {}; by the "
        "measurement that favours it most {best}, p = {best_p}) and {} on the latter (p = {});": again,
        "on MQAR {raw} of {runs}, with the read {} (p = {}) and {} (p = {}).": mqar,
    }
    by_themselves = []
    for form, study in forms.items():
        paces = pace.by_processor(study, timed)
        assert list(paces) == ["AMD EPYC", "Intel Xeon"], "the order in which both are told of"
        ratios = [on["orthogonalized"] / on["baseline"] for on in paces.values()]
        assert min(ratios) > 2, "more than half of its own schedule is still to come"
        counted = re.compile(r"(\d+) of \d+ runs of base.* (\d+) of (\d+) runs of orth.* p = ([\d.]+);")
        told = [counted.search(sentence).groups() for sentence in equal_time_answer(study_runs(study, records), paces)]
        (raw, first, runs, p), (also_raw, other, of_as_many, other_p) = told
        assert (raw, runs) == (also_raw, of_as_many)
        measured = [on for on in (pace.by_processor(study, [record]).get("AMD EPYC") for record in timed) if on]
        measured.sort(key=lambda on: on["orthogonalized"] / on["baseline"])
        [sentence] = equal_time_answer(study_runs(study, records), {"AMD EPYC": measured[0]})
        _, best, _, best_p = counted.search(sentence).groups()
        assert form.format(first, p, other, other_p, raw=raw, runs=runs, best=best, best_p=best_p) in opening
        by_themselves += [float(p), float(other_p)]
        if study is again:
            amd, intel = (f"{ratio:.1f} times" for ratio in ratios)
            low, high = (f"{on['orthogonalized'] / on['baseline']:.1f}" for on in (measured[0], measured[-1]))
            range_of_it = f"{low} to {high} in {len(measured)} measurements"
            said = f"{amd} as long on one thread of an AMD EPYC ({range_of_it}), {intel} on an Intel Xeon"
            assert f"the small task {said}" in opening
    assert len(by_themselves) == 4 and not any(map(stats.is_told, stats.holm(by_themselves)))
    first, other = headline.cells(mqar.only([*HEADLINE]), records)
    assert f"solves {other.solved} of 12 runs against {first.solved}, too weak likewise" in opening
    at = [reached(cell.runs, level) for level in (0.9, 0.5) for cell in (other, first)]
    assert "likewise; from 90 % on it is {} against {}, from 50 % on {} against {}.".format(*at) in opening
    power = stats.fisher_power((3 / 16, 9 / 16), (16, 16))
    assert f"with the follow-up's shares they would show the difference in {100 * power:.0f} % of rep" in opening


def test_the_readme_counts_the_cheapest_reads_as_the_frontier_does():
    sides = ("baseline", "orthogonalized", "degree4", "degree3", "degree2")
    found = {
        cell.side: cell
        for cell in headline.cells(PRESETS["frontier"]["pocket"].only(sides), RunStore(ROOT / "results").records())
    }
    raw, five, *cheap = (found[side] for side in sides)
    assert {len(cell.runs) for cell in found.values()} == {24}
    four, three, two = (cell.solved for cell in cheap)
    said = (
        f"of 4, 3 and 2 products solve {four}, {three} and {two} of 24 runs (seeds 0 to 23), where five steps solve "
        f"{five.solved}"
    )
    text = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert f"{said} and the raw read {raw.solved};" in text


def test_the_readme_says_which_runs_still_need_their_read():
    """Of the same records as notebook 08."""
    folder = ROOT / "results"
    records, kept = RunStore(folder).records(), answer_table(folder, [])
    opening = " ".join((ROOT / "README.md").read_text(encoding="utf-8").partition("![")[0].split())
    told = []
    for scale in ("paper", "pocket"):
        study = PRESETS["ablation"][scale].beside(PRESETS["variants"][scale].sides)
        study = study if scale == "paper" else with_all_seeds(study, records)
        told.append(" ".join(memory.swap_answers(study, records, kept)))
    still = r"(\d+ of \d+) runs solved with the orthogonalized read are still solved when read raw \((.*?);"
    (first, its_mean), (other, mean) = (re.search(still, text).groups() for text in told)
    assert (
        f"{first} at the follow-up's recipe ({its_mean}), {other} on the small task ({mean.removeprefix('mean ')})"
        in opening
    )
    lost = read_raw.losses(slopes.every_map(), records)
    more = read_raw.per_doubling(lost)
    said = f"over {lost['side'].nunique()} maps one that does so twice as far costs {estimate_text(*more)} points more"
    assert f"{said} when it is removed" in opening and more.low > 0
