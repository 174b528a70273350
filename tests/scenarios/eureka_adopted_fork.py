"""A client is adopted, and the process forks. Usage: `-m tests.scenarios.eureka_adopted_fork URL`.

1. A client is started and adopted; the service is ready, its instance is UP.
2. A child that was forked stops the client, and registers with it: nothing reaches Eureka.
3. A child in which graceful is installed anew refuses the client, which was started before the fork.
4. The parent's instance is still UP; the parent leaves, and deregisters.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
import urllib.request

from py_eureka_client.eureka_client import EurekaClient

import graceful

URL = sys.argv[1]


def check(holds: object, what: str) -> None:
    if not holds:
        print("not so:", what, flush=True)
        os._exit(70)


def status() -> str:
    request = urllib.request.Request(f"{URL}/apps/ORDERS/orders-1", headers={"Accept": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode().split('"status":"')[1].split('"')[0])


def in_child() -> None:
    asyncio.run(client.stop())
    asyncio.run(client.register("DOWN"))
    coordinator.uninstall()
    try:
        graceful.install(eureka=client)
    except graceful.InstallError as error:
        check("started before a fork" in str(error), str(error))
    else:
        check(False, "the client is refused")
    os._exit(0)


client = EurekaClient(eureka_server=URL, app_name="orders", instance_id="orders-1", instance_port=8080)
asyncio.run(client.start())
coordinator = graceful.install(eureka=client, propagation_delay=0)
coordinator.ready()
while coordinator.phase is not graceful.Phase.SERVING:
    time.sleep(0.01)
check(status() == "UP", "UP")
pid = os.fork()
if pid == 0:
    in_child()
check(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the child is content")
check(status() == "UP", "the parent's instance is still UP")
print("all is well", flush=True)
coordinator.drain()
threading.Event().wait()
