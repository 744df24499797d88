"""Checks of single fields, shared by all parts of a configuration."""

import dataclasses
import math
from typing import Any, get_args


def check(owner: object, condition: bool, field: str, rule: str) -> None:
    """Raises ValueError that names the field, its value and `rule` unless `condition` holds."""
    if not condition:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it {rule}.")


def check_choice(owner: object, field: str, choices: object) -> None:
    """Raises ValueError unless a field's value is one of the Literal type `choices`."""
    allowed = get_args(choices)
    check(owner, getattr(owner, field) in allowed, field, f"must be one of {list(allowed)}")


def check_finite(owner: Any) -> None:
    """Raises ValueError for a field of a dataclass, or of those in it, with NaN or infinity."""
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        for item in value if isinstance(value, tuple) else (value,):
            if dataclasses.is_dataclass(item):
                check_finite(item)
            finite = not isinstance(item, float) or math.isfinite(item)
            check(owner, finite, field.name, "must be finite")
