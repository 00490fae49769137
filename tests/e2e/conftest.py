"""One whole stack for all scenarios; runs that do not disturb each other go on side by side.

Its pods run on the stack's own pod API, or, where KUBECONFIG, IMAGE and HOST_ADDRESS are set, on that cluster in a
namespace of its own: all other servers run here, and pods reach the job server under HOST_ADDRESS. LEDGER_URL names a
PostgreSQL that both reach, for manifest jobs. What a cluster may lack is marked `@needs(...)`, see `abilities`.

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
from tests.e2e.abilities import lacking
from tests.e2e.running_stack import LEASE_SECONDS, Begun, Case, Outcome, Stack, left_behind

from tidegate.core.errors import FixConfig
from tidegate_local.stack.cluster import Cluster
from tidegate_local.stack.session import Session

BEGINS: Final = "begins"
NEEDS: Final = "needs"
#: All of `make test`'s at once: they wait for scrapes and leases more than for a core.
WIDTH: Final = int(os.environ.get("TIDEGATE_E2E_WIDTH", "5"))
#: Of one scenario, with the stack's start in the first and those begun before it.
TEST_SECONDS: Final = 1500


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{BEGINS}(case): the run that the scenario watches, begun ahead of it")
    config.addinivalue_line("markers", f"{NEEDS}(ability, ...): what the scenario needs that a cluster may lack")


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


def _needs(item: pytest.Item) -> tuple[str, ...]:
    return tuple(need for mark in item.iter_markers(NEEDS) for need in mark.args)


@pytest.fixture(scope="session")
def foreign() -> Cluster | None:
    """The cluster that the environment names."""
    kubeconfig, image = os.environ.get("KUBECONFIG"), os.environ.get("IMAGE")
    if not kubeconfig or not image:
        return None
    try:
        return Cluster.foreign(Path(kubeconfig), image, os.environ.get("HOST_ADDRESS"), os.environ.get("LEDGER_URL"))
    except FixConfig as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


@pytest.fixture(autouse=True)
def _is_able(request: pytest.FixtureRequest, foreign: Cluster | None) -> None:
    if foreign is not None and (reason := lacking(foreign, _needs(request.node))):
        pytest.skip(reason)


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory, foreign: Cluster | None) -> Iterator[Stack]:
    """A stack of this test run alone, ended with it."""
    standing = os.environ.get("TIDEGATE_E2E_HOME")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("TIDEGATE_LEASE_SECONDS", str(LEASE_SECONDS))
        environment.setenv("TIDEGATE_POD_ENV", f'{{"TIDEGATE_ANTENNA_LEASE_SECONDS": "{LEASE_SECONDS}"}}')
        home = Path(standing) if standing else tmp_path_factory.mktemp("stack")
        session = Session.open(home, cluster=foreign)
        try:
            session = Session.started(home, cluster=foreign)
            yield Stack(session)
        finally:
            if not standing:
                session.ended()
                assert left_behind(session) == []


@pytest.fixture(scope="session")
def begun_ahead() -> dict[str, Begun]:
    return {}


@pytest.fixture
def outcome(request: pytest.FixtureRequest, stack: Stack, begun_ahead: dict[str, Begun]) -> Outcome:
    """What became of the run that the scenario `begins`."""
    cluster = stack.session.cluster
    items = [item for item in request.session.items if _case(item) and not lacking(cluster, _needs(item))]
    mine = items.index(request.node)
    for item in items[mine : mine + WIDTH]:
        case = _case(item)
        if case is not None and item.nodeid not in begun_ahead:
            begun_ahead[item.nodeid] = stack.begin(case)
    return stack.finish(begun_ahead[request.node.nodeid])
