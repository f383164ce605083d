from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import ConfigError, InputError, MapError
from progeo_edge.geometry import Camera
from progeo_edge.map_blobs import pack_features, pack_pixels, unpack_features, unpack_pixels
from progeo_edge.map_store import MapStore
from progeo_edge.types import Keyframe, LoopClosure, Status, Verification
from tests.map_samples import (
    CAMERA,
    DIMENSION,
    SPEC,
    closure,
    content_hash,
    features,
    keyframe,
    plain,
    sample_map,
    unit,
)


@pytest.fixture
def store():
    with MapStore.create(None, SPEC) as store:
        store.begin_session("first", camera=CAMERA, config_yaml="a: 1\n")
        yield store


def add(store: MapStore, *ids: int, **changes: Any) -> None:
    for id in ids:
        store.add_keyframe(replace(keyframe(id, 0), **changes), status=Status.NO_CANDIDATE)


# What goes in comes out


def test_keyframe_comes_back(tmp_path):
    original = keyframe(7, 0)
    thumbnail = np.full((30, 40, 3), (10, 120, 230), dtype=np.uint8)
    with MapStore.create(tmp_path / "m.progeo", SPEC, descriptor_dtype="float32") as store:
        store.begin_session("first", camera=CAMERA, config_yaml="a: 1\n")
        store.add_keyframe(original, status=Status.LOW_SIMILARITY, thumbnail=thumbnail)
    with MapStore.open(tmp_path / "m.progeo", spec=SPEC, read_only=True) as store:
        back = store.keyframe(7)
        shown = store.thumbnail(7)
        (info,) = store.infos()
        (session,) = store.sessions()
    for name in ("id", "session", "stamp_ns", "name", "camera"):
        assert getattr(back, name) == getattr(original, name)
    np.testing.assert_allclose(back.descriptor, original.descriptor, atol=1e-7)
    np.testing.assert_array_equal(back.T_odom_base, original.T_odom_base)
    np.testing.assert_array_equal(back.appearance, original.appearance)
    assert info.status is Status.LOW_SIMILARITY and info.name == original.name
    np.testing.assert_array_equal(info.T_odom_base, original.T_odom_base)
    assert shown is not None and np.abs(shown.astype(int) - thumbnail).max() <= 4
    assert session.name == "first" and session.config_yaml == "a: 1\n" and session.num_keyframes == 1
    assert isinstance(session.camera, Camera) and session.camera.to_dict() == CAMERA.to_dict()
    assert back.features is not None and original.features is not None
    assert np.abs(back.features.keypoints_px - original.features.keypoints_px).max() <= 1 / 64
    np.testing.assert_array_equal(back.features.descriptors, original.features.descriptors)


def test_the_cameras_of_a_rig_come_back_by_name(tmp_path):
    rig = {"front": CAMERA, "rear": replace(CAMERA, T_base_camera=np.diag([-1.0, -1.0, 1.0, 1.0]))}
    with MapStore.create(tmp_path / "m.progeo", SPEC) as made:
        made.begin_session("rig", camera=rig, config_yaml="")
        made.begin_session("one", camera=CAMERA, config_yaml="")
    with MapStore.open(tmp_path / "m.progeo", read_only=True) as store:
        found, one = (session.camera for session in store.sessions())
    assert isinstance(found, dict)
    assert {name: camera.to_dict() for name, camera in found.items()} == {
        name: camera.to_dict() for name, camera in rig.items()
    }
    assert isinstance(one, Camera)


def test_closures_come_back(store):
    add(store, 0, 1)
    verified, unverified = closure(2, 0), LoopClosure(2, 1, 0.5)
    undetermined = LoopClosure(2, 1, -0.25, verification=Verification(Status.FEW_MATCHES, num_matches=3))
    all_three = [verified, unverified, undetermined]
    store.add_keyframe(keyframe(2, 0), status=Status.ACCEPTED, closures=all_three)
    back = store.closures()
    assert plain(back[1:]) == plain(all_three[1:])
    assert back[0].verification is not None and verified.verification is not None
    for name in ("query_px", "reference_px"):
        error = getattr(back[0].verification, name) - getattr(verified.verification, name)
        assert np.abs(error).max() <= 1 / 64
    assert plain(_without_pixels(back[0])) == plain(_without_pixels(verified))


def _without_pixels(closure: LoopClosure) -> LoopClosure:
    assert closure.verification is not None
    return replace(closure, verification=replace(closure.verification, query_px=None, reference_px=None))


def test_absent_parts_are_none(store):
    store.add_keyframe(Keyframe(0, 0, 5, unit(np.random.default_rng(1))), status=Status.NO_CANDIDATE)
    back = store.keyframe(0)
    assert back.features is None and back.T_odom_base is None and back.appearance is None and back.name == ""
    assert store.features(0) is None and store.thumbnail(0) is None and store.appearances([0]) is None


