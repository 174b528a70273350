"""The caches between a registry and its callers: how long a change is under way, part by part."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CacheChain", "seconds_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheChain:
    """The caches that a change passes through one after the other, each as slow as it can be, in seconds.

    Attributes:
        server: the registry server's response cache.
        fetch: the interval at which callers fetch from the server.
        load_balancer: the callers' load-balancer cache.
        kubernetes: until endpoints and proxies have heard, beside the chain; 0 outside Kubernetes.
        observed: whether the servers are watched, so that the first part ends when the change is seen to show.
    """

    server: float
    fetch: float
    load_balancer: float
    kubernetes: float = 0.0
    observed: bool = False

    @property
    def total(self) -> float:
        """Seconds until the last caller has heard, at the most."""
        return max(self.server + self.after_server, self.kubernetes)

    @property
    def after_server(self) -> float:
        """Seconds that are left when every server shows the change."""
        return self.fetch + self.load_balancer

    def __str__(self) -> str:
        """`server response cache 30s (observed) + client fetch 30s + load balancer 35s = 95s, at least 10s …`."""
        observed = " (observed: it ends when every server shows the change)" if self.observed else ""
        chain = (
            f"server response cache {seconds_of(self.server)}{observed} + client fetch {seconds_of(self.fetch)} "
            f"+ load balancer {seconds_of(self.load_balancer)} = {seconds_of(self.server + self.after_server)}"
        )
        return f"{chain}, at least {seconds_of(self.kubernetes)} in Kubernetes" if self.kubernetes else chain


def seconds_of(value: float) -> str:
    """`95s`, `1.5s`: to the millisecond, without zeros at the end."""
    return f"{value:.3f}".rstrip("0").rstrip(".") + "s"
