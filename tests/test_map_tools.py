from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError, MapError
from progeo_edge.geometry import transform_from_quaternion
from progeo_edge.map_export import export_map
from progeo_edge.map_rescue import find_problems, salvage_map
from progeo_edge.map_store import MapStore
from progeo_edge.map_tools import append_map, merge_maps, prune_map
from progeo_edge.types import Keyframe, LoopClosure, Status
from tests.map_samples import CAMERA, SPEC, content_hash, fill, plain, sample_map

PAGE = 4096


@pytest.fixture
def two_maps(tmp_path):
    return [sample_map(tmp_path / "a.progeo", 9, seed=1), sample_map(tmp_path / "b.progeo", 14, seed=2)]


def content(path: Path) -> str:
    with MapStore.open(path, read_only=True) as store:
        return content_hash(store)


# Merge


def test_merge_keeps_everything_under_new_ids(tmp_path, two_maps):
    advanced: list[None] = []
    out = tmp_path / "out.progeo"
    before = [content(path) for path in two_maps]
    assert merge_maps(two_maps, out, advance=lambda: advanced.append(None)) == 23 == len(advanced)
    assert [content(path) for path in two_maps] == before
    with (
        MapStore.open(two_maps[0], read_only=True) as a,
        MapStore.open(two_maps[1], read_only=True) as b,
        MapStore.open(out, spec=SPEC) as merged,
    ):
        assert merged.map_id not in (a.map_id, b.map_id)
        assert [s.num_keyframes for s in merged.sessions()] == [9, 14]
        for offset, session, store in ((0, 0, a), (9, 1, b)):
            for info in store.infos():
                expected = replace(store.keyframe(info.id), id=info.id + offset, session=session)
                assert plain(merged.keyframe(info.id + offset)) == plain(expected)
                assert merged.thumbnail_jpeg(info.id + offset) == store.thumbnail_jpeg(info.id)
            assert plain(merged.sessions()[session]) == plain(replace(store.sessions()[0], id=session))
        shifted = [replace(c, query_id=c.query_id + 9, reference_id=c.reference_id + 9) for c in b.closures()]
        assert len(shifted) > 0 and plain(merged.closures()) == plain(a.closures() + shifted)
        assert merged.document("calibration") == a.document("calibration")
        assert merged.next_keyframe_id() == 23
        assert find_problems(merged) == []


def test_merge_of_two_precisions_keeps_the_finer_one(tmp_path):
    coarse = sample_map(tmp_path / "a.progeo", 3, seed=1)
    fine = sample_map(tmp_path / "b.progeo", 3, seed=2, dtype="float32")
    merge_maps([coarse, fine], tmp_path / "out.progeo")
    with MapStore.open(tmp_path / "out.progeo") as merged, MapStore.open(fine) as b, MapStore.open(coarse) as a:
        assert merged.descriptor_dtype == "float32"
        np.testing.assert_array_equal(merged.descriptors()[1], np.vstack([a.descriptors()[1], b.descriptors()[1]]))


def test_merge_refuses_what_does_not_belong_together(tmp_path, two_maps):
    out = tmp_path / "out.progeo"
    with MapStore.create(tmp_path / "other.progeo", ModelSpec("other", 16, "77" * 32)) as other:
        fill(other, 2)
    with MapStore.open(two_maps[0]) as store:
        store.copy_to(tmp_path / "copy.progeo")
    with pytest.raises(MapError, match=r"made by model other .* encoder is sample"):
        merge_maps([two_maps[0], tmp_path / "other.progeo"], out)
    with pytest.raises(MapError, match="both hold the session 'drive'"):
        merge_maps([*two_maps, tmp_path / "copy.progeo"], out)
    with pytest.raises(InputError, match="at least two"):
        merge_maps(two_maps[:1], out)
    with pytest.raises(MapError, match="does not exist"):
        merge_maps([two_maps[0], tmp_path / "no.progeo"], out)
    assert not out.exists()


