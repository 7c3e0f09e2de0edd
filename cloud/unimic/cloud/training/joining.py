"""What the client does with pixels where there is a hole (`unimic.edge.seams`), on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from unimic.cloud.models.refiner import Refiner
from unimic.cloud.training.loop import autocast
from unimic.codec.reflection import REACH, reflection


def joined(new: Tensor, old: Tensor, hole: Tensor, refiner: Refiner) -> Tensor:
    """Pixels ``(B, 3, H, W)``: old ones, and in the hole new ones that go on from them.

    Args:
        new: likewise, what tokens show.
        old: likewise, what the pictures show.
        hole: bool ``(H, W)``, where pixels are new; on the CPU, so that a GPU is not waited for.
        refiner: makes the last step.
    """
    lost = continued(old - new, hole)
    made = hole.to(new).expand_as(new[:, :1])
    with autocast(new.device):
        refined: Tensor = refiner(new + lost, lost, *mirrored(lost, hole), made)
    return refined.float()


def continued(lost: Tensor, hole: Tensor) -> Tensor:
    """What tokens lost, ``(B, 3, h, w)``, continued into a hole, bool ``(h, w)``, from its border.

    As `unimic.edge.seams` does it.
    """
    made = hole.to(lost)[None, None]
    border = F.max_pool2d(made, 3, 1, 1) - made
    rows, columns = ((int(at.min()), int(at.max()) + 1) for at in hole.nonzero().unbind(1))
    # In a frame of one, so that there is a ring even where the picture ends.
    ring, known = (F.pad(x, (1, 1, 1, 1))[:, :, rows[0]:rows[1] + 2, columns[0]:columns[1] + 2]
                   for x in (lost, border))
    continued = pull_push(ring, known)
    into = torch.zeros_like(lost)
    into[:, :, rows[0]:rows[1], columns[0]:columns[1]] = continued[:, :, 1:-1, 1:-1]
    return torch.where(made > 0, into, lost)


def covered(pixels: Tensor, hole: Tensor) -> Tensor:
    """Pixels ``(B, 3, H, W)`` of which those in a hole, bool ``(H, W)``, go on from around it."""
    y, x = (slice(max(0, int(at.min()) - REACH), int(at.max()) + 1 + REACH)
            for at in hole.nonzero().unbind(1))
    near, unseen = pixels[:, :, y, x], hole[y, x]
    made = unseen.to(pixels)[None, None]
    smooth = pull_push(near * (1 - made), 1 - made)
    images, close = mirrored(near, unseen)
    whole = pixels.clone()
    whole[:, :, y, x] = torch.where(made > 0, smooth + close * (images - smooth), near)
    return whole


def pull_push(values: Tensor, weights: Tensor) -> Tensor:
    """Values as far as their weights go, and what is around them for the rest."""
    height, width = values.shape[2:]
    if height == width == 1:
        return values
    beside = (0, width % 2, 0, height % 2)
    heavy, sums = (F.avg_pool2d(F.pad(x, beside), 2, divisor_override=1)
                   for x in (weights, values * weights))
    coarse = pull_push(sums / heavy.clamp(min=1e-6), heavy.clamp(max=1))
    finer = F.interpolate(coarse, scale_factor=2, mode="bilinear")[:, :, :height, :width]
    return weights * values + (1 - weights) * finer


def mirrored(values: Tensor, hole: Tensor) -> tuple[Tensor, Tensor]:
    """What there is at the mirror images of a hole's pixels, and how close they are."""
    seen = reflection(hole.numpy())
    close = torch.from_numpy(seen.closeness).to(values).expand_as(values[:, :1])
    rows, columns = (torch.from_numpy(at).to(values.device) for at in (seen.rows, seen.columns))
    return values[:, :, rows, columns], close
