"""What the preStop hook does when no process answers: it withdraws the instance from Eureka itself, and waits.

Only `graceful.prestop` imports this module, and only then. It has the standard library alone, like the rest of the
hook, and reads the same environment as the app: its settings are those of `graceful.settings`.
"""

from __future__ import annotations

import base64
import http.client
import json
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote_to_bytes, urlsplit

from graceful import wire

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Mapping

__all__ = ["withdraw_and_wait"]

WITHDRAW_TIMEOUT = 5.0  # for all servers together
TRY_TIMEOUT = 2.0  # for one step of one request
RETRY_DELAY = 0.5
BODY_LIMIT = 65_536
SAFE = ("OUT_OF_SERVICE", "DOWN")
KUBERNETES_GRACE = 30.0  # terminationGracePeriodSeconds where a pod does not set it

# The app's defaults, in seconds: the server's response cache, the callers' fetch interval, their load balancer's cache.
CACHES = {"eureka_server_cache_delay": 30.0, "eureka_client_fetch_delay": 30.0, "eureka_load_balancer_delay": 35.0}
AFTER = {"drain_timeout": 20.0, "cleanup_timeout": 5.0, "deregister_timeout": 3.0, "margin": 2.0}
KUBERNETES_DELAY = 10.0


def withdraw_and_wait(
    environ: Mapping[str, str], *, grace: float | None, started: float, deadline: float, say: Callable[[str], None]
) -> None:
    """Take the instance out of service on every configured server, then wait until its callers have heard of it.

    Args:
        environ: the environment, with the settings.
        grace: seconds of the grace period, None if not known.
        started: the monotonic instant at which the hook started.
        deadline: the monotonic instant at which it has to end.
        say: takes the lines for people.
    """
    urls = split_urls(wire.env_lookup("eureka_url", environ) or "")
    if urls:
        _withdraw(urls, environ, min(deadline, time.monotonic() + WITHDRAW_TIMEOUT), say)
    settings = Delays(environ, with_eureka=bool(urls), say=say)
    wait_ends = min(deadline, settings.wait_ends(grace, started, time.monotonic()))
    wait = max(0.0, wait_ends - time.monotonic())
    short = f", of {settings.propagation:g} s that callers may need" if wait < settings.propagation - 0.5 else ""
    say(f"waits {wait:.1f} s for callers to hear of it{short}; then SIGTERM comes")
    time.sleep(wait)


class Delays:
    """How long callers may go on calling, and what the app needs after that.

    Args:
        environ: the environment.
        with_eureka: whether callers learn of us through Eureka.
        say: is told of values that cannot be used.
    """

    def __init__(self, environ: Mapping[str, str], *, with_eureka: bool, say: Callable[[str], None]) -> None:
        self._environ = environ
        self._say = say
        self.in_kubernetes = "KUBERNETES_SERVICE_HOST" in environ
        caches = sum(self._seconds(name, default) for name, default in CACHES.items()) if with_eureka else 0.0
        proxies = self._seconds("kubernetes_propagation_delay", KUBERNETES_DELAY) if self.in_kubernetes else 0.0
        self.propagation = self._seconds("propagation_delay", max(caches, proxies))
        # Without a registry there is nothing to deregister, and the app's plan keeps no time for it.
        after = {name: seconds for name, seconds in AFTER.items() if with_eureka or name != "deregister_timeout"}
        self.after = sum(self._seconds(name, default) for name, default in after.items())

    def _seconds(self, name: str, default: float) -> float:
        try:
            value = wire.env_duration(name, self._environ)
        except ValueError as error:
            self._say(f"{wire.env_names(name)[0]} is not used: {error}")
            return default
        return default if value is None else value

    def wait_ends(self, grace: float | None, started: float, now: float) -> float:
        """Return the instant at which the wait is over, such that the app has the time after it that it needs.

        Where the grace period leaves nothing for the wait, wait and app share it in proportion.
        """
        if grace is None and self.in_kubernetes:
            grace = KUBERNETES_GRACE
        wanted = now + self.propagation
        if grace is None or not self.propagation:
            return wanted
        room = started + grace - self.after
        if room <= now:
            room = started + grace * self.propagation / (self.propagation + self.after)
        return min(wanted, room)


# --- Eureka --------------------------------------------------------------------------------------------------------


def split_urls(text: str) -> list[str]:
    """Return the addresses in a list that is separated by commas; a comma that no scheme follows is in a password."""
    urls: list[str] = []
    for part in text.split(","):
        if part.strip().startswith(("http://", "https://")) or not urls:
            urls.append(part.strip())
        else:
            urls[-1] += "," + part
    return [url.rstrip(", ") for url in urls if url]


def identity(environ: Mapping[str, str]) -> tuple[str, str]:
    """Return the app's name and the instance's id in Eureka.

    Raises:
        ValueError: the environment does not give them; the message says which variables to set.
    """
    app = wire.env_lookup("app_name", environ)
    instance = wire.env_lookup("instance_id", environ)
    ip, port = wire.env_lookup("ip_addr", environ), wire.env_lookup("port", environ)
    missing = [] if app else ["GRACEFUL_APP_NAME"]
    if not instance:
        missing += [] if ip else ["POD_IP (from status.podIP)"]
        missing += [] if port else ["GRACEFUL_PORT"]
    if missing or app is None:
        instead = "" if instance else ", or GRACEFUL_INSTANCE_ID in place of address and port"
        raise ValueError(
            f"cannot withdraw from Eureka, its instance is not known: set {' and '.join(missing)}{instead}"
        )
    return app, instance or wire.default_instance_id(app, str(ip), str(port))


