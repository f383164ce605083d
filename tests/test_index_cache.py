from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from progeo_edge.config import SearchConfig
from progeo_edge.errors import InputError
from progeo_edge.hnsw_graph import HnswGraph
from progeo_edge.index import PlaceIndex
from progeo_edge.index_cache import load_index, save_index

CONFIG = SearchConfig(hnsw_above=200, hnsw_ef_construction=40, hnsw_ef=40)
IDS = np.arange(2500)


def unit_rows(count: int, dimension: int = 16, seed: int = 0) -> NDArray[np.float32]:
    rows = np.random.default_rng(seed).standard_normal((count, dimension))
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), dtype=np.float32)


ROWS = unit_rows(2500)


def built(ids: NDArray[Any] = IDS, rows: NDArray[np.float32] = ROWS, config: SearchConfig = CONFIG) -> PlaceIndex:
    index = PlaceIndex(rows.shape[1], config)
    index.add(ids, rows)
    return index


def assert_same_answers(first: PlaceIndex, second: PlaceIndex) -> None:
    for query in unit_rows(40, seed=1):
        for one, other in zip(first.search(query, 10), second.search(query, 10), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def built_graphs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Number of vectors in each insertion into any graph."""
    inserted: list[int] = []
    original = HnswGraph.add

    def counting(self: HnswGraph, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        inserted.append(len(vectors))
        return original(self, vectors)

    monkeypatch.setattr(HnswGraph, "add", counting)
    return inserted


def test_saved_loaded_and_searched_is_identical(tmp_path: Path, built_graphs: list[int], caplog: Any) -> None:
    index = built()
    index.remove(np.arange(0, 300, 2))
    kept = index.ids
    assert save_index(index, tmp_path / "map.hnsw", "map-a")
    built_graphs.clear()
    loaded = load_index(tmp_path / "map.hnsw", "map-a", kept, ROWS[kept], CONFIG)
    assert built_graphs == []
    assert loaded.kind == "hnsw"
    assert_same_answers(index, loaded)
    assert not caplog.records
    assert [file.name for file in tmp_path.iterdir()] == ["map.hnsw"]


def test_a_loaded_index_goes_on_growing_and_shrinking(tmp_path: Path) -> None:
    save_index(built(), tmp_path / "c", "m")
    loaded = load_index(tmp_path / "c", "m", IDS, ROWS, CONFIG)
    more = unit_rows(3000, seed=3)
    loaded.add(np.arange(2500, 5500), more)
    loaded.remove(np.arange(0, 2000))
    assert len(loaded) == 3500
    assert loaded.search(more[7], 1)[0].tolist() == [2507]
    assert loaded.self_check(k=5).recall_at_1 > 0.9


def test_a_map_that_has_grown_keeps_the_cached_part(tmp_path: Path, built_graphs: list[int], caplog: Any) -> None:
    save_index(built(IDS[:2000], ROWS[:2000]), tmp_path / "c", "m")
    in_graph = sum(built_graphs)
    built_graphs.clear()
    loaded = load_index(tmp_path / "c", "m", IDS, ROWS, CONFIG)
    np.testing.assert_array_equal(loaded.ids, IDS)
    assert 0 < sum(built_graphs) < in_graph
    assert not caplog.records


def test_a_graph_that_was_not_finished_is_kept_and_goes_on(
    tmp_path: Path, built_graphs: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("progeo_edge.index.MOST_MOVED", 320)
    monkeypatch.setattr("progeo_edge.index.LONG_TAIL", 1100)
    index = built()
    assert index.kind == "exact"
    assert save_index(index, tmp_path / "c", "m")
    in_graph = sum(built_graphs)
    loaded = load_index(tmp_path / "c", "m", IDS, ROWS, CONFIG)
    assert str(loaded.kind) == "exact", "too many are outside"
    assert sum(built_graphs) == 2 * in_graph
    for query in unit_rows(20, seed=1):
        np.testing.assert_allclose(loaded.search(query, 10)[1], np.sort(ROWS @ query)[::-1][:10], atol=1e-6)
    for i in range(2500, 2530):
        loaded.add([i], unit_rows(1, seed=i))
    assert str(loaded.kind) == "hnsw"


def test_descriptors_that_went_through_half_precision_are_the_same(tmp_path: Path, caplog: Any) -> None:
    save_index(built(), tmp_path / "c", "m")
    stored = ROWS.astype(np.float16).astype(np.float32)
    loaded = load_index(tmp_path / "c", "m", IDS, stored, CONFIG)
    assert not caplog.records
    assert_same_answers(loaded, load_index(tmp_path / "c", "m", IDS, stored, CONFIG))


def test_the_order_of_the_map_does_not_matter(tmp_path: Path, caplog: Any) -> None:
    index = built()
    save_index(index, tmp_path / "c", "m")
    order = np.random.default_rng(0).permutation(len(IDS))
    assert_same_answers(index, load_index(tmp_path / "c", "m", IDS[order], ROWS[order], CONFIG))
    assert not caplog.records


def _swapped() -> NDArray[np.float32]:
    rows: NDArray[np.float32] = ROWS.copy()
    rows[[3, 4]] = rows[[4, 3]]
    return rows


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    ("another map", {"map_id": "other"}, "its map_id is 'm', here it is 'other'"),
    ("fewer keyframes", {"ids": IDS[10:], "descriptors": ROWS[10:]}, "not in the map"),
    ("other descriptors", {"descriptors": unit_rows(2500, seed=8)}, "other descriptors"),
    ("two descriptors swapped", {"descriptors": _swapped()}, "other descriptors"),
    ("other ids", {"ids": IDS + 1}, "not in the map|other descriptors"),
    ("another dimension", {"descriptors": unit_rows(2500, 8)}, "its dimension is 16, here it is 8"),
    ("other parameters", {"config": CONFIG.model_copy(update={"hnsw_m": 8})}, "its hnsw_m is 16, here it is 8"),
]


@pytest.mark.parametrize(("changed", "reason"), [c[1:] for c in OTHERS], ids=[c[0] for c in OTHERS])
def test_a_cache_of_something_else_is_rebuilt_and_the_log_says_why(
    tmp_path: Path, caplog: Any, changed: dict[str, Any], reason: str
) -> None:
    save_index(built(), tmp_path / "c", "m")
    arguments: dict[str, Any] = {"map_id": "m", "ids": IDS, "descriptors": ROWS, "config": CONFIG} | changed
    loaded = load_index(tmp_path / "c", **arguments)
    fresh = built(arguments["ids"], arguments["descriptors"], arguments["config"])
    np.testing.assert_array_equal(loaded.ids, fresh.ids)
    query = arguments["descriptors"][77]
    np.testing.assert_array_equal(loaded.search(query, 10)[1], fresh.search(query, 10)[1])
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    caplog_text = caplog.records[0].getMessage()
    assert "rebuilding it from" in caplog_text
    assert any(part in caplog_text for part in reason.split("|"))


CORRUPTION_SCRIPT = """
import logging, pathlib, sys
import numpy as np
from progeo_edge.config import SearchConfig
from progeo_edge.index import PlaceIndex
from progeo_edge.index_cache import load_index, save_index

folder = pathlib.Path(sys.argv[1])
config = SearchConfig(hnsw_above=100, hnsw_ef_construction=20, hnsw_ef=40)
rng = np.random.default_rng(0)
rows = rng.standard_normal((1500, 16))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
queries, ids = rows[::150], np.arange(1500)

fresh = PlaceIndex(16, config)
fresh.add(ids, rows)
expected = [fresh.search(query, 10) for query in queries]
cache = folder / "cache"
assert save_index(fresh, cache, "m")
intact = cache.read_bytes()
header_end = 44 + int.from_bytes(intact[8:12], "little")

def flipped(position):
    return intact[:position] + bytes([intact[position] ^ (1 << int(rng.integers(8)))]) + intact[position + 1:]

def zeroed(start, length):
    return intact[:start] + bytes(length) + intact[start + length:]

damaged = [flipped(p) for p in range(0, header_end, 11)]
damaged += [flipped(p) for p in range(header_end, header_end + 60, 4)]
graph_start = header_end + 16 * 480
damaged += [flipped(p) for p in range(graph_start, graph_start + 96, 4)]
damaged += [flipped(int(p)) for p in rng.integers(len(intact), size=40)]
damaged += [zeroed(int(p), 4096) for p in rng.integers(len(intact) - 4096, size=20)]
damaged += [intact[: int(n)] for n in rng.integers(len(intact), size=20)]
damaged += [b"", intact + b"x", intact * 2, intact[1:]]

warnings = []
class Counter(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger("progeo_edge").addHandler(Counter())
different = 0
for number, data in enumerate(damaged):
    if data == intact:
        continue
    different += 1
    cache.write_bytes(data)
    loaded = load_index(cache, "m", ids, rows, config)
    assert loaded.kind == "hnsw", number
    for query, (want_ids, want) in zip(queries, expected):
        got_ids, got = loaded.search(query, 10)
        assert np.array_equal(got_ids, want_ids) and np.array_equal(got, want), number
    assert len(warnings) == different, (number, warnings[-1:])
print(different)
"""


def test_damaged_caches_never_crash_and_never_answer_wrongly(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-c", CORRUPTION_SCRIPT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=Path(__file__).parents[1],
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 120


def test_an_exact_index_needs_no_cache_and_leaves_no_stale_one(tmp_path: Path, caplog: Any) -> None:
    cache = tmp_path / "c"
    assert save_index(built(), cache, "m")
    assert not save_index(built(IDS[:50], ROWS[:50]), cache, "m")
    assert not cache.exists()
    loaded = load_index(cache, "m", IDS[:50], ROWS[:50], CONFIG)
    assert loaded.kind == "exact"
    assert len(loaded) == 50
    assert len(load_index(cache, "m", [], np.zeros((0, 16), dtype=np.float32), CONFIG)) == 0
    assert not caplog.records


def test_a_folder_that_is_missing_or_full_is_a_warning(tmp_path: Path, caplog: Any) -> None:
    assert not save_index(built(), tmp_path / "missing" / "c", "m")
    assert "was not written" in caplog.text


def test_a_graph_that_did_not_arrive_in_full_keeps_the_old_cache(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "c"
    save_index(built(), cache, "m")
    before = cache.read_bytes()

    def cut_short(original: Callable[[HnswGraph, Path], bool]) -> Callable[[HnswGraph, Path], bool]:
        class FullDisk:
            def __init__(self, native: Any) -> None:
                self._native = native

            def save_index(self, path: str) -> None:
                self._native.save_index(path)
                data = Path(path).read_bytes()
                Path(path).write_bytes(data[: len(data) // 2])

            def index_file_size(self) -> int:
                return int(self._native.index_file_size())

        def save(self: HnswGraph, path: Path) -> bool:
            self._native = FullDisk(self._native)
            return original(self, path)

        return save

    monkeypatch.setattr(HnswGraph, "save", cut_short(HnswGraph.save))
    assert not save_index(built(), cache, "m")
    assert "is the disk full?" in caplog.text
    assert cache.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["c"]


def test_bad_descriptors_of_the_caller_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="NaN"):
        load_index(tmp_path / "c", "m", [0], np.full((1, 4), np.nan, dtype=np.float32), CONFIG)
    with pytest.raises(InputError, match=r"\(N, D\)"):
        load_index(tmp_path / "c", "m", [0], np.zeros(4, dtype=np.float32), CONFIG)
