"""Nothing that the package reads can execute code."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "src" / "forethought").glob("*.py")) + sorted((ROOT / "src" / "forethought").glob("*/*.py"))
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
PIPES_ONLY = ROOT / "src" / "forethought" / "envs" / "channel.py"
FORBIDDEN_CALLS = {"eval", "exec", "compile"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_unpickles_or_evaluates(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [node.module] if node.module.split(".")[0] in FORBIDDEN_MODULES else []
        elif isinstance(node, ast.Call):
            found += _dangers(node)
    assert not found or (path == PIPES_ONLY and set(found) == {"pickle", "cloudpickle"})


def test_the_module_that_unpickles_what_our_own_processes_send_reads_no_file():
    tree = ast.parse(PIPES_ONLY.read_text())
    calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert "pickle.loads" in calls
    assert not {name for name in calls if name.rpartition(".")[2] in ("open", "load", "read_bytes")}


def _dangers(call: ast.Call) -> list[str]:
    """Return what is wrong with a call: a loader of pickles without the switch that makes it read data only."""
    name, keywords = ast.unparse(call.func), {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name in FORBIDDEN_CALLS:
        return [name]
    if name == "torch.load" and keywords.get("weights_only") != "True":
        return [name]
    if name in ("np.load", "numpy.load") and keywords.get("allow_pickle", "False") != "False":
        return [name]
    return []
