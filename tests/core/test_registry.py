"""A registry finds what is dropped into its room, and names the closest when it does not."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from forethought.core import errors
from forethought.core.errors import SettingsError, UnknownNameError
from forethought.core.registry import Registry


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An importable package ``room`` with its registry in ``room/registry.py``."""
    folder = tmp_path / "room"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "registry.py").write_text(
        "from forethought.core.registry import Registry\nthings = Registry('thing', 'room')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.split(".")[0] == "room"]:
        monkeypatch.delitem(sys.modules, name)
    return folder


def things() -> Registry[Any]:
    from room.registry import things  # type: ignore[import-not-found]

    registry: Registry[Any] = things
    return registry


def test_a_file_dropped_into_the_room_registers_itself(room: Path) -> None:
    (room / "swift.py").write_text(
        "from .registry import things\n@things.register('swift')\ndef swift():\n    '''Flies.\n\n    Far.'''\n"
    )
    (room / "_private.py").write_text("raise RuntimeError('private modules are not imported')\n")
    assert things().names() == ["swift"]
    assert things().summary("swift") == "Flies."
    assert things().get("swift").__name__ == "swift"
    assert "swift" in things()


def test_a_module_that_fails_to_import_fails_at_every_look_up(room: Path) -> None:
    (room / "broken.py").write_text("raise RuntimeError('broken')\n")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="broken"):
            things().names()


@pytest.mark.parametrize("name", ["icme", "", "ICEM", None, ["icem"]])
def test_an_unknown_name_is_an_error_that_lists_the_known(name: Any) -> None:
    registry: Registry[int] = Registry("planner")
    registry.register("icem")(1)
    registry.register("mppi")(2)
    with pytest.raises(UnknownNameError, match=r"Unknown planner .*Known: icem, mppi"):
        registry.get(name)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'icem'\?"):
        registry.get("icme")


def test_names_are_unique_but_a_notebook_cell_may_run_twice() -> None:
    registry: Registry[Any] = Registry("agent")

    def make(result: int) -> Any:
        def agent() -> int:
            return result

        return agent

    registry.register("a")(make(1))
    registry.register("a")(make(2))
    assert registry.get("a")() == 2
    with pytest.raises(SettingsError, match="registered already"):
        registry.register("a")(dict)
    with pytest.raises(SettingsError, match="surrounding blanks"):
        registry.register(" a")


def test_entry_points_add_entries_and_a_broken_one_costs_only_itself(
    room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = [
        metadata.EntryPoint("good", "collections:OrderedDict", "forethought.things"),
        metadata.EntryPoint("bad", "no_such_module:Thing", "forethought.things"),
    ]
    monkeypatch.setattr(metadata, "entry_points", lambda group: points if group == "forethought.things" else [])
    with pytest.warns(UserWarning, match=r"The thing 'bad' \(no_such_module:Thing\) was left out"):
        assert things().names() == ["good"]


def test_messages_suggest_only_what_is_close() -> None:
    assert errors.did_you_mean("hoper", ["Hopper", "hopper"]) == " Did you mean 'hopper'? Known: Hopper, hopper."
    assert errors.did_you_mean("zzz", ["cem"]) == " Known: cem."
    assert errors.did_you_mean("x", []) == " Known: none."


def test_a_missing_extra_names_its_install_line() -> None:
    assert "pip install '.[contrib]'" in str(errors.missing_extra("tqc", "contrib"))


def test_an_installed_module_that_hides_one_of_the_folder_is_told_of(tmp_path, monkeypatch):
    registry: Registry[object] = Registry("thing")
    registry.register("mine")(object())
    monkeypatch.chdir(tmp_path)
    registry.get("colorsys:mine")  # hides nothing
    (tmp_path / "colorsys.py").touch()
    with pytest.warns(UserWarning, match=r"colorsys is .*colorsys\.py, and hides colorsys\.py of this folder"):
        registry.get("colorsys:mine")


def test_a_module_in_the_current_folder_can_be_named_and_registers_itself(tmp_path, monkeypatch):
    registry: Registry[object] = Registry("thing")
    monkeypatch.setitem(sys.modules, "shop_of_this_test", SimpleNamespace(registry=registry))
    (tmp_path / "things_of_this_test.py").write_text(
        "from shop_of_this_test import registry\nregistry.register('mine')(object())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    entry = registry.get("things_of_this_test:mine")
    assert registry.get("mine") is entry
    with pytest.raises(UnknownNameError, match="no module 'thing_of_no_test'"):
        registry.get("thing_of_no_test:mine")
    with pytest.raises(UnknownNameError, match="Did you mean 'mine'"):
        registry.get("things_of_this_test:minee")
