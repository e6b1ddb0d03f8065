"""Where the project's files lie, whatever directory a script, a test or a notebook is run from."""

import os
from pathlib import Path


def project_root() -> Path:
    """Find the folder that holds `figures`, `results` and `build`.

    It is the checkout that this package is imported from, recognised by its `pyproject.toml`; for a
    package installed elsewhere the folder that the environment variable ORTHONAR_HOME names; and only without
    either the current directory.

    Returns:
        An absolute path, which need not exist if it comes from ORTHONAR_HOME.
    """
    checkout = Path(__file__).resolve().parents[1]
    if (checkout / "pyproject.toml").is_file():
        return checkout
    return Path(os.environ.get("ORTHONAR_HOME") or Path.cwd()).expanduser().resolve()


def figures_dir() -> Path:
    """The folder for figures, not created: what ORTHONAR_FIGURES names, else `figures` in the project's root."""
    named = os.environ.get("ORTHONAR_FIGURES")
    return Path(named).expanduser().resolve() if named else project_root() / "figures"


def results_dir() -> Path:
    """The folder for run records, not created: `results` in the project's root."""
    return project_root() / "results"


def build_dir() -> Path:
    """The folder for what is built and can be built again, not created: `build` in the project's root."""
    return project_root() / "build"
