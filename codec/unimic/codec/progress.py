"""How work tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called as ``progress(done, all)``; what it raises ends the work."""


def ignore(done: int, total: int) -> None:
    """Nobody watches."""
