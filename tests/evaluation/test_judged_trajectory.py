from __future__ import annotations

import json

import numpy as np
import pytest

from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.trajectory import judge_poses, judge_trajectory, write_trajectories
from progeo_edge.evaluation.true_poses import TruePoses
from progeo_edge.geometry import invert, make_transform, rotation_exp, se3_exp
from progeo_edge.map_store import MapStore
from progeo_edge.pose_graph import has_solver
from progeo_edge.types import Keyframe, LoopClosure, PoseKind, Status, Verification
from tests.small_world import SPEC, at_angle

COUNT = 60
S = 10**9
needs_solver = pytest.mark.skipif(not has_solver(), reason="GTSAM, of the extra 'graph', is not installed")


def two_laps():
    """Truth on a circle driven twice, and odometry that drifts."""
    step = make_transform(rotation_exp([0, 0, 4 * np.pi / COUNT]), [1.5, 0, 0])
    truth, odometry = {0: se3_exp([3, 2, 1, 0.1, 0.2, 0.3])}, {0: np.eye(4)}
    for i in range(1, COUNT):
        truth[i] = truth[i - 1] @ step
        odometry[i] = odometry[i - 1] @ step @ se3_exp([0.01, 0.005, 0, 0, 0, np.radians(0.3)])
    return truth, odometry


