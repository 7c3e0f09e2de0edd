"""What the model reads: text and image tokens in one sequence, and which token sees which.

To draw, with the text padded at the left::

    [pad] … t2i <text> prompt <text> | soi image … eoi

Text sees what is before it; the image, with its two marks, sees all of itself and of the text. To
answer::

    mmu soi image … eoi | <text> USER: question ASSISTANT: answer …

Everything sees the image and its marks; text sees what is before it. Padding is seen by nobody
else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

PROMPT_TOKENS = 129
"""Of the part before the image, padding and marks included, when drawing."""

SPECIAL = ("pad", "soi", "eoi", "sov", "eov", "t2i", "mmu", "t2v", "v2v", "lvg")
"""Marks, in the order of their ids, which follow those of the text."""


@dataclass(frozen=True)
class Vocabulary:
    """Ids: text, then the marks, then the image's codes, then the mask.

    Attributes:
        text: number of text ids.
        codes: number of image codes.
        boundary: the text id that begins and ends a text.
    """

    text: int
    codes: int
    boundary: int

    @property
    def first_code(self) -> int:
        return self.text + len(SPECIAL)

    @property
    def mask(self) -> int:
        """Stands for an image token that is not known."""
        return self.first_code + self.codes

    @property
    def size(self) -> int:
        return self.mask + 1

    def mark(self, name: str) -> int:
        """The id of one of `SPECIAL`."""
        return self.text + SPECIAL.index(name)

    def image(self, codes: Tensor, hidden: Tensor) -> Tensor:
        """Ids ``(B, n + 2)`` of images ``(B, n)`` and their marks, as drawing reads them."""
        start, end = (torch.full_like(codes[:, :1], self.mark(name)) for name in ("soi", "eoi"))
        return torch.cat([start, torch.where(hidden, self.mask, codes + self.first_code), end], 1)

    def prompts(self, texts: Sequence[Sequence[int]]) -> Tensor:
        """Ids ``(B, PROMPT_TOKENS)`` of prompts; what is too long is cut."""
        return self._padded([
            [*[self.mark("t2i"), self.boundary, *text][:PROMPT_TOKENS - 1], self.boundary]
            for text in texts], PROMPT_TOKENS)

    def questions(self, codes: Tensor, texts: Sequence[Sequence[int]]) -> Tensor:
        """Ids ``(B, L)`` that ask ``texts`` about images ``(B, n)``, padded at the left."""
        known = self.image(codes, torch.zeros_like(codes, dtype=torch.bool)).tolist()
        sequences = [[self.mark("mmu"), *image, self.boundary, *text]
                     for image, text in zip(known, texts, strict=True)]
        return self._padded(sequences, max(map(len, sequences)))

    def _padded(self, sequences: Sequence[Sequence[int]], length: int) -> Tensor:
        pad = self.mark("pad")
        return torch.tensor([[pad] * (length - len(s)) + list(s) for s in sequences])

    def drawing_visible(self, prompts: Tensor, image_length: int) -> Tensor:
        """What sees what when drawing.

        Args:
            prompts: of `prompts`.
            image_length: ids of an image with its marks.

        Returns:
            Bool ``(B, 1, L, L)``: rows see the columns that are True.
        """
        length = prompts.shape[1] + image_length
        visible = self._causal(prompts, length)
        visible[:, prompts.shape[1]:, prompts.shape[1]:] = True
        return visible.unsqueeze(1)

    def answering_visible(self, questions: Tensor, image_length: int) -> Tensor:
        """What sees what when answering, as `drawing_visible`; ``questions`` of `questions`."""
        visible = self._causal(questions, questions.shape[1])
        starts = (questions == self.mark("pad")).sum(1)
        for row, start in enumerate(starts.tolist()):
            visible[row, start:, start:start + 1 + image_length] = True
        return visible.unsqueeze(1)

    def _causal(self, ids: Tensor, length: int) -> Tensor:
        """Each sees what is before it, but padding only itself and other padding."""
        visible = torch.ones(len(ids), length, length, dtype=torch.bool).tril()
        for row, padded in enumerate((ids == self.mark("pad")).sum(1).tolist()):
            visible[row, padded:, :padded] = False
        return visible
