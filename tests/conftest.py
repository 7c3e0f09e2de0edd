"""What every part's tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

import unimic.codec.runtime  # noqa: F401  # before a test imports ONNX Runtime by itself
from unimic.codec.store import ModelStore

settings.register_profile("untimed", deadline=None)  # a busy machine is no error
settings.load_profile("untimed")
os.environ.pop("UNIMIC_MODELS", None)  # the shipped models are tested, whatever the user has


@pytest.fixture(scope="session")
def store() -> ModelStore:
    """The models that are shipped."""
    return ModelStore.default()
