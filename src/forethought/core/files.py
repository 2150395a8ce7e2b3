"""Files that survive a crash and cannot execute code.

Everything is written beside its target and moved over it in one step, so a reader sees the old file or the new
one and never half of either. An *archive* is one zip of JSON documents and safetensors, with a manifest that
holds the format version and a digest of every member. Loading checks everything before it believes anything,
keeps to the size of the file, and never unpickles.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import secrets
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .errors import CheckpointError, WriteError

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "forethought-archive"
FORMAT_VERSION = 1
MANIFEST = "manifest.json"
JSON_LIMIT_BYTES = 64 * 2**20
_MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*\.(json|safetensors)")


@dataclass(frozen=True)
class Archive:
    """What an archive held.

    Attributes:
        path: the file it came from.
        documents: JSON values by name.
        tensors: by name, a flat dictionary of CPU tensors.
    """

    path: Path
    documents: dict[str, Any]
    tensors: dict[str, dict[str, Tensor]]


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash leaves either the old content or the new, and never a part.

    A symbolic link is followed, missing folders are created, and the mode follows the umask.

    Raises:
        WriteError: where the disk is full, the folder read-only or the path a folder; what was there stays.
    """
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_folder(target.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise WriteError(
            f"Could not write {target} ({len(data):,} bytes): {reason}. What was there is unchanged."
        ) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` atomically as indented JSON; NaN or infinity, which JSON lacks, is a ``ValueError``."""
    write_atomically(path, _encode_json(value, indent=2))


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file of at most 64 MiB.

    Raises:
        CheckpointError: for a missing or larger file, and for JSON that is malformed, nested too deeply, or
            holds duplicate keys, NaN or infinity.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(JSON_LIMIT_BYTES + 1)
    except OSError as error:
        raise CheckpointError(f"Could not read {os.fspath(path)}: {error.strerror or error}.") from error
    with damage_reported(Path(path)):
        return _decode_json(data)


def read_json_lines(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Yield the value of each complete line of a file, one at a time, and ``None`` for a line that is no sound JSON."""
    with open(path, "rb") as file:
        while line := file.readline(JSON_LIMIT_BYTES):
            if not line.endswith(b"\n"):  # still being written, or cut short by a crash
                return
            try:
                yield _decode_json(line)
            except (ValueError, RecursionError):
                yield None


def archive_path(path: str | os.PathLike[str]) -> Path:
    """Return ``path``, with ``.zip`` appended where it has no suffix."""
    path = Path(path)
    return path if path.suffix else path.with_name(path.name + ".zip")


def save_archive(
    path: str | os.PathLike[str], documents: Mapping[str, Any], tensors: Mapping[str, Mapping[str, Tensor]]
) -> Path:
    """Write one zip of JSON documents and groups of tensors, atomically.

    Equal content gives equal bytes. Tensors may be views, non-contiguous, shared or on any device.

    Args:
        path: the file; ``.zip`` is appended where there is no suffix.
        documents: JSON values, each stored as ``NAME.json``.
        tensors: flat dictionaries of tensors, each stored as ``NAME.safetensors``.

    Returns:
        The path written.

    Raises:
        WriteError: where it could not be written; what was there stays.
    """
    target = archive_path(path)
    for member in [*(f"{name}.json" for name in documents), *(f"{name}.safetensors" for name in tensors)]:
        if member == MANIFEST or not _MEMBER_NAME.fullmatch(member):
            raise ValueError(f"{member!r} cannot name a part of an archive.")

    digests: dict[str, str] = {}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:

        def add(member: str, data: bytes) -> None:
            digests[member] = hashlib.sha256(data).hexdigest()
            archive.writestr(zipfile.ZipInfo(member), data)  # carries no date, so the bytes are reproducible

        for name, document in documents.items():
            add(f"{name}.json", _encode_json(document))
        for name, group in tensors.items():
            add(f"{name}.safetensors", _encode_tensors(group))
        add(MANIFEST, _encode_json({"format": FORMAT, "version": FORMAT_VERSION, "sha256": dict(digests)}))

    write_atomically(target, buffer.getvalue())
    return target


def load_archive(path: str | os.PathLike[str]) -> Archive:
    """Read an archive, after checking every part of it; nothing in any file can execute code.

    Args:
        path: the file, with or without its suffix ``.zip``.

    Raises:
        CheckpointError: one sentence, for a file that is missing, damaged, foreign (a pickle, an SB3 zip), or
            written in a newer format, and for duplicate, unlisted, absolute or upward-leading member names.
    """
    source = Path(path) if Path(path).is_file() else archive_path(path)
    if not source.is_file():
        inside = sorted(Path(path).glob("*.zip"))
        instead = f"; the folder {path} holds {inside[0]}" if inside else ""
        raise CheckpointError(f"There is no file {source}{instead}.")
    with damage_reported(source):
        _refuse_foreign(source)
        with zipfile.ZipFile(source) as archive:
            documents, tensors = {}, {}
            for member, digest in _checked_digests(source, archive).items():
                data = archive.read(member)
                if hashlib.sha256(data).hexdigest() != digest:
                    _refuse(source, f"is damaged: the digest of {member} is not the recorded {digest}")
                name, _, suffix = member.rpartition(".")
                if suffix == "json":
                    documents[name] = _decode_json(data)
                else:
                    tensors[name] = _decode_tensors(data)
    return Archive(source, documents, tensors)


def write_tensors(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> tuple[int, str]:
    """Write tensors alone as safetensors, atomically; return size in bytes and SHA-256, which reading them takes.

    Raises:
        WriteError: where it could not be written; what was there stays.
    """
    data = _encode_tensors(tensors)
    write_atomically(path, data)
    return len(data), hashlib.sha256(data).hexdigest()


def read_tensors(path: str | os.PathLike[str], size: int, sha256: str) -> dict[str, Tensor]:
    """Read what :func:`write_tensors` wrote.

    Raises:
        CheckpointError: for a file that is missing, or of another size or digest.
    """
    source = Path(path)
    if not source.is_file():
        raise CheckpointError(f"There is no file {source}.")
    with damage_reported(source):
        if (found := source.stat().st_size) != size:  # known before reading, so that none can be too large to read
            _refuse(source, f"is damaged: it has {found:,} bytes, and {size:,} were recorded")
        data = source.read_bytes()
        if hashlib.sha256(data).hexdigest() != sha256:
            _refuse(source, f"is damaged: its digest is not the recorded {sha256}")
        return _decode_tensors(data)


@contextlib.contextmanager
def damage_reported(source: Path) -> Iterator[None]:
    """Turn whatever a parser raises on bytes that it did not expect into one :class:`CheckpointError`."""
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise CheckpointError(f"{source} is damaged: {detail}.") from error


def _checked_digests(source: Path, archive: zipfile.ZipFile) -> dict[str, str]:
    """Return the recorded digest of each member, once names, sizes, format and version are all in order."""
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if "_stable_baselines3_version" in names or any(name.endswith((".pth", ".pkl")) for name in names):
        _refuse(
            source,
            "holds pickles, as Stable-Baselines3 and torch.save write them, which can execute code: load it with what "
            "wrote it, if you trust it",
        )
    for name in names:
        if not _MEMBER_NAME.fullmatch(name):
            _refuse(source, f"holds a member named {name!r}, which Forethought never writes")
    if len(set(names)) < len(names):
        _refuse(source, "holds two members of the same name")
    if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
        _refuse(source, "is compressed, which Forethought's files never are")
    if sum(info.file_size for info in infos) > source.stat().st_size:
        _refuse(source, "claims to hold more than its own size")
    if MANIFEST not in names:
        _refuse(source, "is not a Forethought file: it has no manifest")
    manifest = _decode_json(archive.read(MANIFEST))
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        _refuse(source, "is not a Forethought file: its manifest is of another format")
    version = manifest.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        _refuse(source, f"is damaged: its format version is {version!r}")
    if version > FORMAT_VERSION:
        _refuse(
            source,
            f"has format version {version}, and this Forethought reads up to {FORMAT_VERSION}: update Forethought",
        )
    digests: dict[str, str] = dict(manifest["sha256"])
    if differing := sorted(set(digests) ^ (set(names) - {MANIFEST})):
        _refuse(source, f"is damaged: manifest and content disagree about {', '.join(differing)}")
    return digests


def _refuse_foreign(source: Path) -> None:
    with open(source, "rb") as file:
        head = file.read(4)
    if not head:
        _refuse(source, "is empty")
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        _refuse(source, "is a Python pickle, which could execute code; it was not opened")
    if head != b"PK\x03\x04":
        _refuse(source, "is not a Forethought file: it is no zip archive")


def _refuse(source: Path, reason: str) -> NoReturn:
    raise CheckpointError(f"{source} {reason}.")


def as_json(value: Any) -> Any:
    """Return what becomes of ``value`` in a JSON file: tuples are lists there."""
    return json.loads(json.dumps(value))


def _encode_json(value: Any, indent: int | None = None) -> bytes:
    return (json.dumps(value, indent=indent, allow_nan=False) + "\n").encode()  # in ASCII: paths may be no Unicode


def _decode_json(data: bytes) -> Any:
    if len(data) > JSON_LIMIT_BYTES:
        raise ValueError(f"a JSON document of more than {JSON_LIMIT_BYTES // 2**20} MiB")
    return json.loads(data.decode(), parse_constant=_refuse_constant, object_pairs_hook=_unique_pairs)


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(unique := dict(pairs)) < len(pairs):
        raise ValueError("a JSON object holds a key twice")
    return unique


def _encode_tensors(group: Mapping[str, Tensor]) -> bytes:
    """Return ``group`` as safetensors, which wants every tensor contiguous and alone in its storage."""
    import safetensors.torch

    seen: set[int] = set()
    prepared = {}
    for name, tensor in group.items():
        tensor = tensor.detach().cpu().contiguous()
        storage = tensor.untyped_storage()
        if storage.data_ptr() in seen or storage.nbytes() != tensor.nbytes:
            tensor = tensor.clone()
        seen.add(tensor.untyped_storage().data_ptr())
        prepared[name] = tensor
    return safetensors.torch.save(prepared)


def _decode_tensors(data: bytes) -> dict[str, Tensor]:
    import safetensors.torch

    return safetensors.torch.load(data)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
