"""What the processes of one container that serve the same instance know of each other, and what follows from it.

Pure: how they are found and asked is in `graceful.siblings`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from graceful.core.phases import Phase

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Sibling", "leaves_alone"]

_FORWARDING_DELAY: Final = 1.0
"""Seconds within which a parent has passed its signal on to all of its processes (milliseconds apart, on a machine that
has time for it)."""

_SILENCE_TIMEOUT: Final = 3.0
"""Seconds after which a process that listens but answers nothing counts as one that goes on serving."""

YES: Final = "yes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sibling:
    """Another process of this container that serves the same instance, as it describes itself.

    Attributes:
        pid: its process id.
        phase: where it stands in its own lifecycle.
        announced: whether callers may have learned of the instance through it, or beside it.
        alone: whether it leaves while others serve on.
        finished: whether only the deregistration is left of its leave.
        answered: False for one that listens and has said nothing.
    """

    pid: int
    phase: Phase = Phase.STARTING
    announced: bool = False
    alone: bool = False
    finished: bool = False
    answered: bool = True

    @classmethod
    def described(cls, pid: int, words: Mapping[str, str]) -> Sibling:
        """Read what a process says of itself; what it leaves out is not so.

        Raises:
            ValueError: its phase is none.
        """
        flags = {name: words.get(name) == YES for name in ("announced", "alone", "finished")}
        return cls(pid=pid, phase=Phase(words.get("phase", "")), **flags)

    @property
    def stays(self) -> bool:
        """Whether it has not begun to leave."""
        return not self.phase.leaving

    @property
    def withdraws(self) -> bool:
        """Whether it takes the whole pod out of service: nothing may be announced beside it."""
        return self.announced and self.phase.leaving and not self.alone and not self.finished

    @property
    def keeps_registration(self) -> bool:
        """Whether what the registry has is this pod's and not a former life's: it is not to be cleared."""
        # One that answers nothing may be anything: what is not cleared can be put right later, a live registration
        # that was deleted cannot.
        return not self.answered or (self.announced and (self.alone or not self.finished))

    @property
    def will_deregister(self) -> bool:
        """Whether the deregistration can be left to it, since it comes to its end later."""
        return not self.finished and (self.announced or self.stays)


def leaves_alone(others: Iterable[Sibling], waited: float, relief_timeout: float) -> bool | None:
    """Whether one process leaves, or the pod does: what its siblings are doing says it.

    A signal for the pod reaches all of them within moments; one for a single process (a worker is recycled, a parent
    reloads) reaches it alone. So those that serve on are watched for a second. One that is only starting may serve
    soon, or may have been told to leave before it could hear it: until that shows, this process serves on.

    Args:
        others: all siblings, as they are now.
        waited: seconds since the leave began.
        relief_timeout: seconds for a starting sibling to serve; 0 where this process serves no more anyway.

    Returns:
        False as soon as nobody stays, True when somebody stays for good, None to look again.
    """
    staying = [sibling for sibling in others if sibling.stays]
    if not staying:
        return False
    if any(sibling.phase is Phase.SERVING for sibling in staying):
        patience = _FORWARDING_DELAY
    elif any(sibling.answered for sibling in staying):
        patience = max(_FORWARDING_DELAY, relief_timeout)
    else:
        patience = _SILENCE_TIMEOUT
    return True if waited >= patience else None
