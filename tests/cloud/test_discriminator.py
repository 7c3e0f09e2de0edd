"""The discriminator of the tokenizer's training."""

from __future__ import annotations

import torch

from unimic.cloud.training.discriminator import Discriminator, joined


def maps(power: float, seed: int) -> list[torch.Tensor]:
    """Noise whose distribution is set by ``power``."""
    random = torch.Generator().manual_seed(seed)
    return [torch.rand(4, 3, 9, 7, generator=random) ** power,
            torch.rand(4, 5, 4, 4, generator=random) ** power]


def test_it_learns_to_tell_apart_and_shows_the_way() -> None:
    torch.manual_seed(0)
    discriminator = Discriminator([3, 5], width=16, rate=1e-2)
    losses = [discriminator.learn(maps(1, seed), maps(6, 100 + seed)).item() for seed in range(30)]
    assert losses[-1] < losses[0] / 2

    fake = [x.requires_grad_() for x in maps(6, 200)]
    deceit = discriminator.deceive(fake)
    gradients = torch.autograd.grad(deceit, fake)
    moved = [x - 5 * g for x, g in zip(fake, gradients, strict=True)]
    assert discriminator.deceive(moved).item() < deceit.item()


def test_learning_leaves_the_decoder_alone() -> None:
    fake = [x.requires_grad_() for x in maps(1, 0)]
    Discriminator([3, 5], width=8).learn(maps(1, 1), fake)
    assert all(x.grad is None for x in fake)


def test_joined_keeps_the_share() -> None:
    main, other = torch.randn(2, 3), 1000 * torch.randn(2, 3)
    both = joined(main, other, 0.25)
    assert torch.allclose((both - main).norm(), 0.25 * main.norm())
    assert torch.equal(joined(main, torch.zeros_like(other), 0.25), main)
