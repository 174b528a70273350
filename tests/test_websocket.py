"""WebSockets in the drain, with applications that receive, send, do neither, or close at the same moment."""

import contextlib

import anyio
import pytest

from graceful.http.asgi import GracefulMiddleware
from graceful.http.websocket import ClosedByDrainError
from tests.services import FakeService

CLOSED = {"type": "websocket.close", "code": 1012, "reason": "this instance is shutting down"}
DISCONNECT = {"type": "websocket.disconnect", "code": 1012, "reason": "this instance is shutting down"}
ACCEPT = {"type": "websocket.accept"}


class Peer:
    """A server with one WebSocket: what the application sent, and what the peer says next."""

    def __init__(self, app, *, fails_to_close=False):
        self.service = FakeService()
        self.sent = []
        self.app = GracefulMiddleware(app, self.service)
        self.fails_to_close = fails_to_close
        self.says, self._said = anyio.create_memory_object_stream[dict[str, str]](10)
        self.says.send_nowait({"type": "websocket.connect"})
        self.accepted = anyio.Event()
        self._changed = anyio.Event()

    async def run(self):
        with self.says, self._said:
            await self.app({"type": "websocket", "path": "/chat"}, self._said.receive, self._send)

    async def _send(self, message):
        await anyio.lowlevel.checkpoint()
        if message["type"] == "websocket.close" and self.fails_to_close:
            raise RuntimeError("Unexpected ASGI message 'websocket.close', after the peer has closed")
        self.sent.append(message)
        self._changed.set()
        self._changed = anyio.Event()
        if message["type"] == "websocket.accept":
            self.accepted.set()

    async def until_sent(self, count):
        while len(self.sent) < count:
            await self._changed.wait()

    @property
    def heard(self):
        """What came after the handshake."""
        return self.sent[1:]


def play(backend, app, story, **how):
    """Run an application with its peer, and what happens to them; both must have ended after it."""

    async def main():
        peer = Peer(app, **how)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await peer.accepted.wait()
                await anyio.wait_all_tasks_blocked()
                await story(peer)
        assert len(peer.service.work) == 0
        assert len(peer.service.long_connections) == 0
        return peer

    return anyio.run(main, backend=backend)


@pytest.fixture(params=["asyncio", "trio"])
def backend(request):
    return request.param


async def drain(peer):
    peer.service.drain()


