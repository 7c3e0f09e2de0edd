"""Errors travel between processes as they are."""

from __future__ import annotations

import pickle

import grpc
import pytest

from unimic.codec.errors import ExactnessError, InvalidInput, UnimicError
from unimic.edge import DeadlineExceeded
from unimic.edge.connection import ServiceError


@pytest.mark.parametrize("error", [
    InvalidInput("width", "0", "use 1 or more"), ExactnessError("model", "wrong", "do not use it"),
    DeadlineExceeded("timeout", "no result", "wait"),
    ServiceError("localhost:1", grpc.StatusCode.UNAVAILABLE, "nobody is there"),
])
def test_pickled(error: UnimicError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