def test_failed_merge_leaves_the_old_output(tmp_path, two_maps):
    out = sample_map(tmp_path / "out.progeo", 2, seed=9)
    before = out.read_bytes()
    with pytest.raises(MapError, match="exists already"):
        merge_maps(two_maps, out)
    _zero_page_with(two_maps[1], part="features", id=5)
    with pytest.raises(MapError, match="is damaged"):
        merge_maps(two_maps, out, force=True)
    assert out.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.progeo", "b.progeo", "out.progeo"]
    merge_maps([two_maps[0], sample_map(tmp_path / "c.progeo", 2, seed=3)], out, force=True)
    with MapStore.open(out) as merged:
        assert len(merged) == 11


def test_output_that_is_in_use_is_not_replaced(tmp_path, two_maps):
    out = sample_map(tmp_path / "out.progeo", 2, seed=9)
    with MapStore.open(out) as used:
        used.set_blob("x", b"in the log")
        with pytest.raises(MapError, match="belongs to a map in use"):
            merge_maps(two_maps, out, force=True)


# Prune


# Append


def test_append_keeps_ids_and_renumbers_what_is_added(two_maps):
    first, second = two_maps
    with MapStore.open(first) as store, MapStore.open(second, read_only=True) as other:
        kept = [plain(store.keyframe(info.id)) for info in store.infos()]
        old_closures = store.closures()
        assert append_map(store, second) == 14
        assert [plain(store.keyframe(id)) for id in range(9)] == kept
        for info in other.infos():
            expected = replace(other.keyframe(info.id), id=info.id + 9, session=1)
            assert plain(store.keyframe(info.id + 9)) == plain(expected)
        shifted = [replace(c, query_id=c.query_id + 9, reference_id=c.reference_id + 9) for c in other.closures()]
        assert plain(store.closures()) == plain(old_closures + shifted)
        assert find_problems(store) == []
        with pytest.raises(MapError, match="both hold the session"):
            append_map(store, second)


def test_append_that_fails_leaves_the_map_as_it_was(two_maps, monkeypatch):
    first, second = two_maps
    before = content(first)

    def full(*args: object) -> None:
        raise MapError("disk full")

    with MapStore.open(first) as store, monkeypatch.context() as patch:
        patch.setattr(MapStore, "add_records", full)
        with pytest.raises(MapError, match="disk full"):
            append_map(store, second)
        patch.undo()
        patch.setattr(MapStore, "set_document", full)
        patch.setattr(MapStore, "document", lambda self, key: None if self is store else {"a": 1})
        with pytest.raises(MapError, match="disk full"):
            append_map(store, second)
    assert content(first) == before


def test_append_refuses_maps_of_other_models(two_maps, tmp_path):
    MapStore.create(tmp_path / "other.progeo", ModelSpec("other", 8, "0f" * 32)).close()
    with MapStore.open(two_maps[0]) as store, pytest.raises(MapError, match="was made by model other"):
        append_map(store, tmp_path / "other.progeo")


def _line_map(
    path: Path, angles_deg: list[float], closures: list[tuple[int, int]], cameras: tuple[str, ...] = ("cam0",)
) -> Path:
    with MapStore.create(path, SPEC, descriptor_dtype="float32") as store:
        session = store.begin_session("line", camera=None, config_yaml="")
        for id, angle in enumerate(np.radians(angles_deg)):
            descriptor = np.zeros(SPEC.dimension, np.float32)
            descriptor[:2] = np.cos(angle), np.sin(angle)
            made = [LoopClosure(q, r, 0.5) for q, r in closures if q == id]
            keyframe = Keyframe(id, session, id, descriptor, camera=cameras[id % len(cameras)])
            store.add_keyframe(keyframe, status=Status.NO_CANDIDATE, closures=made)
    return path


def test_prune_removes_the_most_redundant_keyframes(tmp_path):
    # 1 and 2 are nearly 0, and 5 is nearly 4; the others stand alone.
    path = _line_map(tmp_path / "m.progeo", [0, 1, 2.5, 30, 60, 64, 100, 150], [])
    assert prune_map(path, tmp_path / "out.progeo", keep=5) == 3
    with MapStore.open(tmp_path / "out.progeo") as store:
        kept = [info.id for info in store.infos()]
    assert len({0, 1, 2} & set(kept)) == 1 and len({4, 5} & set(kept)) == 1
    assert {3, 6, 7} <= set(kept)


