"""py_eureka_client comes in late, and in silence.

1. Making a registration imports neither it nor httpx.
2. A call to a server that is not there imports it and fails with our error.
3. Nothing was printed, no logger was configured, no thread of theirs runs, and `sys.modules` has no second copy.
"""

import logging
import sys
import threading

import anyio

from graceful.eureka.instance import Instance
from graceful.eureka.registration import EurekaRegistration
from graceful.eureka.rest import EurekaError, Server


def check(condition: bool, what: str) -> None:
    if not condition:
        sys.exit(what)


async def main() -> None:
    try:
        await Server("http://127.0.0.1:1/eureka").deregister("ORDERS", "x")
    except EurekaError as error:
        check(str(error) == "http://127.0.0.1:1/eureka: connection refused", str(error))


EurekaRegistration(["http://127.0.0.1:1/eureka"], Instance(app="orders", ip="10.0.0.7", port=8080))
check(not {"py_eureka_client", "httpx"} & set(sys.modules), "imported too early")
anyio.run(main)
check("py_eureka_client" in sys.modules, "not used")
check("py_eureka_client.eureka_basic" not in sys.modules, "our copy took the place of the original")
check("py_eureka_client.eureka_client" not in sys.modules, "the client was imported")
check(logging.getLogger().handlers == [], "logging was configured")
for thread in threading.enumerate():
    if thread.name == "AnyIO worker thread":  # told to end together with its event loop
        thread.join(10)
check(threading.active_count() == 1, f"threads are left: {threading.enumerate()}")
