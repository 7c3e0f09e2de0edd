"""`models verify --frequencies`: it finds what differs, and nothing where nothing does."""

from __future__ import annotations

from unimic.codec.exactness import Executor, compare, onnx_executors
from unimic.codec.networks import IMAGE_ENTROPY, TEXT_ENTROPY, OnnxImageNetwork, OnnxTextNetwork
from unimic.codec.store import ModelStore


def test_image_executors_are_compared(store: ModelStore) -> None:
    class OffByOne(OnnxImageNetwork):
        def tail(self, hidden, upper):  # type: ignore[no-untyped-def]
            out = super().tail(hidden, upper)
            out[0, 0, out[0, 0].argmax()] += 1
            return out

    reference = next(iter(onnx_executors(store, IMAGE_ENTROPY)))
    others = [Executor("ONNX Runtime", OnnxImageNetwork(store), 7),
              Executor("wrong", OffByOne(store), 1)]
    (right, wrong), _ = compare(IMAGE_ENTROPY, reference, others, 1, lambda *_: None)
    assert right.compared == wrong.compared > 1_000_000
    assert right.differing == 0 < wrong.differing


def test_text_executors_are_compared(store: ModelStore) -> None:
    class OffByOne(OnnxTextNetwork):
        def step(self, ids, position, memory):  # type: ignore[no-untyped-def]
            logits, new = super().step(ids, position, memory)
            logits[0, 0, logits[0, 0].argmax()] += 1
            return logits, new

    reference = next(iter(onnx_executors(store, TEXT_ENTROPY)))
    others = [Executor("ONNX Runtime", OnnxTextNetwork(store), 64),
              Executor("wrong", OffByOne(store), 1)]
    (right, wrong), digest = compare(TEXT_ENTROPY, reference, others, 1, lambda *_: None)
    assert right.compared == wrong.compared > 1_000_000
    assert right.differing == 0 < wrong.differing
    # The digest is the reference's alone: the same beside whatever it is compared with.
    for executor, same in ((reference, True), (others[0], True), (others[1], False)):
        _, again = compare(TEXT_ENTROPY, executor, others[:1], 1, lambda *_: None)
        assert (again == digest) == same


def test_what_only_a_decoder_does_is_compared_too(store: ModelStore) -> None:
    class LateText(OnnxTextNetwork):
        def step(self, ids, position, memory):  # type: ignore[no-untyped-def]
            logits, new = super().step(ids, position, memory)
            if position >= 200:
                logits[0, 0, logits[0, 0].argmax()] += 1
            return logits, new

    class LateImage(OnnxImageNetwork):
        def read(self, rows, memory):  # type: ignore[no-untyped-def]
            new = super().read(rows, memory)
            if memory is not None and new[0].shape[1] > 128:
                new[1] = new[1] // 2
            return new

    for name, late in (TEXT_ENTROPY, LateText), (IMAGE_ENTROPY, LateImage):
        reference = next(iter(onnx_executors(store, name)))
        (wrong,), _ = compare(name, reference, [Executor("wrong", late(store), 1)], 1,
                              lambda *_: None)
        assert wrong.differing > 0
