"""Small pictures and a service that needs no models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def photo() -> Image.Image:
    """A photo of 192×160 pixels."""
    data = pytest.importorskip("skimage.data", reason="scikit-image carries the photo")
    return Image.fromarray(data.coffee()).resize((288, 192)).crop((48, 16, 240, 176))


@pytest.fixture
def files(photo: Image.Image, tmp_path: Path) -> list[Path]:
    """Two pictures and one that is broken."""
    paths = [tmp_path / name for name in ("a.png", "b.png", "broken.png")]
    photo.save(paths[0])
    Image.fromarray(np.asarray(photo)[::-1, ::-1].copy()).crop((0, 0, 177, 161)).save(paths[1])
    paths[2].write_bytes(paths[0].read_bytes()[:5000])
    return paths
