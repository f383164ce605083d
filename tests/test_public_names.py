"""What `import progeo_edge` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import progeo_edge

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", [name for name in progeo_edge.__all__ if name != "__version__"])
def test_public_names_come_from_their_modules(name):
    value = getattr(progeo_edge, name)
    assert value.__name__ == name
    assert value.__module__.startswith("progeo_edge.")
    assert name in dir(progeo_edge)


def test_unknown_names_are_refused_as_always():
    with pytest.raises(AttributeError, match="no attribute 'LoopFinder'"):
        progeo_edge.LoopFinder  # noqa: B018


def test_the_package_alone_imports_nothing_heavy():
    code = (
        "import sys, progeo_edge, progeo_edge.cli.run, progeo_edge.cli.demo, progeo_edge.cli.map, progeo_edge.cli.eval;"
        "print(sorted({'numpy', 'cv2', 'hnswlib', 'numkong', 'pydantic', 'matplotlib', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_paths_may_be_plain_strings(tmp_path):
    from progeo_edge import MapStore, load_config, load_encoder

    (tmp_path / "c.yaml").write_text("search: {top_k: 7}\n")
    assert load_config(str(tmp_path / "c.yaml")).search.top_k == 7
    encoder = load_encoder("vlad")
    MapStore.create(str(tmp_path / "a.progeo"), encoder.spec).close()
    with MapStore.open(str(tmp_path / "a.progeo"), spec=encoder.spec) as map_store:
        assert len(map_store) == 0
