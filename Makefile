# `make demo` and `make test` set up $(VENV) themselves; a set-up that was interrupted is made anew by the next call.
VENV := .venv
PYTHON := $(shell command -v python3.11 || command -v python3)
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.complete

.PHONY: demo test quality style bench cards audit

demo: $(STAMP)
	$(RUN) -m benchmarks.demo

test: $(STAMP)
	$(RUN) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

bench: $(STAMP)
	$(RUN) -m benchmarks.overhead
	$(RUN) -m benchmarks.evaluation

cards: $(STAMP)
	$(RUN) -m model_cards.cards

audit: $(STAMP)
	$(RUN) .ci/audit.py

quality: $(STAMP)
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check

style: $(STAMP)
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format

# The stamp says that everything is installed. Without it, whatever a killed pip has left behind is thrown away; with an
# older one, the environment is brought up to date in place. torch comes first, so that its size is seen on its own.
$(STAMP): setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or later is needed, found " + sys.version)'
	@echo "Setting up $(VENV): about two minutes the first time"
	test -f $@ || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	$(RUN) -m pip install -c constraints.txt torch
	$(RUN) -m pip install -c constraints.txt -e ".[dev,serve,video]"
	@touch $@
