"""Settings: frozen dataclasses that check themselves, survive JSON, and become command-line options.

A setting's range stands in its type, so that it is checked in one place and shown in messages::

    @dataclass(frozen=True)
    class CEMSettings(Settings):
        samples: Annotated[int, Range(ge=1)] = 300
        \"\"\"Candidates per iteration.\"\"\"
"""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

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
            (isinstance(value, int) or math.isfinite(value))
            and (self.ge is None or value >= self.ge)
            and (self.gt is None or value > self.gt)
            and (self.le is None or value <= self.le)
            and (self.lt is None or value < self.lt)
        )

    def __str__(self) -> str:
        low = f"[{self.ge:g}" if self.ge is not None else f"({self.gt:g}" if self.gt is not None else "(-inf"
        high = f"{self.le:g}]" if self.le is not None else f"{self.lt:g})" if self.lt is not None else "inf)"
        return f"{low}, {high}"


Width = Annotated[int, Range(ge=1, le=8192)]
"""The width of a layer."""


class Settings:
    """Base of all settings dataclasses; checks types and ranges on construction.

    Raises:
        SettingsError: naming the field, its value and what is allowed.
    """

    BEFORE: ClassVar[Mapping[str, Any]] = {}
    """What settings that are younger than a file stand for in it, where that is not their default of today."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            value = getattr(self, name)
            try:
                checked = check_value(f"{type(self).__name__}.{name}", value, hint)
            except _WrongType as error:  # that it is wrong for one member of a union matters no more
                raise SettingsError(str(error)) from None
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
        required = [f.name for f in dataclasses.fields(cls) if _is_required(f)]  # type: ignore[arg-type]
        if missing := [name for name in required if name not in data]:
            raise SettingsError(f"{cls.__name__} needs a value for {', '.join(missing)}.")
        return cls(**data)


def whole_range(cls: type[Settings], name: str) -> tuple[int, int]:
    """Return the least (1 or more) and the largest whole number that a setting may have."""
    hint = _hints(cls)[name]
    ranges = [note for option in (hint, *typing.get_args(hint)) for note in getattr(option, "__metadata__", ())]
    known = next((note for note in ranges if isinstance(note, Range)), Range())
    low = known.ge if known.ge is not None else 1 if known.gt is None else known.gt + 1
    high = known.le if known.le is not None else 2**62 if known.lt is None else known.lt - 1
    return max(1, math.ceil(low)), math.floor(high)


def merged(given: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``given``, the output of :meth:`Settings.to_dict`, with ``changes``, which may be as deep."""
    both = dict(given)
    for name, value in changes.items():
        before = given.get(name)
        both[name] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return both


