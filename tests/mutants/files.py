"""Which tests should see a mistake in which module.

A mistake that only other tests see counts as not seen: whoever changes the module runs these.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

__all__ = ["modules", "tests_for"]

ROOT = Path(__file__).parents[2]

# The adapters, health, and what the pool does by itself. The first pattern that fits counts.
_TESTS = {
    "dbpool_flask/_commands.py": "tests/web_flask/test_commands.py",
    "dbpool_flask/_config.py": "tests/web_flask/test_setup.py tests/web_flask/test_*config*.py",
    "dbpool_flask/_extension.py": "tests/web_flask/test_setup.py tests/web_flask/test_scope.py"
    " tests/web_flask/test_transaction.py",
    "dbpool_flask/_fence.py": "tests/web_flask/test_fence.py tests/web_flask/test_drivers.py"
    " tests/web_flask/test_session_state.py",
    "dbpool_flask/_isolation.py": "tests/web_flask/test_isolation.py",
    "dbpool_flask/_modes.py": "tests/web_flask/test_mode*.py",
    "dbpool_flask/_routing.py": "tests/web_flask/test_routing.py",
    "dbpool_flask/_streaming.py": "tests/web_flask/test_stream*.py tests/web_flask/test_*keep*.py",
    "dbpool_flask/_transaction.py": "tests/web_flask/test_transaction.py"
    " tests/web_flask/test_mode*.py",
    "dbpool_flask/_unavailable.py": "tests/web_flask/test_unavailable.py",
    "dbpool_flask/*.py": "tests/web_flask/test_commit.py tests/web_flask/test_giving_back.py"
    " tests/web_flask/test_scope.py tests/web_flask/test_streams.py tests/web_flask/test_told.py"
    " tests/web_flask/test_hooks.py tests/web_flask/test_drivers.py tests/web_flask/test_setup.py"
    " tests/web_flask/test_transaction.py",
    "dbpool_django/checks.py": "tests/web_django/test_checks.py tests/web_django/test_tool*.py",
    "dbpool_django/_environment.py": "tests/web_django/test_checks.py",
    "dbpool_django/_inspection.py": "tests/web_django/test_commands.py"
    " tests/web_django/test_checks.py",
    "dbpool_django/management/commands/dbpool.py": "tests/web_django/test_commands.py",
    "dbpool_django/_leftovers.py": "tests/web_django/test_checks.py",
    "dbpool_django/_settings.py": "tests/web_django/test_settings.py",
    "dbpool_django/_release.py": "tests/web_django/test_release.py",
    "dbpool_django/_unavailable.py": "tests/web_django/test_unavailable.py",
    "dbpool_django/middleware.py": "tests/web_django/test_health.py"
    " tests/web_django/test_unavailable.py tests/web_django/test_release.py",
    "dbpool_django/*.py": "tests/web_django/test_transactions.py tests/web_django/test_errors.py"
    " tests/web_django/test_wrappers.py tests/web_django/test_lost_borrowers.py"
    " tests/web_django/test_session_state.py tests/web_django/test_release_transaction.py"
    " tests/web_django/test_lean.py tests/web_django/test_held_cursors.py"
    " tests/web_django/test_forks.py tests/web_django/test_round_trips.py",
    "dbpool/health.py": "tests/health/test_*.py",
    "dbpool/_wsgi.py": "tests/health/test_*.py tests/web_flask/test_health.py",
    "dbpool/_detail.py": "tests/health/test_*.py",
    "dbpool/_probe.py": "tests/health/test_*.py",
    "dbpool/_prober.py": "tests/health/test_*.py",
    "dbpool/_verdict.py": "tests/health/test_*.py",
    "dbpool/_admission.py": "tests/core/test_admission.py tests/core/test_overload.py",
    "dbpool/_keeper.py": "tests/core/test_keeper.py tests/core/test_deadlines.py"
    " tests/core/test_stuck_keeper.py tests/drivers/test_bounded.py",
    "dbpool/_lifecycle.py": "tests/core/test_close.py tests/core/test_lifetime.py"
    " tests/core/test_pause.py tests/core/test_fill.py tests/core/test_exit.py",
    "dbpool/_role.py": "tests/core/test_failover.py",
    "dbpool/_state.py": "tests/core/test_outage.py tests/core/test_given_up.py",
    "dbpool/_suspicion.py": "tests/core/test_suspicion.py",
    "dbpool/_use_limit.py": "tests/core/test_use_limit.py",
    "dbpool/_validation.py": "tests/core/test_validation.py tests/core/test_lifetime.py"
    " tests/core/test_suspicion.py",
}


def modules() -> list[Path]:
    """Return the modules that mistakes are planted in."""
    found = (ROOT / package for package in ("dbpool", "dbpool_flask", "dbpool_django"))
    every = sorted(path for package in found for path in package.rglob("*.py"))
    return [path for path in every if _pattern(path) is not None]


def _pattern(path: Path) -> str | None:
    name = path.relative_to(ROOT).as_posix()
    if path.name == "__init__.py":
        return None
    return next((pattern for pattern in _TESTS if fnmatch.fnmatch(name, pattern)), None)


def tests_for(path: Path) -> list[str]:
    """Return the test files that should see a mistake in a module, as pytest takes them."""
    pattern = _pattern(path)
    assert pattern is not None
    globs = _TESTS[pattern].split()
    found = [file for each in globs for file in sorted(ROOT.glob(each))]
    return [file.relative_to(ROOT).as_posix() for file in dict.fromkeys(found)]
