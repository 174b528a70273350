"""The two ends of an ASGI lifespan, between a server and an application."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from graceful.http.asgi import ASGIApp, Message, Receive, Scope, Send, Service

__all__ = ["Lifespan"]

logger = logging.getLogger("graceful.http")


class Lifespan:
    """One lifespan: the service hears of its start, and is asked before the application's own teardown.

    Args:
        service: what hears.
        receive: the server's.
        send: the server's.
    """

    def __init__(self, service: Service, receive: Receive, send: Send) -> None:
        self._service = service
        self._receive = receive
        self._send = send
        self._asked = False
        self._answered = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        """Run the application's lifespan, or answer for one that knows of none, as Django's.

        An application that ends without having asked what there is to do knows of no lifespan. One that has asked, and
        ends without an answer, is left to the server, which may go on without a lifespan (ASGI, "Lifespan protocol").
        """
        self._service.lifespan_begins()
        try:
            await app(scope, self._receive_after_ours, self._send_noting)
        except Exception as error:
            if self._asked:
                raise
            logger.debug("the application has no lifespan, it is answered for it: %r", error)
        finally:
            if self._asked and not self._answered:
                self._service.lifespan_unanswered()
        if not self._asked:
            await self._answer()

    async def _receive_after_ours(self) -> Message:
        self._asked = True
        message = await self._receive()
        if message["type"] == "lifespan.shutdown":
            await self._service.lifespan_ends()
        return message

    async def _send_noting(self, message: Message) -> None:
        self._answered = True
        await self._send(message)
        if message["type"] == "lifespan.startup.complete":
            self._service.lifespan_started()

    async def _answer(self) -> None:
        await self._receive_after_ours()
        await self._send_noting({"type": "lifespan.startup.complete"})
        await self._receive_after_ours()
        await self._send_noting({"type": "lifespan.shutdown.complete"})
