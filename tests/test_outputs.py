from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.back_ends import g2o_information, rotation_vector_information
from progeo_edge.config import OdometryConfig
from progeo_edge.constraints import step_covariance
from progeo_edge.errors import InputError
from progeo_edge.geometry import invert, make_transform, quaternion_xyzw, rotation_exp, se3_exp, se3_log
from progeo_edge.outputs import (
    CLOSURE_COLUMNS,
    candidate_record,
    closure_record,
    write_closures_csv,
    write_g2o,
    write_tum,
)
from progeo_edge.types import (
    Candidate,
    Frame,
    Keyframe,
    LoopClosure,
    PoseKind,
    ScaleSource,
    Status,
    Transform,
    Update,
    Verification,
)

S = 1_000_000_000
UNIT = np.array([1.0, 0.0], dtype=np.float32)
TIGHT = 1e-8 * np.eye(6)
COVARIANCE = np.diag([0.01, 0.02, 0.03, 0.001, 0.002, 0.003])


def keyframe(keyframe_id: int, T_odom_base: Transform | None = None, name: str = "", session: int = 0) -> Keyframe:
    return Keyframe(keyframe_id, session, keyframe_id * S, UNIT, T_odom_base=T_odom_base, name=name)


def verified(T: Transform | None, kind: PoseKind = PoseKind.METRIC, covariance: Any = COVARIANCE) -> Verification:
    return Verification(
        Status.ACCEPTED, T, covariance, kind, ScaleSource.DEPTH, 120, np.int64(80), 80 / 120, np.float32(0.25), 0.75
    )


def through_json(record: dict[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(record, allow_nan=False))
    return result


def test_candidate_record_has_the_stated_fields_and_no_nan() -> None:
    refused = Verification(Status.FEW_MATCHES, num_matches=11)
    candidates = (
        Candidate(3, np.float32(0.5), Status.ACCEPTED, 0.75, 0.875, verified(np.eye(4)), motion_score=np.float64(2.5)),
        Candidate(4, 0.25, Status.FEW_MATCHES, verification=refused),
        Candidate(5, 0.125, Status.LOW_SIMILARITY),
    )
    known = {3: keyframe(3, name="three.png"), 4: keyframe(4), 5: keyframe(5)}
    timings_ms = {"encode": 1.5, "search": float("nan")}
    update = Update(
        keyframe(9),
        candidates,
        (),
        Status.ACCEPTED,
        timings_ms,
        released=(LoopClosure(7, 2, 0.5),),
        doubtful=((np.int64(5), 1),),
    )
    record = through_json(candidate_record(Frame(9 * S, np.zeros((2, 2), np.uint8), "nine.png"), update, known))
    assert list(record) == [
        "query_id",
        "query",
        "stamp_ns",
        "status",
        "candidates",
        "released",
        "doubtful",
        "timings_ms",
    ]
    assert [record[key] for key in ("query_id", "query", "stamp_ns", "status")] == [9, "nine.png", 9 * S, "ACCEPTED"]
    assert (record["released"], record["doubtful"]) == ([[7, 2]], [[5, 1]])
    assert record["timings_ms"] == {"encode": 1.5, "search": None}
    assert record["candidates"][0] == {
        "reference_id": 3,
        "reference": "three.png",
        "similarity": 0.5,
        "rerank_score": 0.75,
        "probability": 0.875,
        "motion_score": 2.5,
        "status": "ACCEPTED",
        "odom_mahalanobis": None,
        "contradicts": [],
        "supported": False,
        "num_matches": 120,
        "num_inliers": 80,
        "inlier_ratio": 80 / 120,
        "coverage": 0.25,
        "reprojection_rmse_px": 0.75,
    }
    assert record["candidates"][1]["num_matches"] == 11
    assert record["candidates"][1]["reprojection_rmse_px"] is None
    assert record["candidates"][1]["reference"] == str(4 * S)
    assert record["candidates"][2]["num_matches"] is None
    assert record["candidates"][2]["status"] == "LOW_SIMILARITY"


def test_candidate_record_of_a_frame_that_was_not_stored() -> None:
    frame = Frame(7, np.zeros((2, 2), np.uint8))
    record = through_json(candidate_record(frame, Update(None, status=Status.UNRECOGNISABLE), {}))
    assert record == {
        "query_id": None,
        "query": "7",
        "stamp_ns": 7,
        "status": "UNRECOGNISABLE",
        "candidates": [],
        "released": [],
        "doubtful": [],
        "timings_ms": {},
    }


def test_closure_record_carries_pose_covariance_and_names() -> None:
    T = make_transform(rotation_exp([0, 0, 0.5]), [1, 2, 3])
    closure = LoopClosure(9, 3, 0.5, 0.9, verified(T), 2.5)
    record = through_json(closure_record(closure, {3: keyframe(3, name="a"), 9: keyframe(9, name="b")}))
    assert set(record) == {
        *("query_id", "reference_id", "query", "reference", "query_stamp_ns", "reference_stamp_ns", "similarity"),
        *("probability", "num_matches", "num_inliers", "inlier_ratio", "coverage", "reprojection_rmse_px", "pose_kind"),
        *("scale_source", "T_reference_query", "covariance", "odom_mahalanobis"),
        *("query_camera", "reference_camera", "heading_change_deg", "is_reverse"),
    }
    assert (record["query"], record["reference"], record["query_stamp_ns"]) == ("b", "a", 9 * S)
    assert (record["pose_kind"], record["scale_source"], record["odom_mahalanobis"]) == ("METRIC", "DEPTH", 2.5)
    np.testing.assert_array_equal(record["T_reference_query"], T)
    np.testing.assert_array_equal(record["covariance"], COVARIANCE)


def test_closure_record_without_verification_or_query() -> None:
    record = through_json(closure_record(LoopClosure(-1, 3, float("nan")), {3: keyframe(3, name="a")}))
    assert (record["query"], record["query_stamp_ns"], record["similarity"]) == ("", None, None)
    assert (record["pose_kind"], record["T_reference_query"], record["covariance"]) == ("NONE", None, None)
    assert record["num_inliers"] is None


# -- g2o -------------------------------------------------------------------------------------------------------------


def random_covariance(rng: np.random.Generator) -> Any:
    A = rng.standard_normal((6, 6)) * np.array([0.1, 0.3, 0.2, 0.03, 0.01, 0.02])[:, None]
    return A @ A.T + np.diag([1e-3] * 3 + [1e-5] * 3)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**31))
