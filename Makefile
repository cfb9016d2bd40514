# make demo    trains and evaluates AttnDFGAN small, in minutes on two CPU cores
# make test    lint, types and tests; those against PyTorch run with Python 3.11 where it is found
# make against-torch    times the published PyTorch code against this, on an idle machine
# Without PYTHON, the newest Python from 3.11 to 3.13 is taken.

INTERPRETER := $(shell .ci/find-python $(PYTHON))
ifeq ($(INTERPRETER),)
$(error no Python of 3.11 or newer found; name one: make PYTHON=/path/to/python3.12)
endif
# Both ends of the supported range are tested: 3.11 has an older JAX than the newest Python.
PARITY_INTERPRETER := $(or $(shell .ci/find-python python3.11),$(INTERPRETER))

version = $(shell $(1) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
VERSION := $(call version,$(INTERPRETER))
PARITY_VERSION := $(call version,$(PARITY_INTERPRETER))
INTERPRETER_$(PARITY_VERSION) := $(PARITY_INTERPRETER)
INTERPRETER_$(VERSION) := $(INTERPRETER)
BIN := .venv-$(VERSION)/bin
PARITY_BIN := .venv-$(PARITY_VERSION)/bin

.PHONY: demo test against-torch clean

demo: .venv-$(VERSION)/.installed
	$(BIN)/python main.py --config=configs/attn.py:demo

test: .venv-$(VERSION)/.installed-dev .venv-$(PARITY_VERSION)/.installed-parity
	$(BIN)/ruff check .
	$(BIN)/mypy .
	$(BIN)/python -m pytest --ignore=tests/parity
	$(PARITY_BIN)/python -m pytest tests/parity

against-torch: .venv-$(VERSION)/.installed .venv-$(PARITY_VERSION)/.installed-parity
	$(BIN)/python -m benchmarks.against_torch --json=runs/against_torch.json --torch_python=$(PARITY_BIN)/python

clean:
	rm -rf .venv-* .pytest_cache .ruff_cache .mypy_cache

.PRECIOUS: .venv-%/.installed .venv-%/.installed-dev

.venv-%/.installed: requirements.txt
	@echo "Installing requirements.txt into .venv-$* with $(INTERPRETER_$*)"
	$(INTERPRETER_$*) -m venv .venv-$*
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

.venv-%/.installed-dev: requirements-dev.txt .venv-%/.installed
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv-%/.installed-parity: requirements-parity.txt .venv-%/.installed-dev
	.venv-$*/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-parity.txt
	@touch $@
