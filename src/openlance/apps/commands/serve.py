"""Serve one model to many users: a web page and an OpenAI-compatible API.

With --ray the same server runs in replicas on a Ray cluster, behind Ray Serve's proxy on its head, until this command is stopped.
The machines need openlance of the same version, the model (a folder under the same path, or a hub name) and a --data-dir that all of
them share, so that a video that one replica makes is found by every other. The page needs --replicas 1: it talks to one process.

examples:
  openlance serve                                     the embedded model at http://127.0.0.1:8000
  openlance serve --model bytedance-research/Lance --variant image
  openlance serve --host 0.0.0.0 --api-key-file keys.txt
  openlance serve --processes 1                       one copy of the model, with all cores for each request
  openlance serve --ray local --replicas 2            two copies of the model on this machine, as on a cluster
  openlance serve --ray auto --host 0.0.0.0 --api-key-file keys.txt --data-dir /shared/openlance
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from openlance.apps.cluster import add_cluster_arguments, check_cluster_arguments
from openlance.apps.console import add_model_arguments
from openlance.errors import MissingExtra

if TYPE_CHECKING:
    from openlance.apps.serve.settings import ServeSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port, 0 takes a free one (default: 8000)")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="one API key a line; without it anyone who can connect may ask")
    parser.add_argument("--max-queue", type=int, default=64, metavar="N", help="requests that may wait before others get 429 (default: 64)")
    parser.add_argument("--allow-remote-media", action="store_true", help="fetch media of requests from public https addresses")
    parser.add_argument("--data-dir", type=Path, metavar="DIR", help="where video jobs are kept (default: the user's data folder)")
    parser.add_argument("--processes", type=int, default=0, metavar="N", help="copies of the model on this machine's processor that share "
                        "the requests (default: one a core, up to 4, for a small model, else 1)")  # fmt: skip
    parser.add_argument("--no-page", action="store_true", help="the API only, without the web page")
    add_cluster_arguments(parser, "serve")
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; running requests are finished or queued again."""
    try:
        from openlance.apps.serve.server import serve
    except ModuleNotFoundError as error:
        raise MissingExtra(error.name or "fastapi", "serve") from error
    from openlance.apps.cluster import chosen_model
    from openlance.apps.console import load_model, stderr_console
    from openlance.model.allocator import keep_freed_memory

    keep_freed_memory()
    settings = settings_of(args)
    if not settings.loopback and not settings.api_keys:
        message = f"warning: {settings.host} can be reached by others and there is no --api-key-file: anyone there can use the model"
        print(message, file=sys.stderr)
    if args.ray is not None:
        return _on_cluster(args, settings)
    # One GPU of several cannot be named to another process, and needs none.
    elsewhere = None if ":" in args.device else chosen_model(args).load
    return serve(lambda: load_model(args, stderr_console()), settings, elsewhere)


def _on_cluster(args: argparse.Namespace, settings: ServeSettings) -> int:
    from openlance.apps.cluster import chosen_model, connected, shared_out
    from openlance.apps.console import notice, stderr_console
    from openlance.apps.serve.cluster import serve_on_cluster

    model = chosen_model(args)
    with connected(args.ray):
        share = shared_out(args.replicas, args.device)
        notice(stderr_console(), share.told())
        if settings.web and share.replicas > 1:
            notice(stderr_console(), "the API alone, without the page, which needs --replicas 1")
            settings = dataclasses.replace(settings, web=False)
        return serve_on_cluster(model.load, settings, share)


def settings_of(args: argparse.Namespace) -> ServeSettings:
    """The settings that the arguments ask for. Raises RequestError."""
    from openlance.apps.serve.settings import ServeSettings, WorkerLimits, default_data_dir, read_keys
    from openlance.errors import RequestError

    if not 0 <= args.port <= 65535:
        raise RequestError(f"--port {args.port} must be from 0 to 65535")
    if args.max_queue < 1:
        raise RequestError(f"--max-queue {args.max_queue} must be at least 1")
    if args.processes < 0 or (args.processes > 1 and args.ray is not None):
        remedy = "use --replicas" if args.ray is not None else "must be at least 1"
        raise RequestError(f"--processes {args.processes}: {remedy}")
    check_cluster_arguments(args)
    return ServeSettings(
        host=args.host,
        port=args.port,
        data_dir=args.data_dir or default_data_dir(),
        api_keys=read_keys(args.api_key_file) if args.api_key_file else (),
        allow_remote_media=args.allow_remote_media,
        web=not args.no_page,
        worker=WorkerLimits(max_queue=args.max_queue),
        processes=args.processes,
    )
