"""Tokens to payloads and back: the entropy models and the range coder at work."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unimic.codec.errors import UnknownModel
from unimic.codec.frequencies import certain, frequencies
from unimic.codec.image_rows import Integers, WindowPlan, join, plan_window
from unimic.codec.networks import (
    IMAGE_ENTROPY,
    TEXT_ENTROPY,
    Floats,
    ImageNetwork,
    OnnxImageNetwork,
    OnnxTextNetwork,
    TextNetwork,
    check_golden,
)
from unimic.codec.order import REVEALED, Window, group_skip, windows
from unimic.codec.rangecoder import (
    Frequencies,
    RangeDecoder,
    RangeEncoder,
    information,
)
from unimic.codec.store import ModelStore
from unimic.codec.tokens import Codes, Mask, TokenSpace

Watch = Callable[[int, int], None]
Places = tuple[Integers, Integers]
Carry = Callable[[Frequencies, Integers, Integers, int], Codes]
CHUNKS = 16  # pieces of a long text that are coded in lockstep


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


def _ignore(done: int, total: int) -> None:
    pass


class Coder:
    """Codes tokens of one token space with the networks it holds.

    Safe to use from several threads. A ``watch`` is called with the tokens done and to do; what it
    raises ends the work.

    Attributes:
        space: of the tokens.
        image_model: 8 bytes that name the image network, or None where there is none.
        text_model: likewise for text.
    """

    def __init__(self, space: TokenSpace, image: tuple[bytes, ImageNetwork] | None,
                 text: tuple[bytes, TextNetwork] | None) -> None:
        self.space = space
        self.image_model: bytes | None
        self.text_model: bytes | None
        self._image: ImageNetwork | None
        self._text: TextNetwork | None
        self.image_model, self._image = image or (None, None)
        self.text_model, self._text = text or (None, None)

    @property
    def models(self) -> tuple[bytes, ...]:
        """Names of the networks it holds."""
        return tuple(m for m in (self.image_model, self.text_model) if m is not None)

    def encode_image(self, codes: Codes, *, mask: Mask | None = None, prompt: Codes | None = None,
                     skip: int = 0, watch: Watch = _ignore) -> CodedImage:
        """Code the tokens of a grid where ``mask`` is set (None: all of them).

        Args:
            codes: int32 ``(rows, columns)``; outside the mask, what the receiver holds too.
            mask: bool ``(rows, columns)``.
            prompt: int32 ``(n,)`` text ids that the receiver holds too.
            skip: 0 … `frequencies.SKIP_ALL`, divided among the groups by `order.group_skip`. What
                the model gives a probability of at least ``1 - share / SKIP_ALL`` is not sent; the
                receiver takes it for granted. So 0 sends everything, `SKIP_ALL` nothing.
            watch: see the class.
        """
        network = self._need_image()
        mask = np.ones(codes.shape, np.bool_) if mask is None else mask
        encoder, bits = RangeEncoder(), np.zeros(codes.shape)

        def write(symbols: Codes, table: Frequencies, rows: Integers, columns: Integers) -> None:
            encoder.encode(symbols, table)
            bits[rows, columns] += information(symbols, table)

        if skip:  # what is not sent differs from ``codes``, and later groups see it
            def send(table: Frequencies, rows: Integers, columns: Integers, part: int) -> Codes:
                symbols = network.layout.split(codes[rows, columns])[part].astype(np.int32)
                write(symbols, table, rows, columns)
                return symbols

            received = self._step_by_step(codes, mask, prompt, skip, send, watch)
            return CodedImage(encoder.finish(), bits, received)

        for plan in self._plans(codes, mask, prompt, watch):
            coded = codes[plan.rows, plan.columns]
            needed = plan.groups < len(REVEALED)  # nobody sees the last group
            seen = network.layout.tokens(coded[needed], plan.queries.row[needed],
                                         plan.queries.column[needed], plan.groups[needed])
            memory = network.read(join([plan.known, seen]), None)
            parts = network.layout.split(coded)
            upper_logits, hidden = network.ask(plan.queries, memory)
            tables = frequencies(upper_logits), frequencies(network.tail(hidden, parts[0]))
            for group in _slices(plan.groups):
                for part, table in zip(parts, tables, strict=True):
                    write(part[group].astype(np.int32), table[group], plan.rows[group],
                          plan.columns[group])
        return CodedImage(encoder.finish(), bits, codes)

    def decode_image(self, payload: bytes, codes: Codes, *, mask: Mask | None = None,
                     prompt: Codes | None = None, skip: int = 0, watch: Watch = _ignore) -> Codes:
        """The grid that `encode_image` coded; arguments as there, ``codes`` known outside the mask.

        Raises:
            CorruptData: the payload is not what any tokens are coded to.
        """
        mask = np.ones(codes.shape, np.bool_) if mask is None else mask
        decoder = RangeDecoder(payload)
        received = self._step_by_step(codes, mask, prompt, skip,
                                      lambda table, rows, columns, part: decoder.decode(table),
                                      watch)
        decoder.finish()
        return received

    def _step_by_step(self, codes: Codes, mask: Mask, prompt: Codes | None, skip: int,
                      carry: Carry, watch: Watch) -> Codes:
        """The receiver's grid, group by group; ``carry`` brings the symbols that are sent."""
        network = self._need_image()
        codes = codes.copy()
        for plan in self._plans(codes, mask, prompt, watch):
            memory = network.read(plan.known, None)
            for group in _slices(plan.groups):
                queries, places = plan.queries.part(group), (plan.rows[group], plan.columns[group])
                share = group_skip(skip, int(plan.groups[group.start]))

                def bring(logits: Floats, part: int, places: Places = places,
                          share: int = share) -> Codes:
                    table = frequencies(logits)
                    symbols: Codes = table.argmax(1).astype(np.int32)
                    sent = ~certain(table, share)
                    symbols[sent] = carry(table[sent], places[0][sent], places[1][sent], part)
                    return symbols

                upper_logits, hidden = network.ask(queries, memory)
                upper = bring(upper_logits, 0).astype(np.int64)
                lower = bring(network.tail(hidden, upper), 1)
                codes[places] = (upper * network.layout.lower + lower).astype(np.int32)
                if group.stop < len(plan.groups):
                    memory = network.read(network.layout.tokens(
                        codes[places], queries.row, queries.column, queries.group), memory)
        return codes

    def encode_text(self, ids: Codes, *, watch: Watch = _ignore) -> Coded:
        """Code text ids, int32 ``(n,)``; see `encode_image`."""
        network = self._need_text()
        encoder, bits = RangeEncoder(), np.zeros(ids.shape)
        for starts, lengths in _pieces(len(ids), network.positions, watch):
            given = np.zeros((len(starts), lengths[0]), np.int64)
            for row, start, length in zip(given, starts, lengths, strict=True):
                row[1:length] = ids[start:start + length - 1]
            logits, _ = network.step(given, 0, None)
            for i in range(lengths[0]):
                places = starts[lengths > i] + i
                table = frequencies(logits[:len(places), i])
                encoder.encode(ids[places], table)
                bits[places] = information(ids[places], table)
        return Coded(encoder.finish(), bits)

    def decode_text(self, payload: bytes, count: int, *, watch: Watch = _ignore) -> Codes:
        """The ``count`` text ids that `encode_text` coded; raises as `decode_image` does."""
        network = self._need_text()
        decoder, ids = RangeDecoder(payload), np.zeros(count, np.int32)
        for starts, lengths in _pieces(count, network.positions, watch):
            given, memory = np.zeros(len(starts), np.int64), None
            for i in range(lengths[0]):
                places = starts[lengths > i] + i
                logits, memory = network.step(given[:len(places), None], i, memory)
                ids[places] = decoder.decode(frequencies(logits[:, 0]))
                given = ids[places].astype(np.int64)
        decoder.finish()
        return ids

    def _need_image(self) -> ImageNetwork:
        if self._image is None:
            raise _missing("image")
        return self._image

    def _need_text(self) -> TextNetwork:
        if self._text is None:
            raise _missing("text")
        return self._text

    def _plans(self, codes: Codes, mask: Mask, prompt: Codes | None,
               watch: Watch) -> Iterator[WindowPlan]:
        """Plans of the windows that have tokens to code; reads ``codes`` as they fill."""
        layout, total, done = self._need_image().layout, int(mask.sum()), 0
        for window in windows(*codes.shape):
            watch(done, total)
            if _inside(mask, window).any():
                plan = plan_window(layout, codes, mask, window, prompt)
                done += len(plan.groups)
                yield plan
        watch(total, total)


