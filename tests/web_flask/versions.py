"""Run these tests on other versions of Flask: `python -m tests.web_flask.versions 3.0.3 3.1.1`.

Each version gets an environment of its own beside the ordinary one, with both PostgreSQL drivers.
"newest" is whatever pip takes for it. Prints a line for each, and what failed. Arguments after
`--` go to pytest.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.0.3", "3.1.1", "3.1.2", "newest")
# With the oldest Flask a click of its time, which hides a failing command's error from teardown.
WITH = {"3.0.3": ("click==8.1.8",)}
PYTEST = ("-q", "-rfE", "-m", "not long", "-p", "no:cacheprovider")
PACKAGES = (
    "asgiref",
    "freezegun>=1.5",
    "gevent>=24.2",
    "gunicorn>=22.0",
    "psutil",
    "psycopg2-binary>=2.9.9",
    "psycopg[binary]>=3.2",
    "pytest>=9.0",
    "pytest-timeout>=2.3",
    "time-machine>=2.16",
    "wrapt>=1.16",
)


def main(arguments: list[str]) -> int:
    """Return 0 if the tests pass on every version."""
    versions, _, options = " ".join(arguments).partition("--")
    failed = [
        version
        for version in versions.split() or VERSIONS
        if not passes(version, environment(version), options.split())
    ]
    print(f"failed on Flask {', '.join(failed)}" if failed else "passed on every version")
    return 1 if failed else 0


def environment(version: str) -> Path:
    """Return the Python of an environment with that Flask; make it if need be."""
    folder = ROOT / f".venv-flask-{version}"
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    flask = "flask" if version == "newest" else f"flask=={version}"
    quiet = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade")
    subprocess.run([python, *quiet, flask, *PACKAGES, *WITH.get(version, ())], check=True)
    return python


def passes(version: str, python: Path, options: list[str]) -> bool:
    """Run the tests, say in one line how they went, and return whether they pass."""
    ask = "from importlib.metadata import version; print(version('flask'))"
    found = subprocess.run([python, "-c", ask], capture_output=True, text=True, check=True)
    done = subprocess.run(
        [python, "-m", "pytest", *PYTEST, "tests/web_flask", *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout, flush=True)
    lines = done.stdout.strip().splitlines() or [f"exit status {done.returncode}"]
    print(f"Flask {found.stdout.strip()} ({version}): {lines[-1]}", flush=True)
    return done.returncode == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
