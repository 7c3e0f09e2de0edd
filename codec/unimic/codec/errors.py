"""Errors that a user can act on: each names the field that is wrong and the remedy."""

from __future__ import annotations

from typing import Any


class UnimicError(Exception):
    """Base of every error that the package raises on purpose.

    Args:
        field: what is wrong, named as the user knows it (``"crc"``, ``"width"``, ``"--steps"``).
        message: what is wrong with it.
        remedy: what to do about it.
    """

    def __init__(self, field: str, message: str, remedy: str) -> None:
        super().__init__(f"{field}: {message}; {remedy}")
        self.field = field
        self.message = message
        self.remedy = remedy

    def inside(self, whole: str) -> UnimicError:
        """The same error, of a field of ``whole``."""
        return type(self)(whole + self.field, self.message, self.remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # Exceptions are unpickled by a call with their one text, which is not what these take; then
        # a pool of processes would wait for ever.
        return _remade, (type(self), *self.args), vars(self)


class InvalidInput(UnimicError):
    """An argument or an input file is not usable."""


class CorruptData(UnimicError):
    """Coded data was damaged, cut or never valid."""


def corrupt_payload(what: str) -> CorruptData:
    """Of coded tokens, in a packet or a file."""
    return CorruptData("payload", what, "send or copy it again")


class LimitExceeded(UnimicError):
    """A size is over a configured limit."""


class UnknownModel(UnimicError):
    """A token space or a model is needed that is not here."""


class ExactnessError(UnimicError):
    """An executor does not compute the model's integers on this machine, so it must not code."""


def _remade(kind: type[UnimicError], *texts: str) -> UnimicError:
    error = kind.__new__(kind)
    error.args = texts
    return error
