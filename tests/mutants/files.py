"""Which tests should see a mistake in which module.

A mistake that only other tests see counts as not seen: whoever changes the module runs these. The
file that is most likely to fail stands first, because a run stops at the first failure.
"""

from __future__ import annotations

import fnmatch
from pathlib import Path

__all__ = ["ROOT", "mistakes_in_the_map", "modules", "tests_for"]

ROOT = Path(__file__).parents[2]
PACKAGES = ("dbpool", "dbpool_flask", "dbpool_django")

_CORE = "tests/core/test_"
_DRIVERS = "tests/drivers/test_"
_HEALTH = "tests/health/test_"
_FLASK = "tests/web_flask/test_"
_DJANGO = "tests/web_django/test_"

# A module, or a pattern for several: the folder of its tests, and their names. A name with a slash
# stands for a file in another folder. The first pattern that fits a module counts.
_TESTS: dict[str, tuple[str, str]] = {
    # What the pool does by itself.
    "dbpool/_store/admission.py": (_CORE, "admission overload"),
    "dbpool/_connect/replies.py": (_CORE, "answered_connects silence outage"),
    "dbpool/_runtime/clock.py": (_CORE, "frozen_clock"),
    "dbpool/_connect/close_returns.py": (_DRIVERS, "close_returns"),
    "dbpool/_connect/connector.py": (
        _CORE,
        "stuck_connects growth outage check_of_new_ones callbacks stats silence",
    ),
    "dbpool/_runtime/deadline.py": (_CORE, "deadline_of_a_request deadlines"),
    "dbpool/_explained.py": (_DRIVERS, "misconfigured tests/web_flask/test_commands.py"),
    "dbpool/_connect/failure.py": (_CORE, "outage_transitions outage answered_connects growth"),
    "dbpool/_runtime/forks.py": (_CORE, "fork fork_in_c fork_connect"),
    "dbpool/_runtime/fork_gate.py": (_CORE, "fork_connect fork"),
    "dbpool/_runtime/frames.py": (_CORE, "secret_frames tests/drivers/test_misconfigured.py"),
    "dbpool/_connect/growth.py": (
        _CORE,
        "check_of_new_ones growth fill outage stuck_connects lifetime",
    ),
    "dbpool/_lend/holders.py": (_CORE, "holders left_early"),
    "dbpool/_runtime/scheduler.py": (
        _CORE,
        "keeper deadlines stuck_keeper lifetime tests/drivers/test_bounded.py",
    ),
    "dbpool/_runtime/host_probe.py": (_CORE, "silence outage"),
    "dbpool/_lend/left_early.py": (_CORE, "left_early"),
    "dbpool/_upkeep/lifecycle.py": (_CORE, "close fill pause lifetime exit fork"),
    "dbpool/_connect/mistakes.py": (_DRIVERS, "misconfigured refusals tests/core/test_errors.py"),
    "dbpool/_runtime/process.py": (_CORE, "fork_in_c fork"),
    "dbpool/_lend/refusal.py": (_CORE, "errors holders outage growth validation"),
    "dbpool/_connect/role.py": (_CORE, "failover"),
    "dbpool/_connect/server.py": (_CORE, "outage outage_transitions moved_name"),
    "dbpool/_upkeep/session.py": (_DRIVERS, "statements tests/web_flask/test_session_state.py"),
    "dbpool/_shown.py": (_CORE, "misplaced_secrets options"),
    "dbpool/_runtime/sockets.py": (_CORE, "validation use_limit tests/drivers/test_contract.py"),
    "dbpool/_connect/outage.py": (
        _CORE,
        "outage_transitions outage given_up answered_connects growth check_of_new_ones",
    ),
    "dbpool/_connect/stuck.py": (_CORE, "stuck_connects stuck_connections"),
    "dbpool/_runtime/runner.py": (_CORE, "keeper background_false deadlines growth"),
    "dbpool/_store/settings.py": (_CORE, "options validation lifetime psycopg_pools_names"),
    "dbpool/_runtime/threads.py": (_CORE, "exit close keeper"),
    "dbpool/health/unavailable.py": (_FLASK, "unavailable tests/web_django/test_unavailable.py"),
    "dbpool/_unknown.py": (_CORE, "options psycopg_pools_names"),
    "dbpool/_upkeep/max_use.py": (_CORE, "use_limit"),
    "dbpool/_upkeep/usable.py": (
        _CORE,
        "validation lifetime suspicion tests/health/test_prober.py",
    ),
    "dbpool/_values.py": (_CORE, "options misplaced_secrets tests/health/test_exchange.py"),
    "dbpool/options.py": (_CORE, "options psycopg_pools_names misplaced_secrets"),
    "dbpool/_lend/fill.py": (_CORE, "fill"),
    "dbpool/_lend/transaction.py": (_CORE, "raw_commit tests/drivers/test_block_ends.py"),
    "dbpool/adapters.py": (
        _FLASK,
        "setup giving_back tests/core/test_adapters.py tests/web_django/test_wrappers.py",
    ),
    "dbpool/_runtime/time_limit.py": (_CORE, "deadlines tests/drivers/test_bounded.py keeper"),
    "dbpool/_store/attempt.py": (_CORE, "overrun stuck_connects"),
    "dbpool/_store/inventory.py": (_CORE, "lost lifetime close stats"),
    "dbpool/_store/counters.py": (_CORE, "stats"),
    "dbpool/_upkeep/cleaning.py": (_CORE, "return tests/web_flask/test_session_state.py deadlines"),
    "dbpool/_upkeep/sweep.py": (_CORE, "lifetime validation suspicion growth"),
    "dbpool/_upkeep/trust.py": (_CORE, "suspicion failover validation"),
    # Health.
    "dbpool/health/document.py": (_HEALTH, "exchange words prober outages seconds"),
    "dbpool/health/probe.py": (_HEALTH, "prober words outages exchange"),
    "dbpool/health/prober.py": (_HEALTH, "prober seconds threads_and_forks outages exchange"),
    "dbpool/health/status.py": (_HEALTH, "exchange prober words outages seconds"),
    "dbpool/health/wsgi.py": (_HEALTH, "exchange tests/web_flask/test_health.py"),
    "dbpool/health/__init__.py": (_HEALTH, "exchange words prober seconds"),
    # Flask.
    "dbpool_flask/_app.py": (_FLASK, "setup scope commit told unavailable hooks streams"),
    "dbpool_flask/_around.py": (_FLASK, "marks modes"),
    "dbpool_flask/_commands.py": (_FLASK, "commands misconfigured"),
    "dbpool_flask/_config.py": (_FLASK, "setup misconfigured secrets routing"),
    "dbpool_flask/_context.py": (_FLASK, "commit nested_contexts told scope"),
    "dbpool_flask/_cursors.py": (_FLASK, "fence drivers streams giving_back"),
    "dbpool_flask/_dialect.py": (_FLASK, "drivers commit sqlite_modes raw_control behind_the_back"),
    "dbpool_flask/_ending.py": (_FLASK, "commit failed_views behind_the_back commit_unknown"),
    "dbpool_flask/_extension.py": (_FLASK, "setup scope transaction routing hooks"),
    "dbpool_flask/_fence.py": (_FLASK, "fence drivers proxies session_state forks_in_c"),
    "dbpool_flask/_handed.py": (_FLASK, "generators drivers proxies"),
    "dbpool_flask/_hooks.py": (_FLASK, "hooks"),
    "dbpool_flask/_isolation.py": (_FLASK, "isolation"),
    "dbpool_flask/_late.py": (_FLASK, "streams teardown_and_signals hooks"),
    "dbpool_flask/_lease.py": (
        _FLASK,
        "commit fence giving_back drivers transaction told streams forks_in_c",
    ),
    "dbpool_flask/_marks.py": (_FLASK, "marks modes"),
    "dbpool_flask/_method.py": (_FLASK, "proxies fence"),
    "dbpool_flask/_modes.py": (_FLASK, "modes marks sqlite_modes"),
    "dbpool_flask/_refused.py": (_FLASK, "raw_control fence"),
    "dbpool_flask/_routing.py": (_FLASK, "routing"),
    "dbpool_flask/_scope.py": (
        _FLASK,
        "commit scope hooks told giving_back failed_views streams routing",
    ),
    "dbpool_flask/_streaming.py": (_FLASK, "streams kept_streams_on_the_wire"),
    "dbpool_flask/_told.py": (_FLASK, "told failed_views"),
    "dbpool_flask/_transaction.py": (_FLASK, "transaction modes marks"),
    "dbpool_flask/_unavailable.py": (_FLASK, "unavailable unavailable_beside_others"),
    "dbpool_flask/_watched.py": (_FLASK, "streams fence"),
    # Django.
    "dbpool_django/_closed.py": (_DJANGO, "closed_in_atomic transactions"),
    "dbpool_django/_creation.py": (_DJANGO, "wrappers settings"),
    "dbpool_django/_cursors.py": (_DJANGO, "session_state held_cursors release_transaction"),
    "dbpool_django/_dispatch.py": (_DJANGO, "health unavailable release"),
    "dbpool_django/_engine_names.py": (_DJANGO, "checks"),
    "dbpool_django/_environment.py": (_DJANGO, "checks"),
    "dbpool_django/_errors.py": (_DJANGO, "errors lean"),
    "dbpool_django/_inspection.py": (_DJANGO, "checks"),
    "dbpool_django/_lean.py": (_DJANGO, "lean wrappers"),
    "dbpool_django/_leftovers.py": (_DJANGO, "checks"),
    "dbpool_django/_loan.py": (
        _DJANGO,
        "transactions session_state release release_transaction wrappers",
    ),
    "dbpool_django/_opener.py": (_DJANGO, "parameters settings session_state switching"),
    "dbpool_django/_owner.py": (_DJANGO, "lost_borrowers wrappers"),
    "dbpool_django/_postgres.py": (_DJANGO, "session_state wrappers parameters round_trips"),
    "dbpool_django/_postgres_opener.py": (_DJANGO, "session_state parameters round_trips"),
    "dbpool_django/_release.py": (_DJANGO, "release release_transaction"),
    "dbpool_django/_requests.py": (_DJANGO, "signals"),
    "dbpool_django/_settings.py": (_DJANGO, "settings misconfigured secrets"),
    "dbpool_django/_sqlite.py": (_DJANGO, "sqlite"),
    "dbpool_django/_transactions.py": (_DJANGO, "transactions release_transaction forks"),
    "dbpool_django/_unavailable.py": (_DJANGO, "unavailable"),
    "dbpool_django/_validation.py": (_DJANGO, "checks"),
    "dbpool_django/_wrapper.py": (
        _DJANGO,
        "wrappers transactions lost_borrowers closed_in_atomic forks",
    ),
    "dbpool_django/apps.py": (_DJANGO, "checks"),
    "dbpool_django/backends/sqlite3/*.py": (_DJANGO, "sqlite"),
    "dbpool_django/backends/*.py": (_DJANGO, "wrappers checks postgis settings"),
    "dbpool_django/checks.py": (_DJANGO, "checks"),
    "dbpool_django/management/*.py": (_DJANGO, "checks misconfigured"),
    "dbpool_django/middleware.py": (_DJANGO, "health unavailable release"),
    "dbpool_django/pools.py": (_DJANGO, "settings switching secrets"),
    "dbpool_django/urls.py": (_DJANGO, "health"),
}