def test_g2o_information_weighs_its_own_error_as_our_covariance_weighs_a_twist(seed: int) -> None:
    """The error g2o computes: translation and quaternion vector part of measured^-1 @ estimated."""
    rng = np.random.default_rng(seed)
    covariance = random_covariance(rng)
    T_measured = se3_exp(rng.normal(0, 1, 6))
    twist = 1e-3 * rng.standard_normal(6)
    delta = invert(T_measured) @ (T_measured @ se3_exp(twist))
    error = np.concatenate([delta[:3, 3], quaternion_xyzw(delta[:3, :3])[:3]])
    information = g2o_information(covariance)
    np.testing.assert_array_equal(information, information.T)
    assert error @ information @ error == pytest.approx(twist @ np.linalg.solve(covariance, twist), rel=0.02)


def drifting_ring(count: int = 40) -> tuple[dict[int, Transform], dict[int, Transform]]:
    """True poses on a ring, and odometry that overshoots every turn."""
    step = make_transform(rotation_exp([0.02, -0.03, 2 * np.pi / count]), [1.0, 0.0, 0.1])
    truth, odometry = {0: np.eye(4)}, {0: np.eye(4)}
    for i in range(1, count):
        truth[i] = truth[i - 1] @ step
        odometry[i] = odometry[i - 1] @ step @ se3_exp([0.02, 0.01, 0, 0, 0, np.radians(0.2)])
    return truth, odometry


def exact_closures(truth: dict[int, Transform], covariance: Any = TIGHT) -> list[LoopClosure]:
    return [
        LoopClosure(i, 0, 0.9, verification=verified(invert(truth[0]) @ truth[i], covariance=covariance))
        for i in range(1, len(truth))
    ]


