"""One try of a change on one server, entered in the journal however it ends."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from graceful.core.registry import ServerResult
from graceful.eureka.rest import EurekaError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from graceful.core.calls import CallJournal
    from graceful.eureka.rest import Server

__all__ = ["Try", "trying"]


class Try:
    """What is known of a try so far."""

    def __init__(self, operation: str, server: str) -> None:
        self.result = ServerResult(server, verified=False, detail="no answer in time", operation=operation)
        """When the block has ended: what came of it, with the effort of the earlier tries."""
        self.cut_off = True

    def ends(self, detail: str, *, verified: bool) -> None:
        """Say what came of it; where nobody does, it was cut off before an answer came."""
        self.result = replace(self.result, detail=detail, verified=verified)
        self.cut_off = False


@contextmanager
def trying(journal: CallJournal, operation: str, server: Server) -> Iterator[Try]:
    """Enter a try in `journal` when the block ends: as it was said, failed by an `EurekaError`, or cut off."""
    this = Try(operation, server.name)
    began = anyio.current_time()
    try:
        yield this
    except EurekaError as error:
        this.ends(error.reason, verified=False)
        raise
    finally:
        own = replace(this.result, seconds=anyio.current_time() - began)
        entry = journal.enter(own, cut_off=this.cut_off)
        this.result = replace(own, seconds=entry.seconds, tries=entry.tries)
