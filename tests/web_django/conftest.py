"""Each test marked `project` runs in a process of its own, because Django's settings are global.

    @pytest.mark.project(pool={"max_size": 2})
    def test_…(site): …

Outside, the marker runs pytest again for that one test, on the same server and in a schema of its
own. Inside, Django is set up with the marker's pool options and settings before the test starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import Postgres
from tests.web_django.project import INSIDE, Project, is_inside
from tests.web_django.site import Site

ROOT = Path(__file__).parents[2]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "project(pool=True, settings={}, tables=True): run in a Django project"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    if is_inside() or pyfuncitem.get_closest_marker("project") is None:
        return None
    postgres: Postgres = pyfuncitem._request.getfixturevalue("postgres")
    environ = {**os.environ, INSIDE: "1", "DBPOOL_TEST_DSN": postgres.dsn()}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    quick = ["-q", "--no-header", "-p", "no:cacheprovider", "-p", "no:hypothesispytest"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quick, pyfuncitem.nodeid],
        cwd=ROOT,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        pytest.fail(f"in its own process:\n{done.stdout}{done.stderr}", pytrace=False)
    if "1 skipped" in done.stdout:
        pytest.skip(f"in its own process:\n{done.stdout}")
    return True


@pytest.fixture
def project(request: pytest.FixtureRequest) -> Iterator[Project | None]:
    """The Django project that this process is; None outside, where nothing is set up."""
    if not is_inside():
        yield None
        return
    marker = request.node.get_closest_marker("project")
    with Project(request.getfixturevalue("postgres"), **marker.kwargs) as project:
        yield project


@pytest.fixture(autouse=True)
def _in_project(request: pytest.FixtureRequest) -> None:
    """Set Django up for a test that is marked, whether or not it asks for the project."""
    if request.node.get_closest_marker("project"):
        request.getfixturevalue("project")


@pytest.fixture
def site(project: Project | None) -> Site | None:
    """The project's web site: views made in the test, called as a WSGI server does."""
    return None if project is None else Site()
