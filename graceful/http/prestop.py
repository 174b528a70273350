"""The pre-stop endpoint: the preStop hook as an HTTP call, for where the kubelet runs no program in the container.

It is there only where its token is set. It does what the hook does, from within: it asks every process of the
container to leave, itself among them, and answers when callers have heard. So it does not matter which of several
workers gets the call, and the kubelet that gives up on it, or the client that goes away, mean what they mean of a hook.
"""

from __future__ import annotations

import hmac
import logging
import os
import time
from typing import TYPE_CHECKING, Final

import anyio
from anyio import to_thread

from graceful.http.answering import answer
from graceful.prestop import hook_budget
from graceful.prestop_talk import Conversation

if TYPE_CHECKING:
    from graceful.http.asgi import Receive, Scope, Send

__all__ = ["PrestopEndpoint"]

logger = logging.getLogger("graceful.http")

_HEADER: Final = b"x-graceful-token"
_AT_ONCE: Final = 4
"""Calls that are held at the same time: the kubelet makes one, and may repeat it. The others wait for their turn."""
_NOBODY: Final = "no process of this container listens for its hook"


class PrestopEndpoint:
    """Answers `GET` with the right token when every process of the container has left, or the budget is used up.

    To be used in the application's event loop. The status is for people: the kubelet ignores it.

    Args:
        token: what the header `X-Graceful-Token` must have.
        grace: seconds of the pod's grace period, None where they are not known.
    """

    def __init__(self, token: str, *, grace: float | None) -> None:
        self._token = token.encode("ascii")
        self._grace = grace
        self._limiter: anyio.CapacityLimiter | None = None
        self._warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if not self._admits(scope):
            await answer(scope, send, 403, "X-Graceful-Token is missing or wrong")
        elif scope["method"] != "GET":
            await answer(scope, send, 405, "expected GET", (b"allow", b"GET"))
        else:
            await self._hold(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        given = next((value for name, value in scope.get("headers", ()) if name.lower() == _HEADER), b"")
        if hmac.compare_digest(given, self._token):
            return True
        if not self._warned:
            self._warned = True
            logger.warning(
                "a call of the pre-stop endpoint was refused: X-Graceful-Token is %s (said once); if it was the "
                "kubelet's, SIGTERM begins the leave all the same",
                "wrong" if given else "missing",
            )
        return False

    async def _hold(self, scope: Scope, receive: Receive, send: Send) -> None:
        lines: list[str] = []
        started = time.monotonic()
        conversation = Conversation(started, started + hook_budget(self._grace), self._grace, lines.append)
        self._limiter = self._limiter or anyio.CapacityLimiter(_AT_ONCE)
        ended = False
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(_cancel_at_disconnect, receive, tasks.cancel_scope)
                await to_thread.run_sync(_talk, conversation, abandon_on_cancel=True, limiter=self._limiter)
                ended = True
                tasks.cancel_scope.cancel()
        finally:
            conversation.abandon()
        if ended:
            status = 200 if conversation.clean else 500 if conversation.answered else 503
            await answer(scope, send, status, "\n".join(lines) or _NOBODY)


def _talk(conversation: Conversation) -> None:
    """Ask all processes to leave; for a thread of its own, in which it ends soon after it was abandoned."""
    try:
        conversation.hold(os.environ)
        conversation.give_up()
    finally:
        conversation.close()


async def _cancel_at_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    """A client that goes away is a hook that was killed: its connections to the processes end with it."""
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
