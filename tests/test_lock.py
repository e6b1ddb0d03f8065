"""requirements.lock: the environment of `make` can be made wherever the README says."""

import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

LOCK = Path(__file__).parents[1] / "requirements.lock"


def test_every_pin_admits_the_first_release_of_this_python():
    # The README promises Python 3.11, and Debian 12 has 3.11.2: a pin that wants 3.11.5 would stop `make` there.
    first = f"{sys.version_info.major}.{sys.version_info.minor}.0"
    refusing, known = [], 0
    for line in LOCK.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pin = Requirement(line)
        try:
            found = distribution(pin.name)
        except PackageNotFoundError:
            continue
        # Another version, in an environment that `make` did not make, says nothing about the pin.
        if pin.specifier.contains(found.version):
            known += 1
            python = found.metadata.get("Requires-Python", "")
            refusing += [] if SpecifierSet(python).contains(first) else [f"{line}: {python}"]
    if not known:
        pytest.skip("none of the pinned versions is installed here")
    assert refusing == []
