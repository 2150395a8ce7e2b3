"""Words that depend on numbers, for what people read."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """Return ``1 episode`` or ``2 episodes``."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"
