"""The thread in which an embedded Eureka serves HTTP."""

from __future__ import annotations

import asyncio
from threading import Event, Thread
from typing import TYPE_CHECKING

import uvicorn

from graceful.rehearsal.eureka_http import EurekaApplication

if TYPE_CHECKING:
    import socket

    from graceful.rehearsal.eureka_faults import FaultPlan, RequestLog
    from graceful.rehearsal.eureka_rest import Node

__all__ = ["ServerThread"]

START_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0


class _Server(uvicorn.Server):
    """A uvicorn server that says when it accepts connections instead of being asked every 0.1 s."""

    def __init__(self, config: uvicorn.Config, settled: Event) -> None:
        super().__init__(config)
        self._settled = settled

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._settled.set()


class ServerThread(Thread):
    """The thread that runs one node from `launch` to `shut_down`."""

    def __init__(
        self,
        listener: socket.socket,
        node: Node,
        faults: FaultPlan,
        log: RequestLog,
        credentials: tuple[str, str] | None,
        *,
        csrf: bool,
    ) -> None:
        super().__init__(name="embedded-eureka", daemon=True)
        self._listener = listener
        self._settled = Event()
        self.application = EurekaApplication(
            node,
            faults,
            log,
            credentials=credentials and ":".join(credentials),
            csrf=csrf,
            transport_of=self._transport_of,
        )
        config = uvicorn.Config(
            self.application,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            # A request that never ends, such as one whose body does not come, must not hold up the end.
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config, self._settled)
        self._loop: asyncio.AbstractEventLoop | None = None

    def launch(self) -> None:
        """Run, and return when connections are accepted.

        Raises:
            RuntimeError: it does not come up within 10 s.
        """
        self.start()
        if not self._settled.wait(START_TIMEOUT) or not self._server.started:
            raise RuntimeError(f"the embedded Eureka did not start within {START_TIMEOUT:g} s: see the log of uvicorn")

    def shut_down(self) -> None:
        """Close every connection and end.

        Raises:
            RuntimeError: it has not ended within 10 s.
        """
        self._server.should_exit = True
        if self._loop is not None and self.is_alive():
            self._loop.call_soon_threadsafe(self.application.closing.set)
        self.join(STOP_TIMEOUT)
        if self.is_alive():
            raise RuntimeError(f"the embedded Eureka did not end within {STOP_TIMEOUT:g} s")

    def run(self) -> None:
        """The thread's own work."""
        try:
            asyncio.run(self._serve())
        finally:
            self._listener.close()
            self._settled.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])

    def _transport_of(self, client: tuple[str, int] | None) -> asyncio.Transport | None:
        connections = self._server.server_state.connections
        found = next((each for each in connections if getattr(each, "client", None) == client), None)
        return getattr(found, "transport", None)