# What no mistake is planted in: the way of a connection out and back, which the interleavings and
# injections take apart at each bytecode; the drivers, whose tests hold each to one contract; and
# what only declares.
_LEFT_OUT = (
    "dbpool/_lend/acquire.py",
    "dbpool/_store/audit.py",
    "dbpool/_store/entry.py",
    "dbpool/_store/handoff.py",
    "dbpool/_lend/loan.py",
    "dbpool/_lend/give_back.py",
    "dbpool/_lend/waiting.py",
    "dbpool/drivers/*.py",
    "dbpool/errors.py",
    "dbpool/pool.py",
    "dbpool/stats.py",
    "dbpool_flask/_errors.py",
    "dbpool/_store/waiter.py",
    "dbpool/__init__.py",
    "dbpool/_*/__init__.py",
    "dbpool_*/__init__.py",
)


def _all_modules() -> list[str]:
    found = (path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(path.relative_to(ROOT).as_posix() for path in found)


def _fits(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in patterns)


def _pattern(name: str) -> str | None:
    if _fits(name, _LEFT_OUT):
        return None
    return next((pattern for pattern in _TESTS if fnmatch.fnmatch(name, pattern)), None)


def _files(pattern: str) -> list[str]:
    start, names = _TESTS[pattern]
    return [name if "/" in name else f"{start}{name}.py" for name in names.split()]


def mistakes_in_the_map() -> list[str]:
    """Return what is wrong with this map: what it names and is not there, and what it misses."""
    there = _all_modules()
    used = {_pattern(name) for name in there}
    wrong = [f"{pattern}: no module fits" for pattern in _TESTS if pattern not in used]
    wrong += [
        f"{each}: no module fits" for each in _LEFT_OUT if not any(_fits(m, (each,)) for m in there)
    ]
    for pattern in _TESTS:
        wrong += [
            f"{pattern}: there is no {f}" for f in _files(pattern) if not (ROOT / f).is_file()
        ]
    wrong += [
        f"{name}: neither has tests nor is left out"
        for name in there
        if _pattern(name) is None and not _fits(name, _LEFT_OUT)
    ]
    return wrong


def modules() -> list[Path]:
    """Return the modules that mistakes are planted in."""
    return [ROOT / name for name in _all_modules() if _pattern(name) is not None]


def tests_for(path: Path) -> list[str]:
    """Return the test files that should see a mistake in a module, as pytest takes them."""
    pattern = _pattern(path.relative_to(ROOT).as_posix())
    if pattern is None:
        raise LookupError(f"{path} has no tests in tests/mutants/files.py, or is left out there.")
    return _files(pattern)
