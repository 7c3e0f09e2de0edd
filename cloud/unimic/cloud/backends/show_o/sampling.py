"""How hidden image tokens are drawn, as in MaskGIT (Chang et al., arXiv 2202.04200, section 3.2).

All hidden tokens are drawn at once, the surest are kept, and the others are drawn again, fewer and
fewer along a cosine. Chance moves the order of sureness, less in each step. For equal seeds and
temperature 1 the tokens are those of Show-o's published code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_LEAST = 1e-20


class Drawing:
    """One square of image tokens while it is drawn.

    Attributes:
        codes: int64 ``(n,)``, meaningful where they are not hidden.
        hidden: bool ``(n,)``, at least one is set.
    """

    def __init__(self, codes: Tensor, hidden: Tensor, steps: int, temperature: float,
                 chance: torch.Generator) -> None:
        self.codes, self.hidden = codes, hidden
        self._steps, self._step, self._chance = steps, 0, chance
        self._temperature = self._noise = temperature

    def take(self, logits: Tensor) -> None:
        """Do one step with the model's logits ``(n, codes)``, float32 on the CPU.

        After the last one nothing is hidden.
        """
        self._step += 1
        share = self._step / self._steps
        self._noise *= 1 - share
        if self._temperature:
            logits = logits - logits.amax(-1, keepdim=True)  # so that nothing gets infinite
            odds = (logits / self._temperature).softmax(-1)
            drawn = torch.multinomial(odds, 1, generator=self._chance)[:, 0]
        else:
            odds = logits.softmax(-1)
            drawn = odds.argmax(-1)
        self.codes = torch.where(self.hidden, drawn, self.codes)
        if self._step == self._steps:
            self.hidden = torch.zeros_like(self.hidden)
            return
        sureness = _log(odds.gather(-1, drawn.unsqueeze(-1))[:, 0]) + self._noise * self._gumbel()
        count, now = len(self.codes), int(self.hidden.sum())
        later = int((count * torch.cos(torch.tensor(share) * math.pi * 0.5)).floor())
        later = max(1, min(now - 1, later))
        if later < now:
            least = sureness[self.hidden].sort().values[later]
            self.hidden = self.hidden & (sureness < least)

    def _gumbel(self) -> Tensor:
        uniform = torch.empty(1, len(self.codes)).uniform_(generator=self._chance)[0]
        return -_log(-_log(uniform))


def _log(values: Tensor) -> Tensor:
    return values.clamp(min=_LEAST).log()
