"""One whole stack for all scenarios; runs that do not disturb each other go on side by side.

A scenario that only watches one run names it with `@begins(Case(...))` and takes its `outcome`: such runs are begun
ahead, a few at a time. A scenario that breaks something takes the `stack` and comes after all of them.

TIDEGATE_E2E_HOME names a stack that is left standing, TIDEGATE_E2E_WIDTH how many runs are begun ahead.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tests.e2e.running_stack import LEASE_SECONDS, Begun, Case, Outcome, Stack, left_behind

from tidegate_local.stack.session import Session

BEGINS: Final = "begins"
#: All of `make test`'s at once: they wait for scrapes and leases more than for a core.
WIDTH: Final = int(os.environ.get("TIDEGATE_E2E_WIDTH", "5"))
#: Of one scenario, with the stack's start in the first and those begun before it.
TEST_SECONDS: Final = 1500


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{BEGINS}(case): the run that the scenario watches, begun ahead of it")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    ours = [item for item in items if here in item.path.parents]
    for item in ours:
        item.add_marker(pytest.mark.timeout(TEST_SECONDS))
    # In their own places: what disturbs comes last.
    places = [items.index(item) for item in ours]
    for place, item in zip(places, sorted(ours, key=lambda item: _case(item) is None), strict=True):
        items[place] = item


def _case(item: pytest.Item) -> Case | None:
    mark = item.get_closest_marker(BEGINS)
    return mark.args[0] if mark else None


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of this test run alone, ended with it."""
    standing = os.environ.get("TIDEGATE_E2E_HOME")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TIDEGATE_LEASE_SECONDS", str(LEASE_SECONDS))
        environment.setenv("TIDEGATE_POD_ENV", f'{{"TIDEGATE_ANTENNA_LEASE_SECONDS": "{LEASE_SECONDS}"}}')
        session = Session.started(Path(standing) if standing else tmp_path_factory.mktemp("stack"))
        try:
            yield Stack(session)
        finally:
            if not standing:
                session.supervisor.down()
                assert left_behind(session) == []


@pytest.fixture(scope="session")
def begun_ahead() -> dict[str, Begun]:
    return {}


@pytest.fixture
def outcome(request: pytest.FixtureRequest, stack: Stack, begun_ahead: dict[str, Begun]) -> Outcome:
    """What became of the run that the scenario `begins`."""
    items = [item for item in request.session.items if _case(item) is not None]
    mine = items.index(request.node)
    for item in items[mine : mine + WIDTH]:
        case = _case(item)
        if case is not None and item.nodeid not in begun_ahead:
            begun_ahead[item.nodeid] = stack.begin(case)
    return stack.finish(begun_ahead[request.node.nodeid])
