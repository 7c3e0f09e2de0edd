"""What every part's tests share."""

from __future__ import annotations

import pytest

from unimic.codec.errors import UnknownModel
from unimic.codec.store import ModelStore


@pytest.fixture(scope="session")
def store() -> ModelStore:
    """The models that are shipped; a test that needs one skips where it is not there yet."""
    try:
        return ModelStore.default()
    except UnknownModel as error:
        pytest.skip(f"no shipped models: {error}")
