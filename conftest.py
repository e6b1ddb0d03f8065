"""What pytest and nbval need to know in the whole project."""

import os
import shutil
import tempfile

from orthonar.report.artefacts import MIME


def pytest_configure(config):
    # A replayed notebook draws its figures elsewhere: those in figures/ belong to the notebooks as they were saved.
    if "ORTHONAR_FIGURES" not in os.environ:
        os.environ["ORTHONAR_FIGURES"] = config.orthonar_figures = tempfile.mkdtemp(prefix="orthonar-figures-")


def pytest_unconfigure(config):
    if made := getattr(config, "orthonar_figures", None):
        shutil.rmtree(made, ignore_errors=True)


def pytest_collectstart(collector):
    # nbval: warnings on stderr, and rows for the table of `make reproduce`, which hold live numbers
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", MIME)
