"""Writes the tables of what came out so far into the README, between their marks: `make findings`."""

import textwrap
from pathlib import Path

from orthonar import paths
from orthonar.report.tables import cost, other_reads, pace
from orthonar.report.tables.findings import as_markdown, beside_published, findings
from orthonar.study.contents import answer_table
from orthonar.study.records import RunStore


def sections() -> dict[str, str]:
    """Each table of the recorded runs and what belongs to it, by the name that its marks have."""
    folder = paths.results_dir()
    records, timed = RunStore(folder).records(), pace.read_records(cost.folder())
    others = other_reads.other_reads(records, timed, answer_table(folder, []))
    found = as_markdown(findings(records), beside_published(records))
    return {"findings": found, "other reads": other_reads.as_markdown(others)}


def put(text: str, name: str, section: str) -> str:
    """A page with a section between its marks, in lines of the README's length.

    Raises:
        SystemExit: the page has no such marks.
    """
    start, end = f"<!-- {name}: written by `make findings` -->", f"<!-- end of {name} -->"
    before, _, rest = text.partition(start)
    _, _, after = rest.partition(end)
    if not (rest and after):
        raise SystemExit(f"the README needs {start} and, after it, {end}")
    lines = "\n\n".join(p if p.startswith("|") else textwrap.fill(p, 127) for p in section.split("\n\n"))
    return f"{before}{start}\n{lines}\n\n{end}{after}"


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    text = readme.read_text(encoding="utf-8")
    for name, section in sections().items():
        text = put(text, name, section)
    readme.write_text(text, encoding="utf-8")
