"""Checks of single fields, shared by all parts of a configuration."""

from typing import get_args


def check(owner: object, condition: bool, field: str, rule: str) -> None:
    """Raises ValueError that names the field, its value and `rule` unless `condition` holds."""
    if not condition:
        value = getattr(owner, field)
        raise ValueError(f"{type(owner).__name__}.{field} is {value!r}; it {rule}.")


def check_choice(owner: object, field: str, choices: object) -> None:
    """Raises ValueError unless a field's value is one of the Literal type `choices`."""
    allowed = get_args(choices)
    check(owner, getattr(owner, field) in allowed, field, f"must be one of {list(allowed)}")
