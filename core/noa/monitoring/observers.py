"""Calls the `noa_event` hooks from a thread of their own, so that a slow or raising plugin never touches a run."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence

from noa.model.events import Event
from noa.model.ids import RunId

__all__ = ["PluginObservers"]

log = logging.getLogger("noa.monitoring")
_CAPACITY = 10_000


class PluginObservers:
    """Hands events to plugins, in order. Each plugin may lag by 10,000 events; then it loses the oldest.

    Args:
        observers: Plugin name and function, as `Registry.observers` gives them.
    """

    def __init__(self, observers: Sequence[tuple[str, Callable[[str, int, Event], None]]]) -> None:
        self._lanes = [_Lane(name, call) for name, call in observers]

    def __call__(self, run: RunId, seq: int, event: Event) -> None:
        for lane in self._lanes:
            lane.put((run, seq, event))

    def close(self, timeout_s: float = 2.0) -> None:
        """Let the plugins see what is left, but wait no longer than this for each."""
        for lane in self._lanes:
            lane.close(timeout_s)


class _Lane:
    def __init__(self, name: str, call: Callable[[str, int, Event], None]) -> None:
        self._name = name
        self._call = call
        self._queue: deque[tuple[RunId, int, Event]] = deque(maxlen=_CAPACITY)
        self._ready = threading.Condition()
        self._closing = False
        self._raised = False
        self.dropped = 0
        # A daemon: a plugin that never returns must not keep the process.
        self._thread = threading.Thread(target=self._work, name=f"noa-event-{name}", daemon=True)
        self._thread.start()

    def put(self, item: tuple[RunId, int, Event]) -> None:
        with self._ready:
            self.dropped += len(self._queue) == _CAPACITY
            self._queue.append(item)
            self._ready.notify()

    def close(self, timeout_s: float) -> None:
        with self._ready:
            self._closing = True
            self._ready.notify()
        self._thread.join(timeout_s)
        if self.dropped:
            log.warning("plugin '%s' was too slow: it lost its oldest %d events", self._name, self.dropped)
        if self._thread.is_alive():
            left = len(self._queue) + 1
            log.warning("plugin '%s' was too slow: it has not seen the last %d events", self._name, left)

    def _work(self) -> None:
        while True:
            with self._ready:
                while not self._queue and not self._closing:
                    self._ready.wait()
                if not self._queue:
                    return
                run, seq, event = self._queue.popleft()
            try:
                self._call(run, seq, event)
            except Exception as error:  # foreign code: an observer may raise anything
                if not self._raised:
                    self._raised = True
                    kind = type(error).__name__
                    log.warning("plugin '%s': noa_event raised %s: %s (said once)", self._name, kind, error)
                log.debug("plugin '%s': noa_event raised", self._name, exc_info=True)
