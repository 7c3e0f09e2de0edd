"""What every part's tests share."""

from __future__ import annotations

import os

import pytest

import unimic.codec.runtime  # noqa: F401  # before a test imports ONNX Runtime by itself
from unimic.codec.store import ModelStore

os.environ.pop("UNIMIC_MODELS", None)  # the shipped models are tested, whatever the user has


@pytest.fixture(scope="session")
def store() -> ModelStore:
    """The models that are shipped."""
    return ModelStore.default()
