"""What the middlewares know of probes."""

from __future__ import annotations

from typing import Final

__all__ = ["KUBELET"]

KUBELET: Final = b"kube-probe/"
"""How the User-Agent of a kubelet's HTTP probes begins (kubernetes, `pkg/probe/http`)."""
