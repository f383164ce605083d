from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from progeo_edge import int8_products
from progeo_edge.int8_products import is_available, products, spare_rows

needs_numkong = pytest.mark.skipif(not is_available(), reason="numkong is not installed")


@pytest.fixture
def asked_again() -> Iterator[None]:
    """Availability is remembered; these tests change it."""
    is_available.cache_clear()
    yield
    is_available.cache_clear()


@needs_numkong
@pytest.mark.parametrize("width", [1, 2, 8, 63, 64, 65, 100, 128, 256, 320, 321, 512, 2048])
@pytest.mark.parametrize("count", [1, 5, 64, 257])
def test_products_are_whole_and_exact(width: int, count: int) -> None:
    rng = np.random.default_rng(width)
    codes = rng.integers(-127, 128, size=(count + spare_rows(width), width), dtype=np.int8)
    codes[0] = 127
    for query in (np.full(width, -127, dtype=np.int8), codes[-1]):
        expected = codes[:count].astype(np.int64) @ query.astype(np.int64)
        np.testing.assert_array_equal(products(codes, count, query), expected)


OTHER_PROCESSORS = """
import numkong
from progeo_edge import int8_products
names = ["genoa", "icelake", "skylake", "haswell", "neonsdot", "neon"]
available = [name for name in names if numkong.get_capabilities().get(name)]
for name in available:
    numkong.disable_capability(name)
    assert int8_products._is_right(numkong), name
print("right with", len(available), "fewer")
"""


@needs_numkong
def test_lesser_processors_multiply_right_too() -> None:
    result = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESSORS], capture_output=True, text=True, cwd=Path(__file__).parents[1]
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("right with")


@pytest.mark.usefixtures("asked_again")
def test_a_library_that_is_not_there_is_said_once(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    caplog.set_level("INFO")
    monkeypatch.setitem(sys.modules, "numkong", None)
    assert not is_available()
    assert not is_available()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "searched exactly by NumPy" in caplog.text


@pytest.mark.usefixtures("asked_again")
@pytest.mark.parametrize("wrong_by", ["saturating", "a row"])
def test_a_library_that_multiplies_wrongly_is_not_used(
    wrong_by: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    def multiply(a: Any, b: Any) -> Any:
        right = a.astype(np.int32) @ b.astype(np.int32).T
        return np.minimum(right, 2**15 - 1) if wrong_by == "saturating" else np.roll(right, 1, axis=0)

    fake = SimpleNamespace(
        cdist=lambda a, b, metric: multiply(b, a).T, dots_pack=lambda rows: rows, dots_packed=multiply
    )
    monkeypatch.setitem(sys.modules, "numkong", fake)
    assert not is_available()
    assert "multiplies wrongly" in caplog.text
    fake.cdist = lambda a, b, metric: a.astype(np.int32) @ b.astype(np.int32).T
    fake.dots_packed = lambda a, b: a.astype(np.int32) @ b.astype(np.int32).T
    is_available.cache_clear()
    assert is_available(), "the fake is used as the library is"
    assert int8_products.products(np.ones((9, 64), dtype=np.int8), 5, np.ones(64, dtype=np.int8)).tolist() == [64] * 5
