# make demo   sets everything up and writes out/demo.mp4 from the bundled portrait and speech
# make test   sets everything up and runs the tests
PYTHON ?= python3
PORTRAITS ?= cc0
BIN := .venv/bin

.PHONY: demo test lint smoke tiny clean

demo: .venv/.core
	@mkdir -p out
	$(BIN)/asymtalker generate --image src/asymtalker/assets/demo/portrait.png \
		--audio src/asymtalker/assets/demo/speech.wav --output out/demo.mp4

test: .venv/.all
	$(BIN)/python -m pytest -m "not network" -n 2 $(PYTEST_ARGS)

lint: .venv/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

smoke: .venv/.all
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/smoke.sh

tiny: .venv/.all
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[voices]"  # compiles
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/tiny.sh $(PORTRAITS)

.venv/.core: pyproject.toml constraints.txt runs/setup.sh
	bash runs/setup.sh $(PYTHON) .
	@touch $@

.venv/.all: pyproject.toml constraints.txt runs/setup.sh
	bash runs/setup.sh $(PYTHON) ".[synth,train,evaluate,dev]"
	@touch .venv/.core $@

clean:
	rm -rf .venv out
