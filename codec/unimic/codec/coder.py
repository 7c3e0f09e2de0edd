"""Tokens to payloads and back: the entropy models and the range coder at work."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import ExactnessError, UnknownModel
from unimic.codec.frequencies import frequencies
from unimic.codec.image_rows import Integers
from unimic.codec.lockstep import DecodeJob, EncodeJob, Job, complete
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    TEXT_ENTROPY,
    ImageNetwork,
    OnnxImageNetwork,
    OnnxTextNetwork,
    TextNetwork,
    check_golden,
)
from unimic.codec.progress import Progress, ignore
from unimic.codec.rangecoder import RangeDecoder, RangeEncoder, information
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Distances, Mask, TokenSpace

log = logging.getLogger(__name__)
N = TypeVar("N")

Drive = Callable[[ImageNetwork, Job], None]
PIECES = 16  # pieces of a long text that are coded in lockstep


@dataclass(frozen=True)
class Coded:
    """A payload and the information of each token under the model.

    ``token_bits`` has the shape of the tokens: float64 ``(rows, columns)`` for an image, zero
    where nothing was coded, ``(n,)`` for text.
    """

    payload: bytes
    token_bits: NDArray[np.float64]

    @property
    def ideal_bits(self) -> float:
        """Information of all tokens together."""
        return float(self.token_bits.sum())


@dataclass(frozen=True)
class CodedImage(Coded):
    """A coded image and ``codes``, the tokens that the receiver will have."""

    codes: Codes


def drive_alone(network: ImageNetwork, job: Job) -> None:
    """Take ``job`` to its end."""
    complete(network, [job])


class Coder:
    """Codes tokens of one token space with the networks it holds.

    Safe to use from several threads.

    Args:
        drive: takes an image job to its end; a service brings those of many sessions together.

    Attributes:
        space: of the tokens.
        image_model: 8 bytes that name the image network, or None where there is none.
        text_model: likewise for text.
    """

    def __init__(self, space: TokenSpace, image: tuple[bytes, ImageNetwork] | None,
                 text: tuple[bytes, TextNetwork] | None, drive: Drive = drive_alone) -> None:
        self.space = space
        self.image_model: bytes | None
        self.text_model: bytes | None
        self._image: ImageNetwork | None
        self._text: TextNetwork | None
        self.image_model, self._image = image or (None, None)
        self.text_model, self._text = text or (None, None)
        self._drive = drive
        self._watch: Progress = ignore

    def watched(self, watch: Progress) -> Coder:
        """This coder, telling ``watch`` the tokens done and to do; what that raises ends the work.
        """
        coder = copy.copy(self)
        coder._watch = watch
        return coder

    @property
    def models(self) -> tuple[bytes, ...]:
        """Names of the networks it holds."""
        return tuple(m for m in (self.image_model, self.text_model) if m is not None)

    def encode_image(self, codes: Codes, *, mask: Mask | None = None, hole: Mask | None = None,
                     prompt: Codes | None = None, skip: int = 0,
                     distances: Distances | None = None, price: float = 0.0) -> CodedImage:
        """Code the tokens of a grid where ``mask`` is set (None: all of them).

        With ``distances`` and a ``price``, a token gives way to one that is nearly as near and
        takes fewer bits: group by group, first the upper and then the lower part of each code is
        the one of least distance + price · bits (rate–distortion optimised quantisation, as in
        video encoders; Sullivan and Wiegand, IEEE Signal Processing Magazine 15(6), 1998). The
        receiver needs to know nothing of it.

        Args:
            codes: int32 ``(rows, columns)``; outside mask and hole, what the receiver holds too.
            mask: bool ``(rows, columns)``.
            hole: likewise, apart from the mask: where the receiver holds nothing and gets nothing.
            prompt: int32 ``(n,)`` text ids that the receiver holds too.
            skip: 0 … `frequencies.SKIP_ALL`, divided among the groups by `order.group_skip`. What
                the model gives a probability of at least ``1 - share / SKIP_ALL`` is not sent; the
                receiver takes it for granted. So 0 sends everything, `SKIP_ALL` nothing.
            distances: of all codes.
            price: of a bit, in squared distance (the Lagrange multiplier λ).

        Raises:
            UnknownModel: this coder has no image model.
        """
        network = self._need_image()
        job = EncodeJob(network.layout, codes, mask=mask, hole=hole, prompt=prompt, skip=skip,
                        watch=self._watch, distances=distances, price=price)
        self._drive(network, job)
        job.check()
        return CodedImage(job.encoder.finish(), job.bits, job.codes)

    def decode_image(self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
                     hole: Mask | None = None, prompt: Codes | None = None, skip: int = 0,
                     ) -> Codes:
        """The grid that `encode_image` coded; arguments as there.

        What ``codes`` hold under the mask and in the hole means nothing; in the hole it is kept.

        Raises:
            CorruptData: the payload is not what any tokens are coded to.
            UnknownModel: this coder has no image model.
        """
        job = DecodeJob(payload, codes, mask=mask, hole=hole, prompt=prompt, skip=skip,
                        watch=self._watch)
        self._drive(self._need_image(), job)
        job.check()
        job.decoder.finish()
        return job.codes

    def encode_text(self, ids: Codes) -> Coded:
        """Code text ids, int32 ``(n,)``; raises `UnknownModel` without a text model."""
        network = self._need_text()
        encoder, bits = RangeEncoder(), np.zeros(ids.shape)
        for starts, lengths in _pieces(len(ids), network.positions):
            given = np.zeros((len(starts), lengths[0]), np.int64)
            for row, start, length in zip(given, starts, lengths, strict=True):
                row[1:length] = ids[start:start + length - 1]
            logits, _ = network.step(given, 0, None)
            for i in range(lengths[0]):
                self._tell(starts, i, len(ids))
                places = starts[lengths > i] + i
                table = frequencies(logits[:len(places), i])
                encoder.encode(ids[places], table)
                bits[places] = information(ids[places], table)
        self._watch(len(ids), len(ids))
        return Coded(encoder.finish(), bits)

    def decode_text(self, payload: bytes, count: int) -> Codes:
        """The ``count`` text ids that `encode_text` coded; raises as `decode_image`."""
        network = self._need_text()
        decoder, ids = RangeDecoder(payload), np.zeros(count, np.int32)
        for starts, lengths in _pieces(count, network.positions):
            given, memory = np.zeros(len(starts), np.int64), None
            for i in range(lengths[0]):
                self._tell(starts, i, count)
                places = starts[lengths > i] + i
                logits, memory = network.step(given[:len(places), None], i, memory)
                ids[places] = decoder.decode(frequencies(logits[:, 0]))
                given = ids[places].astype(np.int64)
        decoder.finish()
        self._watch(count, count)
        return ids

    def _tell(self, starts: Integers, step: int, count: int) -> None:
        """Say now and then how far a text is."""
        if step % 16 == 0:
            self._watch(min(count, int(starts[0]) + step * len(starts)), count)

    def _need_image(self) -> ImageNetwork:
        if self._image is None:
            raise _missing("image")
        return self._image

    def _need_text(self) -> TextNetwork:
        if self._text is None:
            raise _missing("text")
        return self._text


def _pieces(count: int, positions: int) -> Iterator[tuple[Integers, Integers]]:
    """Starts and lengths of the pieces of a text that are coded in lockstep.

    The network remembers ``positions`` tokens, so a long text is cut into pieces of that many; up
    to `PIECES` of them take turns, one token each. Only the last piece may be shorter.
    """
    starts = np.arange(0, count, positions)
    for i in range(0, len(starts), PIECES):
        group = starts[i:i + PIECES]
        yield group, np.minimum(count - group, positions)


def _missing(kind: str) -> UnknownModel:
    return UnknownModel("model", f"there is no {kind} entropy model here",
                        "install the models or use raw coding")


def load_coder(store: ModelStore, *, threads: int | None = None, drive: Drive = drive_alone,
               ) -> Coder:
    """The coder of a store's networks on ONNX Runtime; see `coder_of`."""
    return coder_of(store, lambda: OnnxImageNetwork(store, threads),
                    lambda: OnnxTextNetwork(store, threads), drive)


def coder_of(store: ModelStore, load_image: Callable[[], ImageNetwork],
             load_text: Callable[[], TextNetwork], drive: Drive = drive_alone) -> Coder:
    """The coder of those networks that the store has, for its own tokenizers, and that pass their
    golden self-tests here.

    The others are left out, with a warning in the log: their tokens can then only be coded raw.
    """
    return Coder(store.space(), _proven(store, IMAGE_ENTROPY, load_image),
                 _proven(store, TEXT_ENTROPY, load_text), drive)


def _proven(store: ModelStore, name: str, load: Callable[[], N]) -> tuple[bytes, N] | None:
    if name not in store.entries:
        return None
    if not store.fits(name):
        log.warning("%s: was made for other tokenizers; tokens are coded raw", name)
        return None
    try:
        network = load()
        check_golden(store, name, network)
    except ExactnessError as error:
        log.warning("%s", error)
        return None
    return store.entry(name).id, network
