"""The worker runs under interpreters as old as Python 3.8, with few packages: every file of it keeps to that."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import agents.worker

ROOT = Path(agents.worker.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
VENDORS = {"acl", "cuda", "onnxruntime", "rknnlite", "tensorrt"}
NEWER_THAN_3_8 = {"tomllib", "graphlib", "zoneinfo"}


def imported_names(tree: ast.AST) -> set[str]:
    """Top-level packages of the absolute imports."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").split(".")[0])
    return names


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(ROOT)) for path in FILES])
def test_file_is_python_3_8_and_imports_little(path: Path) -> None:
    tree = ast.parse(path.read_text(), str(path), feature_version=(3, 8))
    assert imported_names(tree) - set(sys.stdlib_module_names) <= {"numpy", "cv2"} | VENDORS
    assert not imported_names(tree) & NEWER_THAN_3_8
    body = [node for node in tree.body if not isinstance(node, ast.Expr)]
    if body:
        assert "annotations" in ast.unparse(body[0]), "annotations must not be evaluated at run time"


def test_only_the_backends_import_a_vendors_package() -> None:
    for path in FILES:
        if path.parent.name != "backends":
            assert not imported_names(ast.parse(path.read_text())) & VENDORS, path


@pytest.mark.parametrize("name", ["__main__", "loop", "frames", "spec", "errors"])
def test_what_runs_before_configure_needs_only_the_standard_library(name: str) -> None:
    tree = ast.parse((ROOT / f"{name}.py").read_text())
    at_import = ast.Module([node for node in tree.body if not isinstance(node, ast.FunctionDef)], [])
    assert imported_names(at_import) <= set(sys.stdlib_module_names)