def closures_of(truth, wrong=()):
    covariance = np.diag([0.02] * 3 + [0.005] * 3) ** 2
    found = []
    for query in range(COUNT // 2, COUNT, 3):
        reference = query - COUNT // 2
        T = invert(truth[reference]) @ truth[query]
        if query in wrong:
            T = T @ se3_exp([3, 3, 0, 0, 0, 1])
        verification = Verification(Status.ACCEPTED, T, covariance, PoseKind.METRIC)
        found.append(LoopClosure(query, reference, 0.9, verification=verification))
    return found


def write_run(folder, odometry, closures):
    folder.mkdir()
    with MapStore.create(folder / "map.progeo", SPEC) as store:
        session = store.begin_session("drive", camera=None, config_yaml="")
        by_query = {c.query_id: c for c in closures}
        for i, T in odometry.items():
            keyframe = Keyframe(i, session, i * S, at_angle(i), T_odom_base=T, name=f"{i}.jpg")
            found = [by_query[i]] if i in by_query else []
            store.add_keyframe(keyframe, status=Status.ACCEPTED, closures=found)
    return folder


def named(truth):
    return {f"{i}.jpg": T for i, T in truth.items()}


@needs_solver
def test_closures_reduce_the_error_and_the_wrong_one_is_named(tmp_path):
    truth, odometry = two_laps()
    run = write_run(tmp_path / "run", odometry, closures_of(truth, wrong=(45,)))
    result = judge_trajectory(run, TruePoses(tmp_path / "t.csv", None, named(truth)))
    assert result.with_closures is not None
    assert result.odometry.ate_m.rmse > 0.5
    assert result.with_closures.ate_m.rmse < 0.5 * result.odometry.ate_m.rmse
    assert (result.num_keyframes, result.num_closures) == (COUNT, 10)
    assert result.left_out == (("45.jpg", "15.jpg"),)
    record = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert record["left_out"] == [["45.jpg", "15.jpg"]]
    assert record["odometry"]["ate_m"]["rmse"] == result.odometry.ate_m.rmse
    paths = write_trajectories(result, tmp_path / "tum")
    assert [path.name for path in paths] == ["odometry.tum", "closures.tum", "truth.tum"]
    assert all(len(path.read_text().splitlines()) == COUNT for path in paths)


def test_a_run_without_closures_is_judged_by_its_odometry(tmp_path):
    truth, odometry = two_laps()
    run = write_run(tmp_path / "run", odometry, [])
    part = {name: T for name, T in named(truth).items() if name != "7.jpg"}
    result = judge_trajectory(run, TruePoses(tmp_path / "t.csv", None, part))
    assert (result.with_closures, result.num_closures, result.num_keyframes) == (None, 0, COUNT - 1)
    assert [path.name for path in write_trajectories(result, tmp_path)] == ["odometry.tum", "truth.tum"]


@pytest.mark.parametrize("estimate", ["odometry", "noisy"])
def test_figures_are_those_of_evo(tmp_path, estimate):
    metrics = pytest.importorskip("evo.core.metrics", reason="evo, of the dev group, is not installed")
    from evo.core.trajectory import PosePath3D

    truth, odometry = two_laps()
    rng = np.random.default_rng(3)
    noisy = {i: se3_exp([5, 1, 0, 0, 0, 2]) @ T @ se3_exp(rng.normal(0, 0.05, 6)) for i, T in truth.items()}
    poses = odometry if estimate == "odometry" else noisy
    ours = judge_poses(poses, truth)
    reference, other = (PosePath3D(poses_se3=[p[i] for i in sorted(p)]) for p in (truth, poses))
    other.align(reference, correct_scale=False)
    relation, unit = metrics.PoseRelation, metrics.Unit
    for figures, metric in (
        (ours.ate_m, metrics.APE(relation.translation_part)),
        (ours.ate_deg, metrics.APE(relation.rotation_angle_deg)),
        (ours.rpe_step_m, metrics.RPE(relation.translation_part, delta=1, delta_unit=unit.frames, all_pairs=True)),
        (ours.rpe_step_deg, metrics.RPE(relation.rotation_angle_deg, delta=1, delta_unit=unit.frames, all_pairs=True)),
    ):
        metric.process_data((reference, other))
        for name in ("rmse", "mean", "median", "max"):
            expected = metric.get_statistic(getattr(metrics.StatisticsType, name))
            assert getattr(figures, name) == pytest.approx(expected, rel=1e-4, abs=1e-6), (metric, name)


def test_our_files_are_read_by_evo(tmp_path):
    file_interface = pytest.importorskip("evo.tools.file_interface", reason="evo, of the dev group, is not installed")
    truth, odometry = two_laps()
    run = write_run(tmp_path / "run", odometry, [])
    result = judge_trajectory(run, TruePoses(tmp_path / "t.csv", None, named(truth)))
    path = write_trajectories(result, tmp_path)[0]
    read = file_interface.read_tum_trajectory_file(str(path))
    assert read.num_poses == COUNT and read.timestamps[1] == 1.0
    np.testing.assert_allclose(read.positions_xyz[-1], odometry[COUNT - 1][:3, 3], atol=1e-9)


def test_relative_errors_over_a_distance_by_hand():
    """Odometry one tenth too long: 10 m of the path become 11."""
    truth = {i: make_transform(np.eye(3), [float(i), 0, 0]) for i in range(25)}
    estimate = {i: make_transform(np.eye(3), [1.1 * i, 0, 0]) for i in range(25)}
    judged = judge_poses(estimate, truth, 10.0)
    assert judged.rpe_m is not None and judged.rpe_step_m is not None
    assert judged.rpe_m.rmse == pytest.approx(1.0)
    assert judged.rpe_m.max == pytest.approx(1.0)
    assert judged.rpe_step_m.median == pytest.approx(0.1)
    assert judge_poses(estimate, truth, 100.0).rpe_m is None
    with pytest.raises(InputError, match=r"over 0\.0 m has no meaning"):
        judge_poses(estimate, truth, 0.0)


def test_runs_that_cannot_be_judged_say_why(tmp_path):
    truth, odometry = two_laps()
    poses = TruePoses(tmp_path / "t.csv", None, named(truth))
    with pytest.raises(SourceError, match=r"holds no map\.progeo"):
        judge_trajectory(tmp_path, poses)
    run = write_run(tmp_path / "run", odometry, [])
    with pytest.raises(SourceError, match="0 of 60 keyframes"):
        judge_trajectory(run, TruePoses(tmp_path / "t.csv", None, {"x": np.eye(4)}))
    blind = write_run(tmp_path / "blind", dict.fromkeys(odometry), [])
    with pytest.raises(SourceError, match="holds no odometry"):
        judge_trajectory(blind, poses)
