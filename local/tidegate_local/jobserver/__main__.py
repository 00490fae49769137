"""The command line of the demo job server: serve, make jobs, switch faults, show what happened."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from pathlib import Path

from tidegate.core.errors import TidegateError
from tidegate_local.jobserver.settings import ServerSettings


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tidegate_local.jobserver",
        description="A demo job server with Antenna's pull API; state and images live in --workdir.",
    )
    add_arguments(parser)
    return parser


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything this command takes; a dispatcher can hang it below its own parser."""
    defaults = ServerSettings(workdir=Path())
    parser.add_argument("--workdir", type=Path, required=True, help="state, images, token; made where missing")
    parser.add_argument("--host", default=defaults.host, help="address to serve on (default %(default)s)")
    parser.add_argument("--port", type=int, default=defaults.port, help="0 (the default) takes a free one")
    parser.add_argument("--image-host", help="a second address, e.g. 127.0.0.2, from which alone images are served")
    parser.add_argument("--token-file", type=Path, help="the administrator's token (default WORKDIR/token)")
    for name, text in {
        "lease-seconds": "how long a task stays reserved",
        "collect-seconds": "from STARTED to the first deliverable task",
        "save-delay-seconds": "from a posted result to its saving",
        "empty-poll-seconds": "how long /tasks/ looks before it answers []",
        "reaper-period-seconds": "how often silent jobs are looked for",
        "silent-job-seconds": "how long a job may go without a processed result",
    }.items():
        value = getattr(defaults, name.replace("-", "_"))
        parser.add_argument(f"--{name}", type=float, default=value, metavar="S", help=f"{text} (default %(default)s)")


def settings_from(arguments: argparse.Namespace) -> ServerSettings:
    return ServerSettings(
        workdir=arguments.workdir,
        host=arguments.host,
        port=arguments.port,
        image_host=arguments.image_host,
        token_file=arguments.token_file,
        lease_seconds=arguments.lease_seconds,
        collect_seconds=arguments.collect_seconds,
        save_delay_seconds=arguments.save_delay_seconds,
        empty_poll_seconds=arguments.empty_poll_seconds,
        reaper_period_seconds=arguments.reaper_period_seconds,
        silent_job_seconds=arguments.silent_job_seconds,
    )


async def _serve(settings: ServerSettings) -> None:
    from tidegate_local.jobserver.server import serving

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings) as url:
        print(json.dumps({"url": url, "token_file": str(settings.admin_token_path)}), flush=True)
        await stop.wait()


def main(argv: list[str] | None = None) -> int:
    settings = settings_from(build_parser().parse_args(argv))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        asyncio.run(_serve(settings))
    except (TidegateError, OSError) as error:
        print(f"job server: {error}", file=sys.stderr)
        return 78
    return 0


if __name__ == "__main__":
    sys.exit(main())
