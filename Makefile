# `make help` lists the verbs.
PYTHON ?= python3
MODEL ?= nano-internvl
QUANTIZE ?=
SOURCE ?=
DIST ?= dist
BIN := .venv/bin
READY := .venv/.ready
# With a GPU, results that run a model go one after the other; without, side by side.
SNAKEMAKE = $(BIN)/snakemake --cores all $(shell command -v nvidia-smi > /dev/null && echo --resources gpu=1) \
	--nolock --rerun-incomplete --quiet rules progress
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help book test lint pairs measure wheel train repository clean

help:  ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@# What is never imported, which is most of it, need not be compiled: that halves the set-up.
	$(BIN)/python -m pip install --no-compile --quiet --disable-pip-version-check -c constraints.txt -e '.[test,book,peers]'
	@touch $@

book: $(READY)  ## run every notebook and build the book (MODEL=, QUANTIZE= for another model, SOURCE= for data of your own)
	$(SNAKEMAKE) --config model=$(MODEL) quantize=$(QUANTIZE) source="$(filter-out synth,$(SOURCE))" -- book
	@echo "Open _build/book/_build/html/index.html"

test: $(READY)  ## run the tests, side by side where no GPU has to be shared
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(if $(shell command -v nvidia-smi),0,auto) --maxprocesses 4 --dist loadfile

lint: $(READY)  ## check style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

pairs: $(READY)  ## write each notebook's .ipynb from its .py
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/*.py

measure: $(READY)  ## make the measured tables anew from full runs (MODEL=a,b for several, QUANTIZE=; hours on a CPU)
	$(SNAKEMAKE) --config model=$(MODEL) quantize=$(QUANTIZE) profile=full -- measured

wheel: $(READY)  ## build the wheel with the nano weights inside
	rm -rf build cogvsr_utils/data
	mkdir -p cogvsr_utils/data && cp -r data/nano cogvsr_utils/data/nano
	$(BIN)/python -m build --quiet --wheel --outdir $(DIST) .
	rm -rf build cogvsr_utils/data

train: $(READY)  ## train a nano model from scratch over data/nano/MODEL (hours on a CPU)
	$(BIN)/python -m cogvsr_utils.nano.train $(MODEL)

repository:  ## set the repository's address everywhere (URL=https://github.com/OWNER/NAME)
	git grep -lE 'https://github\.com/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+' -- '*.md' '*.yml' '*.py' '*.cff' ':!tests' | \
		xargs sed -i -E 's#https://github\.com/[A-Za-z0-9_-]+/[A-Za-z0-9_-]+#$(URL)#g'
	$(MAKE) pairs

clean:  ## remove what runs made, not the environment
	rm -rf _build results dist build .snakemake
