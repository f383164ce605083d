from __future__ import annotations

import json
from pathlib import Path

import pytest

import progeo_edge
from progeo_edge.benchmark.result_file import new_result, read_result, write_result
from progeo_edge.errors import InputError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.json"
    write_result(path, new_result("run", {"frames": 10}, {"cpu": None}, {"stages_ms": {"total": [1.5]}}))
    return path


def test_what_was_written_is_read(path: Path):
    result = read_result(path, "run")
    assert result.options == {"frames": 10} and result.machine == {"cpu": None}
    assert result.figures == {"stages_ms": {"total": [1.5]}}
    assert result.progeo_edge == progeo_edge.__version__
    assert result.date.endswith("Z") and len(result.date) == 20
    assert [file.name for file in path.parent.iterdir()] == ["a.json"]


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"format": "other"}, "not a result of progeo-bench"),
        ({"schema_version": 99}, "schema version 99, this progeo-edge reads 1"),
        ({"figures": None}, "has no figures"),
        ({"machine": []}, "has no machine"),
        ({"kind": "race"}, "kind 'race'; expected run, vs, soak"),
    ],
)
def test_another_content_is_refused(path: Path, fields: dict[str, object], message: str):
    change(path, **fields)
    with pytest.raises(InputError, match=message):
        read_result(path)


def test_another_kind_is_refused_where_one_is_wanted(path: Path):
    change(path, kind="soak")
    assert read_result(path).kind == "soak"
    with pytest.raises(InputError, match="kind 'soak'; expected 'run'"):
        read_result(path, "run")


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"", b"[" * 100_000])
def test_what_is_no_json_is_refused(path: Path, content: bytes):
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"is no JSON .*--json"):
        read_result(path)


def test_json_of_something_else_is_refused(path: Path):
    path.write_text("[1, 2]")
    with pytest.raises(InputError, match="not a result of progeo-bench"):
        read_result(path)


def test_a_missing_file_and_a_missing_folder(tmp_path: Path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_result(tmp_path / "none.json")
    with pytest.raises(InputError, match=r"cannot be written.*existing folder"):
        write_result(tmp_path / "none" / "a.json", new_result("vs", {}, {}, {}))


def test_nan_is_an_error_of_the_caller_and_leaves_no_file(tmp_path: Path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(tmp_path / "a.json", new_result("run", {}, {}, {"x": float("nan")}))
    assert list(tmp_path.iterdir()) == []
