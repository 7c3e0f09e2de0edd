"""`functools.cached_property` as it is from Python 3.12 on.

Before, one lock serves all instances of a class, and of pictures in several threads one is made at
a time.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING, Any

__all__ = ["cached_property"]

if TYPE_CHECKING or sys.version_info >= (3, 12):
    from functools import cached_property
else:
    class cached_property(functools.cached_property):
        """Is asked only until the instance's dictionary has the value."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            if instance is None:
                return self
            value = instance.__dict__[self.attrname] = self.func(instance)
            return value
