"""Environments for tests that need packages of their own; `make` is the door to each session."""

from __future__ import annotations

from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "venv"
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["ecosystem"]

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
    session.run("python", "-m", "tests.ecosystem", environment, *session.posargs)


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