def test_prune_compares_a_rig_s_images_camera_by_camera(tmp_path):
    """Front and rear are unlike each other; one moment of each is like its neighbour in time."""
    path = _line_map(tmp_path / "m.progeo", [0, 90, 1, 150, 40, 151], [], cameras=("front", "rear"))
    assert prune_map(path, tmp_path / "out.progeo", keep=4) == 2
    with MapStore.open(tmp_path / "out.progeo") as store:
        kept = {info.id for info in store.infos()}
    assert len({0, 2} & kept) == 1 and len({3, 5} & kept) == 1
    assert {1, 4} <= kept


def test_export_names_the_cameras_of_a_rig(tmp_path):
    rig = {"front": CAMERA, "rear": replace(CAMERA, width_px=320)}
    with MapStore.create(tmp_path / "m.progeo", SPEC) as store:
        store.begin_session("rig", camera=rig, config_yaml="")
        store.begin_session("none", camera=None, config_yaml="")
    export_map(tmp_path / "m.progeo", tmp_path / "out")
    summary = json.loads((tmp_path / "out" / "map.json").read_text())
    cameras = [session["camera"] for session in summary["sessions"]]
    assert cameras == [{name: camera.to_dict() for name, camera in rig.items()}, None]


def test_prune_keeps_closures(tmp_path):
    path = _line_map(tmp_path / "m.progeo", [0, 1, 2, 3, 50, 1, 2], [(5, 1), (6, 2)])
    prune_map(path, tmp_path / "out.progeo", keep=4)
    with MapStore.open(tmp_path / "out.progeo") as store, MapStore.open(path) as original:
        assert [info.id for info in store.infos()] == [1, 2, 5, 6]
        assert plain(store.closures()) == plain(original.closures())
        assert find_problems(store) == []
    with pytest.raises(InputError, match="keep is 3; expected at least 4"):
        prune_map(path, tmp_path / "out2.progeo", keep=3)
    assert prune_map(path, tmp_path / "all.progeo", keep=100) == 0


def test_prune_leaves_out_old_sessions(tmp_path):
    path = tmp_path / "m.progeo"
    with MapStore.create(path, SPEC) as store:
        fill(store, 8, session_name="old")
        fill(store, 9, session_name="new", seed=1)
        old, new = store.sessions()
        across = [c for c in store.closures() if c.query_id >= 8]
    out = tmp_path / "out.progeo"
    assert prune_map(path, out, started_after_ns=new.started_ns) == 8
    assert old.started_ns < new.started_ns
    with MapStore.open(out) as store, MapStore.open(path) as original:
        assert [(s.name, s.num_keyframes) for s in store.sessions()] == [("new", 9)]
        assert [info.id for info in store.infos()] == list(range(8, 17))
        assert plain(store.closures()) == plain(across) and len(across) > 0
        assert plain(store.keyframe(9)) == plain(replace(original.keyframe(9), session=0))
        assert store.blob("static_mask") == original.blob("static_mask")
    with pytest.raises(InputError, match="no keyframe would be left"):
        prune_map(path, tmp_path / "none.progeo", started_after_ns=new.started_ns + 1)


def test_prune_may_replace_its_own_map(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 20)
    prune_map(path, path, keep=15, force=True)
    with MapStore.open(path) as store:
        assert len(store) == 15


# Export


