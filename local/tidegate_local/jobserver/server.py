"""One job server process: the web application, the ticker that saves results and moves jobs, and the address file."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

from aiohttp import web

from tidegate.core.errors import FixConfig
from tidegate_local.jobserver.accounts import Accounts, secret_file
from tidegate_local.jobserver.api import Api
from tidegate_local.jobserver.demo import Demo
from tidegate_local.jobserver.image_host import ImageHost
from tidegate_local.jobserver.image_urls import ImageUrls
from tidegate_local.jobserver.images import ImageStore
from tidegate_local.jobserver.interference import interfere_with
from tidegate_local.jobserver.request_log import RequestLog
from tidegate_local.jobserver.settings import ServerSettings
from tidegate_local.jobserver.state import State, open_state
from tidegate_local.jobserver.wire import Authenticator, speak_rest

log = logging.getLogger(__name__)

#: A posted body may be larger than the 100 MB that a proxy would let through: Django itself does not enforce them.
_BODY_LIMIT_BYTES = 1024**3
_TICK_SECONDS = 0.02


@contextlib.asynccontextmanager
async def serving(settings: ServerSettings) -> AsyncIterator[str]:
    """Serve while the block runs; yields the base URL."""
    settings.workdir.mkdir(parents=True, exist_ok=True)
    lock = _lock(settings.workdir)
    state = open_state(settings)
    accounts, urls, requests = Accounts(state.db), ImageUrls(state.db), RequestLog()
    accounts.ensure_admin(secret_file(settings.admin_token_path), secret_file(settings.workdir / "password"))
    store, authenticator = ImageStore(settings.image_dir), Authenticator(state.db)
    images = ImageHost(state, store, urls, requests)

    app = web.Application(
        client_max_size=_BODY_LIMIT_BYTES, middlewares=[requests.record, speak_rest, interfere_with(state.faults)]
    )
    app.add_routes(Api(state, accounts, authenticator, urls).routes())
    app.add_routes(Demo(state, accounts, authenticator, store, urls, requests).routes())
    app.add_routes(images.routes())
    image_app = web.Application(middlewares=[requests.record])
    image_app.add_routes(images.routes())

    async with contextlib.AsyncExitStack() as stack:
        stack.callback(os.close, lock)
        stack.callback(state.db.close)
        port = await _listen(stack, app, settings.host, settings.port)
        if settings.image_host is not None:
            # The same port, so that URLs handed out before a restart stay good after it.
            await _listen(stack, image_app, settings.image_host, port)
            urls.image_host = f"{settings.image_host}:{port}"
        ticker = asyncio.create_task(_tick(state))
        stack.push_async_callback(_stop, ticker)
        url = f"http://{settings.host}:{port}"
        _say_address(settings, url)
        yield url


def _lock(workdir: Path) -> int:
    """One server a workdir, for faults are kept in memory; the kernel drops the lock with the process."""
    lock = os.open(workdir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise FixConfig(f"another job server runs on {workdir}: end it, or name another --workdir") from None
    return lock


async def _listen(stack: contextlib.AsyncExitStack, app: web.Application, host: str, port: int) -> int:
    # Compressed bodies stay compressed: Antenna takes them for broken JSON.
    runner = web.AppRunner(app, access_log=None, auto_decompress=False, shutdown_timeout=1.0)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, host, port).start()
    return int(runner.addresses[0][1])


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def _tick(state: State) -> None:
    """Move what is due, for ever; everything due is in the database, so that a restart misses nothing."""
    reap_at = time.monotonic() + state.settings.reaper_period_seconds
    while True:
        try:
            with state.db.transaction():
                moved = state.lifecycle.step() + state.results.process_due()
                if time.monotonic() >= reap_at:
                    state.lifecycle.reap(state.settings.silent_job_seconds)
                    reap_at = time.monotonic() + state.settings.reaper_period_seconds
        except Exception:  # a ticker that dies would leave a server that accepts results and saves none
            log.exception("a tick failed; trying again")
            moved = 0
        await asyncio.sleep(0 if moved else _TICK_SECONDS)


def _say_address(settings: ServerSettings, url: str) -> None:
    path = settings.address_path
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    token_file = str(settings.admin_token_path.absolute())
    aside.write_text(json.dumps({"url": url, "pid": os.getpid(), "token_file": token_file}))
    aside.replace(path)
