"""Every notebook run in JupyterLab, in a real browser, as a reader does it: `make test-lab`, no part of `make test`.

It wants Chromium and its driver (Debian: chromium and chromium-driver). Copies are opened, so the saved notebooks stay
as they are; those that train do so for seconds. Pictures of what was seen are left in build/lab.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from orthonar import paths

NOTEBOOKS = sorted((paths.project_root() / "notebooks").glob("*.ipynb"))
#: Parameters of the notebooks that would train or time for minutes, so that they take seconds.
TINY = {
    "02_orthogonalized_read": {"lengths": [64, 128], "repeats": 1},
    "03_baseline_vs_orthogonalized": {"vocab_size": 22, "seq_len": 32, "steps": 60, "eval_every": 30, "stop_at": 30},
}
#: Seconds that one notebook may take, and the height up to which it is on one picture.
LONGEST, HIGHEST = 900, 16_000
TOKEN = "test"

SETTINGS = {
    # All cells stay in the page: else those out of sight could not be looked at.
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}

#: Begins to run all cells; how it ended is left for `ENDED`.
RUN_ALL = """
window.ended = null;
window.jupyterapp.commands.execute('notebook:run-all-cells')
  .then(() => { window.ended = 'all ran'; }, error => { window.ended = String(error); });
"""
ENDED = "return window.ended;"
#: The count of each code cell that was executed; one whose source is hidden shows no prompt that would tell.
EXECUTED = """
return window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code' && cell.model.sharedModel.getSource().trim())
  .map(cell => cell.model.executionCount);
"""
#: What went wrong in cells, from the notebook itself: how the page marks it differs between versions.
ERRORS = """
return window.jupyterapp.shell.currentWidget.content.widgets
  .filter(cell => cell.model.type === 'code')
  .flatMap(cell => cell.model.outputs.toJSON())
  .filter(output => output.output_type === 'error')
  .map(output => output.ename + ': ' + output.evalue);
"""
#: Pictures in the text that did not come.
BROKEN = """
return [...document.querySelectorAll('.jp-MarkdownCell img')]
  .filter(picture => !(picture.complete && picture.naturalWidth)).map(picture => picture.alt);
"""
SHUT_DOWN = "window.jupyterapp.shell.currentWidget.sessionContext.shutdown();"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def copy_without_outputs(notebook: Path, folder: Path) -> None:
    """A notebook as a reader downloads it, with the tiny parameters put in as papermill does."""
    copy = load_notebook_node(str(notebook))
    if tiny := TINY.get(notebook.stem):
        assert set(tiny) <= set(papermill.inspect_notebook(str(notebook))), "the notebook takes other parameters now"
        copy = parameterize_notebook(copy, tiny, kernel_name="python3", language="python")
    for cell in copy.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(copy, folder / notebook.name)


@pytest.fixture(scope="module")
def pictures() -> Path:
    folder = paths.build_dir() / "lab"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def lab(tmp_path_factory, pictures):
    """The address of a JupyterLab that serves copies of the notebooks, from a folder with a space in its name.

    As in a checkout the saved figures lie beside them.
    """
    folder = tmp_path_factory.mktemp("lab") / "my project"
    (folder / "notebooks").mkdir(parents=True)
    shutil.copytree(paths.project_root() / "figures", folder / "figures")
    for notebook in NOTEBOOKS:
        copy_without_outputs(notebook, folder / "notebooks")
    settings = tmp_path_factory.mktemp("settings")
    for name, text in SETTINGS.items():
        path = settings / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    port, log = free_port(), open(pictures / "server.log", "w")
    options = {"ip": "127.0.0.1", "port": port, "port_retries": 0, "open_browser": False, "allow_root": True}
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--LabApp.expose_app_in_browser=True",
        f"--ServerApp.root_dir={folder}",
    ]
    command += [f"--ServerApp.{name}={value}" for name, value in options.items()]
    command += [f"--IdentityProvider.token={TOKEN}", f"--LabApp.user_settings_dir={settings}"]
    # One thread, which small tensors like best, on a busy machine above all.
    env = {**os.environ, "ORTHONAR_FIGURES": str(pictures / "figures"), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/api?token={TOKEN}", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            log.close()


def wait_for(address: str, server: subprocess.Popen) -> None:
    for _ in range(120):
        assert server.poll() is None, "JupyterLab ended: see build/lab/server.log"
        try:
            urllib.request.urlopen(address, timeout=5).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(1)
    pytest.fail("JupyterLab does not answer: see build/lab/server.log")


@pytest.fixture(scope="module")
def browser():
    programs = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    driver = shutil.which("chromedriver")
    if driver is None or not any(programs):
        pytest.skip("no Chromium with its driver here")
    options = webdriver.ChromeOptions()
    options.binary_location = next(filter(None, programs))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_in_jupyterlab(notebook, lab, browser, pictures):
    saved = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == "code"]
    browser.set_window_size(1300, 1000)
    browser.get(f"{lab}/lab/tree/notebooks/{notebook.name}?token={TOKEN}&reset")
    WebDriverWait(browser, 180).until(
        lambda page: page.execute_script(
            "const panel = window.jupyterapp?.shell.currentWidget;"
            "return panel?.sessionContext?.session?.kernel?.status === 'idle';"
        )
    )
    browser.execute_script(RUN_ALL)
    ended = WebDriverWait(browser, LONGEST, poll_frequency=2).until(lambda page: page.execute_script(ENDED))
    assert ended == "all ran"
    browser.execute_script(SHUT_DOWN)

    shown = browser.find_element(By.CSS_SELECTOR, ".jp-NotebookPanel:not(.lm-mod-hidden)")
    height = browser.execute_script("return arguments[0].querySelector('.jp-WindowedPanel-outer').scrollHeight", shown)
    browser.set_window_size(1300, min(height + 250, HIGHEST))
    time.sleep(2)  # the page is laid out anew
    browser.execute_script("arguments[0].querySelector('.jp-WindowedPanel-outer').scrollTop = 0", shown)
    browser.save_screenshot(str(pictures / f"{notebook.stem}.png"))

    assert browser.execute_script(ERRORS) == []
    executed = browser.execute_script(EXECUTED)
    assert len(executed) >= len(saved) and all(executed), executed
    assert browser.execute_script(BROKEN) == []
    drawn = [
        image for image in shown.find_elements(By.CSS_SELECTOR, ".jp-OutputArea img")
        if browser.execute_script("return arguments[0].naturalWidth", image) > 100
    ]  # fmt: skip
    figures = [output for cell in saved for output in cell.outputs if "image/png" in output.get("data", {})]
    assert len(drawn) == len(figures)
