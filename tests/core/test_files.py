"""Archives come back as they were saved, survive crashes, and never execute anything."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from forethought.core import files
from forethought.core.errors import CheckpointError, WriteError
from forethought.core.files import load_archive, read_json, save_archive, write_atomically, write_json
from forethought.core.trees import flatten_tree, unflatten_tree

DOCUMENTS = {"agent": {"kind": "test", "steps": 3, "note": "größer"}, "empty": None}
TENSORS = {"model": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.ones(2)}, "none": {}}


class Bomb:
    """An object whose unpickling leaves a mark."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def same_tensors(left: dict[str, Any], right: dict[str, Any]) -> bool:
    return left.keys() == right.keys() and all(
        left[group].keys() == right[group].keys()
        and all(
            left[group][name].dtype == tensor.dtype and torch.equal(left[group][name], tensor)
            for name, tensor in right[group].items()
        )
        for group in right
    )


def make_zip(
    path: Path, members: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED, **manifest: Any
) -> None:
    """Write an archive by hand, with right digests, so that only what a test plants is wrong with it."""
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in members}
    document = {"format": files.FORMAT, "version": files.FORMAT_VERSION, "sha256": digests, **manifest}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in [*members, ("manifest.json", json.dumps(document).encode())]:
            archive.writestr(name, data)


