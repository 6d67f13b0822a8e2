# make demo   sets everything up and writes out/demo.mp4 from the bundled portrait and speech
# make quick  sets everything up and tests the core of the method, in two minutes
# make test   sets everything up and runs all tests, as CI does
PYTHON ?= python3
PORTRAITS ?= cc0
BIN := .venv/bin

# The paper: flow, timeline, codec, rollout, both losses and both loops, the transformer; and the rules of the house.
CORE := tests/test_*.py tests/train tests/distill tests/models/test_transformer.py tests/models/test_identity.py
# A file of tests is one worker's, which makes its fixtures once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo quick test lint smoke tiny clean

demo: .venv/.core
	@mkdir -p out
	$(BIN)/asymtalker generate --image src/asymtalker/assets/demo/portrait.png \
		--audio src/asymtalker/assets/demo/speech.wav --output out/demo.mp4

quick: .venv/.all
	$(PYTEST) -m "not slow and not network" $(CORE) $(PYTEST_ARGS)

test: .venv/.all
	$(PYTEST) -m "not network" $(PYTEST_ARGS)

lint: .venv/.all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

smoke: .venv/.all
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/smoke.sh

tiny: .venv/.all
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[voices]"  # compiles
	PATH="$(CURDIR)/$(BIN):$$PATH" bash runs/tiny.sh $(PORTRAITS) $(CLIPS) $(SPEECH) $(WHISPER)

.venv/.core: pyproject.toml constraints.txt runs/setup.sh
	bash runs/setup.sh $(PYTHON) .
	@touch $@

.venv/.all: pyproject.toml constraints.txt runs/setup.sh
	bash runs/setup.sh $(PYTHON) ".[synth,train,evaluate,curate,cluster,serve,ray,livekit,pipecat,dev]"
	@touch .venv/.core $@

clean:
	rm -rf .venv out
