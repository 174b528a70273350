"""What a 401 or a 403 means, and what to change: the two ways in which a secured Eureka is set up wrong look alike."""

from __future__ import annotations

__all__ = ["REFUSALS", "why_changes_are_refused", "why_reading_is_refused"]

REFUSALS = frozenset({401, 403})
"""What Spring Security answers to wrong credentials and to a change without a CSRF token; which of the two it uses for
the latter depends on whether its `/error` page is protected too."""

_CSRF = (
    "Spring Security's CSRF protection is on (or a proxy lets only GET pass): in the Eureka server's "
    'SecurityFilterChain add http.csrf(csrf -> csrf.ignoringRequestMatchers("/eureka/**"))'
)


def why_reading_is_refused(status: int, *, with_credentials: bool) -> str:
    """The reason for people when a GET is answered with 401 or 403.

    Args:
        status: 401 or 403.
        with_credentials: whether credentials were sent.
    """
    if not with_credentials:
        return f"HTTP {status}: it wants credentials, and its address in eureka_url has none: add user:password@"
    if status == 401:
        return "HTTP 401: wrong credentials: correct user and password in eureka_url"
    return "HTTP 403: this user may not even read: give it access, or look for what in front of Eureka refuses it"


def why_changes_are_refused(status: int, *, with_credentials: bool) -> str:
    """The reason for people when a change is answered with 401 or 403 although a GET with the same credentials works.

    Args:
        status: 401 or 403.
        with_credentials: whether credentials were sent.
    """
    if not with_credentials:
        return f"HTTP {status} to changes, though reading works: they want credentials in eureka_url, or {_CSRF}"
    return f"HTTP {status} to changes, though reading works with the same credentials: {_CSRF}"
