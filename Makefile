# Two commands do everything on a fresh machine (Linux, Python 3.11 or newer, no GPU, no root, no display):
#
#   make reproduce   set up, then every figure and table at the CPU scale from real data, then the site
#   make test        set up, then every test
#
# The virtual environment lives in .venv; PYTHON=… chooses the interpreter it is made from.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SCALE  ?= digits
OLDEST := $(shell sed -n 's/^requirements = torch>=\([0-9.]*\).*/\1/p' settings.ini)
export PATH := $(CURDIR)/$(BIN):$(PATH)
export MPLBACKEND := agg
export PYTHONUNBUFFERED := 1

.DEFAULT_GOAL := help
.PHONY: help setup reproduce full queue ship test torture oldest bench compare export clean-notebooks notebooks docs readme clean

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## the virtual environment, with the package installed from this checkout

$(VENV)/.ready: settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "asyncpatch needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12 …")'
	@echo 'Setting up .venv (a few minutes the first time: torch is large)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check --progress-bar off -e '.[dev]'
	@touch $@

reproduce: setup ## the main job: figures and tables into figures/, then the site
	@$(BIN)/asyncpatch reproduce --scale $(SCALE); status=$$?; \
	if [ $$status -le 1 ]; then $(BIN)/python tools/build_docs.py --executed runs/$(SCALE)/notebooks || status=$$?; fi; exit $$status

full: setup ## the full records behind the products that ship (two hours on two cores)
	$(BIN)/asyncpatch reproduce --scale $(SCALE) --full

queue: setup ## train and measure what tools/queue.json lists, one job after the other; goes on where it was
	$(BIN)/python tools/run_queue.py

ship: setup ## finished models of tools/ships.json into the package, each with its card
	$(BIN)/python tools/ship.py

test: setup ## exported, clean, every notebook run, every law asserted
	$(BIN)/python tools/check_exported.py
	$(BIN)/python tools/check_style.py
	$(BIN)/python tools/check_names.py
	OMP_NUM_THREADS=1 ASYNCPATCH_SCALE=smoke $(BIN)/nbdev_test --timing --n_workers 2
	OMP_NUM_THREADS=1 ASYNCPATCH_SCALE=smoke $(BIN)/python -m pytest -q -n 2 --dist loadfile tests

TORTURED = kill kill_products fuzz surroundings
torture: setup ## hours: kills at 50 instants of each kind, 5,000 damaged files, every mutant
	for what in $(TORTURED); do OMP_NUM_THREADS=1 ASYNCPATCH_SCALE=smoke ASYNCPATCH_TORTURE=50 \
		ASYNCPATCH_FUZZ=5000 $(BIN)/python -m pytest -q tests/test_$$what.py \
		--junitxml=benchmarks/torture/$$what.xml || exit 1; done
	OMP_NUM_THREADS=1 ASYNCPATCH_SCALE=smoke $(BIN)/python tools/mutants.py

oldest: .oldest/.ready ## every test again with the oldest torch that settings.ini admits
	OMP_NUM_THREADS=1 ASYNCPATCH_SCALE=smoke .oldest/bin/python -m pytest -q -n 2 --dist loadfile tests

.oldest/.ready: settings.ini setup.py
	$(PYTHON) -m venv .oldest
	.oldest/bin/python -m pip install -q --disable-pip-version-check --progress-bar off 'torch==$(OLDEST).*' -e '.[dev]'
	@touch $@

bench: setup ## every claim of speed, as ratios in one run: ten minutes on a quiet machine
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) $(BIN)/python benchmarks/bench.py

compare: .compare/.ready ## DDRM and RePaint of other packages against ours; log in benchmarks/compare/compare.md
	OMP_NUM_THREADS=1 PYTHONPATH=$(CURDIR) .compare/bin/python benchmarks/compare/compare.py

.compare/.ready: $(VENV)/.ready benchmarks/compare/requirements.txt
	@echo 'Setting up .compare: what only the comparison needs, with torch and the rest from $(VENV)'
	$(BIN)/python -m venv .compare
	@site='import site; print(site.getsitepackages()[0])'; $(BIN)/python -c "$$site" > "$$(.compare/bin/python -c "$$site")/asyncpatch-venv.pth"
	.compare/bin/python -m pip install -q --disable-pip-version-check --progress-bar off -r benchmarks/compare/requirements.txt
	@touch $@

export: setup ## notebooks -> asyncpatch/*.py
	$(BIN)/nbdev_export

clean-notebooks: setup ## strip what does not belong in a stored notebook
	$(BIN)/nbdev_clean

notebooks: setup ## run notebooks in place and keep their outputs (NB=path for one)
	$(BIN)/python tools/run_notebooks.py $(NB)

docs: setup ## the site, with Quarto where it is installed, else with Sphinx
	$(BIN)/python tools/build_docs.py

check-site: setup ## what a reader of the built site would stumble over, found in a headless Chromium
	$(BIN)/python tools/check_site.py

readme: setup ## README.md from nbs/index.ipynb
	$(BIN)/python tools/build_readme.py

clean: ## what can be made again (not the virtual environment, not runs/)
	rm -rf _docs _site _proc jupyter_execute build dist *.egg-info
