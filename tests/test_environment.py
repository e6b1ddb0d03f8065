"""environment.yml asks for what pyproject.toml asks for, under conda's names, and brings no more."""

import tomllib
from pathlib import Path

import yaml
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
#: What conda-forge calls a package otherwise: those without -base would bring a desktop's libraries.
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base", "seaborn": "seaborn-base"}


def asked_by_project(extras: list[str]) -> set[str]:
    """Requirements of the package and of some extras, in conda's names and spelling."""
    found = set()
    lists = [PROJECT["project"]["optional-dependencies"][extra] for extra in extras]
    for text in sum(lists, PROJECT["project"]["dependencies"] + PROJECT["build-system"]["requires"]):
        requirement = Requirement(text)
        if requirement.name == "orthonar":
            found |= asked_by_project(sorted(requirement.extras))
        else:
            found.add(f"{CONDA.get(requirement.name, requirement.name)}{requirement.specifier}")
    return found


def test_the_environment_is_the_projects():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    assert environment["channels"] == ["conda-forge", "nodefaults"]
    *packages, by_pip = environment["dependencies"]
    [own] = by_pip["pip"]
    extras = sorted(Requirement(own.removeprefix("-e .").join(["orthonar", ""])).extras)
    assert extras == ["cluster", "notebooks"]
    python = f"python{PROJECT['project']['requires-python']}"
    assert set(packages) == asked_by_project(extras) | {python, "pip"}
