# make demo    trains and evaluates AttnDFGAN small, in minutes on two CPU cores
# make test    lint, types and tests
# Without PYTHON, the newest Python from 3.11 to 3.13 is taken.

INTERPRETER := $(shell .ci/find-python $(PYTHON))
ifeq ($(INTERPRETER),)
$(error no Python of 3.11 or newer found; name one: make PYTHON=/path/to/python3.12)
endif
VERSION := $(shell $(INTERPRETER) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VENV := .venv-$(VERSION)
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test clean

demo: $(VENV)/.installed
	$(BIN)/python main.py --config=configs/attn.py:demo

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/python -m pytest

clean:
	rm -rf .venv-* .pytest_cache .ruff_cache .mypy_cache

$(VENV)/.installed: requirements.txt
	@echo "Installing requirements.txt into $(VENV) with $(INTERPRETER)"
	$(INTERPRETER) -m venv $(VENV)
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	$(INSTALL) -r requirements-dev.txt
	@touch $@