def test_g2o_file_has_the_edges_that_can_be_said(tmp_path: Path) -> None:
    truth, odometry = drifting_ring(6)
    keyframes = [keyframe(i, T, session=0 if i < 4 else 1) for i, T in odometry.items()] + [keyframe(6)]
    closures = [
        *exact_closures(truth)[2:4],
        LoopClosure(5, 1, 0.9),
        LoopClosure(5, 1, 0.9, verification=verified(np.eye(4), PoseKind.UP_TO_SCALE)),
        LoopClosure(5, 1, 0.9, verification=verified(np.eye(4), PoseKind.ROTATION_ONLY)),
        LoopClosure(5, 1, 0.9, verification=verified(None, PoseKind.NONE, None)),
        LoopClosure(6, 1, 0.9, verification=verified(np.eye(4))),
        LoopClosure(-1, 1, 0.9, verification=verified(np.eye(4))),
    ]
    write_g2o(tmp_path / "t.g2o", reversed(keyframes), closures)
    lines = [line.split() for line in (tmp_path / "t.g2o").read_text().splitlines()]
    assert [line[1] for line in lines if line[0] == "VERTEX_SE3:QUAT"] == ["0", "1", "2", "3", "4", "5"]
    edges = [line for line in lines if line[0] == "EDGE_SE3:QUAT"]
    assert [(e[1], e[2]) for e in edges] == [("0", "1"), ("1", "2"), ("2", "3"), ("4", "5"), ("0", "3"), ("0", "4")]
    assert {len(edge) for edge in edges} == {3 + 7 + 21}
    assert len(lines) == 12


