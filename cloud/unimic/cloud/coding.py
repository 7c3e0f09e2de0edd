"""Entropy coding for sessions: in threads, and only as long as somebody waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from unimic.cloud.backends.base import Cancelled
from unimic.codec.coder import Coded, CodedImage, Coder
from unimic.codec.tokens import Codes, Mask

T = TypeVar("T")


class StoppableCoder:
    """A coder, as packets need it, that raises `Cancelled` at its next window once ``stop`` is set.

    A large photo is many windows of work.
    """

    def __init__(self, coder: Coder, stop: threading.Event) -> None:
        self.space = coder.space
        self.image_model = coder.image_model
        self.text_model = coder.text_model
        self._coder = coder
        self._stop = stop

    def encode_image(self, codes: Codes, *, mask: Mask | None = None, prompt: Codes | None = None,
                     skip: int = 0) -> CodedImage:
        """See `Coder`, here and below."""
        return self._coder.encode_image(codes, mask=mask, prompt=prompt, skip=skip,
                                        watch=self._watch)

    def decode_image(self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
                     prompt: Codes | None = None, skip: int = 0) -> Codes:
        return self._coder.decode_image(payload, codes, mask=mask, prompt=prompt, skip=skip,
                                        watch=self._watch)

    def encode_text(self, ids: Codes) -> Coded:
        return self._coder.encode_text(ids, watch=self._watch)

    def decode_text(self, payload: bytes, count: int) -> Codes:
        return self._coder.decode_text(payload, count, watch=self._watch)

    def _watch(self, done: int, total: int) -> None:
        if self._stop.is_set():
            raise Cancelled


async def run_coding(threads: Executor, coder: Coder, work: Callable[[StoppableCoder], T]) -> T:
    """Run ``work`` in a thread; cancel the call to stop it."""
    stop = threading.Event()
    try:
        return await asyncio.get_running_loop().run_in_executor(
            threads, work, StoppableCoder(coder, stop))
    except asyncio.CancelledError:
        stop.set()
        raise
