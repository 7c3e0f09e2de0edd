"""How much a peer or a file may ask for; checked before memory is taken or work begins."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Upper limits, each inclusive. The defaults fit a 12-megapixel photo and a long prompt.

    Attributes:
        max_message_bytes: of one message on the wire, and of one packet in a file.
        max_tokens: image tokens in one packet; 4000×3000 pixels have 47,000.
        max_text_tokens: text tokens in one packet, at most one for each byte of text; they are
            decoded one after the other, a thousand in some 0.6 s.
        max_objects: that one session may hold, and packets in one file.
        max_pending_tasks: unfinished requests of one session.
    """

    max_message_bytes: int = 1 << 20
    max_tokens: int = 1 << 16
    max_text_tokens: int = 1 << 14
    max_objects: int = 64
    max_pending_tasks: int = 8