def test_export_writes_what_the_map_holds(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 9)
    export_map(path, tmp_path / "out")
    with MapStore.open(path) as store:
        infos, closures, (_, descriptors) = store.infos(), store.closures(), store.descriptors()
        np.testing.assert_array_equal(np.load(tmp_path / "out" / "descriptors.npy", allow_pickle=False), descriptors)
        rows = _table(tmp_path / "out" / "keyframes.csv")
        assert [int(row["id"]) for row in rows] == [info.id for info in infos]
        for row, info in zip(rows, infos, strict=True):
            assert (row["name"], row["status"], int(row["stamp_ns"])) == (info.name, info.status.value, info.stamp_ns)
            if info.T_odom_base is None:
                assert row["x_m"] == row["qw"] == ""
            else:
                values = [float(row[name]) for name in ("x_m", "y_m", "z_m", "qx", "qy", "qz", "qw")]
                np.testing.assert_allclose(
                    transform_from_quaternion(values[:3], values[3:]), info.T_odom_base, atol=1e-12
                )
        kept = cv2.imread(str(tmp_path / "out" / "thumbnails" / "000004.jpg"))
        np.testing.assert_array_equal(kept, store.thumbnail(4))
    table = _table(tmp_path / "out" / "closures.csv")
    assert [(int(row["query_id"]), int(row["reference_id"])) for row in table] == [(6, 0)]
    assert closures[0].verification is not None and closures[0].verification.covariance is not None
    assert float(table[0]["cov_y_rx"]) == closures[0].verification.covariance[1, 3]
    poses = np.loadtxt(tmp_path / "out" / "trajectory_0.txt")
    assert poses.shape == (6, 8) and poses[0, 0] == 1_000_000_001.0
    summary = json.loads((tmp_path / "out" / "map.json").read_text())
    assert summary["model"]["name"] == "sample" and summary["documents"]["calibration"]["slope"] == 12.5


def test_export_replaces_only_exports(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 3)
    mine = tmp_path / "mine"
    mine.mkdir()
    export_map(path, mine)
    with pytest.raises(MapError, match="earlier export; replace it with --force"):
        export_map(path, mine)
    export_map(path, mine, force=True)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.tex").write_text("text")
    with pytest.raises(MapError, match="other files than an export"):
        export_map(path, precious, force=True)
    with pytest.raises(MapError, match="is a file"):
        export_map(path, path, force=True)
    assert (precious / "thesis.tex").read_text() == "text"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["m.progeo", "mine", "precious"]


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Check and salvage


def _zero_page_with(path: Path, *, part: str, id: int) -> None:
    with MapStore.open(path, read_only=True) as store:
        blob = store.record(id).parts[part]
    data = bytearray(path.read_bytes())
    page = bytes(data).index(blob[40:80]) // PAGE * PAGE
    data[page : page + PAGE] = bytes(PAGE)
    path.write_bytes(data)


def test_sound_map_has_no_problems(tmp_path):
    advanced: list[None] = []
    with MapStore.open(sample_map(tmp_path / "m.progeo", 7), read_only=True) as store:
        assert find_problems(store, lambda: advanced.append(None)) == [] and len(advanced) == 7


def test_salvage_keeps_all_that_can_be_read(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 30)
    with MapStore.open(path) as store:
        whole = {info.id: store.keyframe(info.id) for info in store.infos()}
        closures = store.closures()
    _zero_page_with(path, part="features", id=14)
    with MapStore.open(path, read_only=True) as store:
        assert any("malformed" in problem for problem in find_problems(store))
    rescued = salvage_map(path, tmp_path / "out.progeo")
    assert rescued.num_keyframes == 30 and rescued.num_closures == len(closures)
    assert any("features of keyframe 14" in loss for loss in rescued.losses)
    with MapStore.open(tmp_path / "out.progeo") as store:
        assert find_problems(store) == []
        without = [id for id, original in whole.items() if original.features is not None and store.features(id) is None]
        assert 14 in without and 0 < len(without) < 20
        for id, original in whole.items():
            expected = replace(original, features=None) if id in without else original
            assert plain(store.keyframe(id)) == plain(expected)
        assert plain(store.closures()) == plain(closures)


def test_salvage_drops_keyframes_without_descriptor(tmp_path):
    path = sample_map(tmp_path / "m.progeo", 12)
    with MapStore.open(path) as store:
        blob = store.record(6).parts["descriptors"]
    data = path.read_bytes()
    path.write_bytes(data.replace(blob, bytes(len(blob))))
    rescued = salvage_map(path, tmp_path / "out.progeo")
    with MapStore.open(tmp_path / "out.progeo") as store:
        assert [info.id for info in store.infos()] == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11]
        assert [(c.query_id, c.reference_id) for c in store.closures()] == [(9, 3)]
    assert rescued.num_keyframes == 11 and "keyframe 6: its descriptor is lost" in rescued.losses
