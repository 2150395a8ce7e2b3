"""Settings: frozen dataclasses that check themselves, survive JSON, and become command-line options.

A setting's range stands in its type, so that it is checked in one place and shown in messages::

    @dataclass(frozen=True)
    class CEMSettings(Settings):
        samples: Annotated[int, Range(ge=1)] = 300
        \"\"\"Candidates per iteration.\"\"\"
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from .errors import SettingsError, did_you_mean

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True)
class Range:
    """The interval in which a number must lie: ``ge``/``le`` inclusive, ``gt``/``lt`` exclusive."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None
    lt: float | None = None

    def __contains__(self, value: float) -> bool:
        return (
            math.isfinite(value)
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        low = f"[{self.ge:g}" if self.ge is not None else f"({self.gt:g}" if self.gt is not None else "(-inf"
        high = f"{self.le:g}]" if self.le is not None else f"{self.lt:g})" if self.lt is not None else "inf)"
        return f"{low}, {high}"


class Settings:
    """Base of all settings dataclasses; checks types and ranges on construction.

    Raises:
        SettingsError: naming the field, its value and what is allowed.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            checked = _check(f"{type(self).__name__}.{name}", value, hint)
            if checked is not value:
                object.__setattr__(self, name, checked)

    def replace(self, **changes: Any) -> Self:
        """Return a copy with ``changes``; an unknown name fails with the closest valid one."""
        check_names(type(self), changes)
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data that JSON can hold."""
        return {name: _plain(getattr(self, name)) for name in field_names(type(self))}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from :meth:`to_dict`'s output or from keywords; unknown names are refused."""
        if not isinstance(data, Mapping):
            raise SettingsError(f"{cls.__name__} needs a mapping of settings, not {type(data).__name__}.")
        check_names(cls, data)
        hints = _hints(cls)
        values = {}
        for name, value in data.items():
            nested = _settings_type(hints[name])
            values[name] = nested.from_dict(value) if nested and isinstance(value, Mapping) else value
        return cls(**values)


def field_names(cls: type[Settings]) -> list[str]:
    """Return the names of a settings class's fields."""
    return [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]


def check_names(cls: type[Settings], names: Mapping[str, Any]) -> None:
    """Raise :class:`SettingsError` for the first of ``names`` that ``cls`` does not have."""
    known = field_names(cls)
    for name in names:
        if name not in known:
            raise SettingsError(f"{cls.__name__} has no setting {name!r}.{did_you_mean(str(name), known)}")


def _hints(cls: type[Settings]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in field_names(cls)}


def _settings_type(hint: Any) -> type[Settings] | None:
    if typing.get_origin(hint) is typing.Annotated:
        return _settings_type(typing.get_args(hint)[0])
    for option in (hint, *typing.get_args(hint)):
        if isinstance(option, type) and issubclass(option, Settings):
            return option
    return None


def _check(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` (an int widened to float where floats are asked for) or raise."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        inner, *notes = typing.get_args(hint)
        value = _check(name, value, inner)
        for note in notes:
            numbers = value if isinstance(value, tuple) else (value,)
            if isinstance(note, Range) and any(number is not None and number not in note for number in numbers):
                raise SettingsError(f"{name} = {value!r} is out of range: it must lie in {note}.")
        return value
    if origin in (typing.Union, types.UnionType):
        for option in typing.get_args(hint):
            try:
                return _check(name, value, option)
            except SettingsError as error:
                if "out of range" in str(error):
                    raise
        raise SettingsError(f"{name} = {value!r} must be {_describe(hint)}.")
    if origin is Literal:
        if value not in typing.get_args(hint):
            choices = [str(choice) for choice in typing.get_args(hint)]
            raise SettingsError(f"{name} = {value!r} is not a choice.{did_you_mean(str(value), choices)}")
        return value
    if origin is tuple:
        if not isinstance(value, tuple | list):
            raise SettingsError(f"{name} = {value!r} must be {_describe(hint)}.")
        return tuple(_check(name, item, typing.get_args(hint)[0]) for item in value)
    if hint is Any or origin is not None:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    fits = isinstance(value, hint) and not (isinstance(value, bool) and hint in (int, float))
    if not fits:
        raise SettingsError(f"{name} = {value!r} must be {_describe(hint)}, not {type(value).__name__}.")
    return value


def _describe(hint: Any) -> str:
    if hint is type(None) or hint is None:
        return "none"
    if typing.get_origin(hint) is typing.Annotated:
        return _describe(typing.get_args(hint)[0])
    options = typing.get_args(hint)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in options)
    return getattr(hint, "__name__", str(hint)) if not options else str(hint)


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value