async def echo(scope, receive, send):
    await receive()
    await send(ACCEPT)
    while (message := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": message["text"]})


def test_one_that_waits_for_a_message_is_closed_at_once(backend):
    """It is told that it is disconnected, with the code and the reason, as if the peer had closed."""
    told = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        told.append(await receive())
        told.append(await receive())

    assert play(backend, app, drain).heard == [CLOSED]
    assert told == [DISCONNECT, DISCONNECT]


def test_until_the_drain_every_message_goes_through(backend):
    """Both ways, in order."""

    async def story(peer):
        for number in range(3):
            await peer.says.send({"type": "websocket.receive", "text": str(number)})
        await anyio.wait_all_tasks_blocked()
        assert [message["text"] for message in peer.heard] == ["0", "1", "2"]
        await peer.says.send({"type": "websocket.disconnect", "code": 1001})

    assert len(play(backend, echo, story).heard) == 3


def test_the_answer_to_a_message_in_hand_goes_out_before_the_close(backend):
    """The application works on a message when the drain begins."""
    done = []

    async def app(scope, receive, send):
        done.append(anyio.Event())
        await receive()
        await send(ACCEPT)
        await done[0].wait()
        await send({"type": "websocket.send", "text": "answer"})
        with pytest.raises(ClosedByDrainError, match="this instance is shutting down"):
            await send({"type": "websocket.send", "text": "more"})
        assert await receive() == DISCONNECT

    async def story(peer):
        peer.service.drain()
        await anyio.wait_all_tasks_blocked()
        assert peer.heard == []
        done[0].set()

    assert play(backend, app, story).heard == [{"type": "websocket.send", "text": "answer"}, CLOSED]


def test_one_that_sends_on_for_ever_gets_an_error_that_is_nobodys(backend):
    """As a server raises it where the peer is gone; it does not come out again."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        while True:
            await send({"type": "websocket.send", "text": "tick"})
            await anyio.sleep(0.001)

    heard = play_ticking(backend, app)
    assert heard[-1] == CLOSED
    assert CLOSED not in heard[:-1]


def play_ticking(backend, app):
    async def main():
        peer = Peer(app)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await peer.until_sent(4)
                peer.service.drain()
        assert len(peer.service.work) == 0
        return peer.heard

    return anyio.run(main, backend=backend)


def test_one_that_does_neither_is_cut_off_late_and_its_peer_told(backend):
    """It waits for something else; it is left alone for as long as there is time, may tidy up, and ends."""
    tidied = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
                tidied.append(True)

    async def story(peer):
        peer.service.drain()
        await anyio.wait_all_tasks_blocked()
        assert peer.heard == []
        peer.service.cut()

    assert play(backend, app, story).heard == [CLOSED]
    assert tidied == [True]


def test_a_handshake_that_takes_too_long_is_cut_off(backend):
    """The peer has an answer, if only the server's 403."""

    async def main():
        async def app(scope, receive, send):
            await receive()
            await anyio.sleep_forever()

        peer = Peer(app)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await anyio.wait_all_tasks_blocked()
                peer.service.drain()
                peer.service.cut()
        return peer.sent

    assert anyio.run(main, backend=backend) == [CLOSED]


def test_one_that_closes_at_the_same_moment_closes_once(backend):
    """Its own code stands."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            holder[0].service.drain()
            await send({"type": "websocket.close", "code": 4000})

    holder = []

    async def main():
        peer = Peer(app)
        holder.append(peer)
        with anyio.fail_after(20):
            await peer.run()
        return peer

    peer = anyio.run(main, backend=backend)
    assert [message["type"] for message in peer.heard] == ["websocket.close"]


def test_one_that_closes_what_the_drain_has_closed_is_content(backend):
    """`finally: await socket.close()` is how many end."""

    went_on = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        await send({"type": "websocket.close", "code": 1000})
        went_on.append(True)

    assert play(backend, app, drain).heard == [CLOSED]
    assert went_on == [True]


def test_two_tasks_that_receive_are_both_told_and_it_is_closed_once(backend):
    """Some applications leave a receive behind."""
    told = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)

        async def listen():
            told.append(await receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen)
            tasks.start_soon(listen)

    # The fake's stream has messages for one receiver at a time, which is all that this needs.
    assert play(backend, app, drain).heard == [CLOSED]
    assert told == [DISCONNECT, DISCONNECT]


@pytest.mark.parametrize("asked_before", [False, True])
def test_a_handshake_under_way_is_accepted_and_then_closed(backend, asked_before):
    """Closed before, it would be an HTTP 403 to the peer."""

    async def main():
        let = anyio.Event()

        async def app(scope, receive, send):
            if asked_before:
                await let.wait()
            assert (await receive())["type"] == "websocket.connect"
            await let.wait()
            await send(ACCEPT)
            assert await receive() == DISCONNECT

        peer = Peer(app)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await anyio.wait_all_tasks_blocked()
                peer.service.drain()
                await anyio.wait_all_tasks_blocked()
                let.set()
        return peer.sent

    assert anyio.run(main, backend=backend) == [ACCEPT, CLOSED]


@pytest.mark.parametrize(
    "refusal",
    [
        [{"type": "websocket.close", "code": 1008}],
        [{"type": "websocket.http.response.start", "status": 401}, {"type": "websocket.http.response.body"}],
    ],
    ids=["close", "response"],
)
def test_a_handshake_that_the_application_refuses_is_refused_as_it_says(backend, refusal):
    """Also when the drain has begun meanwhile."""

    async def main():
        let = anyio.Event()

        async def app(scope, receive, send):
            await receive()
            await let.wait()
            for message in refusal:
                await send(message)

        peer = Peer(app)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await anyio.wait_all_tasks_blocked()
                peer.service.drain()
                let.set()
        return peer.sent

    assert anyio.run(main, backend=backend) == refusal


def test_a_socket_that_the_peer_has_closed_at_the_same_moment(backend):
    """The server refuses our close; the application is told of the end all the same."""
    told = []

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        told.append(await receive())

    assert play(backend, app, drain, fails_to_close=True).heard == []
    assert told == [DISCONNECT]


def test_an_error_before_the_end_is_the_applications_own(backend):
    """Only what comes of our end is swallowed."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await anyio.lowlevel.checkpoint()
        raise ValueError("a bug")

    async def main():
        peer = Peer(app)
        with pytest.raises(ValueError, match="a bug"):
            await peer.run()
        assert len(peer.service.work) == len(peer.service.long_connections) == 0

    anyio.run(main, backend=backend)


def test_an_error_that_the_application_makes_of_the_end_is_none(backend):
    """Starlette raises WebSocketDisconnect out of `receive_text`."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await receive()
        raise LookupError("WebSocketDisconnect")

    assert play(backend, app, drain).heard == [CLOSED]


def test_a_cancellation_from_outside_goes_through(backend):
    """The server's own: with the drain, and while the application is being cut off."""

    async def app(scope, receive, send):
        await receive()
        await send(ACCEPT)
        await anyio.sleep_forever()

    async def main():
        peer = Peer(app)
        went_on = False
        with anyio.CancelScope() as outer:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.run)
                await peer.accepted.wait()
                await anyio.wait_all_tasks_blocked()
                peer.service.cut()
                outer.cancel()
            went_on = True
        assert outer.cancelled_caught
        assert not went_on
        assert len(peer.service.work) == len(peer.service.long_connections) == 0

    anyio.run(main, backend=backend)


def test_starlette_is_content(backend):
    """Its own state machine sees a disconnect, and nothing comes out."""
    from starlette.applications import Starlette
    from starlette.routing import WebSocketRoute

    ended = []

    async def chat(socket):
        await socket.accept()
        with contextlib.suppress(LookupError):
            async for text in socket.iter_text():
                await socket.send_text(text)
        ended.append(socket.client_state.name)

    async def main():
        peer = Peer(Starlette(routes=[WebSocketRoute("/chat", chat)]))
        scope = {
            "type": "websocket",
            "path": "/chat",
            "root_path": "",
            "headers": [],
            "query_string": b"",
            "scheme": "ws",
            "server": ("t", 80),
            "client": ("127.0.0.1", 1),
            "subprotocols": [],
        }
        with anyio.fail_after(20), peer.says, peer._said:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(peer.app, scope, peer._said.receive, peer._send)
                await peer.accepted.wait()
                await anyio.wait_all_tasks_blocked()
                peer.service.drain()
        return peer.heard

    assert anyio.run(main, backend=backend) == [CLOSED]
    assert ended == ["DISCONNECTED"]
