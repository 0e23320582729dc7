"""The engine underneath: accelerate, which ships no types, so that to a type checker its class is `Any`."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any as Accelerator
else:
    from accelerate import Accelerator

__all__ = ["Accelerator"]
