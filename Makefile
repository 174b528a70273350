# The front door of the project. Every target needs Python >= 3.11 and make, nothing else: it makes its own virtual
# environment and installs into it what it needs. Another interpreter: make test PYTHON=python3.13

PYTHON ?= python3
# For the program behind a target: make test ARGS="-k manifest", make demo ARGS="--only graceful"
ARGS ?=

# One environment per version of Python, so that they stand side by side. Each set of packages has a stamp in it, and
# is installed again when what it was made from has changed.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
VENV := .venv/$(or $(VERSION),none)
BIN := $(VENV)/bin
REQUIREMENTS := pyproject.toml constraints.txt

# As variables, because then they hold for the packages that build this one too. pip 25.3 gave those a variable of
# their own, which older ones ignore.
export PIP_CONSTRAINT := constraints.txt
export PIP_BUILD_CONSTRAINT := constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test lint format types docs bench clean
# Two pips must not write into one environment.
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:  ## Show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: $(VENV)/.rehearsal  ## Replace a service under load, four ways, and count what is lost
	$(BIN)/python -m graceful.rehearsal.demo $(ARGS)

# Most tests wait: nearly all of them take a third of the time with ARGS="-n 4 -m 'not alone'", as .ci/run has it.
test: $(VENV)/.test  ## Run the tests; with java and mvn there, also against a real Eureka
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.lint  ## Check style and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.lint  ## Mend style and format, where a machine can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(VENV)/.lint  ## Check the types
	$(BIN)/mypy $(ARGS)

docs: $(VENV)/.docs  ## Build the documentation into site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

bench: $(VENV)/.test  ## Measure the hook's start, the import and the middleware
	$(BIN)/python -m benchmarks $(ARGS)

clean:  ## Remove everything that was made here
	rm -rf .venv .build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis tests/eureka_server/target
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@case "$(VERSION)" in \
	    3.1[1-9]|3.[2-9][0-9]) ;; \
	    "") echo "PYTHON=$(PYTHON) does not run; give Python 3.11 or newer: make ... PYTHON=/path/to/python3.11" >&2; exit 1 ;; \
	    *) echo "PYTHON=$(PYTHON) is $(VERSION); give Python 3.11 or newer: make ... PYTHON=/path/to/python3.11" >&2; exit 1 ;; \
	esac
	$(PYTHON) -m venv $(VENV)

$(VENV)/.rehearsal $(VENV)/.test $(VENV)/.lint $(VENV)/.docs: $(VENV)/.%: $(BIN)/python $(REQUIREMENTS)
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@
