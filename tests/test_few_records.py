"""The notebooks with no records and with a few, as a newcomer has them; their cells run in this process."""

import re

import IPython.display
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from matplotlib import pyplot as plt

from orthonar import paths
from orthonar.report import artefacts

NOTEBOOKS = {path.stem: path for path in sorted((paths.project_root() / "notebooks").glob("*.ipynb"))}
#: Those that only show records: the third trains, where its runs are missing.
OF_RECORDS = [
    name
    for name, path in NOTEBOOKS.items()
    if "RunStore(" in path.read_text(encoding="utf-8") and name != "03_baseline_vs_orthogonalized"
]


@pytest.fixture(params=OF_RECORDS)
def shown(request, tmp_path, monkeypatch, capsys):
    """Runs a notebook on the first lines of each file of records; returns what it says and what it reports."""
    rows = []
    monkeypatch.setattr(artefacts, "report", lambda *args, **row: rows.append(row))
    monkeypatch.setattr(IPython.display, "display", lambda shown: print(getattr(shown, "data", shown)))

    def run(lines: int):
        records, figures = tmp_path / "records", tmp_path / "figures"
        records.mkdir()
        for path in paths.results_dir().glob("*.jsonl"):
            kept = path.read_text(encoding="utf-8").splitlines(keepends=True)[:lines]
            (records / path.name).write_text("".join(kept), encoding="utf-8")
        names = {"__name__": "__main__"}
        for cell in nbformat.read(NOTEBOOKS[request.param], as_version=4).cells:
            if cell.cell_type == "code":
                exec(TransformerManager().transform_cell(cell.source), names)
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"results": str(records), "figures": str(figures)}
        return capsys.readouterr().out, rows

    yield run
    plt.close("all")


@pytest.mark.filterwarnings("error")
def test_without_records_nothing_is_reported(shown):
    said, rows = shown(lines=0)
    assert "not run yet" in said
    assert [row for row in rows if row["here"] is not None] == []


@pytest.mark.filterwarnings("error")
def test_of_a_few_runs_no_number_is_told_that_they_do_not_have(shown):
    said, _ = shown(lines=2)
    assert re.findall(r"\b(?:nan|inf|None)\b", said) == []