def test_documents_and_tensors_come_back_as_they_were(tmp_path: Path) -> None:
    whole = torch.arange(12.0)
    group = {
        "view": whole[3:6],
        "overlap": whole[:6],
        "whole": whole,
        "transposed": torch.arange(6).reshape(2, 3).T,
        "expanded": torch.ones(1).expand(4),
        "half": torch.tensor([1.5, float("nan")], dtype=torch.bfloat16).nan_to_num(7),
        "flag": torch.tensor(True),
        "empty": torch.zeros(0, 3),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    path = save_archive(tmp_path / "agent", DOCUMENTS, {**TENSORS, "odd": group})
    archive = load_archive(tmp_path / "agent")
    assert path == archive.path == tmp_path / "agent.zip"
    assert archive.documents == DOCUMENTS
    assert same_tensors(archive.tensors, {**TENSORS, "odd": {name: t.detach() for name, t in group.items()}})


def test_the_suffix_zip_is_added_only_where_there_is_none(tmp_path: Path) -> None:
    assert save_archive(tmp_path / "best_model", {}, {}).name == "best_model.zip"
    assert save_archive(tmp_path / "best.ckpt", {}, {}).name == "best.ckpt"
    assert load_archive(tmp_path / "best.ckpt").documents == {}


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    paths = [save_archive(tmp_path / name, DOCUMENTS, TENSORS) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_the_mode_follows_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        path = save_archive(tmp_path / "a", DOCUMENTS, TENSORS)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_full_disk_keeps_the_old_file_leaves_no_litter_and_tells_path_and_size(tmp_path: Path, full_disk) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")
    with full_disk(10_000), pytest.raises(WriteError, match=rf"{target} \(20,000 bytes\).*unchanged"):
        write_atomically(target, b"x" * 20_000)
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_keeps_the_previous_archive(tmp_path: Path, full_disk) -> None:
    path = save_archive(tmp_path / "a", DOCUMENTS, TENSORS)
    with full_disk(10_000), pytest.raises(WriteError, match=rf"{path} \([\d,]+ bytes\).*unchanged"):
        save_archive(path, DOCUMENTS, {"big": {"x": torch.zeros(10_000)}})
    assert same_tensors(load_archive(path).tensors, TENSORS)
    assert os.listdir(tmp_path) == ["a.zip"]


def test_a_path_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(WriteError, match="Could not write"):
        save_archive(tmp_path / "file" / "a.zip", {}, {})
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(WriteError, match="Could not write"):
        save_archive(tmp_path / "folder.zip", {}, {})


@pytest.mark.parametrize("name", ["../up", "a/b", "", ".hidden", "manifest"])
def test_names_that_loading_would_refuse_are_refused_when_saving(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="cannot name"):
        save_archive(tmp_path / "a", {name: 1}, {})


def test_any_flipped_byte_is_refused_or_changes_nothing(tmp_path: Path) -> None:
    path = save_archive(tmp_path / "a", DOCUMENTS, TENSORS)
    whole = path.read_bytes()
    refused = 0
    for position in range(0, len(whole), 2):
        damaged = bytearray(whole)
        damaged[position] ^= 0x21
        path.write_bytes(damaged)
        try:
            archive = load_archive(path)
        except CheckpointError:
            refused += 1
        else:  # such as a date in the zip's directory
            assert archive.documents == DOCUMENTS
            assert same_tensors(archive.tensors, TENSORS)
    assert refused > len(whole) / 4


@pytest.mark.parametrize("member", ["agent.json", "model.safetensors", "manifest.json"])
def test_a_flipped_byte_in_any_member_is_reported_as_damage(tmp_path: Path, member: str) -> None:
    path = save_archive(tmp_path / "a", DOCUMENTS, TENSORS)
    with zipfile.ZipFile(path) as archive:
        content = archive.read(member)
    whole = bytearray(path.read_bytes())
    whole[whole.index(content) + len(content) // 2] ^= 1
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match="is damaged"):
        load_archive(path)


def test_a_member_whose_checksum_was_forged_is_caught_by_its_digest(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    make_zip(path, [("agent.json", b"1")], sha256={"agent.json": "0" * 64})
    with pytest.raises(CheckpointError, match=r"digest of agent\.json"):
        load_archive(path)


def test_a_truncated_or_empty_file_is_refused(tmp_path: Path) -> None:
    path = save_archive(tmp_path / "a", DOCUMENTS, TENSORS)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError):
            load_archive(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no file .*nowhere\.zip"):
        load_archive(tmp_path / "nowhere")


def test_no_pickle_is_ever_executed_however_it_is_dressed(tmp_path: Path) -> None:
    marker, path = tmp_path / "executed", tmp_path / "planted.zip"
    bomb = pickle.dumps(Bomb(marker))

    def refused() -> None:
        with pytest.raises(CheckpointError):
            load_archive(path)
        assert not marker.exists()

    path.write_bytes(bomb)
    refused()
    path.write_bytes(pickle.dumps(Bomb(marker), protocol=0))
    refused()
    torch.save(Bomb(marker), path)
    refused()
    with zipfile.ZipFile(path, "w") as sb3:
        sb3.writestr("data", json.dumps({"policy_class": {":serialized:": "gASV"}}))
        sb3.writestr("policy.pth", bomb)
        sb3.writestr("_stable_baselines3_version", "2.9.2")
    refused()
    for member in ("model.safetensors", "agent.json", "model.pkl"):
        make_zip(path, [(member, bomb)])
        refused()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("manifest.json", bomb)
    refused()
    pickle.loads(bomb)
    assert marker.exists(), "the bomb must be a real one, or this test shows nothing"


@pytest.mark.parametrize("name", ["../outside.json", "/tmp/absolute.json", "a/b.json", "..\\up.json", "x.txt", ".json"])
def test_member_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    make_zip(tmp_path / "a.zip", [(name, b"1")])
    with pytest.raises(CheckpointError, match="never writes"):
        load_archive(tmp_path / "a.zip")


def test_duplicate_unlisted_and_missing_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate name"):
        make_zip(path, [("x.json", b"1"), ("x.json", b"2")])
    with pytest.raises(CheckpointError, match="same name"):
        load_archive(path)
    make_zip(path, [("x.json", b"1")], sha256={})
    with pytest.raises(CheckpointError, match=r"disagree about x\.json"):
        load_archive(path)
    make_zip(path, [], sha256={"x.json": "0" * 64})
    with pytest.raises(CheckpointError, match=r"disagree about x\.json"):
        load_archive(path)


def test_compressed_members_are_refused_so_none_can_be_larger_than_its_file(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", [("x.json", b" " * 10**6 + b"1")], compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="compressed"):
        load_archive(tmp_path / "a.zip")


def test_a_newer_format_version_says_what_to_do(tmp_path: Path) -> None:
    make_zip(tmp_path / "a.zip", [("x.json", b"1")], version=files.FORMAT_VERSION + 1)
    with pytest.raises(CheckpointError, match=r"format version 2.*update Forethought"):
        load_archive(tmp_path / "a.zip")


@pytest.mark.parametrize("change", [{"format": "other"}, {"version": "1"}, {"version": 0}, {"sha256": [1]}])
def test_a_foreign_manifest_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    make_zip(tmp_path / "a.zip", [("x.json", b"1")], **change)
    with pytest.raises(CheckpointError):
        load_archive(tmp_path / "a.zip")


@pytest.mark.parametrize(
    "text",
    [b'{"a": 1, "a": 2}', b"[NaN]", b"[-Infinity]", b"[" * 100_000, b"\xff\xfe", b"", b"{", b"9" * 5_000],
    ids=["duplicate key", "nan", "infinity", "deep", "not utf-8", "empty", "cut", "huge number"],
)
def test_odd_json_is_refused_in_archives_and_alone(tmp_path: Path, text: bytes) -> None:
    make_zip(tmp_path / "a.zip", [("x.json", text)])
    (tmp_path / "x.json").write_bytes(text)
    with pytest.raises(CheckpointError):
        load_archive(tmp_path / "a.zip")
    with pytest.raises(CheckpointError):
        read_json(tmp_path / "x.json")


def test_json_holds_text_of_any_kind_paths_that_are_no_unicode_included(tmp_path: Path) -> None:
    text = {"path": "/data/caf\udce9/Läufe/長い道"}
    write_json(tmp_path / "x.json", text)
    assert read_json(tmp_path / "x.json") == text


def test_json_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "JSON_LIMIT_BYTES", 1_000)
    make_zip(tmp_path / "a.zip", [("x.json", json.dumps("x" * 2_000).encode())])
    write_json(tmp_path / "x.json", "x" * 2_000)
    with pytest.raises(CheckpointError, match="more than"):
        load_archive(tmp_path / "a.zip")
    with pytest.raises(CheckpointError, match="more than"):
        read_json(tmp_path / "x.json")


def test_an_optimizer_continues_from_its_archive_bit_for_bit(tmp_path: Path) -> None:
    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 2)
        return model, torch.optim.AdamW(model.parameters(), betas=(0.8, 0.9))

    def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()

    model, optimizer = build()
    step(model, optimizer)
    document, tensors = flatten_tree(optimizer.state_dict())
    save_archive(tmp_path / "a", {"optimizer": document}, {"optimizer": tensors, "model": model.state_dict()})
    step(model, optimizer)

    archive = load_archive(tmp_path / "a")
    resumed_model, resumed_optimizer = build()
    resumed_model.load_state_dict(archive.tensors["model"])
    resumed_optimizer.load_state_dict(unflatten_tree(archive.documents["optimizer"], archive.tensors["optimizer"]))
    step(resumed_model, resumed_optimizer)
    assert torch.equal(resumed_model.weight, model.weight)


def test_trees_keep_key_types_tuples_and_infinities(tmp_path: Path) -> None:
    tree = {
        1: [torch.ones(1), (1, 2.5, None, True)],
        "1": {"a/b": torch.zeros(2), "a": {"b": torch.ones(3)}},
        "odd": [float("inf"), 2**127, "text", {}, [], ()],
    }
    document, tensors = flatten_tree(tree)
    save_archive(tmp_path / "a", {"tree": document}, {"tree": tensors})
    archive = load_archive(tmp_path / "a")
    back = unflatten_tree(archive.documents["tree"], archive.tensors["tree"])
    assert back["odd"] == tree["odd"]
    assert isinstance(back["odd"][5], tuple)
    assert back[1][1] == (1, 2.5, None, True)
    assert back["1"]["a/b"].shape == (2,)
    assert back["1"]["a"]["b"].shape == (3,)
    assert torch.equal(back[1][0], torch.ones(1))


def test_trees_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(TypeError, match=r"a/0"):
        flatten_tree({"a": [object()]})
    for document in ({"tensor": "gone"}, {"a": 1, "b": 2}, {"other": 1}):
        with pytest.raises(ValueError, match="tree"):
            unflatten_tree(document, {})
