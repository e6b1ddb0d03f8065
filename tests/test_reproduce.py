"""The runner of the notebooks, on small notebooks that behave and misbehave, and the rows they report."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import psutil
import pytest
import torch
from nbformat.v4 import new_code_cell, new_notebook

from orthonar import paths
from orthonar.report import artefacts, reproduce
from orthonar.report.artefacts import MIME, report, rows_in, table

ROOT = paths.project_root()
PARAMETERS = 'steps: int = 2  # how many\nlr: float = 1.0e-2  # its rate\nfigures: str = ""  # empty: the default'
# A stand-in for the package's function, so that a kernel need not load torch for it.
REPORT = f"""
from IPython.display import display
row = dict(artefact="a row", here=steps * 1.5, published=87.5, source="the post", scale="pocket",
           device="cpu", seeds=[0, 1], unit="%", digits=1, note="")
display({{"{MIME}": row, "text/plain": "recorded"}}, raw=True)
"""


def write(folder: Path, stem: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook of a parameters cell and these cells."""
    first = new_code_cell(parameters, metadata={"tags": ["parameters"]})
    notebook = new_notebook(cells=[first, *map(new_code_cell, cells)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    folder.mkdir(exist_ok=True)
    nbformat.write(notebook, folder / f"{stem}.ipynb")
    return folder / f"{stem}.ipynb"


def scale_file(folder: Path, text: str, scale: str = "pocket") -> None:
    (folder / "parameters").mkdir(exist_ok=True)
    (folder / "parameters" / f"{scale}.yml").write_text(text)


def command(folder: Path, *more: str) -> list[str]:
    return ["--notebooks", f"{folder}/*.ipynb", "--build", str(folder / "build"), *more]


@pytest.fixture(autouse=True)
def package_on_path(monkeypatch):
    """Kernels and child processes find this checkout even where it is not installed."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("notebooks")
    write(
        folder,
        "1_good",
        "print('step', steps, flush=True)\nprint('figures', figures)",
        REPORT,
        "assert steps",
    )
    write(folder, "2_fails", REPORT, "print('kept')\nraise ValueError('on purpose')", "print('never')")
    write(folder, "3_dies", "print('last words', flush=True)", "import os; os._exit(1)", "print('never')")
    write(folder, "4_leaves", "import sys\nsys.exit()", "assert False")
    write(folder, "5_good", REPORT)
    scale_file(folder, "1_good: {steps: 7, lr: 1}\n2_fails: {}\n3_dies:\n")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    run = subprocess.run(
        [sys.executable, "-m", "orthonar.reproduce", *command(folder, "--figures", "my figures")],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    return folder, elsewhere, run


class TestRuns:
    """One run over a good notebook, three that fail in different ways, and one more good one."""

    def test_exit_status_tells_of_failures(self, done):
        assert done[2].returncode == 1, done[2].stderr

    def test_only_complete_notebooks_bear_the_final_name(self, done):
        assert sorted(p.name for p in (done[0] / "build").iterdir()) == [
            "1_good.pocket.ipynb",
            "2_fails.pocket.partial.ipynb",
            "3_dies.pocket.partial.ipynb",
            "4_leaves.pocket.partial.ipynb",
            "5_good.pocket.ipynb",
        ]

    def test_partial_copies_keep_what_was_done(self, done):
        partial = (done[0] / "build" / "2_fails.pocket.partial.ipynb").read_text()
        assert "kept" in partial and "on purpose" in partial
        assert "last words" in (done[0] / "build" / "3_dies.pocket.partial.ipynb").read_text()

    def test_sources_are_left_alone(self, done):
        assert all(c.execution_count is None for c in nbformat.read(done[0] / "1_good.ipynb", 4).cells)

    def test_each_failure_is_named(self, done):
        out = done[2].stdout
        assert "ValueError: on purpose" in out
        assert "the kernel died" in out
        assert "it stopped before its cell" in out

    def test_table_holds_the_complete_notebooks_only(self, done):
        shown = done[2].stdout.split("What was reproduced")[1].splitlines()
        rows = [line for line in shown if line.startswith("a row")]
        assert [row.split()[2] for row in rows] == ["1_good", "5_good"]
        assert "10.5 % (pocket, cpu, seeds 0 and 1)" in rows[0] and "87.5 % (the post)" in rows[0]
        assert "3.0 %" in rows[1]

    def test_parameters_and_figures_reach_the_notebook(self, done):
        assert "    step 7\n" in done[2].stdout
        figures = done[1] / "my figures"
        assert figures.is_dir() and f"    figures {figures}\n" in done[2].stdout

    def test_lines_and_bar_do_not_mix_in_a_log(self, done):
        out, err = done[2].stdout, done[2].stderr
        assert "\r" not in out + err
        assert all(f"{stem}: " in err for stem in ("1_good", "2_fails", "3_dies", "5_good"))
        assert "1_good: 100%" in err

    def test_a_later_good_run_replaces_the_partial_copy(self, done):
        folder = done[0]
        write(folder, "2_fails", "print('mended')")
        assert reproduce.main([*command(folder), "--notebooks", f"{folder}/2_fails.ipynb"]) == 0
        assert (folder / "build" / "2_fails.pocket.ipynb").exists()
        assert not (folder / "build" / "2_fails.pocket.partial.ipynb").exists()


class TestNothingIsRun:
    """What is wrong with the parameters is said before anything is computed."""

    @pytest.fixture
    def folder(self, tmp_path):
        folder = tmp_path / "notebooks"
        write(folder, "1_first", f"open({str(tmp_path / 'ran')!r}, 'w').close()")
        write(folder, "2_second", "pass", parameters=PARAMETERS + "\nseeds: Optional[list[int]] = None")
        yield folder
        assert not (tmp_path / "ran").exists()

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("2_second: {stesp: 3}", ["2_second", "'stesp'", "did you mean 'steps'?"]),
            ("2_second: {lr: 1e-4}", ["2_second", "'lr'", "1.0e-4"]),
            ("2_second: {steps: 2.5}", ["2_second", "'steps'"]),
            ("2_second: {steps: true}", ["2_second", "'steps'"]),
            ("2_second: {seeds: 3}", ["2_second", "'seeds'"]),
            ("2_second: {seeds: [1, a]}", ["2_second", "'seeds'", "list[int]"]),
            ("2_second: [steps]", ["pocket.yml"]),
            ("3_third: {}", ["'3_third'"]),
            ("1_first: {", ["pocket.yml"]),
        ],
    )
    def test_a_wrong_parameter_file(self, folder, capsys, text, named):
        scale_file(folder, text)
        assert reproduce.main(command(folder)) == 2
        message = capsys.readouterr().err
        assert all(word in message for word in named), message

    def test_a_parameter_given_twice(self, folder, capsys):
        scale_file(folder, "{}")
        assert reproduce.main(command(folder, "-p", "steps=3", "-p", "steps=4")) == 2
        assert "-p steps: given twice, '3' and '4'" in capsys.readouterr().err

    @pytest.mark.parametrize("scale", ["poket", ""])
    def test_an_unknown_scale(self, folder, capsys, scale):
        scale_file(folder, "{}")
        assert reproduce.main(command(folder, "--scale", scale)) == 2
        message = capsys.readouterr().err
        assert f"no scale {scale!r} in" in message and "['pocket']" in message

    def test_an_impossible_folder(self, folder, tmp_path, capsys):
        scale_file(folder, "{}")
        (tmp_path / "file").write_text("not a folder")
        for option in ("--build", "--figures"):
            assert reproduce.main(command(folder, option, str(tmp_path / "file"))) == 2
            assert capsys.readouterr().err.startswith("nothing was run: ")

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ("stesp=3", ["unknown parameter 'stesp'; did you mean 'steps'?"]),
            ("steps=three", ["'steps' is int, got 'three'"]),
            ("steps=2.5", ["'steps' is int, got 2.5"]),
            ("steps", ["-p steps: not of the form name=value"]),
            ("seeds=[1]", ["1_first", "unknown parameter 'seeds'"]),  # only the other notebook takes it
        ],
    )
    def test_a_wrong_parameter_on_the_command_line(self, folder, capsys, given, named):
        scale_file(folder, "{}")
        assert reproduce.main(command(folder, "-p", given)) == 2
        message = capsys.readouterr().err
        assert message.startswith("nothing was run: ") and message.count("\n") == 1
        assert all(word in message for word in named), message

    def test_a_missing_gpu(self, folder, capsys):
        write(folder, "3_third", "pass", parameters='device: str = "cpu"  # where')
        scale_file(folder, "3_third: {device: 'cuda:77'}")
        assert reproduce.main(command(folder)) == 2
        message = capsys.readouterr().err
        assert "3_third.ipynb: device: 'cuda:77' cannot be used here" in message and message.count("\n") == 1

    def test_a_full_disk(self, folder, small_disk, capsys):
        scale_file(folder, "{}")
        assert reproduce.main(command(folder, "--build", str(small_disk / "build"))) == 2
        message = capsys.readouterr().err
        assert f"the disk of {small_disk / 'build'} is full" in message and message.count("\n") == 1

    def test_figures_that_cannot_be_kept(self, folder, small_disk, tmp_path, monkeypatch, capsys):
        """Wherever they go: by a parameter of the notebook, or where they go without a word."""
        (tmp_path / "file").write_text("not a folder")
        for given in (["-p", f"figures={tmp_path / 'file'}"], ["--figures", str(small_disk / "my figures")]):
            scale_file(folder, "{}")
            assert reproduce.main(command(folder, *given)) == 2
            message = capsys.readouterr().err
            assert message.startswith("nothing was run: ") and given[-1].split("=")[-1] in message
            assert message.count("\n") == 1
        monkeypatch.setattr(paths, "figures_dir", lambda: tmp_path / "file")
        assert reproduce.main(command(folder)) == 2
        assert f"nothing was run: {tmp_path / 'file'}" in capsys.readouterr().err

    def test_no_such_notebook(self, folder, capsys):
        assert reproduce.main(["--notebooks", f"{folder}/9*"]) == 2
        assert "9*" in capsys.readouterr().err

    def test_two_notebooks_of_one_name(self, folder, tmp_path, capsys):
        shutil.copy(folder / "1_first.ipynb", tmp_path)
        assert reproduce.main([str(folder / "1_first.ipynb"), str(tmp_path / "1_first.ipynb")]) == 2
        assert "two notebooks are called 1_first" in capsys.readouterr().err

    def test_good_values_are_planned(self, folder):
        scale_file(folder, "2_second: {steps: 5, lr: 1, seeds: [4]}\n1_first:", "paper")
        jobs = reproduce.plan(sorted(folder.glob("*.ipynb")), "paper", Path("/f"))
        assert [job.parameters for job in jobs] == [
            {"figures": "/f"},
            {"figures": "/f", "steps": 5, "lr": 1, "seeds": [4]},
        ]

    @pytest.mark.parametrize(("entry", "given"), [("{}", {"scale": "paper"}), ("4_fourth: {scale: paper}", {})])
    def test_no_scale_is_called_another(self, folder, entry, given):
        fourth = write(folder, "4_fourth", parameters='scale: str = "pocket"')
        assert reproduce.plan([fourth], None, None, {"scale": "paper"})[0].parameters == {"scale": "paper"}
        scale_file(folder, entry)
        with pytest.raises(reproduce.ParameterError, match="4_fourth.*here pocket; it is chosen by --scale paper"):
            reproduce.plan([fourth], None, None, given)
        scale_file(folder, "{}")
        assert reproduce.plan([fourth])[0].parameters == {"scale": "pocket"}

    def test_the_command_line_comes_before_the_scale(self, folder):
        scale_file(folder, "2_second: {steps: 5, seeds: [4]}")
        given = {"steps": "6", "lr": "1e-4", "figures": "1e-4", "seeds": "None"}
        [job] = reproduce.plan([folder / "2_second.ipynb"], None, None, given)
        assert job.parameters == {"steps": 6, "lr": 1e-4, "figures": "1e-4", "seeds": None}
        assert job.scale == "pocket"

    def test_figures_of_other_records_do_not_replace_the_projects(self, folder, tmp_path, monkeypatch):
        write(folder, "4_fourth", parameters='results: str = ""\nfigures: str = ""')
        scale_file(folder, "{}")
        seen = []

        def run(job, build):
            seen.append(job.parameters.get("figures"))
            return reproduce.Outcome(job, build / "copy", 0.0, None)

        monkeypatch.setattr(reproduce, "run", run)
        here = ["4_fourth.ipynb", "--build", str(folder / "build")]
        monkeypatch.chdir(folder)
        of_others = ["-p", f"results={tmp_path}"]
        for given in ([], ["-p", "results="], of_others, [*of_others, "--figures", "mine"]):
            assert reproduce.main([*here, *given]) == 0
        assert seen == [None, None, str(folder / "build" / "figures"), str(folder / "mine")]

    def test_beside_a_notebook_without_scales_its_saved_defaults_hold(self, folder, capsys):
        [job] = reproduce.plan([folder / "2_second.ipynb"], None, None, {"steps": "6"})
        assert (job.parameters, job.scale) == ({"steps": 6}, "defaults")
        assert reproduce.main(command(folder, "--scale", "pocket")) == 2
        assert "no scale 'pocket' in" in capsys.readouterr().err


def test_a_disk_that_fills_up_and_a_path_with_spaces(tmp_path, small_disk, monkeypatch, capsys):
    """The last state that could be saved is kept, whole; the next notebook runs."""
    monkeypatch.setattr(reproduce, "_ROOM", 0)
    folder = tmp_path / "my notebooks [1]"
    write(folder, "1 grows", "print('kept')", "print('x' * 200_000)", "print('never')")
    write(folder, "2 fits", "print('fits')")
    files = [str(folder / name) for name in ("1 grows.ipynb", "2 fits.ipynb")]
    assert reproduce.main([*files, "--build", str(small_disk / "a build")]) == 1
    out = capsys.readouterr().out
    assert "FAILED: its copy cannot be saved any more (No space left on device)" in out
    partial = small_disk / "a build" / "1 grows.defaults.partial.ipynb"
    assert f"what it did until then is in {partial}" in out
    assert "kept" in str(nbformat.read(partial, 4).cells[1].outputs)
    assert (small_disk / "a build" / "2 fits.defaults.ipynb").is_file()
    assert len(list((small_disk / "a build").iterdir())) == 2


def test_records_that_cannot_be_written_or_read_are_named(tmp_path, monkeypatch, capsys):
    """In the notebook that wants to write them, and before any notebook runs."""
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "half.jsonl").write_text('{"schema": 1, "sett')
    monkeypatch.setattr(paths, "results_dir", lambda: tmp_path / "results")
    writes = "from orthonar.study.records import RunStore\nRunStore('/dev/null').check_writable('x')"
    notebook = write(tmp_path / "notebooks", "1_writes", writes)
    assert reproduce.main([str(notebook), "--build", str(tmp_path / "build")]) == 1
    out, err = capsys.readouterr()
    assert "OSError: results: /dev/null/x.jsonl cannot be written (" in out
    assert "half.jsonl, line 1: not a run record" in err


def test_records_of_another_folder_are_found_from_where_the_command_is(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "half.jsonl").write_text('{"schema": 1, "sett')
    monkeypatch.chdir(tmp_path)
    notebook = write(tmp_path / "notebooks", "1_reads", "print(results)", parameters='results: str = ""')
    to = ["--build", str(tmp_path / "build")]
    assert reproduce.main([str(notebook), "-p", "results=mine", *to]) == 0
    out, err = capsys.readouterr()
    assert str(tmp_path / "mine") in out and "half.jsonl, line 1: not a run record" in err
    assert reproduce.main([str(notebook), "-p", "results=mime", *to]) == 2
    assert f"results: there is no folder {tmp_path / 'mime'}" in capsys.readouterr().err


# In a job that a script put into the background, Ctrl-C is ignored, and in every process that it starts.
HEARING_CTRL_C = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("orthonar.reproduce", run_name="__main__", alter_sys=True)
"""


def test_ctrl_c_ends_the_run_and_its_kernel(tmp_path):
    folder = tmp_path / "notebooks"
    write(folder, "1_good", REPORT)
    write(folder, "2_long", "import os, time\nprint('pid', os.getpid(), flush=True)\ntime.sleep(90)")
    write(folder, "3_next", "print('never')")
    scale_file(folder, "{}")
    with subprocess.Popen(
        [sys.executable, "-c", HEARING_CTRL_C, *command(folder)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as run:
        lines = []
        for line in run.stdout:
            lines.append(line)
            if line.startswith("    pid"):
                run.send_signal(signal.SIGINT)
        assert run.wait(timeout=60) == 130
    out = "".join(lines)
    assert "interrupted in 2_long" in out and "a row" in out and "3_next" in out
    assert sorted(p.name for p in (folder / "build").iterdir()) == [
        "1_good.pocket.ipynb",
        "2_long.pocket.partial.ipynb",
    ]
    kernel = int(next(line for line in lines if line.startswith("    pid")).split()[1])
    try:  # it may be gone, or wait for somebody to take note of its end
        assert psutil.Process(kernel).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        pass


@pytest.fixture
def displayed(monkeypatch):
    """What `report` shows, without a notebook."""
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    return shown


COMMON = dict(published=87.5, source="the post", scale="pocket", device="cpu", seeds=[0], unit="%")


class TestReport:
    """One row: its fields, and how it reads in the table."""

    @pytest.mark.parametrize(
        ("here", "text"),
        [
            (87.46, "87.5 %"),
            (np.float32(50.0), "50.0 %"),
            (torch.tensor(12), "12 %"),
            ((22, 23.0), "22 to 23.0 %"),
            ("diverged", "diverged"),
            (math.nan, "nan"),
        ],
    )
    def test_values(self, displayed, tmp_path, here, text):
        report("a row", here=here, **COMMON)
        json.dumps(displayed[0], allow_nan=False)
        row = artefacts.Artefact(**displayed[0][MIME])
        assert row.here_text() == f"{text} (pocket, cpu, seed 0)"
        assert row.published_text() == "87.5 % (the post)"

    def test_not_run_and_not_published_are_said(self, displayed):
        report("a row", here=None, published=None, source=None, scale="paper", device="cpu", seeds=None)
        row = artefacts.Artefact(**displayed[0][MIME])
        assert row.here_text() == "not run yet (paper)"
        assert row.published_text() == "no number published"

    def test_seeds_and_note(self, displayed):
        report("a row", here=1, **{**COMMON, "seeds": (3, 5)}, note="1 of 2 solved")
        assert artefacts.Artefact(**displayed[0][MIME]).here_text() == "1 % (pocket, cpu, seeds 3 and 5, 1 of 2 solved)"

    def test_no_live_number_is_shown_under_the_cell(self, displayed):
        report("a row", here=12.34, **COMMON)
        assert displayed[0]["text/plain"] == "recorded for the final table: a row"

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"source": None}, "source"),
            ({"scale": ""}, "scale"),
            ({"here": [1, 2, 3]}, "here"),
            ({"here": object()}, "here"),
        ],
    )
    def test_what_is_missing_is_named(self, displayed, wrong, named):
        with pytest.raises(ValueError, match=named):
            report("a row", **{"here": 1.0, **COMMON, **wrong})
        assert not displayed

    def test_table_wraps_long_cells(self):
        row = artefacts.Artefact("a long name " * 8, 1.0, 2.0, "s", "pocket", "cpu", None, "", 1, "", "01")
        lines = table([row]).splitlines()
        assert len(lines) > 3 and max(map(len, lines)) < 160
        assert lines[0].split() == ["artefact", "notebook", "value", "here", "value", "published"]


