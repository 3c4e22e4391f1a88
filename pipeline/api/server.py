"""Serving the application: one process, one port."""

import gc
import signal
import socket
import sys
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from pipeline.api.parts import Parts
from pipeline.api.protocol import BoundedHttp

STOP_WITHIN = 20  # seconds: who waits for a picture is told where to ask for it


class Server(uvicorn.Server):
    """Lets those who wait go as soon as it is asked to stop."""

    def __init__(self, config: uvicorn.Config, parts: Parts) -> None:
        super().__init__(config)
        self._parts = parts

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Unlike uvicorn's own, it does not end in the signal: to be asked to stop is no failure.
        A second Ctrl-C waits for nobody."""
        self._parts.stopping.set()
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=2048)


def serve(app: ASGIApp, parts: Parts, listening: socket.socket) -> None:
    """Serve until SIGTERM or SIGINT; requests under way are answered first.

    What has been made until now stays. The collector would look through all of it twice a second
    under load, and nobody be answered for a tenth of a second meanwhile.
    """
    gc.collect()
    gc.freeze()
    config = uvicorn.Config(
        app,
        http=BoundedHttp,
        loop="uvloop" if sys.platform != "win32" else "asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_WITHIN,
    )
    Server(config, parts).run(sockets=[listening])
