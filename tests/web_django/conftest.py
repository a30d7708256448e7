"""Each test marked `project` runs in a process of its own, because Django's settings are global.

    @pytest.mark.project(pool={"max_size": 2})
    def test_…(site): …

Outside, the marker runs pytest again for that one test, on the same server and in a schema of its
own. Inside, Django is set up with the marker's pool options and settings before the test starts.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.servers import Postgres
from tests.web_django.forking_server import ForkingServer
from tests.web_django.project import INSIDE, Project, is_inside
from tests.web_django.site import Site


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "project(pool=True, settings={}, tables=True): run in a Django project"
    )


@pytest.fixture(scope="session")
def forking_server() -> Iterator[ForkingServer]:
    """What starts the tests' processes."""
    server = ForkingServer()
    yield server
    server.close()


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    if is_inside() or pyfuncitem.get_closest_marker("project") is None:
        return None
    fixture = pyfuncitem._request.getfixturevalue
    postgres: Postgres = fixture("postgres")
    server: ForkingServer = fixture("forking_server")
    environ = {INSIDE: "1", "DBPOOL_TEST_DSN": postgres.dsn()}
    quick = ["-q", "--no-header", "-p", "pytest_timeout", "-p", "no:cacheprovider"]
    status, output = server.run([*quick, pyfuncitem.nodeid], environ)
    if status:
        pytest.fail(f"in its own process:\n{output}", pytrace=False)
    if "1 skipped" in output:
        pytest.skip(f"in its own process:\n{output}")
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
