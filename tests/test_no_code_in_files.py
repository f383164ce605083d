"""Opening a file never runs code from it: no pickle in any package, and no loader that would read one."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("progeo_edge", "train", "export", "tools")

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
NEEDED_KEYWORDS = {
    "np.load": ("allow_pickle", False),
    "numpy.load": ("allow_pickle", False),
    "torch.load": ("weights_only", True),
}
FORBIDDEN_CALLS = {
    "eval", "exec", "np.fromregex", "yaml.load", "yaml.full_load", "yaml.unsafe_load", "pandas.read_pickle",
    "torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "tarfile.TarFile.extractall",
}  # fmt: skip
FORBIDDEN_METHODS = {"extractall", "load_module", "exec_module"}


def problems_of(source: str) -> Iterator[str]:
    """Every import and call that could run code from a file, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        else:
            names = []
        yield from (f"{node.lineno}: import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES)  # type: ignore[attr-defined]
        if isinstance(node, ast.Call):
            yield from _problems_of_call(node)


def _problems_of_call(call: ast.Call) -> Iterator[str]:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    if name in FORBIDDEN_CALLS or (isinstance(call.func, ast.Attribute) and call.func.attr in FORBIDDEN_METHODS):
        yield f"{call.lineno}: {name}(...)"
    if any(isinstance(value, ast.Constant) and value.value is True for value in [keywords.get("allow_pickle")]):
        yield f"{call.lineno}: {name}(allow_pickle=True)"
    if name in NEEDED_KEYWORDS:
        keyword, wanted = NEEDED_KEYWORDS[name]
        value = keywords.get(keyword)
        if not (isinstance(value, ast.Constant) and value.value is wanted):
            yield f"{call.lineno}: {name} without {keyword}={wanted}"


def test_no_package_opens_a_file_that_can_run_code() -> None:
    files = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 200
    found = [
        f"{path.relative_to(ROOT)}:{problem}"
        for path in files
        for problem in problems_of(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "import os, joblib.numpy_pickle",
        "from pickle import loads",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=trusted)",
        "np.savez(path, allow_pickle=True)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "yaml.load(text, Loader)",
        "eval(text)",
        "archive.extractall(folder)",
    ],
)
def test_what_would_run_code_is_found(line: str) -> None:
    assert len(list(problems_of(line))) >= 1


@pytest.mark.parametrize(
    "line",
    [
        "np.load(path, allow_pickle=False)",
        "torch.load(path, weights_only=True)",
        "yaml.safe_load(text)",
        "model.eval()",
    ],
)
def test_what_cannot_is_left_alone(line: str) -> None:
    assert list(problems_of(line)) == []