def test_g2o_numbers_of_one_edge(tmp_path: Path) -> None:
    T = make_transform(rotation_exp([0, 0, np.pi / 2]), [1.0, 2.0, 3.0])
    covariance = np.diag([0.01, 0.04, 0.25, 0.01, 0.04, 0.25])
    covariance[0, 5] = covariance[5, 0] = 0.02
    closure = LoopClosure(7, 2, 0.9, verification=verified(T, covariance=covariance))
    write_g2o(tmp_path / "t.g2o", [keyframe(2, np.eye(4), session=0), keyframe(7, T, session=1)], [closure])
    line = (tmp_path / "t.g2o").read_text().splitlines()[-1].split()
    assert line[:3] == ["EDGE_SE3:QUAT", "2", "7"]
    np.testing.assert_allclose([float(x) for x in line[3:10]], [1, 2, 3, 0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-11)
    upper = [float(x) for x in line[10:]]
    determinant = 0.01 * 0.25 - 0.02**2
    # xx, x-rz; then yy, zz; then rotations, four times those of a rotation vector.
    expected = {0: 0.25 / determinant, 5: -2 * 0.02 / determinant, 6: 25, 11: 4, 15: 400, 18: 100}
    expected[20] = 4 * 0.01 / determinant
    for place, value in enumerate(upper):
        assert value == pytest.approx(expected.get(place, 0.0), abs=1e-9), place


def read_with_gtsam(path: Path) -> tuple[Any, Any, Any]:
    gtsam = pytest.importorskip("gtsam", reason="GTSAM, of the extra 'graph', is not installed")
    graph, values = gtsam.readG2o(str(path), True)
    return gtsam, graph, values


def test_g2o_file_read_by_gtsam_and_solved_recovers_the_truth(tmp_path: Path) -> None:
    truth, odometry = drifting_ring()
    write_g2o(tmp_path / "t.g2o", [keyframe(i, T) for i, T in odometry.items()], exact_closures(truth))
    gtsam, graph, values = read_with_gtsam(tmp_path / "t.g2o")
    assert graph.size() == 39 + 39
    for i, T in odometry.items():
        np.testing.assert_allclose(values.atPose3(i).matrix(), T, atol=1e-9)
    graph.add(gtsam.PriorFactorPose3(0, gtsam.Pose3(np.eye(4)), gtsam.noiseModel.Isotropic.Sigma(6, 1e-6)))
    result = gtsam.LevenbergMarquardtOptimizer(graph, values).optimize()
    before = max(np.linalg.norm(odometry[i][:3, 3] - truth[i][:3, 3]) for i in truth)
    assert before > 0.5
    for i, T in truth.items():
        assert np.linalg.norm(se3_log(invert(T) @ result.atPose3(i).matrix())) < 1e-3


def test_plain_information_gives_gtsam_the_covariance_itself(tmp_path: Path) -> None:
    covariance = random_covariance(np.random.default_rng(2))
    closure = LoopClosure(1, 0, 0.9, verification=verified(se3_exp([1, 2, 3, 0.1, 0.2, 0.3]), covariance=covariance))
    keyframes = [keyframe(0, np.eye(4)), keyframe(1, np.eye(4), session=1)]
    write_g2o(tmp_path / "t.g2o", keyframes, [closure], information=rotation_vector_information)
    _, graph, _ = read_with_gtsam(tmp_path / "t.g2o")
    rotation_first = [3, 4, 5, 0, 1, 2]
    read = graph.at(graph.size() - 1).noiseModel().covariance()
    np.testing.assert_allclose(read, covariance[np.ix_(rotation_first, rotation_first)], rtol=1e-6, atol=1e-12)


def test_g2o_information_read_by_gtsam_stands_in_its_place(tmp_path: Path) -> None:
    covariance = random_covariance(np.random.default_rng(2))
    closure = LoopClosure(1, 0, 0.9, verification=verified(se3_exp([1, 2, 3, 0.1, 0.2, 0.3]), covariance=covariance))
    step = se3_exp([1, 0, 0, 0, 0, 0.1])
    write_g2o(tmp_path / "t.g2o", [keyframe(0, np.eye(4)), keyframe(1, step)], [closure])
    _, graph, _ = read_with_gtsam(tmp_path / "t.g2o")
    rotation_first = [3, 4, 5, 0, 1, 2]
    double = np.diag([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])  # g2o's half angles, which GTSAM takes for whole ones
    for place, expected in ((0, step_covariance(step, OdometryConfig())), (1, covariance)):
        read = graph.at(place).noiseModel().information()
        information = np.linalg.inv(expected)[np.ix_(rotation_first, rotation_first)]
        np.testing.assert_allclose(read, double @ information @ double, rtol=1e-6, atol=1e-6 * np.abs(read).max())


def test_g2o_vertices_may_be_optimised_poses(tmp_path: Path) -> None:
    truth, odometry = drifting_ring(3)
    write_g2o(tmp_path / "t.g2o", [keyframe(i, T) for i, T in odometry.items()], [], poses=truth)
    lines = (tmp_path / "t.g2o").read_text().splitlines()
    np.testing.assert_allclose([float(x) for x in lines[2].split()[2:5]], truth[2][:3, 3], atol=1e-9)
    np.testing.assert_allclose([float(x) for x in lines[4].split()[3:6]], (invert(odometry[1]) @ odometry[2])[:3, 3])


def test_a_bad_constraint_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "t.g2o"
    path.write_text("old")
    closure = LoopClosure(1, 0, 0.9, verification=verified(np.eye(4), covariance=np.zeros((6, 6))))
    with pytest.raises(InputError, match="positive definite"):
        write_g2o(path, [keyframe(0, np.eye(4)), keyframe(1, np.eye(4))], [closure])
    with pytest.raises(InputError, match="NaN"):
        write_g2o(path, [keyframe(0, np.full((4, 4), np.nan))], [])
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["t.g2o"]


# -- TUM and CSV -----------------------------------------------------------------------------------------------------


def test_tum_keeps_every_nanosecond(tmp_path: Path) -> None:
    T = make_transform(rotation_exp([0, 0, np.pi / 2]), [1, -2, 0.5])
    stamps_ns = {4: 1_700_000_000_123_456_789, 5: -1_500_000_000, 6: 7}
    write_tum(tmp_path / "t.txt", {4: T, 5: np.eye(4), 6: np.eye(4)}, stamps_ns)
    lines = [line.split() for line in (tmp_path / "t.txt").read_text().splitlines()]
    assert [line[0] for line in lines] == ["-1.500000000", "0.000000007", "1700000000.123456789"]
    np.testing.assert_allclose(
        [float(x) for x in lines[2][1:]], [1, -2, 0.5, 0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-11
    )
    np.testing.assert_allclose([float(x) for x in lines[0][1:]], [0, 0, 0, 0, 0, 0, 1])


def test_csv_of_closures(tmp_path: Path) -> None:
    T = make_transform(rotation_exp([0, 0, np.pi / 2]), [1, 2, 3])
    known = {3: keyframe(3, name='a, "b"'), 9: keyframe(9)}
    closure = LoopClosure(9, 3, 0.5, verification=verified(T))
    records = [closure_record(c, known) for c in (closure, replace(closure, verification=None))]
    write_closures_csv(tmp_path / "c.csv", records)
    with (tmp_path / "c.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == CLOSURE_COLUMNS
    assert rows[0]["reference"] == 'a, "b"'
    np.testing.assert_allclose([float(rows[0][c]) for c in ("x", "y", "z", "qz", "qw")], [1, 2, 3, 0.5**0.5, 0.5**0.5])
    assert rows[0]["probability"] == ""
    assert (rows[1]["x"], rows[1]["num_inliers"], rows[1]["pose_kind"]) == ("", "", "NONE")
