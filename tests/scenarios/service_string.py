"""As service_web, but uvicorn imports the application by its name, after it took the signals itself.

Usage: `-m tests.scenarios.service_string STYLE LOOP LIFESPAN PORT`.
"""

from __future__ import annotations

import sys
from typing import Any

import uvicorn


def main(style: str, loop: str, lifespan: str, port: str) -> None:
    options: Any = {"port": int(port), "loop": loop, "lifespan": lifespan}
    name = "tests.scenarios.service_web:app"
    if style == "run-string":
        uvicorn.run(name, **options)
    else:
        uvicorn.Server(uvicorn.Config(name, **options)).run()


if __name__ == "__main__":
    main(*sys.argv[1:])