def _withdraw(urls: list[str], environ: Mapping[str, str], deadline: float, say: Callable[[str], None]) -> None:
    """Withdraw from all servers at once, and say what came of each by the deadline, whatever they do."""
    try:
        app, instance = identity(environ)
    except ValueError as error:
        say(str(error))
        return
    tls = tls_context(environ, say) if any(url.startswith("https:") for url in urls) else None
    servers = [Server(url, app, instance, tls) for url in urls]
    threads = [threading.Thread(target=server.withdraw, args=(deadline,), daemon=True) for server in servers]
    for thread in threads:
        thread.start()
    for server, thread in zip(servers, threads, strict=True):
        # A look-up of a name cannot be cancelled, nor a server that sends a byte now and then: such a thread is left.
        thread.join(max(0.0, deadline - time.monotonic()))
        say(f"{server.shown}: {instance} {server.result}" + ("" if server.is_safe else ": NOT withdrawn there"))


def tls_context(environ: Mapping[str, str], say: Callable[[str], None]) -> ssl.SSLContext:
    """Return the context for https servers, with the app's CA and client certificate.

    A file that cannot be used is said and left out: a server that does not need it is withdrawn from all the same.
    Certificates are verified in any case.
    """
    import ssl  # noqa: PLC0415  for https only

    try:
        context = ssl.create_default_context(cafile=wire.env_lookup("eureka_ca_file", environ))
    except OSError as error:
        say(_unusable("eureka_ca_file", error))
        context = ssl.create_default_context()
    if cert_file := wire.env_lookup("eureka_client_cert_file", environ):
        key_file = wire.env_lookup("eureka_client_key_file", environ)
        password = wire.env_lookup("eureka_client_key_password", environ) or ""
        try:
            # Not the text itself: without one, OpenSSL would ask at the terminal.
            context.load_cert_chain(cert_file, key_file, lambda: password)
        except (OSError, ValueError) as error:
            say(_unusable("eureka_client_cert_file", error))
    return context


def _unusable(setting: str, error: Exception) -> str:
    # ssl.SSLError is an OSError, and says in `reason` what OpenSSL found.
    reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
    return f"{wire.env_names(setting)[0]} is not used: {reason}"


class Server:
    """One Eureka server, and what came of withdrawing from it. Its credentials appear nowhere.

    Args:
        url: its address, with credentials if it needs them.
        app: the app's name.
        instance: the instance's id.
        tls: the context for https.
    """

    def __init__(self, url: str, app: str, instance: str, tls: ssl.SSLContext | None = None) -> None:
        scheme, _, rest = url.partition("://")
        # The last @ ends the credentials: a password may contain / and @ as they are.
        credentials, at, place = rest.rpartition("@")
        self._secure = scheme == "https"
        self._tls = tls
        self._place = f"//{place}"
        # By bytes, as the app does it: a password need not be UTF-8.
        pair = b":".join(unquote_to_bytes(each) for each in credentials.partition(":")[::2])
        token = base64.b64encode(pair).decode()
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Basic {token}"} if at else {})
        self._resource = f"/apps/{quote(app.upper(), safe='')}/{quote(instance, safe=':')}"
        self.shown = f"{scheme}://{'***@' if at else ''}{place}"
        self.is_safe = False
        self.result = "no answer in time"

    def withdraw(self, deadline: float) -> None:
        """Put it out of service and read that back, again and again until it is so or the deadline has come."""
        while time.monotonic() < deadline and not self.is_safe:
            try:
                self._put_and_read()
            except OSError as error:
                self.result = f"cannot be reached ({error.strerror or type(error).__name__})"
            except Exception as error:  # noqa: BLE001  what a broken server makes http.client raise is endless
                self.result = f"cannot be asked ({type(error).__name__})"  # its text may quote the address
            if not self.is_safe:
                time.sleep(RETRY_DELAY)

    def _put_and_read(self) -> None:
        query = f"?value=OUT_OF_SERVICE&lastDirtyTimestamp={time.time_ns() // 1_000_000}"
        put, _ = self._call("PUT", f"{self._resource}/status{query}")
        code, body = self._call("GET", self._resource)
        if code == 404:
            self.is_safe, self.result = True, "is not registered (404)"
        elif code != 200:
            self.result = f"answered HTTP {put} to the change, HTTP {code} to reading it back"
        else:
            self._judge(put, body)

    def _judge(self, put: int, body: bytes) -> None:
        try:
            status = json.loads(body)["instance"]["status"]
        except (ValueError, KeyError, TypeError):
            self.result = "cannot be read back: what answers is not Eureka"
            return
        self.is_safe = status in SAFE
        self.result = f"is {status}" + ("" if self.is_safe else f" (HTTP {put} to the change)")

    def _call(self, method: str, resource: str) -> tuple[int, bytes]:
        """Return status and body of one request. A redirect is not followed: it leads to a page for people."""
        parts = urlsplit(self._place)
        # Without a port, http.client would look for one behind the last colon of an IPv6 address.
        host, port = parts.hostname or "", parts.port or (443 if self._secure else 80)
        path = quote(parts.path.rstrip("/"), safe="/%:@!$&'()*+,;=~")
        connection = (
            http.client.HTTPSConnection(host, port, timeout=TRY_TIMEOUT, context=self._tls)
            if self._secure
            else http.client.HTTPConnection(host, port, timeout=TRY_TIMEOUT)
        )
        try:
            connection.request(method, path + resource, headers=self._headers)
            response = connection.getresponse()
            return response.status, response.read(BODY_LIMIT)
        finally:
            connection.close()
