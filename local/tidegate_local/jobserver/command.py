"""The command line of the demo job server: serve, or tell the server on a workdir what to do.

Without a command it serves. The commands talk to the running server over HTTP and print JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import requests

from tidegate.core.errors import TidegateError
from tidegate_local.jobserver.control import JobServer
from tidegate_local.jobserver.faults import ENDPOINTS, OPTIONS, Kind
from tidegate_local.jobserver.images import JOB_KINDS
from tidegate_local.jobserver.server import serving
from tidegate_local.jobserver.settings import ServerSettings

_SECONDS = {
    "lease_seconds": "how long a task stays reserved",
    "collect_seconds": "from STARTED to the first deliverable task",
    "save_delay_seconds": "from a posted result to its saving",
    "empty_poll_seconds": "how long /tasks/ looks for work before it answers []",
    "reaper_period_seconds": "how often silent jobs are looked for",
    "silent_job_seconds": "how long a job may go without a processed result",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Everything this command takes, below whichever parser it hangs."""
    defaults = ServerSettings(workdir=Path())
    parser.add_argument("--workdir", type=Path, required=True, help="state, images and token; made where missing")
    serve = parser.add_argument_group("serving")
    serve.add_argument("--host", default=defaults.host, help="address to serve on (default %(default)s)")
    serve.add_argument("--port", type=int, default=defaults.port, help="0 (the default) takes a free one")
    serve.add_argument("--image-host", help="a second address, such as 127.0.0.2, that serves images alone")
    serve.add_argument("--token-file", type=Path, help="the administrator's token (default WORKDIR/token)")
    for name, text in _SECONDS.items():
        serve.add_argument(
            f"--{name.replace('_', '-')}", type=float, metavar="S", default=getattr(defaults, name),
            help=f"{text} (default %(default)s)",
        )  # fmt: skip
    _add_commands(parser.add_subparsers(dest="action", title="commands to the server on WORKDIR", metavar="COMMAND"))


def _add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    job = commands.add_parser("create-job", help="make and start a job")
    job.add_argument("--kind", choices=JOB_KINDS, default="tiny")
    job.add_argument("--images", type=int, default=10)
    job.add_argument("--pipeline", default="demo_pipeline", help="slug (default %(default)s)")
    job.add_argument("--job-lease-seconds", type=float, help="other than the server's")
    truth = commands.add_parser("truth", help="what really happened to a job, image by image")
    truth.add_argument("job", type=int)
    truth.add_argument("--totals", action="store_true", help="leave the images out")
    fault = commands.add_parser(
        "fault",
        help="switch a fault on",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="options of each kind, with defaults:\n"
        + "\n".join(f"  {kind.value:16} {json.dumps(options)}" for kind, options in OPTIONS.items()),
    )
    fault.add_argument("kind", choices=[kind.value for kind in Kind], metavar="KIND")
    fault.add_argument("--endpoint", choices=sorted(ENDPOINTS))
    fault.add_argument("--job", type=int)
    fault.add_argument("--images", nargs="+", default=[], metavar="ID")
    fault.add_argument("--times", type=int, help="how often (default: until calmed)")
    fault.add_argument("--ratio", type=float, default=1.0, help="with this probability (default 1)")
    fault.add_argument("--options", type=json.loads, default={}, metavar="JSON")
    commands.add_parser("faults", help="show the faults that are on")
    commands.add_parser("calm", help="switch all faults off")
    reap = commands.add_parser("reap", help="end the jobs without a processed result now")
    reap.add_argument("--silent-seconds", type=float, default=0.0)


def run(arguments: argparse.Namespace) -> int:
    """Serve, or carry out a command; the exit status."""
    try:
        if arguments.action is None:
            logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
            asyncio.run(_serve(arguments))
        else:
            answer = _carry_out(JobServer.of_workdir(arguments.workdir), arguments)
            print(json.dumps(answer, indent=2))
    except (TidegateError, OSError, ValueError, requests.RequestException) as error:
        print(f"job server: {error}", file=sys.stderr)
        return 1
    return 0


async def _serve(arguments: argparse.Namespace) -> None:
    settings = ServerSettings(
        workdir=arguments.workdir,
        host=arguments.host,
        port=arguments.port,
        image_host=arguments.image_host,
        token_file=arguments.token_file,
        **{name: getattr(arguments, name) for name in _SECONDS},
    )
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with serving(settings) as url:
        print(json.dumps({"url": url, "token_file": str(settings.admin_token_path)}), flush=True)
        await stop.wait()


def _carry_out(server: JobServer, arguments: argparse.Namespace) -> object:
    match arguments.action:
        case "create-job":
            lease = arguments.job_lease_seconds
            options = {} if lease is None else {"lease_seconds": lease}
            return {"job": server.create_job(arguments.kind, arguments.images, arguments.pipeline, **options)}
        case "truth":
            truth = server.truth(arguments.job)
            return truth.totals if arguments.totals else asdict(truth)
        case "fault":
            return server.add_fault(
                arguments.kind,
                endpoint=arguments.endpoint,
                job=arguments.job,
                images=arguments.images,
                times=arguments.times,
                ratio=arguments.ratio,
                options=arguments.options,
            )
        case "faults":
            return server.faults()
        case "calm":
            server.clear_faults()
            return server.faults()
        case _:
            return server.reap(arguments.silent_seconds)
