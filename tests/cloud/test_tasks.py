"""Every task over a real connection."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest
from fake_backend import UNPROMPTED, EchoBackend, FakeCoder, draw, fake_models, reply
from PIL import Image

from unimic.codec.errors import CorruptData, InvalidInput, LimitExceeded
from unimic.codec.limits import Limits
from unimic.codec.packets import pack_image, pack_mask
from unimic.edge import AsyncClient, Client
from unimic.edge.seams import SEAM, adjusted, fitted

HOLE = np.zeros((4, 5), bool)
HOLE[0:2, 1:3] = True


def photo(width: int = 70, height: int = 50) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


async def test_ask_and_caption(connect):
    async with connect() as cloud:
        shared = await cloud.share(photo())
        answer = await cloud.ask(shared, "what is it?")
        assert answer.text == reply("what is it?", shared.grid.codes)
        assert answer.confidence == 0.5
        assert (await cloud.caption(shared)).text == reply("", shared.grid.codes)


async def test_a_hole_is_not_sent_and_can_be_filled(connect):
    async with connect() as cloud:
        whole = await cloud.share(photo())
        shared = await cloud.share(photo(), hole=(16, 0, 48, 20))
        hole = np.zeros((4, 5), bool)
        hole[0:2, 1:3] = True
        assert (shared.grid.codes == np.where(hole, 0, whole.grid.codes)).all()
        assert shared.stats.up.payload_bytes < whole.stats.up.payload_bytes
        assert (np.asarray(shared.image) == np.asarray(photo())).all()
        edited = await cloud.inpaint(shared, (16, 0, 48, 20), "a vase", seed=3)
        assert (edited.grid.codes == np.where(hole, draw("a vase", 3, (4, 5)),
                                              whole.grid.codes)).all()


async def test_nobody_takes_a_hole_for_what_is_there(connect):
    """Its tokens are of code 0, which looks like something."""
    async with connect() as one, connect() as other:
        shared = await one.share(photo(), hole=(16, 0, 48, 20))
        for cloud, picture in (one, shared), (other, await other.share(shared)):
            assert picture.grid.codes[0, 1] == 0
            for ask in (lambda: cloud.caption(picture), lambda: cloud.ask(picture, "what?"),  # noqa: B023
                        lambda: cloud.outpaint(picture, right=16)):  # noqa: B023
                with pytest.raises(InvalidInput, match=r"task.object: a part of the image was not"):
                    await ask()
            with pytest.raises(InvalidInput, match=r"task.mask: .*; inpaint all of that part"):
                await cloud.inpaint(picture, (16, 0, 32, 20))
            filled = await cloud.inpaint(picture, (0, 0, 48, 20), "a vase")
            assert (await cloud.caption(filled)).text == reply("", filled.grid.codes)


@pytest.mark.parametrize("quality", [25, 60, 200])
async def test_other_qualities(connect, quality):
    async with connect() as cloud:
        shared = await cloud.share(photo(), quality=quality)
        pitch = shared.grid.pitch
        assert pitch == {25: 64, 60: 27, 200: 8}[quality]
        assert shared.grid.codes.shape == (-(-50 // pitch), -(-70 // pitch))
        assert (await cloud.ask(shared, "what?")).text == reply("what?", shared.grid.codes)
        partial = await cloud.share(photo(), hole=(60, 40, 70, 50), quality=quality)
        edited = await cloud.inpaint(partial, (60, 40, 70, 50), "a vase", seed=3)
        assert (edited.grid.codes[-1, -1]
                == draw("a vase", 3, shared.grid.codes.shape)[-1, -1])
        assert (np.asarray(edited.image)[:40] == np.asarray(photo())[:40]).all()
        wide = await cloud.outpaint(edited, left=1, right=9)
        assert wide.image.size == (80, 50)
        assert (wide.grid.width, wide.grid.pitch) == (70 + pitch + 9, pitch)
        assert (wide.grid.codes[:, 1 : 1 + 70 // pitch]
                == edited.grid.codes[:, : 70 // pitch]).all()
        assert (np.asarray(wide.image)[:, 1:71] == np.asarray(edited.image)).all()
    with pytest.raises(InvalidInput, match="quality"):
        async with connect() as cloud:
            await cloud.share(photo(), quality=201)


async def test_generate(connect):
    async with connect() as cloud:
        picture = await cloud.generate("dogs", width=100, height=40, seed=7)
        assert (picture.grid.codes == draw("dogs", 7, (3, 7))).all()
        assert picture.image.size == (100, 40)
        plain = await cloud.generate("", 32, 32)
        assert (plain.grid.codes == draw("", EchoBackend.defaults.seed, (2, 2))).all()


async def test_inpaint_keeps_every_pixel_outside_the_mask(connect):
    async with connect() as cloud:
        shared = await cloud.share(photo())
        mask = np.zeros((50, 70), bool)
        mask[10:20, 30:40] = True
        edited = await cloud.inpaint(shared, mask, "a vase", seed=3)
        tokens = np.zeros((4, 5), bool)
        tokens[0:2, 1:3] = True
        assert (edited.grid.codes[~tokens] == shared.grid.codes[~tokens]).all()
        assert (edited.grid.codes[tokens] == draw("a vase", 3, (4, 5))[tokens]).all()
        before, after = np.asarray(photo()), np.asarray(edited.image)
        assert (before[~mask] == after[~mask]).all()
        made = tokens.repeat(16, 0).repeat(16, 1)[:50, :70]
        new = adjusted(np.asarray(cloud._models.images.decode(edited.grid)), before, made)
        inside = fitted(np.where(made[..., None], new, before), before, mask)
        assert (after[mask] == inside[mask]).all()


async def test_outpaint_keeps_every_pixel(connect):
    async with connect() as cloud:
        shared = await cloud.share(photo())
        wide = await cloud.outpaint(shared, left=5, top=16, right=20, bottom=1, prompt="a wall")
        assert wide.image.size == (95, 67)
        assert (wide.grid.height, wide.grid.width) == (67, 106)
        assert (np.asarray(wide.image)[16:66, 5:75] == np.asarray(photo())).all()
        # Whole old tokens stay as they are; the partly padded last column and row do not.
        assert (wide.grid.codes[1:4, 1:5] == shared.grid.codes[:3, :4]).all()
        new = draw("a wall", EchoBackend.defaults.seed, wide.grid.codes.shape)
        assert (wide.grid.codes[0] == new[0]).all()
        assert (wide.grid.codes[1:, 5] == new[1:, 5]).all()


async def test_what_outpaint_adds_is_what_the_tokens_show(connect):
    async with connect() as cloud:
        shared = await cloud.share(Image.new("RGB", (70, 50), (128, 128, 128)))  # nothing is lost
        wide = await cloud.outpaint(shared, left=5, top=16, right=20, bottom=9, prompt="a wall")
        new = np.zeros((75, 95), bool)  # but for what is near old borders amid tokens
        new[:16, :75 - SEAM] = new[:66 - SEAM, :5] = new[:, 75 + SEAM:] = True
        shown = np.asarray(cloud._models.images.decode(wide.grid))[wide.view.window]
        shift = np.abs(np.asarray(wide.image, int) - shown)
        assert shift[new].max() <= 8
        assert (shift[:, 75 + SEAM:] == 0).all()
        assert (np.asarray(wide.image)[16:66, 5:75] == 128).all()


async def test_what_a_backend_makes_outside_the_mask_is_left(connect):
    class Careless(EchoBackend):
        def fill(self, requests, watch):
            return [draw(request.prompt, 1, request.shape) for request in requests]

    async with connect(backend=Careless()) as cloud:
        shared = await cloud.share(photo())
        edited = await cloud.inpaint(shared, (0, 0, 20, 20), "a vase")
        assert (edited.grid.codes[2:] == shared.grid.codes[2:]).all()
        assert (await cloud.ask(edited, "what?")).text == reply("what?", edited.grid.codes)


async def test_a_backend_may_fill_otherwise_where_nothing_is_said(connect, monkeypatch):
    asked = []
    fill = EchoBackend.fill
    monkeypatch.setattr(EchoBackend, "fill", lambda self, requests, watch: (
        asked.extend(r.sampling for r in requests), fill(self, requests, watch))[1])
    async with connect() as cloud:
        shared = await cloud.share(photo())
        await cloud.inpaint(shared, (0, 0, 20, 20))
        await cloud.outpaint(shared, left=7)
        await cloud.inpaint(shared, (0, 0, 20, 20), "a vase")
        await cloud.inpaint(shared, (0, 0, 20, 20), temperature=0.5)
        await cloud.inpaint(shared, (0, 0, 20, 20), seed=8)
    assert asked == [UNPROMPTED, UNPROMPTED, EchoBackend.defaults,
                     replace(UNPROMPTED, temperature=0.5), replace(EchoBackend.defaults, seed=8)]


async def test_edits_follow_each_other(connect):
    async with connect() as cloud:
        first = await cloud.share(photo())
        second = await cloud.inpaint(first, (0, 0, 20, 20), "a")
        third = await cloud.outpaint(second, left=7, top=3)
        fourth = await cloud.inpaint(third, (0, 0, 10, 10), "b")
        fifth = await cloud.outpaint(fourth, left=2)
        answer = await cloud.ask(fifth, "what?")
        assert answer.text == reply("what?", fifth.grid.codes)  # both sides hold the same tokens
        assert fifth.image.size == (79, 53)
        pixels = np.asarray(fifth.image)
        original = np.asarray(photo())
        assert (pixels[23:, 29:] == original[20:, 20:]).all()
        kept = np.asarray(fourth.image)
        assert (pixels[:, 2:] == kept).all()
        assert (kept[10:, 10:] == np.asarray(third.image)[10:, 10:]).all()


async def test_many_edits_before_anyone_looks(connect):
    async with connect() as cloud:
        picture = await cloud.share(photo(32, 32))
        for turn in range(70):
            picture = await cloud.inpaint(picture, (0, 0, 16, 16), str(turn))
        assert (np.asarray(picture.image)[16:] == np.asarray(photo(32, 32))[16:]).all()


@pytest.mark.parametrize("server_coder", [
    FakeCoder(None, None), FakeCoder(image_model=None), FakeCoder(text_model=b"another-")])
async def test_without_shared_models_tokens_travel_raw(serve, server_coder):
    async with serve(coder=server_coder) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        shared = await cloud.share(photo())
        edited = await cloud.inpaint(shared, (0, 0, 30, 30), "a vase")
        fresh = await cloud.generate("dogs", 64, 64)
        assert (fresh.grid.codes == draw("dogs", 1, (4, 4))).all()
        answer = await cloud.ask(edited, "what?")
        assert answer.text == reply("what?", edited.grid.codes)


async def test_stats(connect):
    async with connect() as cloud:
        shared = await cloud.share(photo())
        assert shared.stats.up.payload_bytes < shared.stats.up.wire_bytes
        assert shared.stats.up.wire_bytes - shared.stats.up.payload_bytes <= 30
        assert shared.stats.down.payload_bytes == 0 < shared.stats.down.wire_bytes
        edited = await cloud.inpaint(shared, (0, 0, 20, 20), "a vase")
        assert edited.stats.up.wire_bytes < shared.stats.up.wire_bytes
        assert edited.stats.down.ideal_bits == 8 * edited.stats.down.payload_bytes > 0
        assert edited.stats.round_trip_seconds >= edited.stats.server_seconds > 0
        before = edited.stats.decode_seconds
        assert edited.image
        assert edited.stats.decode_seconds > before
        line = str(edited.stats)
        assert "\n" not in line
        assert f"{edited.stats.up.wire_bytes} wire" in line
        assert edited.stats.as_dict()["down_wire_bytes"] == edited.stats.down.wire_bytes


async def test_stats_are_of_all_that_was_sent(connect):
    async with connect() as cloud:
        whole = await cloud.share(photo(), hole=(16, 0, 48, 20))
        image = pack_image(FakeCoder(), whole.grid, hole=HOLE).sizes
        hole = pack_mask(HOLE, 70, 50).sizes
        assert whole.stats.up.payload_bytes == image.payload_bytes + hole.payload_bytes
        assert whole.stats.up.ideal_bits == image.ideal_bits + hole.ideal_bits


async def test_a_message_too_long_for_the_server_is_not_sent(serve):
    """gRPC would end the session, and its pictures with it."""
    codes = np.random.default_rng(0).integers(0, 256, (40, 50)).astype(np.uint8)
    async with serve(limits=Limits(max_message_bytes=1000)) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        small = await cloud.share(photo())
        with pytest.raises(LimitExceeded, match="message"):
            await cloud.share(Image.fromarray(codes.repeat(16, 0).repeat(16, 1)))
        assert await cloud.ask(small, "what?")


async def test_progress_is_sent_only_to_those_who_want_it(connect):
    async with connect() as cloud:
        seen = []
        quiet = await cloud.generate("dogs", 32, 32)
        told = await cloud.generate("dogs", 32, 32, on_progress=lambda *step: seen.append(step))
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
        assert quiet.stats.progress_bytes == 0 < told.stats.progress_bytes
        assert quiet.stats.down.wire_bytes == told.stats.down.wire_bytes


async def test_a_forgotten_picture_is_released(serve):
    async with serve(limits=Limits(max_objects=4)) as address, AsyncClient(
            address, models=fake_models()) as cloud:
        for _ in range(10):
            await cloud.share(photo(16, 16))
            await asyncio.sleep(0)


async def test_a_picture_that_cannot_be_decoded_is_released(serve):
    class Broken(FakeCoder):
        def decode_image(self, *_, **__):
            raise CorruptData("payload", "is broken", "send it again")

    async with serve(limits=Limits(max_objects=2)) as address, AsyncClient(
            address, models=fake_models(Broken())) as cloud:
        for _ in range(5):
            with pytest.raises(CorruptData):
                await cloud.generate("dogs", 32, 32)


def test_the_synchronous_client(server_process):
    with server_process() as (address, _), Client(address, models=fake_models()) as cloud:
        shared = cloud.share(photo())
        assert cloud.ask(shared, "what?").text == reply("what?", shared.grid.codes)
        assert cloud.caption(shared).text == reply("", shared.grid.codes)
        edited = cloud.inpaint(shared, photo().convert("L"), "a vase")
        wide = cloud.outpaint(edited, left=64, right=64)
        assert wide.image.size == (198, 50)
        seen = []
        fresh = cloud.generate("dogs", seed=7, on_progress=lambda *step: seen.append(step))
        assert fresh.image.size == (256, 256)
        assert len(seen) == 4
