"""The common recipe for a preStop hook: `curl -X PUT …/status?value=OUT_OF_SERVICE; sleep 30`.

In Python, because not every machine has curl; and as blind as the original: nobody looks whether the PUT worked.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import urllib.request

__all__ = ["main"]


def main() -> None:
    """Say OUT_OF_SERVICE once, then sleep for the seconds given as the only argument."""
    url = f"{os.environ['EUREKA_SERVER_URL']}/apps/ORDERS/{os.environ['EUREKA_INSTANCE_INSTANCEID']}/status"
    put = urllib.request.Request(f"{url}?value=OUT_OF_SERVICE", method="PUT")  # noqa: S310  the demo's own address
    with contextlib.suppress(OSError):
        urllib.request.urlopen(put, timeout=5).close()  # noqa: S310  as above
    time.sleep(float(sys.argv[1]))


if __name__ == "__main__":
    main()
