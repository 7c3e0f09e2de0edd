"""How trainings and exports end: with one line where something is wrong, not with a traceback."""

from __future__ import annotations

from collections.abc import Callable

from unimic.codec.errors import UnimicError


def command(main: Callable[[], None]) -> None:
    """Run ``main``; exit with 1 and a line for errors of input and files, with 130 for Ctrl-C."""
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except (UnimicError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
