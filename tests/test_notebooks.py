"""What every notebook must keep to, read from the saved files; nbval replays them in `make test`."""

import ast
import re
import subprocess
import sys
import tomllib

import nbformat
import papermill
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbval.plugin import get_sanitize_patterns

from orthonar import paths
from orthonar.report import jobs

FOLDER = paths.project_root() / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SCALES = sorted(FOLDER.glob("parameters/*.yml"))
ABSOLUTE_PATH = re.compile(r"(?<![\w.:/<>-])(?:/(?:[\w.+-]+/)+[\w.+-]+|[A-Z]:\\\w+)")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def notebook(path):
    return nbformat.read(path, as_version=4)


@pytest.fixture
def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def parsed(cell):
    """The cell's syntax tree, its magics turned into calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def test_there_are_notebooks_and_scales():
    assert NOTEBOOKS
    assert {scale.stem for scale in SCALES} >= {"pocket", "paper"}


def test_valid_and_for_python3(notebook):
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


def test_asks_colab_for_a_gpu(notebook):
    assert notebook.metadata.accelerator == "GPU"
    assert notebook.metadata.colab.gpuType == "T4"


def test_opens_with_words(notebook):
    assert notebook.cells[0].cell_type == "markdown"


def test_first_code_cell_installs_on_colab_only(code):
    assert "nbval-skip" in tags(code[0])
    assert '"google.colab" in sys.modules' in code[0].source
    wanted = tomllib.loads((paths.project_root() / "pyproject.toml").read_text())["tool"]["orthonar"]["colab-install"]
    assert code[0].source.endswith(f"    %pip install -q {wanted}"), "the one setting that says from where"


def test_one_parameters_cell_that_papermill_understands(path, code):
    [cell] = [cell for cell in code if "parameters" in tags(cell)]
    assigned = {
        name.id
        for statement in parsed(cell).body
        for name in ast.walk(statement)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    understood = papermill.inspect_notebook(str(path))
    assert set(understood) == assigned
    for name, parameter in understood.items():
        assert parameter["inferred_type_name"] != "None", f"{name}: no type"
        ast.literal_eval(parameter["default"])
        assert parameter["help"], f"{name}: no comment that says what it is"


def test_executed_in_order_without_errors(code):
    checked = [cell for cell in code if "nbval-skip" not in tags(cell) and cell.source.strip()]
    counts = [cell.execution_count for cell in checked]
    assert None not in counts, "nbval passes an unexecuted cell with nothing checked"
    assert counts == sorted(counts)
    assert not [output for cell in code for output in cell.outputs if output.output_type == "error"]


def test_only_the_install_cell_is_skipped(code):
    assert [cell for cell in code if "nbval-skip" in tags(cell)] == code[:1]


def test_thin(code):
    for cell in code:
        bodies = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        assert not [node for node in ast.walk(parsed(cell)) if isinstance(node, bodies)], cell.source
        assert "sys.path" not in cell.source
        assert not cell.source.rstrip().endswith(";"), "nbval always fails on it"


def test_no_table_has_more_than_six_columns(code):
    """Beside what names its rows; a strip of tokens is no table, and comes with numbers for a head."""
    for cell in code:
        for output in cell.outputs:
            html = "".join(output.get("data", {}).get("text/html", ""))
            for head in re.findall(r"<thead>.*?</thead>", html, re.DOTALL):
                names = re.findall(r"<th[^>]*>([^<]+)</th>", head.split("</tr>")[0])
                assert len(names) <= 6 or all(name.isdigit() for name in names), names


def test_damaged_records_are_named_one_by_one(code):
    """With file and line, since in JupyterLab nothing else says which they are."""
    for node in (node for cell in code for node in ast.walk(parsed(cell)) if isinstance(node, ast.Assert)):
        if "damaged" in ast.unparse(node.test):
            assert "map(str" in ast.unparse(node.msg), ast.unparse(node)


def test_no_number_is_a_power_of_ten_in_a_sentence(code):
    said = [o.data.get("text/markdown", "") for cell in code for o in cell.outputs if "data" in o]
    assert not [text for text in said if re.search(r"\de\+\d", text)]


def test_ends_in_asserts(code):
    assert [node for node in ast.walk(parsed(code[-1])) if isinstance(node, ast.Assert)]


def test_clean(notebook):
    assert not {"papermill", "widgets"} & set(notebook.metadata)
    for cell in notebook.cells:
        assert not {"papermill", "execution"} & set(cell.metadata)
        assert "injected-parameters" not in tags(cell)


def test_no_path_of_some_machine_in_the_outputs(code):
    for cell in code:
        for output in cell.outputs:
            texts = [output.get("text", "")]
            texts += [text for kind, text in output.get("data", {}).items() if not kind.startswith("image/")]
            for text in texts:
                assert str(paths.project_root()) not in str(text)
                assert not ABSOLUTE_PATH.search(str(text)), ABSOLUTE_PATH.search(str(text))


@pytest.mark.parametrize("scale", SCALES, ids=lambda path: path.stem)
def test_parameter_files_fit_the_notebooks(scale):
    assert [job.scale for job in jobs.plan(NOTEBOOKS, scale.stem)] == [scale.stem] * len(NOTEBOOKS)


@pytest.mark.parametrize(
    ("text", "sanitized"),
    [
        ("trained in 2.35 s on cuda:0", "trained in TIME on DEVICE"),
        ("torch 2.13.0+cpu, Python 3.11.7", "torch VERSION, Python VERSION"),
        ("<object at 0x7f3c5a10>", "<object at ADDRESS>"),
        ("on NVIDIA H100 80GB HBM3, 1 seed", "on DEVICE, 1 seed"),
        ("accuracy 87.5 % after 500 steps, 4 seeds", "accuracy 87.5 % after 500 steps, 4 seeds"),
        ("tokens 0 9 3 10 12 13 15 14", "tokens 0 9 3 10 12 13 15 14"),
        ("sigma 0.9876 at degree 31", "sigma 0.9876 at degree 31"),
    ],
)
def test_the_replay_overlooks_only_what_differs_between_machines(text, sanitized):
    file = paths.project_root() / "tests" / "nbval_sanitize.cfg"
    for regex, replacement in get_sanitize_patterns(file.read_text(encoding="utf-8")):
        text = re.sub(regex, replacement, text)
    assert text == sanitized


def test_a_pair_is_trained_without_records_and_left_at_its_first_evaluation(tmp_path):
    tiny = {"vocab_size": 22, "seq_len": 32, "steps": 60, "eval_every": 30, "stop_at": 30, "results": tmp_path / "none"}
    tiny["results"].mkdir()
    command = [sys.executable, "-m", "orthonar.reproduce", "03", "--build", tmp_path, "--figures", tmp_path]
    command += [word for name, value in tiny.items() for word in ("-p", f"{name}={value}")]
    run = subprocess.run([str(word) for word in command], cwd=paths.project_root(), capture_output=True, text=True)
    assert run.returncode == 0 and "complete" in run.stdout, run.stdout + run.stderr
