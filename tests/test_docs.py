"""The pages: what they link to is there, every figure is shown and described, and the site knows every page."""

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from orthonar.report import stats
from orthonar.report.tables import cost, headline, memory, pace
from orthonar.report.tables.escape import equal_time_answer, longer_schedule
from orthonar.report.tables.findings import as_markdown, findings
from orthonar.report.tables.runs import with_all_seeds
from orthonar.study.contents import answer_table
from orthonar.study.presets import PRESETS, find_study, preset_names
from orthonar.study.records import RunStore
from orthonar.study.sides import COSINE_4000, HEADLINE, MUON

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "results" / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
#: The reads besides the study's that the README opens with: the preset, the side, and what the findings call them.
OTHER_READS = (
    ("least-squares", "rls_read", "raw read, recursive least squares, vocabulary 56"),
    ("muon-read", "muon3", "raw read, 3 steps of Muon's polynomial"),
    ("frontier", "degree8", "raw read, a read of 8 products"),
)
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


def test_the_readme_holds_the_findings_of_the_records():
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    wanted = as_markdown(findings(RunStore(ROOT / "results").records()))
    assert " ".join(wanted.split()) in readme, "make findings"


def test_what_the_readme_says_first_is_what_was_counted():
    records = RunStore(ROOT / "results").records()
    opening = " ".join((ROOT / "README.md").read_text(encoding="utf-8").partition("![")[0].split())
    pocket, recipe = PRESETS["headline"]["pocket"].only(tasks=1), PRESETS["replication"]["paper"]
    compared = [*headline.cells(PRESETS["headline"]["pocket"], records), *headline.cells(recipe, records)]
    for first, other in zip(compared[::2], compared[1::2], strict=True):
        assert f"{other.solved} of {len(other.runs)} runs against {first.solved}" in opening, first.task
    table = findings(records).set_index(["recipe", "compared"])
    held = table["p"]
    small = held["pocket", "raw, orthogonalized read, vocabulary 56"]
    assert ("too weak to stay once it is corrected for all comparisons below" in opening) == ("**" not in small)
    assert ("too weak likewise" in opening) == ("**" not in held["pocket, MQAR", "raw, orthogonalized read, attention"])
    assert not RunStore(ROOT / "results").path("headline").exists(), "the post's own experiments are not run"
    muon = headline.cells(PRESETS["muon"]["paper"].only([MUON.name]), records)[0]
    longer = headline.cells(longer_schedule().only([COSINE_4000.name]), records)[0]
    assert f"Muon instead of AdamW solves {muon.solved} of {len(muon.runs)} runs" in opening
    soon = int((longer.runs["escape_step"] <= 2000).sum())
    assert f"twice the steps {longer.solved} of {len(longer.runs)}, of which {soon} had reached 80 %" in opening
    measured, reads = pace.read_records(cost.folder()), []
    for name, side, compared in OTHER_READS:
        first, found, runs = re.fullmatch(r"(\d+), (\d+) of (\d+)", table.loc[("pocket", compared), "solved"]).groups()
        assert first == "1", "what the raw read solves is told once"
        study = PRESETS[name]["pocket"].only(["baseline", side], 1)
        paces = pace.seconds_per_step(study, pace.newest(study, measured))
        [told] = equal_time_answer(headline.study_runs(study, records), paces, ("baseline", side))
        counts = re.search(r"then (\d+) of \d+ runs of baseline and (\d+) of (\d+) runs of", told).groups()
        kept = "**" in held["pocket", compared]
        reads.append((f"{found} of {runs}", f"{paces[side] / paces['baseline']:.1f}", counts, kept))
    solved, times, counts, kept = zip(*reads, strict=True)
    wanted = (
        "than the raw read's 1 run: recursive least squares {}, a read of 3 steps of Muon's polynomial, a steeper map, "
    )
    wanted += "{}, and one of 8 products with the memory instead of 23, {};"
    assert wanted.format(*solved) in opening
    assert ("the first and the last are too weak likewise" in opening) == (kept == (False, True, False))
    assert "A step with them takes {}, {} and {} times as long as with the raw read".format(*times) in opening
    assert [read for _, read, _ in counts[:2]] == ["0", "0"]
    raw, read, runs = counts[2]
    assert f"the first two have reached 80 % in no run, the third in {read} of {runs}, the raw read in {raw}" in opening
    of_recipe = {cell.side: cell.runs for cell in headline.cells(PRESETS["frontier"]["paper"], records)}
    seeds = set(of_recipe["degree8"]["seed"])
    first, five, eight = (
        int(runs.loc[runs["seed"].isin(seeds), "solved"].sum())
        for runs in (of_recipe[side] for side in ("baseline", "orthogonalized", "degree8"))
    )
    wanted = (
        f"the read of 8 products solves {eight} of {len(seeds)} runs, on whose seeds the raw read solves {first} and "
    )
    assert f"{wanted}the orthogonalized read {five}" in opening
    paces = pace.seconds_per_step(pocket, pace.newest(pocket, pace.read_records(cost.folder())))
    [told] = equal_time_answer(headline.study_runs(pocket, records), paces)
    raw, read = re.search(r"then (\d+) of 24 runs of baseline and (\d+) of 24 runs of", told).groups()
    assert f"80 % in {read} of 24 runs on the small task, where the raw read has in {raw}," in opening
    assert f"A step with it takes {paces['orthogonalized'] / paces['baseline']:.1f} times as long there" in opening
    mqar = PRESETS["mqar"]["pocket"]
    paces = pace.seconds_per_step(mqar, pace.newest(mqar, pace.read_records(cost.folder())))
    [told] = equal_time_answer(headline.study_runs(mqar, records), paces)
    raw, read = re.search(r"then (\d+) of 12 runs of baseline and (\d+) of 12 runs of", told).groups()
    first, other = headline.cells(mqar.only([*HEADLINE]), records)
    assert f"solves {other.solved} of 12 runs against {first.solved}, too weak likewise" in opening
    higher = [int((stats.accuracies(cell.runs) >= 0.9).sum()) for cell in (other, first)]
    assert "from 90 % on instead of 80 % it is {} against {}.".format(*higher) in opening
    assert f"on MQAR in {read} of 12, where the raw read has in {raw}." in opening
    power = stats.fisher_power((3 / 16, 9 / 16), (16, 16))
    assert f"with the follow-up's shares would show the difference in {100 * power:.0f} % of repetitions" in opening


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
    still = [re.search(r"(\d+ of \d+) runs solved with the orthogonalized read are still", text)[1] for text in told]
    assert f"{still[0]} at its recipe, {still[1]} on the small task" in opening
    told[1] += " ".join(memory.swap_answers(PRESETS["frontier"]["pocket"], records, kept))
    titles = ("recursive least squares", "3 steps of Muon's polynomial", "8 products")
    needed = [re.search(rf"(\d+ of \d+) runs solved with {title} are still", told[1])[1] for title in titles]
    assert "read raw, {}, {} and {} of their solved runs stay solved".format(*needed) in opening
