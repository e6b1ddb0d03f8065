"""Writes the table of what came out so far into the README, between its two marks: `make findings`."""

import textwrap
from pathlib import Path

from orthonar import paths
from orthonar.report.tables.findings import as_markdown, findings
from orthonar.study.records import RunStore

START, END = "<!-- findings: written by `make findings` -->", "<!-- end of findings -->"


def section() -> str:
    """The table of the recorded runs and what belongs to it, in lines of the README's length."""
    paragraphs = as_markdown(findings(RunStore(paths.results_dir()).records())).split("\n\n")
    return "\n\n".join(text if text.startswith("|") else textwrap.fill(text, 127) for text in paragraphs)


if __name__ == "__main__":
    readme = Path(__file__).parents[1] / "README.md"
    before, _, rest = readme.read_text(encoding="utf-8").partition(START)
    _, _, after = rest.partition(END)
    if not (rest and after):
        raise SystemExit(f"{readme}: it needs {START} and, after it, {END}")
    readme.write_text(f"{before}{START}\n{section()}\n\n{END}{after}", encoding="utf-8")
