"""The least that a hook can be: a module that imports `socket`, and does nothing."""

import socket  # noqa: F401  the import is what is measured
