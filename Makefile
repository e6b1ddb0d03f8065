# Every target makes the project's own environment, .venv, with the versions in requirements.lock, when it is
# missing or those versions changed, and then does its job with it. Nothing outside this folder is written,
# except pip's download cache.

PYTHON ?= python3
SCALE ?= pocket
NOTEBOOKS ?=
# Of one thread each, and each takes a file of tests or a notebook at a time.
PROCESSES ?= 2

PY := .venv/bin/python
# The name carries the folder: a copied or moved checkout must not import the package from where it was.
STAMP := .venv/ready-$(shell pwd | cksum | cut -d' ' -f1)
LINTED := $(wildcard orthonar tests benchmarks docs conftest.py)

# A user's own Jupyter, IPython and matplotlib settings are no part of what is reproduced, and the home may be read-only.
unexport PYTHONPATH PYTHONHOME JUPYTER_PATH JUPYTER_CONFIG_PATH
export JUPYTER_PREFER_ENV_PATH := 1
export JUPYTER_CONFIG_DIR := $(CURDIR)/.venv/var/jupyter/config
export JUPYTER_DATA_DIR := $(CURDIR)/.venv/var/jupyter/data
export JUPYTER_RUNTIME_DIR := $(CURDIR)/.venv/var/jupyter/runtime
export IPYTHONDIR := $(CURDIR)/.venv/var/ipython
export MPLCONFIGDIR := $(CURDIR)/.venv/var/matplotlib

.PHONY: help venv test test-lab test-colab lint format reproduce verify checksums findings docs notebooks clean distclean

help: ## this list
	@echo "make TARGET [PYTHON=python3.12]"
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 14

venv: $(STAMP) ## the pinned environment, .venv, and nothing else

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "orthonar needs Python 3.11 or newer; '$(PYTHON)' is: $$($(PYTHON) --version 2>&1 || true)" >&2; \
	  echo "Name another one: make PYTHON=python3.12 TARGET" >&2; exit 1; }
	rm -rf .venv
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "'$(PYTHON) -m venv' failed: on Debian and Ubuntu it needs the package python3-venv." >&2; exit 1; }
	$(PY) -m pip install --disable-pip-version-check -r requirements.lock
	$(PY) -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@mkdir -p "$$JUPYTER_RUNTIME_DIR" "$$IPYTHONDIR" "$$MPLCONFIGDIR"
	@$(PY) -c 'import matplotlib.font_manager'  # its font cache, which else the first notebook would build
	@touch $@

test: lint ## ruff, the tests, and every notebook replayed against its saved outputs
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses $(PROCESSES) --dist loadfile \
	  --nbval --nbval-current-env --nbval-cell-timeout 600 \
	  --nbval-sanitize-with tests/nbval_sanitize.cfg tests $(wildcard notebooks)

test-lab: $(STAMP) ## every notebook in JupyterLab in a real browser, Chromium with its driver; pictures in build/lab
	$(PY) -m pytest -q tests/lab.py

test-colab: $(STAMP) ## the wheel in an environment like Colab's, which is downloaded; ORTHONAR_COLAB_TORCH=2.13.0 for another torch
	$(PY) -m pytest -q tests/colab.py

lint: $(STAMP) ## ruff, types, that imports go downwards, and the workflows against their schema
	$(PY) -m ruff check $(LINTED) $(wildcard notebooks)
	$(PY) -m ruff format --check $(LINTED)
	.venv/bin/lint-imports --no-cache
	$(PY) -m mypy
	$(PY) -m check_jsonschema --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)
	$(PY) -m check_jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

format: $(STAMP) ## let ruff rewrite what lint complains of
	$(PY) -m ruff check --fix $(LINTED) $(wildcard notebooks)
	$(PY) -m ruff format $(LINTED)

reproduce: $(STAMP) ## run the notebooks and print the table; SCALE=pocket (CPU) or paper (GPU), NOTEBOOKS='03*' for some
	$(PY) -m orthonar.reproduce --scale $(SCALE) $(if $(NOTEBOOKS),'$(NOTEBOOKS)')

verify: $(STAMP) ## every published number beside the recorded one; checksums; a few runs trained again, in seconds
	$(PY) -m orthonar.verify

checksums: $(STAMP) ## list the result files as they are now, in results/SHA256SUMS
	$(PY) -m orthonar.verify --write-checksums

findings: $(STAMP) ## write what came out so far into the README
	$(PY) docs/findings.py

notebooks: $(STAMP) ## execute the committed notebooks in place, at their saved defaults, and clean their metadata
	$(PY) -m nbconvert --to notebook --execute --inplace --ExecutePreprocessor.timeout=-1 \
	  --ExecutePreprocessor.record_timing=False \
	  --ExecutePreprocessor.extra_arguments="['--log-level=ERROR']" notebooks/$(or $(NOTEBOOKS),*).ipynb
	$(PY) -m nbconvert --to notebook --inplace --coalesce-streams notebooks/$(or $(NOTEBOOKS),*).ipynb
	$(PY) -m nbstripout --keep-output --keep-count --keep-id --extra-keys \
	  "metadata.papermill metadata.widgets metadata.language_info.version cell.metadata.papermill" notebooks/$(or $(NOTEBOOKS),*).ipynb

docs: $(STAMP) ## the pages of docs/, the notebooks and every public name as a site: build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --quiet

clean: ## remove the caches, and build/ but for run records
	[ ! -d build ] || find build -depth -mindepth 1 \( -type d -empty -o ! -type d ! -name '*.jsonl' \) -delete
	rm -rf *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name .venv -prune -o \( -name __pycache__ -o -name .ipynb_checkpoints \) -type d -exec rm -rf {} +

distclean: clean ## clean, and remove .venv
	rm -rf .venv