def test_descriptors_are_ascending_and_unit(store):
    add(store, 4, 0, 2)
    ids, descriptors = store.descriptors()
    assert ids.tolist() == [0, 2, 4] and ids.dtype == np.int64 and descriptors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(descriptors[1], store.keyframe(2).descriptor)
    np.testing.assert_allclose(descriptors[1], keyframe(2, 0).descriptor, atol=5e-4)


def test_empty_map(store):
    ids, descriptors = store.descriptors()
    assert ids.shape == (0,) and descriptors.shape == (0, DIMENSION)
    assert len(store) == 0 and store.infos() == [] and store.closures() == [] and store.next_keyframe_id() == 0


def test_float16_keeps_similarity_within_half_a_thousandth():
    rng = np.random.default_rng(0)
    exact = np.stack([unit(rng, 512) for _ in range(200)])
    with MapStore.create(None, ModelSpec("x", 512, "00")) as store:
        store.begin_session("s", camera=None, config_yaml="")
        for id, descriptor in enumerate(exact):
            store.add_keyframe(Keyframe(id, 0, 0, descriptor), status=Status.NO_CANDIDATE)
        _, stored = store.descriptors()
    assert np.abs(exact @ exact.T - exact @ stored.T).max() < 5e-4


def test_appearances_follow_the_order_asked(store):
    add(store, 1, 2, 3)
    rows = store.appearances([3, 1])
    assert rows is not None
    for row, id in zip(rows, (3, 1), strict=True):
        np.testing.assert_array_equal(row, keyframe(id, 0).appearance)
    add(store, 5)
    assert store.appearances([3, 5]) is None
    empty = store.appearances([])
    assert empty is not None and empty.shape == (0, 0)


def test_documents_and_blobs(store):
    assert store.document("calibration") is None and store.blob("mask") is None
    store.set_document("calibration", {"slope": 1.5})
    store.set_document("calibration", {"slope": 2.5, "list": [1, None, "ü"]})
    store.set_blob("mask", b"\x00\xff")
    assert store.document("calibration") == {"slope": 2.5, "list": [1, None, "ü"]}
    assert store.blob("mask") == b"\x00\xff" and store.blob("calibration") is None
    assert store.document_keys() == ["calibration"] and store.blob_keys() == ["mask"]
    with pytest.raises(InputError, match="not JSON"):
        store.set_document("calibration", {"slope": float("nan")})
    assert store.document("calibration") == {"slope": 2.5, "list": [1, None, "ü"]}


def test_removal_takes_closures_along_and_keeps_ids_unused(store):
    add(store, 0, 1, 2)
    store.add_keyframe(keyframe(3, 0), status=Status.ACCEPTED, closures=[closure(3, 0), closure(3, 1)])
    store.remove_keyframes([0, 2])
    assert [info.id for info in store.infos()] == [1, 3]
    assert [(c.query_id, c.reference_id) for c in store.closures()] == [(3, 1)]
    store.remove_keyframes([3])
    assert store.next_keyframe_id() == 4 and store.closures() == [] and store.descriptors()[0].tolist() == [1]
    with pytest.raises(InputError, match="keyframe 0 is unknown"):
        store.remove_keyframes([1, 0])
    assert len(store) == 1


def test_copy_is_whole_and_has_its_own_identity(tmp_path):
    with MapStore.open(sample_map(tmp_path / "a.progeo")) as store:
        store.copy_to(tmp_path / "b.progeo")
        with MapStore.open(tmp_path / "b.progeo") as copy:
            assert copy.map_id != store.map_id
            copy.map_id = store.map_id
            assert content_hash(copy) == content_hash(store)
        with pytest.raises(MapError, match="exists already"):
            store.copy_to(tmp_path / "b.progeo")


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 8), st.just(2)), elements=st.floats(-10, 5000, width=32)),
    st.sampled_from(["orb", "sift"]),
    st.booleans(),
)
def test_packed_features_come_back(keypoints, kind, points):
    rng = np.random.default_rng(len(keypoints))
    made = features(rng, len(keypoints), kind, points)
    if made.points_m is not None and len(made):
        made.points_m[0] = np.nan
    original = replace(made, keypoints_px=keypoints, image_size_px=(5001, 3))
    back = unpack_features(pack_features(original))
    assert back.keypoints_px.dtype == back.sizes_px.dtype == np.float32
    np.testing.assert_allclose(back.keypoints_px, original.keypoints_px, atol=1 / 64)
    np.testing.assert_allclose(back.sizes_px, original.sizes_px, atol=1 / 64)
    np.testing.assert_array_equal(back.descriptors, original.descriptors)
    exact = {name: getattr(original, name) for name in ("keypoints_px", "sizes_px")}
    assert plain(replace(back, **exact)) == plain(original)
    assert pack_features(back) == pack_features(original)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, st.tuples(st.integers(0, 9), st.just(2)), elements=st.floats(-9, 1e5, width=32)))