def without_unknown(cls: type[Settings], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data``, the output of :meth:`Settings.to_dict` of another version, without what ``cls`` does not have.

    Settings that are nested in it are looked through, too.
    """
    kept = {}
    for name in field_names(cls):
        if name in data:
            nested, value = _nested(cls, name), data[name]
            kept[name] = without_unknown(nested, value) if nested and isinstance(value, Mapping) else value
    return kept


def completed(cls: type[Settings], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``data``, the output of :meth:`Settings.to_dict` of another version, with what it is too old to say.

    Only what is not the default of today is added (``BEFORE``). Settings that are nested in it are looked through, too.
    """
    whole = dict(cls.BEFORE) | dict(data)
    for name in field_names(cls):
        nested, value = _nested(cls, name), data.get(name)
        if nested and isinstance(value, Mapping):
            whole[name] = completed(nested, value)
    return whole


def field_names(cls: type[Settings]) -> list[str]:
    """Return the names of a settings class's fields."""
    return [field.name for field in dataclasses.fields(cls)]  # type: ignore[arg-type]


def check_names(cls: type[Settings], names: Mapping[str, Any]) -> None:
    """Raise :class:`SettingsError` for the first of ``names`` that ``cls`` does not have.

    Where settings that are nested in it do, it says which.
    """
    known = field_names(cls)
    for name in names:
        if name not in known:
            hint = did_you_mean(str(name), known)
            first, _, rest = str(name).partition(".")
            if first in known and rest:
                hint = f" Settings are nested: {first}={{{rest!r}: ...}}."
            elif found := list(_paths(cls, str(name))):
                hint = f" Did you mean {' or '.join(found)}?"
            raise SettingsError(f"{cls.__name__} has no setting {name!r}.{hint}")


def _paths(cls: type[Settings], name: str) -> Iterator[str]:
    """Yield where settings that are nested in ``cls`` have one called ``name``, or one whose name ends so."""
    for outer in field_names(cls):
        if nested := _nested(cls, outer):
            yield from (f"{outer}.{inner}" for inner in field_names(nested) if f"_{inner}".endswith(f"_{name}"))


def _hints(cls: type[Settings]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {name: hints[name] for name in field_names(cls)}


def _nested(cls: type[Settings], name: str) -> type[Settings] | None:
    """Return the class of the settings that are nested in ``cls`` under ``name``, if they are."""
    hint = _hints(cls)[name]
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((one for one in options if isinstance(one, type) and issubclass(one, Settings)), None)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


class _WrongType(SettingsError):
    """A value of a type that the hint does not allow, so that another member of a union may still fit."""


def check_value(name: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as the type ``hint`` wants it, or raise :class:`SettingsError`, which begins with ``name``.

    NumPy scalars become Python's, an int becomes a float where floats are asked for, a list a tuple, and a mapping
    the nested settings: this is what undoes JSON.
    """
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):
        value = value.item()
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        value = check_value(name, value, options[0])
        for note in options[1:]:
            if isinstance(note, Range) and any(number not in note for number in _numbers(value)):
                raise SettingsError(f"{name} = {_shown(value)} is out of range: it must lie in {note}.")
        return value
    if origin in (typing.Union, types.UnionType):
        for option in options:
            try:
                return check_value(name, value, option)
            except _WrongType:
                continue
        raise _wrong_type(name, value, hint)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in options):
            return value
        if type(value) in map(type, options):
            raise SettingsError(
                f"{name} = {_shown(value)} is not a choice.{did_you_mean(str(value), map(str, options))}"
            )
        raise _wrong_type(name, value, hint)
    if origin is tuple:
        return _check_tuple(name, value, hint)
    if isinstance(origin, type):  # dict[str, float], Callable[[float], float]: what is inside stays unchecked
        if not isinstance(value, origin):
            raise _wrong_type(name, value, hint)
        return value
    if not isinstance(hint, type):  # Any
        return value
    if issubclass(hint, Settings) and isinstance(value, Mapping):
        return hint.from_dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**1023 else math.inf
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise _wrong_type(name, value, hint)
    if isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} = {_shown(value)} must be a finite number.")
    return value


def _check_tuple(name: str, value: Any, hint: Any) -> tuple[Any, ...]:
    hints = typing.get_args(hint)
    if not isinstance(value, tuple | list):
        raise _wrong_type(name, value, hint)
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(value) != len(hints):
        raise _wrong_type(name, value, hint)
    return tuple(check_value(f"{name}[{i}]", *pair) for i, pair in enumerate(zip(value, hints, strict=True)))


def _numbers(value: Any) -> list[float]:
    """Return the numbers in ``value`` that a range speaks of: itself, or those in a tuple."""
    if isinstance(value, tuple):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, int | float) and not isinstance(value, bool) else []


def parse_assignment(text: str, context: str = "") -> tuple[str, Any]:
    """Split ``NAME=VALUE``; the value is a Python literal where it reads as one, else the text itself.

    none, true and false may be small, as on the command line and in TOML.

    Args:
        text: is split.
        context: begins the message where it cannot be.

    Raises:
        SettingsError: where there is no name or no equals sign.
    """
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise SettingsError(f"{context}{text!r} is not of the form NAME=VALUE.")
    literal = value.capitalize() if value in ("none", "true", "false") else value
    try:
        return name.replace("-", "_"), ast.literal_eval(literal)
    except (ValueError, SyntaxError):
        return name.replace("-", "_"), value


def _wrong_type(name: str, value: Any, hint: Any) -> _WrongType:
    return _WrongType(f"{name} = {_shown(value)} must be {_describe(hint)}, not {type(value).__name__}.")


def _shown(value: Any) -> str:
    """Return a value as messages show it: as Python writes it, unless that would be too long."""
    try:
        text = repr(value)
    except ValueError:  # an integer of more digits than Python cares to write
        text = f"a {type(value).__name__} of many digits"
    return text if len(text) <= 100 else f"{text[:97]}..."


def _describe(hint: Any) -> str:
    origin, options = typing.get_origin(hint), typing.get_args(hint)
    if hint is type(None):
        return "None"
    if hint is Ellipsis:
        return "..."
    if origin is typing.Annotated:
        return _describe(options[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_describe(option) for option in options)
    if origin is Literal:
        return " or ".join(repr(choice) for choice in options)
    if origin is tuple:
        return f"tuple of ({', '.join(_describe(option) for option in options)})"
    if isinstance(hint, type) and issubclass(hint, Settings):
        return f"{hint.__name__} or a mapping of its settings"
    return getattr(hint, "__name__", str(hint))


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return value
