"""A physical quantity by name, as environments tell its value and probes read it off latents."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Quantity:
    """One physical quantity.

    Attributes:
        name: what users type, such as ``x_velocity``.
        unit: such as ``m/s``.
        angle: whether it turns: values are radians in (-pi, pi], and both ends are the same.
    """

    name: str
    unit: str
    angle: bool = False

    def __str__(self) -> str:
        return f"{self.name} ({self.unit})"
