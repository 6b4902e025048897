# limbeck: `make demo` shows a real distillation in two minutes, `make test` checks everything.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint docs evidence recipe clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "limbeck needs Python 3.11 or newer; set PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(READY)

demo: $(READY)  ## distil scikit-learn's digits with a control and open the report
	$(BIN)/python recipes/digits_demo.py

test: $(READY)  ## every test, offline, on two cores
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)  ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

docs: $(READY)  ## the documentation in site/
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	$(BIN)/python docs/catalogue.py
	$(BIN)/mkdocs build --strict

evidence: $(READY)  ## run the experiment of every method again and record the verdicts
	$(BIN)/limbeck evidence all --seeds 5 --first-seed 100

recipe: $(READY)  ## ResNet-56 to ResNet-8 on CIFAR-10 (DATA=folder: see recipes/cifar_resnet.py)
	$(BIN)/python recipes/cifar_resnet.py $(DATA)

clean:  ## what a build leaves behind; runs/ stays
	rm -rf $(VENV) site build dist *.egg-info
