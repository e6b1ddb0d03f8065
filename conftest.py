"""What pytest and nbval need to know in the whole project."""

from orthonar.artefacts import MIME


def pytest_collectstart(collector):
    # nbval: warnings on stderr, and rows for the table of `make reproduce`, which hold live numbers
    if hasattr(collector, "skip_compare"):
        collector.skip_compare += ("stderr", MIME)