def _pieces(count: int, positions: int, watch: Watch) -> Iterator[tuple[Integers, Integers]]:
    """Starts and lengths of the pieces of a text that are coded in lockstep.

    The network remembers ``positions`` tokens, so a long text is cut into pieces of that many; up
    to `CHUNKS` of them take turns, one token each. Only the last piece may be shorter.
    """
    starts = np.arange(0, count, positions)
    for i in range(0, len(starts), CHUNKS):
        watch(int(starts[i]), count)
        group = starts[i:i + CHUNKS]
        yield group, np.minimum(count - group, positions)
    watch(count, count)


def _inside(mask: Mask, window: Window) -> Mask:
    return mask[window.top:window.bottom, window.left:window.right]


def _slices(groups: Integers) -> Iterator[slice]:
    """Runs of equal values of an ascending array."""
    ends = np.flatnonzero(np.diff(groups, append=groups[-1:] + 1)) + 1
    for start, end in zip([0, *ends], ends, strict=False):
        yield slice(int(start), int(end))


def _missing(kind: str) -> UnknownModel:
    return UnknownModel("model", f"there is no {kind} entropy model here",
                        "install the models or use raw coding")


def load_coder(store: ModelStore, *, threads: int | None = None) -> Coder:
    """The coder of a store's networks on ONNX Runtime, after their golden self-tests.

    Networks that the store lacks are left out; their tokens can then only be coded raw.

    Raises:
        ExactnessError: ONNX Runtime does not compute a network's integers on this machine.
    """
    image: tuple[bytes, ImageNetwork] | None = None
    text: tuple[bytes, TextNetwork] | None = None
    if IMAGE_ENTROPY in store.entries:
        image = store.entry(IMAGE_ENTROPY).id, OnnxImageNetwork(store, threads)
        check_golden(store, IMAGE_ENTROPY, image[1])
    if TEXT_ENTROPY in store.entries:
        text = store.entry(TEXT_ENTROPY).id, OnnxTextNetwork(store, threads)
        check_golden(store, TEXT_ENTROPY, text[1])
    return Coder(store.space(), image, text)
