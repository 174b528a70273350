"""What all that stand in front of an application know and say alike."""

from __future__ import annotations

from typing import Final

__all__ = ["KUBELET", "SHUTTING_DOWN"]

KUBELET: Final = b"kube-probe/"
"""How the User-Agent of a kubelet's HTTP probes begins (kubernetes, `pkg/probe/http`)."""

SHUTTING_DOWN: Final = "this instance is shutting down"
"""The text of a refusal, and the reason of a close."""
