# Two commands do everything on a fresh machine: `make serve` and `make test`.
# On Linux, PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu keeps CUDA out of the install.

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check -q

.PHONY: serve test lint format bench e2e manifests image image-test clean

serve: $(VENV)/.serve
	@exec $(PY) -m serve_app.cli serve

test: $(VENV)/.dev
	$(PY) -m pytest

lint: $(VENV)/.dev
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

format: $(VENV)/.dev
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

bench: $(VENV)/.serve
	GOMP_SPINCOUNT=1000 $(PY) -m benchmarks.engine

e2e: $(VENV)/.dev
	$(PY) -m pytest tests/e2e -m e2e

manifests: $(VENV)/.serve
	$(PY) -m k8s.render

# VARIANT=cuda; BASE=image that is taken instead of Debian's; IMAGE=registry.example.com/limner; FLAGS for the builder
image:
	$(PYTHON) -m image.build $(if $(VARIANT),--variant $(VARIANT)) $(if $(BASE),--base $(BASE)) $(if $(IMAGE),--name $(IMAGE)) -- $(FLAGS)

image-test: image $(VENV)/.dev
	$(PY) -m pytest tests/image -m slow -s

$(VENV)/.venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: $(VENV)/.venv pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	$(PIP) install -c constraints.txt -e '.[dev,recipe,bench]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
