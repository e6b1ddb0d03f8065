"""What the package needs to be imported and used, here and where there is no POSIX."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from orthonar.training import environment

ROOT = Path(__file__).parents[1]


def test_a_module_with_a_command_line_is_one():
    """`python -m` of one that only defines it does nothing, and says that all is well."""
    texts = {path: path.read_text() for folder in ("orthonar", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    commands = [path for path, text in texts.items() if re.search(r"^def main\(", text, re.M)]
    assert len(commands) > 8
    assert [path for path in commands if 'if __name__ == "__main__":' not in texts[path]] == []


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

# What torch itself imports is no affair of this package.
CORE = """
import builtins, sys
import numpy, torch
study, before, asked, real = set(sys.argv[1:]), set(sys.modules), set(), builtins.__import__

def without(name, scope=None, names=None, wanted=(), level=0):
    top = name.partition(".")[0]
    if top in study:
        raise ModuleNotFoundError(f"No module named {name!r}")
    if level == 0 and (scope or {}).get("__name__", "").startswith("orthonar"):
        asked.add(top)
    return real(name, scope, names, wanted, level)

builtins.__import__ = without
import orthonar, orthonar.xlstm
print(*sorted((set(sys.modules) - before) & {*study, "fcntl", "resource", "pwd", "grp", "termios"}))
config = orthonar.RunConfig(
    vocab_size=16, seq_len=16, noise_vocab_size=4, embedding_dim=8, num_heads=2, batch_size=2, steps=2,
    validation_sequences=2,
)
assert orthonar.train(config).trace
print(*sorted(asked - sys.stdlib_module_names - {"orthonar"}))
"""

EVERYTHING = """
import builtins, importlib, pkgutil, sys
COMPILERS = "triton", "numba"
real = builtins.__import__

def without(name, scope=None, *rest, **options):
    here = (scope or {}).get("__name__", "")
    if here.startswith("orthonar") and name in ("fcntl", "resource", "pwd", "grp", "termios", "pty", *COMPILERS):
        raise ModuleNotFoundError(f"{here}: no module named {name!r}")
    return real(name, scope, *rest, **options)

builtins.__import__ = without
import orthonar
names = [found.name for found in pkgutil.walk_packages(orthonar.__path__, "orthonar.", onerror=lambda name: None)]
names = [name for name in names if not name.startswith("orthonar.engine.kernels")]  # of COMPILERS
for name in names:
    importlib.import_module(name)
print(len(names))
"""


def output_of(program: str, *arguments: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.split("\n")


def names(requirements: list[str]) -> set[str]:
    """The packages that requirements ask for, those of this package's own extras among them."""
    found = set()
    for requirement in requirements:
        name, extras = re.match(r"([\w-]+)(?:\[([\w,]+)\])?", requirement).groups()
        if name == "orthonar":
            found |= names([r for extra in extras.split(",") for r in PROJECT["optional-dependencies"][extra]])
        else:
            found.add(name)
    return found


def test_the_core_is_torch_and_numpy():
    """It is imported, and trains, where nothing else is there."""
    assert names(PROJECT["dependencies"]) == {"torch", "numpy"}
    study = names(["orthonar[study]"])
    assert study == {"pandas", "scipy", "matplotlib", "seaborn", "statsmodels", "patsy", "tqdm", "filelock"}
    imported, asked, _ = output_of(CORE, *study, "numba")
    assert (imported, asked) == ("", "numpy torch")


def test_outside_a_checkout_there_is_no_revision(monkeypatch, tmp_path):
    monkeypatch.setattr(environment, "project_root", lambda: tmp_path)
    assert environment.revision.__wrapped__() is None


def test_everything_is_imported_where_there_is_no_posix_and_no_compiler():
    assert int(output_of(EVERYTHING)[0]) > 50


def test_notebooks_sweeps_and_tests_bring_the_studys_dependencies():
    study = names(["orthonar[study]"])
    for extra in ("notebooks", "cluster", "test"):
        assert study < names([f"orthonar[{extra}]"])
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==", (ROOT / "requirements.lock").read_text(), re.M)}
    assert names(["orthonar[test]"]) | names(PROJECT["dependencies"]) <= pinned
