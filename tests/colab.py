"""The wheel in an environment like Colab's, which has its own torch: `make test-colab`, no part of `make test`.

A new environment, build/colab, gets the versions that Colab has, then the wheel with the dependencies of a study, as
the notebooks' first cell installs it. Nothing that was there may be replaced, and the notebooks that need no training
run from an empty folder. It downloads torch; ORTHONAR_COLAB_TORCH names another version than Colab's, such as 2.13.0.
The environment is kept for the next call, as long as it is to have the same versions.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from orthonar import paths

ROOT = paths.project_root()
#: What Colab had in August 2026.
THERE = {
    "torch": os.environ.get("ORTHONAR_COLAB_TORCH", "2.11.*"),
    "numpy": "2.0.*",
    "pandas": "2.2.*",
    "scipy": "1.16.*",
    "matplotlib": "3.10.*",
    "ipykernel": "*",
    "nbconvert": "*",
}
NOTEBOOKS = ("01_task", "02_orthogonalized_read")
#: Those that show records, which are no part of the wheel.
OF_RECORDS = sorted(p.stem for p in (ROOT / "notebooks").glob("*.ipynb") if "RunStore(" in p.read_text())
OF_RECORDS.remove("03_baseline_vs_orthogonalized")  # it trains

VERSIONS = "import importlib.metadata as m, sys; print(*(m.version(name) for name in sys.argv[1:]))"


#: Nothing of this checkout is to be seen there, nor where the other tests let figures go.
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.startswith(("ORTHONAR_", "PYTHONPATH"))}
ENVIRONMENT |= {"OMP_NUM_THREADS": "1"}


def run(*command: object, **options) -> str:
    done = subprocess.run([str(w) for w in command], capture_output=True, text=True, env=ENVIRONMENT, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def python() -> Path:
    folder = paths.build_dir() / "colab"
    python, made = folder / "bin" / "python", folder / "made-of.json"
    if made.is_file() and json.loads(made.read_text()) == THERE:
        run(python, "-m", "pip", "uninstall", "-q", "-y", "orthonar")
        return python
    shutil.rmtree(folder, ignore_errors=True)
    run(sys.executable, "-m", "venv", folder)
    pins = [name if version == "*" else f"{name}=={version}" for name, version in THERE.items()]
    run(python, "-m", "pip", "install", "-q", *pins)
    made.write_text(json.dumps(THERE))
    return python


@pytest.fixture(scope="module")
def installed(python, tmp_path_factory) -> tuple[Path, str, str]:
    """The environment with the wheel, and the versions of what was there before and after."""
    wheels = tmp_path_factory.mktemp("wheels")
    shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools would put modules in that are gone by now
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", wheels, ROOT)
    [wheel] = wheels.glob("orthonar-*.whl")
    before = run(python, "-c", VERSIONS, *THERE)
    run(python, "-m", "pip", "install", "-q", f"orthonar[study] @ {wheel.as_uri()}")
    return python, before, run(python, "-c", VERSIONS, *THERE)


def test_nothing_that_was_there_is_replaced(installed):
    python, before, after = installed
    assert before == after


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_an_empty_folder(installed, name, tmp_path):
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    run(installed[0], "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", f"{name}.ipynb", cwd=tmp_path)
    cells = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).cells
    assert all(cell.execution_count for cell in cells if cell.cell_type == "code" and cell.source.strip())
    figures = [o for c in cells if c.cell_type == "code" for o in c.outputs if "image/png" in o.get("data", {})]
    assert len(figures) == len(list((tmp_path / "figures").glob("*.png"))) > 0


@pytest.mark.parametrize("name", OF_RECORDS)
def test_without_records_a_notebook_says_where_they_are(installed, name, tmp_path):
    shutil.copy(ROOT / "notebooks" / f"{name}.ipynb", tmp_path)
    run(installed[0], "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", f"{name}.ipynb", cwd=tmp_path)
    cells = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4).cells
    said = "".join(o.get("text", "") for c in cells if c.cell_type == "code" for o in c.outputs)
    assert "no records: there is no folder" in said and "ORTHONAR_HOME" in said


def test_where_the_records_are_is_said(installed, tmp_path):
    program = "import orthonar.paths as p, orthonar.study.records as r; print(r.RunStore(p.results_dir()).records())"
    done = subprocess.run([installed[0], "-c", program], cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "[]\n" and "ORTHONAR_HOME" in done.stderr
