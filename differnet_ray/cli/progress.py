"""Progress for people, on stderr: a bar where it is a terminal, one line every 30 s where it is not."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from differnet_ray.cli.json_log import line

SECONDS_BETWEEN_LINES = 30.0
ALL = ("all", "index")  # what is no category


class Reporter:
    """Shows how far some tasks are; a context manager.

    Args:
        unit: what is counted, for the rate: `images`, `epochs`.
    """

    def __init__(self, unit: str) -> None:
        self.unit = unit
        self._console = Console(stderr=True)
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._began: dict[str, tuple[float, int]] = {}
        self._last_line = time.monotonic()

    def __enter__(self) -> Reporter:
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, TextColumn("{task.fields[detail]}"), console=self._console)
            self._bars.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bars is not None:
            self._bars.stop()

    def show(self, tasks: dict[str, tuple[int, int, str]]) -> None:
        """Shows the state of all tasks; the bar of a task that is no longer there goes.

        Args:
            tasks: name to (done, total, detail).
        """
        now = time.monotonic()
        for name, (done, _, _) in tasks.items():
            self._began.setdefault(name, (now, done))
        if self._bars is not None:
            for name in set(self._tasks) - set(tasks):
                self._bars.remove_task(self._tasks.pop(name))
            for name, (done, total, detail) in tasks.items():
                if name not in self._tasks:
                    self._tasks[name] = self._bars.add_task(name, total=total, detail=detail)
                self._bars.update(self._tasks[name], completed=done, total=total, detail=f"{self._rate(name, done)}  {detail}")
        elif now - self._last_line >= SECONDS_BETWEEN_LINES:
            self._last_line = now
            for name, (done, total, detail) in tasks.items():
                about = {} if name.startswith(ALL) else {"category": name}
                said = f"{name}: {done}/{total} {self._rate(name, done, total)}  {detail}"
                line(said, done=done, total=total, unit=self.unit, **about)

    def _rate(self, name: str, done: int, total: int | None = None) -> str:
        began, first = self._began[name]
        rate = (done - first) / max(time.monotonic() - began, 1e-9)
        if rate == 0:
            return ""
        text = f"{rate:.1f} {self.unit}/s" if rate >= 1 else f"{60 * rate:.1f} {self.unit}/min"
        if total is not None:
            text += f", {(total - done) / rate:.0f} s left"
        return text
