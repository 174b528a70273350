"""Where tasks and threads are just now, seen from any thread: even while their event loop is blocked.

The looked-at go on meanwhile, so what is seen may be a moment old. Files, lines and functions only: never a value.
"""

from __future__ import annotations

import gc
import sys
import sysconfig
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from graceful.core.names import printable
from graceful.core.obstacles import Frame, Obstacle
from graceful.loops import current_task

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType, FrameType, TracebackType
    from typing import TypeAlias

    Places: TypeAlias = list[tuple[CodeType, int | None]]

__all__ = ["CallUnderWay", "Job", "Worker", "stack_of_loop", "stack_of_task", "stack_of_thread", "stack_of_traceback"]

_MOST_FRAMES: Final = 12
_DEEPEST: Final = 200
"""How far a stack is followed: a recursion without an end must not cost time that nobody has."""
_MOST_TASKS: Final = 8
"""Through how many tasks one is followed that waits for another, and how many are looked at beside each other."""
_LONGEST_PATH: Final = 80
_PACKAGES: Final = ("site-packages/", "dist-packages/")
_STANDARD: Final = tuple({f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib")})
_LIBRARIES: Final = (*_STANDARD, f"{Path(__file__).parent}/", "<frozen ")
_LOOPS: Final = ("asyncio", "uvloop", "trio", "anyio")
"""The packages in which the thread of an event loop is while it has nothing to do."""

_ANYIO: Final = "anyio._backends._asyncio"
_WRAPPERS: Final = ("async_generator_asend", "async_generator_athrow", "coroutine_wrapper")


def stack_of_thread(ident: int | None) -> tuple[Frame, ...]:
    """Where a thread is, innermost first; nothing where it has ended.

    Args:
        ident: from `threading.get_ident()`.
    """
    frame = sys._current_frames().get(ident) if ident is not None else None  # noqa: SLF001  public, in spite of its name
    return _told(_outwards(frame))


def stack_of_loop(ident: int | None) -> tuple[Frame, ...]:
    """Where the thread of an event loop is, if it executes something; nothing while it only waits.

    Args:
        ident: the thread's.
    """
    frame = sys._current_frames().get(ident) if ident is not None else None  # noqa: SLF001  as above
    inner = frame.f_back if frame and frame.f_globals.get("__name__") == "selectors" else frame
    package = inner.f_globals.get("__name__", "").partition(".")[0] if inner else _LOOPS[0]
    return () if package in _LOOPS else _told(_outwards(frame))


def stack_of_task(task: Any) -> tuple[tuple[Frame, ...], bool]:
    """Where a task of asyncio or trio is, innermost first, and whether it is executing just now.

    One that waits is followed along what it awaits, into the tasks of a task group and into a worker thread of anyio's
    too: there Starlette and FastAPI run what is not async. One that executes has its thread's stack: it is what blocks
    the event loop, if that is blocked. Nothing where it cannot be seen.
    """
    try:
        return _stack_of_task(task)
    except Exception:  # noqa: BLE001  it goes on meanwhile, and may be of a kind that nobody here knows
        return (), False


def _stack_of_task(task: Any) -> tuple[tuple[Frame, ...], bool]:
    places, running = _follow(task, _MOST_TASKS)
    return _told(places), running


def _follow(task: Any, depth: int) -> tuple[Places, bool]:
    """Where a task is, innermost first, and whether it executes; through at most `depth` tasks that wait for others."""
    awaited: Any = getattr(task, "coro", None) or task.get_coro()  # trio's, else asyncio's
    frames: list[FrameType] = []
    while len(frames) < _DEEPEST and (frame := _first(awaited, "cr_frame", "gi_frame", "ag_frame")):
        if _first(awaited, "cr_running", "gi_running"):  # an asynchronous generator's says that it is waited for
            return _executing(frame), True
        frames.append(frame)
        awaited = _unwrapped(_first(awaited, "cr_await", "gi_yieldfrom", "ag_await"))
    frames.reverse()
    inner, running = _in_worker_thread(task, frames), False
    if not inner and depth > 1 and (children := _children(frames)):
        inner, running = max((_follow(child, depth - 1) for child in children), key=_application_first)
    return inner + [(frame.f_code, frame.f_lineno) for frame in frames], running


def _application_first(found: tuple[Places, bool]) -> tuple[bool, int]:
    return any(_is_own(code) for code, _ in found[0]), len(found[0])


def _unwrapped(awaited: Any) -> Any:
    """What an `async for`, or an `await` of a wrapped coroutine, waits for: these have no attribute for it."""
    if type(awaited).__name__ not in _WRAPPERS:
        return awaited
    return next((each for each in gc.get_referents(awaited) if _first(each, "cr_frame", "ag_frame")), None)


def _children(frames: Iterable[FrameType]) -> list[Any]:
    """The tasks that a task waits for in a task group: Starlette's BaseHTTPMiddleware runs the application in one."""
    for frame in frames:
        for value in frame.f_locals.values():
            if type(value).__name__ == "TaskGroup" and (tasks := getattr(value, "_tasks", None)):
                return list(tasks)[:_MOST_TASKS]
    return []


def _in_worker_thread(task: Any, frames: list[FrameType]) -> Places:
    """Where the worker thread of anyio's is that a task waits for."""
    waited_for = getattr(task, "_fut_waiter", None)
    if waited_for is None or not frames or frames[0].f_code.co_name != "run_sync_in_worker_thread":
        return []
    for top in sys._current_frames().values():  # noqa: SLF001  as above
        places: Places = []
        for frame in _frames(top):
            if frame.f_globals.get("__name__") != _ANYIO:
                places.append((frame.f_code, frame.f_lineno))
            elif frame.f_locals.get("future") is waited_for:
                return places
    return []


def stack_of_traceback(traceback: TracebackType | None) -> tuple[Frame, ...]:
    """Where an exception came up, innermost first."""
    places: Places = []
    while traceback is not None and len(places) < _DEEPEST:
        places.append((traceback.tb_frame.f_code, traceback.tb_lineno))
        traceback = traceback.tb_next
    return _told(reversed(places))


class Worker:
    """Who works on something: the task that runs here, else the thread."""

    __slots__ = ("_seen", "_task", "_thread")

    def __init__(self) -> None:
        self._task: Any = None
        self._thread: int | None = None
        self._seen: tuple[Frame, ...] = ()

    @classmethod
    def found_here(cls) -> Worker:
        """The task, or the thread, that calls this."""
        worker = cls()
        worker.is_here()
        return worker

    def is_here(self) -> None:
        """It is the task, or the thread, that calls this."""
        self._task, self._thread = current_task(), threading.get_ident()

    def was_at(self, traceback: TracebackType | None) -> None:
        """It was cancelled there: what it did before is not to be seen any more."""
        self._seen = stack_of_traceback(traceback)

    def last_seen(self) -> tuple[Frame, ...]:
        """Where it is, or was when it was cancelled, innermost first; it never raises."""
        return self._seen or self.stack()[0]

    def stack(self) -> tuple[tuple[Frame, ...], bool]:
        """Where it is, innermost first, and whether it executes in an event loop."""
        if self._task is not None:
            return stack_of_task(self._task)
        return stack_of_thread(self._thread), False


class Job:
    """A unit of work that was given by its name: by `track`, by a consumer, by a server that no middleware knows.

    Args:
        words: its name; joined only when somebody asks.
        worker: who works on it.
    """

    __slots__ = ("_words", "_worker")

    def __init__(self, words: Iterable[str], worker: Worker) -> None:
        self._words = words
        self._worker = worker

    @property
    def name(self) -> str:
        """What it is, for people."""
        return printable(" ".join(self._words))

    def look(self, seconds: float, *, query: bool) -> Obstacle:  # noqa: ARG002  it has none
        """What it does just now."""
        frames, running = self._worker.stack()
        return Obstacle("job", self.name, seconds, "", frames, running)


class CallUnderWay:
    """A callback that is running.

    Args:
        name: its name.
    """

    __slots__ = ("name", "worker")

    def __init__(self, name: str) -> None:
        self.name = printable(name)
        self.worker = Worker()

    def look(self, seconds: float, *, query: bool) -> Obstacle:  # noqa: ARG002  it has none
        """What it does just now."""
        frames, running = self.worker.stack()
        return Obstacle("callback", self.name, seconds, "", frames, running)


def _first(awaited: Any, *names: str) -> Any:
    """What a coroutine, a generator or an asynchronous generator has for the same."""
    return next((value for name in names if (value := getattr(awaited, name, None)) is not None), None)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    for _ in range(_DEEPEST):
        if frame is None:
            return
        yield frame
        frame = frame.f_back


def _outwards(frame: FrameType | None) -> Places:
    return [(each.f_code, each.f_lineno) for each in _frames(frame)]


def _executing(wanted: FrameType) -> Places:
    """The stack of the thread in which a frame is executed."""
    tops = sys._current_frames().values()  # noqa: SLF001  as above
    return _outwards(next((top for top in tops if any(frame is wanted for frame in _frames(top))), wanted))


def _told(places: Iterable[tuple[CodeType, int | None]]) -> tuple[Frame, ...]:
    """The innermost frames, without the server and the framework around the application.

    Where all of them are a library's, the application's innermost stands in for the last one.
    """
    frames = [_frame(code, line) for code, line in places]
    own = [index for index, frame in enumerate(frames) if frame.own]
    if not own:
        return tuple(frames[:_MOST_FRAMES])
    frames = frames[: own[-1] + 1]
    if own[0] >= _MOST_FRAMES:
        frames[_MOST_FRAMES - 1] = frames[own[0]]
    return tuple(frames[:_MOST_FRAMES])


def _is_own(code: CodeType) -> bool:
    return not (code.co_filename.startswith(_LIBRARIES) or any(packages in code.co_filename for packages in _PACKAGES))


def _frame(code: CodeType, line: int | None) -> Frame:
    path = code.co_filename
    for library in (*_PACKAGES, *_STANDARD):
        path = path.rpartition(library)[2]
    return Frame(
        printable(path[-_LONGEST_PATH:]), line or 0, printable(code.co_qualname[-_LONGEST_PATH:]), _is_own(code)
    )
