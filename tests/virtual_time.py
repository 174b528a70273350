"""An asyncio event loop whose clock jumps to the next timer instead of waiting for it.

Nothing in it takes real time, so a leave of two minutes is tested in a millisecond, to the exact instant. Code under
test must not wait for threads or sockets: the clock would run away meanwhile.
"""

import asyncio
import selectors


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self):
        super().__init__()
        self.now = 0.0

    def select(self, timeout=None):
        if timeout is None:
            raise AssertionError("the test waits for something that no timer will bring: a deadlock")
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """Drive it with `settle` and `advance` from synchronous code, such as the rules of a state machine."""

    def __init__(self):
        self._selector_of_ours = _JumpingSelector()
        super().__init__(self._selector_of_ours)

    def time(self):
        return self._selector_of_ours.now

    def advance(self, seconds):
        """Let time pass, with everything that happens in it."""
        self.run_until_complete(asyncio.sleep(seconds))

    def settle(self):
        """Let everything happen that happens at this instant."""
        for _ in range(20):
            self.run_until_complete(asyncio.sleep(0))
