"""The orders service on plain threads. It has an EurekaClient of its own, which graceful adopts."""

import asyncio
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from py_eureka_client.eureka_client import EurekaClient

import graceful

PORT = int(os.environ.get("PORT", "8080"))

client = EurekaClient(
    eureka_server=os.environ["EUREKA_SERVER_URL"],
    app_name="orders",
    instance_port=PORT,
    instance_ip=os.environ.get("POD_IP", "127.0.0.1"),
    instance_host=os.environ.get("POD_IP", "127.0.0.1"),
)

# Servers, name, port and instance id are the client's: nothing of that is said twice.
coordinator = graceful.install(eureka=client)


class Orders(BaseHTTPRequestHandler):
    """`/orders/7` answers at once, `/slow/7` after two seconds."""

    def do_GET(self) -> None:
        try:
            with coordinator.track(self.path):
                time.sleep(2 if self.path.startswith("/slow/") else 0)
                self._answer(200, f"order {self.path.rpartition('/')[2]}\n")
        except graceful.NotAcceptingError:
            self._answer(503, "leaving\n")

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@coordinator.on_cleanup
def stop_client() -> None:
    """It may stay where it was: in the leave it changes nothing, since graceful takes the instance away itself."""
    asyncio.run(client.stop())
    print("orders: client stopped", flush=True)


if __name__ == "__main__":
    server = ThreadingHTTPServer(("", PORT), Orders)
    asyncio.run(client.start())
    server.serve_forever()  # graceful ends the program when everything is done
