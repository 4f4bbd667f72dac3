"""What `noa doctor` found: how it is told, and how it is mended."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

__all__ = ["Finding"]


@dataclass(slots=True)
class Finding:
    """Something that is wrong.

    Attributes:
        check: Name of the check.
        what: What was found, in one sentence without its full stop.
        means: What that means, and what to do about it where `mend` cannot.
        items: Each place in a line.
        mending: What `--fix` does; empty where it does nothing.
        mend: Does it, and says whether nothing is left.
        mended: Whether it was mended; `left` says why not.
    """

    check: str
    what: str
    means: str
    items: list[str] = field(default_factory=list)
    mending: str = ""
    mend: Callable[[], bool] | None = None
    mended: bool = False
    left: str = ""