def test_packed_pixels_come_back(pixels):
    back = unpack_pixels(pack_pixels(pixels))
    assert back.shape == pixels.shape and back.dtype == np.float32
    np.testing.assert_allclose(back, pixels, atol=1 / 64)


# What is refused on writing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"descriptor": np.ones(DIMENSION, np.float32)}, "norm 4"),
        ({"descriptor": np.zeros(DIMENSION, np.float32)}, "norm 0"),
        ({"descriptor": np.full(DIMENSION, np.nan, np.float32)}, "norm nan"),
        ({"descriptor": np.eye(1, 15, dtype=np.float32)[0]}, r"expected float32 \(16,\)"),
        ({"descriptor": np.eye(1, DIMENSION, dtype=np.int64)[0]}, "int64"),
        ({"T_odom_base": np.full((4, 4), np.nan)}, "NaN"),
        ({"T_odom_base": 2 * np.eye(4)}, "not rigid"),
        ({"id": -1}, "out of range"),
        ({"id": 2**63}, "out of range"),
        ({"stamp_ns": 2**64}, "64 bits"),
        ({"session": 9}, "session 9 is unknown"),
        ({"appearance": np.zeros(4, np.float32)}, "appearance"),
        ({"features": replace(features(np.random.default_rng(0)), kind="surf")}, "surf"),
        ({"features": replace(features(np.random.default_rng(0)), sizes_px=np.zeros(3, np.float32))}, "sizes_px"),
    ],
)
def test_bad_keyframe_changes_nothing(store, changes, message):
    add(store, 0)
    before = content_hash(store)
    with pytest.raises(InputError, match=message):
        store.add_keyframe(replace(keyframe(1, 0), **changes), status=Status.NO_CANDIDATE)
    assert content_hash(store) == before


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LoopClosure(1, 5, 0.5), "keyframe 5 is unknown"),
        (LoopClosure(-1, 0, 0.5), "keyframe -1 is unknown"),
        (LoopClosure(1, 0, float("nan")), "similarity"),
        (LoopClosure(1, 0, 0.5, verification=Verification(Status.ACCEPTED, np.ones((4, 4)))), "not rigid"),
        (LoopClosure(1, 0, 0.5, verification=Verification(Status.ACCEPTED, None, np.eye(3))), "covariance"),
    ],
)
def test_bad_closure_leaves_its_keyframe_out_too(store, bad, message):
    add(store, 0)
    before = content_hash(store)
    with pytest.raises(InputError, match=message):
        store.add_keyframe(keyframe(1, 0), status=Status.ACCEPTED, closures=[closure(1, 0), bad])
    assert content_hash(store) == before


def test_used_id_is_refused(store):
    add(store, 3)
    with pytest.raises(InputError, match="keyframe id 3 is used already"):
        add(store, 3)


@pytest.mark.parametrize(
    "thumbnail", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.float32), np.zeros(4, np.uint8)]
)
def test_bad_thumbnail_is_refused(store, thumbnail):
    with pytest.raises(InputError, match="thumbnail"):
        store.add_keyframe(keyframe(0, 0), status=Status.NO_CANDIDATE, thumbnail=thumbnail)


def test_unknown_keyframe_is_refused(store):
    add(store, 0)
    for read in (store.keyframe, store.features, store.thumbnail, store.record, lambda id: store.appearances([0, id])):
        with pytest.raises(InputError, match="keyframe 8 is unknown"):
            read(8)


def test_impossible_camera_is_refused_before_it_is_stored(store):
    with pytest.raises(ConfigError, match="focal length"):
        store.begin_session("x", camera=Camera("pinhole", 64, 48, np.diag([0.0, 1, 1])), config_yaml="")
    assert len(store.sessions()) == 1


def test_names_that_are_no_utf8_can_be_stored(store):
    add(store, 0, name=os.fsdecode(b"caf\xe9.png"))
    assert store.infos()[0].name == "caf\\udce9.png"


def test_a_transaction_within_another_is_a_part_of_it(tmp_path):
    path = tmp_path / "map.progeo"
    with MapStore.create(path, SPEC) as store:
        with pytest.raises(RuntimeError, match="half-way"), store.database.transaction():
            session = store.begin_session("lost", camera=None, config_yaml="")
            assert [s.name for s in store.sessions()] == ["lost"], "reading sees what is being written"
            store.add_keyframe(keyframe(0, session), status=Status.NO_CANDIDATE)
            raise RuntimeError("half-way")
        assert (store.sessions(), len(store)) == ([], 0)
        with store.database.transaction():
            store.begin_session("kept", camera=None, config_yaml="")
        with pytest.raises(MapError), store.database.reading():
            store.begin_session("inside reading", camera=None, config_yaml="")
        assert [s.name for s in store.sessions()] == ["kept"]
