"""The operations that exactness rests on, over every integer they may see."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unimic.cloud.models.arithmetic import square_root

DEVICES = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
INTEGERS = np.arange(1, 2**24, dtype=np.float32)


@pytest.mark.parametrize("device", DEVICES)
def test_square_roots_and_divisions_are_correctly_rounded(device: str) -> None:
    roots = np.sqrt(INTEGERS)
    ours = square_root(torch.from_numpy(INTEGERS).to(device).double())
    np.testing.assert_array_equal(ours.cpu().numpy(), roots)
    dividends = np.random.default_rng(0).integers(-2**17, 2**17, len(roots)).astype(np.float32)
    quotients = torch.from_numpy(dividends).to(device) / torch.from_numpy(roots).to(device)
    np.testing.assert_array_equal(quotients.cpu().numpy(), dividends / roots)


@pytest.mark.parametrize("device", DEVICES)
def test_rounding_is_half_to_even(device: str) -> None:
    halves = np.arange(-(2**16), 2**16, dtype=np.float32) / 2
    ours = torch.round(torch.from_numpy(halves).to(device)).cpu().numpy()
    np.testing.assert_array_equal(ours, np.round(halves))
