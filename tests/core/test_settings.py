"""Settings refuse what is wrong, name what is right, and survive JSON."""

from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from forethought.core.errors import ForethoughtError, SettingsError
from forethought.core.settings import Range, Settings, parse_assignment


@dataclass(frozen=True)
class Noise(Settings):
    colour: Annotated[float, Range(ge=0, le=3)] = 1.0


@dataclass(frozen=True)
class Search(Settings):
    samples: Annotated[int, Range(ge=1)] = 64
    rate: Annotated[float, Range(gt=0, lt=1)] = 0.5
    scale: float = 1.0
    mode: Literal["mean", "best"] = "mean"
    limit: Annotated[float, Range(gt=0)] | Literal["auto"] | None = "auto"
    widths: Annotated[tuple[int, ...], Range(ge=1)] = (256, 256)
    bounds: tuple[float, int] | None = None
    warm: bool = True
    name: str = "x"
    noise: Noise = field(default_factory=Noise)
    maybe: Noise | None = None
    stack: tuple[Noise, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Needy(Settings):
    needed: int
    other: str = ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, r"Search\.samples = 0 is out of range: it must lie in \[1, inf\)"),
        ({"rate": 1.0}, r"Search\.rate = 1\.0 is out of range: it must lie in \(0, 1\)"),
        ({"rate": float("nan")}, r"rate = nan must be a finite number"),
        ({"scale": float("inf")}, r"scale = inf must be a finite number"),
        ({"scale": 10**400}, r"scale = inf must be a finite number"),
        ({"samples": 1.5}, r"samples = 1\.5 must be int, not float"),
        ({"samples": True}, r"samples = True must be int, not bool"),
        ({"samples": "64"}, r"samples = '64' must be int, not str"),
        ({"samples": None}, r"samples = None must be int, not NoneType"),
        ({"warm": 1}, r"warm = 1 must be bool, not int"),
        ({"mode": "meen"}, r"mode = 'meen' is not a choice\. Did you mean 'mean'\? Known: best, mean"),
        ({"mode": 3}, r"mode = 3 must be 'mean' or 'best', not int"),
        ({"limit": -1}, r"limit = -1\.0 is out of range: it must lie in \(0, inf\)"),
        ({"limit": "aoto"}, r"limit = 'aoto' is not a choice\. Did you mean 'auto'"),
        ({"limit": [1]}, r"limit = \[1\] must be float or 'auto' or None, not list"),
        ({"widths": (3, 0)}, r"widths = \(3, 0\) is out of range"),
        ({"widths": (3, "a")}, r"widths\[1\] = 'a' must be int"),
        ({"widths": 3}, r"widths = 3 must be tuple of \(int, \.\.\.\)"),
        ({"bounds": (1, 2, 3)}, r"bounds = \(1, 2, 3\) must be tuple of \(float, int\) or None"),
        ({"noise": 3}, r"noise = 3 must be Noise or a mapping of its settings, not int"),
        ({"noise": {"colour": 4}}, r"Noise\.colour = 4\.0 is out of range: it must lie in \[0, 3\]"),
        ({"maybe": {"color": 1}}, r"Noise has no setting 'color'\. Did you mean 'colour'"),
        ({"stack": [{"colour": -1}]}, r"Noise\.colour = -1\.0 is out of range"),
    ],
)
def test_a_wrong_value_is_refused_with_its_field_and_what_is_allowed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        Search(**change)
    with pytest.raises(SettingsError, match=message):
        Search().replace(**change)


def test_a_setting_of_nested_ones_is_told_where_it_belongs() -> None:
    with pytest.raises(SettingsError, match=r"no setting 'colour'\. Did you mean noise\.colour or maybe\.colour\?"):
        Search.from_dict({"colour": 3})
    with pytest.raises(SettingsError, match=r"no setting 'noise\.colour'\. Settings are nested: noise=\{'colour': "):
        Search.from_dict({"noise.colour": 3})


def test_an_unknown_setting_names_the_closest() -> None:
    for attempt in (lambda: Search.from_dict({"sample": 3}), lambda: Search().replace(sample=3)):
        with pytest.raises(SettingsError, match=r"Search has no setting 'sample'\. Did you mean 'samples'\?"):
            attempt()


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="Needy needs a value for needed"):
        Needy.from_dict({"other": "x"})
    with pytest.raises(SettingsError, match="mapping of settings, not list"):
        Needy.from_dict([1])  # type: ignore[arg-type]


def test_values_take_the_type_of_their_setting() -> None:
    settings = Search(samples=np.int64(3), scale=2, limit=np.float32(0.5), widths=[1, 2])  # type: ignore[arg-type]
    assert type(settings.samples) is int
    assert type(settings.scale) is float
    assert type(settings.limit) is float
    assert settings.widths == (1, 2)
    assert settings == Search(samples=3, scale=2.0, limit=0.5, widths=(1, 2))


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Search().samples = 3  # type: ignore[misc]


def test_replacing_leaves_the_original_and_checks_the_copy() -> None:
    original = Search()
    assert original.replace(samples=3, noise=Noise(2.0)) == Search(samples=3, noise=Noise(2.0))
    assert original == Search()


repeatably = hypothesis_settings(derandomize=True, deadline=None, database=None)

settings_strategy = st.builds(
    Search,
    samples=st.integers(1, 2**70),
    rate=st.floats(0, 1, exclude_min=True, exclude_max=True),
    scale=st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5),
    mode=st.sampled_from(["mean", "best"]),
    limit=st.none() | st.just("auto") | st.floats(1e-3, 1e3),
    widths=st.lists(st.integers(1, 9), max_size=3).map(tuple),
    bounds=st.none() | st.tuples(st.integers(), st.integers(0, 3)).map(lambda pair: (float(pair[0] % 7), pair[1])),
    warm=st.booleans(),
    name=st.text(),
    noise=st.builds(Noise, st.floats(0, 3)),
    maybe=st.none() | st.builds(Noise, st.floats(0, 3)),
    stack=st.lists(st.builds(Noise, st.floats(0, 3)), max_size=2).map(tuple),
    extra=st.dictionaries(st.text(), st.lists(st.integers())),
)


@repeatably
@given(settings_strategy)
def test_settings_survive_json(settings: Search) -> None:
    assert Search.from_dict(json.loads(json.dumps(settings.to_dict(), allow_nan=False))) == settings


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@repeatably
@given(st.dictionaries(st.sampled_from(list(Search.__dataclass_fields__)) | st.text(), anything, max_size=3))
def test_any_input_gives_settings_or_a_settings_error(data: dict[str, Any]) -> None:
    try:
        settings = Search.from_dict(data)
    except SettingsError as error:
        assert isinstance(error, ForethoughtError)  # noqa: PT017
    else:
        assert settings.samples >= 1
        assert 0 < settings.rate < 1


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("none", None), ("None", None), ("true", True), ("False", False), ("1e-3", 1e-3), ("(1, 2)", (1, 2))),
        *(("'none'", "none"), ("nONE", "nONE"), ("cem", "cem"), ("a=b", "a=b"), ("", "")),
    ],
)
def test_assignments_are_read_as_they_are_written_elsewhere(text, value):
    name, read = parse_assignment(f"some-name={text}")
    assert (name, read, type(read)) == ("some_name", value, type(value))
