"""Trees: nested state, such as an optimizer's, as a JSON document and a flat dictionary of tensors."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


def flatten_tree(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Split nested dictionaries, lists and tuples so that an archive can hold them.

    Args:
        tree: any nesting of dict (keys str, int, float, bool or None), list, tuple, Tensor, str, int, float,
            bool and None: what ``Optimizer.state_dict()`` and ``Module.state_dict()`` return.

    Returns:
        ``(document, tensors)``: JSON that refers to tensors by name, and those tensors, named by their path.

    Raises:
        TypeError: for a value of any other type.
    """
    tensors: dict[str, Tensor] = {}
    return _pack(tree, "", tensors), tensors


def unflatten_tree(document: Any, tensors: dict[str, Tensor]) -> Any:
    """Undo :func:`flatten_tree`: key types, tuples and non-finite floats come back as they were.

    Raises:
        ValueError: for a document that :func:`flatten_tree` did not write, or a tensor that is missing.
    """
    if not isinstance(document, dict):
        return document
    if len(document) != 1:
        raise ValueError("not the description of a tree")
    ((kind, content),) = document.items()
    if kind == "dict":
        return {unflatten_tree(key, {}): unflatten_tree(value, tensors) for key, value in content}
    if kind == "list":
        return [unflatten_tree(item, tensors) for item in content]
    if kind == "tuple":
        return tuple(unflatten_tree(item, tensors) for item in content)
    if kind == "float":
        return float(content)
    if kind == "tensor" and content in tensors:
        return tensors[content]
    raise ValueError(f"no {kind} {content!r} to put into the tree")


def _pack(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    import torch

    if isinstance(value, torch.Tensor):
        name = path or "tensor"
        while name in tensors:  # keys 1 and "1", or "a/b" and "a" holding "b", make the same path
            name += "'"
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, str | int | float):
        return value
    prefix = f"{path}/" if path else ""
    if isinstance(value, dict):
        return {"dict": [[_pack(k, "", {}), _pack(v, f"{prefix}{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        items = [_pack(item, f"{prefix}{index}", tensors) for index, item in enumerate(value)]
        return {"list" if isinstance(value, list) else "tuple": items}
    raise TypeError(f"A tree cannot hold a {type(value).__name__} ({path or 'at its root'}).")