def test_a_live_row_survives_papermill_and_replays_under_nbval(tmp_path):
    """The row is read from the executed copy; in a replay another value is no difference, another print is."""
    folder = tmp_path / "notebooks"
    live = (
        "import os, sys\nfrom orthonar.report.artefacts import report\n"
        "report('a row', here=os.getpid(), published=(22, 23), source='the post',"
        " scale='pocket', device='cpu', seeds=0)"
    )
    write(folder, "live", live, "print(os.getpid(), file=sys.stderr)\nprint('exact')")
    scale_file(folder, "{}")
    assert reproduce.main(command(folder)) == 0
    copy = folder / "build" / "live.pocket.ipynb"
    [row] = rows_in(copy)
    assert row.notebook == "live" and row.here > 0 and row.published_text() == "22 to 23 (the post)"

    changed = copy.read_text().replace('"exact\\n"', '"other\\n"')
    assert changed != copy.read_text()
    (folder / "build" / "live.changed.ipynb").write_text(changed)
    shutil.copy(ROOT / "conftest.py", folder / "build")
    replay = subprocess.run(
        [sys.executable, "-m", "pytest", "--nbval", "--nbval-current-env", "-q", "."],
        cwd=folder / "build",
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "1 failed, 5 passed" in replay.stdout, replay.stdout
    assert "live.changed.ipynb::Cell 2" in replay.stdout.replace("\\", "/"), replay.stdout
