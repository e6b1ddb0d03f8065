"""What pytest and nbval need to know in the whole project."""

import os
import tempfile

from orthonar.report.artefacts import MIME


def pytest_configure(config):
    # A replayed notebook draws its figures elsewhere: those in figures/ belong to the notebooks as they were saved.
    os.environ.setdefault("ORTHONAR_FIGURES", tempfile.mkdtemp(prefix="orthonar-figures-"))


def pytest_collectstart(collector):
    # nbval: warnings on stderr, and rows for the table of `make reproduce`, which hold live numbers
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", MIME)
