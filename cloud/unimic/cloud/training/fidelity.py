"""How far a picture is from its original, as the trainings see it.

The perceptual losses are LPIPS and the first Inception blocks. Image tokenizers learn by AlexNet's
LPIPS, and VGG's is kept for judging them; what fills holes learns by VGG's. A discriminator on the
Inception features draws pictures to sharper texture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unimic.cloud.training.discriminator import Discriminator, joined
from unimic.cloud.training.loop import autocast
from unimic.perceptual import LPIPS, InceptionDistance


class Fidelity:
    """Gradients of the losses, and the discriminator, which learns along.

    Args:
        device: of the networks.
        adversarial: norm of the discriminator's gradient, as a share of the other losses'; with 0
            there is none.
        network: of LPIPS.
        inception: weight of the Inception blocks' distance, beside 1 for LPIPS.
        pixel: weight of the pixels' error.
    """

    def __init__(self, device: torch.device, adversarial: float, network: str = "alex",
                 inception: float = 1.0, pixel: float = 0.5) -> None:
        self.device, self.adversarial = device, adversarial
        self.inception_weight, self.pixel_weight = inception, pixel
        self.lpips = LPIPS(network).to(device)
        self.inception = InceptionDistance().to(device)
        self.discriminator = (Discriminator(InceptionDistance.CHANNELS).to(device)
                              if adversarial else None)

    def state(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What belongs in a checkpoint."""
        if self.discriminator is None:
            return {}
        return {"discriminator": self.discriminator,
                "discriminator_optimizer": self.discriminator.optimizer}

    def gradient(self, fake: Tensor, real: Tensor, warped: tuple[Tensor, Tensor]
                 ) -> tuple[Tensor, dict[str, Tensor]]:
        """The gradient of the loss of ``fake``, and what the loss consists of.

        Args:
            fake: ``(B, 3, H, W)``; the graph that it came from is not touched.
            real: the originals.
            warped: made of both alike, for the perceptual losses.
        """
        warped = warped[0], warped[1].detach()  # of the originals no gradient is wanted
        pixel = F.l1_loss(fake, real) + 2 * F.mse_loss(fake, real)
        few = max(1, len(fake) // 2)  # Inception costs more than the rest of the loss
        with autocast(self.device):
            lpips = self.lpips(*warped).mean()
            seen, true = (self.inception.features(x[:few]) for x in warped)
            deep = self.inception.between(seen, true).mean()
        parts = {"pixel": pixel, "lpips": lpips, "inception": deep}
        loss = self.pixel_weight * pixel + lpips + self.inception_weight * deep
        gradient, = torch.autograd.grad(loss, fake, retain_graph=self.discriminator is not None)
        if self.discriminator:
            with autocast(self.device):
                deceit = self.discriminator.deceive(seen)
            toward_real, = torch.autograd.grad(deceit, fake)
            gradient = joined(gradient, toward_real, self.adversarial)
            with autocast(self.device):
                judged = self.discriminator.learn(true, seen)
            parts |= {"deceit": deceit, "judged": judged}
        return gradient, parts
