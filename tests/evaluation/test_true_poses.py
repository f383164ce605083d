from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.loops import judge_loops
from progeo_edge.evaluation.recorded_run import RecordedRun, RunClosure, RunKeyframe, ScoredReference
from progeo_edge.evaluation.true_poses import Nearness, TruePoses, label_by_poses, read_true_poses
from progeo_edge.geometry import make_transform, rotation_exp

S = 10**9


def _pose(x, y=0.0, yaw_deg=0.0):
    return make_transform(rotation_exp([0, 0, np.radians(yaw_deg)]), [x, y, 0])


def _run(tmp_path, names, candidates=None, closures=()):
    keyframes = tuple(
        RunKeyframe(name, row * 10 * S, "X", tuple(ScoredReference(r, "ACCEPTED", {"similarity": 0.5}) for r in refs))
        for row, (name, refs) in enumerate((n, (candidates or {}).get(n, ())) for n in names)
    )
    return RecordedRun(tmp_path, keyframes, tuple(RunClosure(q, r, 0.9, 40) for q, r in closures), 0.0)


def _truth(poses, **nearness):
    return TruePoses("truth.csv", None, poses, Nearness(**nearness))  # type: ignore[arg-type]


def test_distances_and_angles_decide(tmp_path):
    poses = {
        "a": _pose(0),
        "b": _pose(100),
        "near": _pose(9),
        "wide": _pose(15),
        "far": _pose(50),
        "back": _pose(1, yaw_deg=180),
    }
    run = _run(tmp_path, list(poses))
    labelled = label_by_poses(run, _truth(poses), 0.0)
    row = {name: i for i, name in enumerate(poses)}
    assert labelled.verdict(row["near"], "a") == 1
    assert labelled.verdict(row["wide"], "a") == 0
    assert labelled.verdict(row["far"], "a") == -1
    assert labelled.verdict(row["back"], "a") == 0, "seen from the other side: neither right nor wrong"
    assert labelled.verdict(row["near"], "b") == -1
    assert labelled.has_positive().tolist() == [False, False, True, True, False, False]
    assert label_by_poses(run, _truth(poses, radius_m=8.0), 0.0).verdict(row["near"], "a") == 0
    assert label_by_poses(run, _truth(poses, neutral_m=10.0), 0.0).verdict(row["wide"], "a") == -1


def test_the_exclusion_makes_near_pairs_neutral(tmp_path):
    poses = {"a": _pose(0), "b": _pose(1), "c": _pose(2)}
    labelled = label_by_poses(_run(tmp_path, list(poses)), _truth(poses), 15.0)
    assert [labelled.verdict(2, name) for name in "ab"] == [1, 0]
    assert (labelled.num_excluded, labelled.has_positive().tolist()) == (1, [False, False, True])


def test_keyframes_without_a_true_pose_are_not_judged(tmp_path, caplog):
    poses = {"a": _pose(0), "c": _pose(500)}
    run = _run(tmp_path, ["a", "b", "c"], {"b": ["a"], "c": ["b", "a"]})
    labelled = label_by_poses(run, _truth(poses), 0.0)
    assert (labelled.verdict(1, "a"), labelled.verdict(2, "b"), labelled.verdict(2, "a")) == (0, 0, -1)
    assert labelled.num_unlisted == 1


def test_a_run_is_judged_by_poses_as_by_the_same_pairs(tmp_path):
    names = [str(i) for i in range(20)]
    poses = {name: _pose(30.0 * (i % 10)) for i, name in enumerate(names)}
    closures = [("12", "2"), ("13", "3"), ("14", "5")]
    result = judge_loops(_run(tmp_path, names, closures=closures), _truth(poses), resamples=10)
    assert (result.num_revisits, result.precision.value, result.recall.value) == (10, 2 / 3, 0.2)
    assert [(c.query, c.reference) for c in result.false_closures] == [("14", "5")]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6))
def test_a_moved_and_turned_world_gives_the_same_verdicts(seed):
    rng = np.random.default_rng(seed)
    names = [f"k{i}" for i in range(12)]
    poses = {name: _pose(rng.uniform(0, 40), rng.uniform(0, 40), rng.uniform(-180, 180)) for name in names}
    T = make_transform(rotation_exp(rng.normal(0, 1, 3)), rng.normal(0, 100, 3))
    from pathlib import Path

    run = _run(Path("run"), names)
    one = label_by_poses(run, _truth(poses), 0.0)
    other = label_by_poses(run, _truth({name: T @ pose for name, pose in poses.items()}), 0.0)
    assert one.positives == other.positives and one.neutral == other.neutral


def test_tum_files_are_read_to_the_nanosecond_and_interpolated(tmp_path):
    path = tmp_path / "truth.tum"
    path.write_text("# stamp x y z q\n1700000000.1 0 0 0 0 0 0 1\n1700000000.3 2 0 0 0 0 0 1\n")
    stamp_ns = 1_700_000_000_200_000_000
    poses = read_true_poses(path).of({"x": stamp_ns, "later": stamp_ns + S, "unknown": None})
    assert list(poses) == ["x"]
    np.testing.assert_allclose(poses["x"][:3, 3], [1, 0, 0], atol=1e-6)


def test_lists_by_name_and_by_time(tmp_path):
    by_name = tmp_path / "poses.csv"
    by_name.write_text("image,x_m,y_m,yaw_rad\n1.jpg,3,4,0\nbad.jpg,nan,0,0\n")
    assert read_true_poses(by_name).of({"images/1.jpg": None, "bad.jpg": 0})["images/1.jpg"][0, 3] == 3
    by_time = tmp_path / "times.csv"
    by_time.write_text("time_s,x,y,z,qx,qy,qz,qw\n5,1,2,3,0,0,0,1\n")
    np.testing.assert_allclose(read_true_poses(by_time).of({"q": 5 * S})["q"][:3, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no line"),
        ("# nothing\n", "holds no line"),
        ("1 2 3 4 5\n", "line 1: 5 fields; expected seconds x y z"),
        ("1 2 3 4 0 0 0 1\n2 x 3 4 0 0 0 1\n", "line 2: could not convert"),
        ("image,label\na,b\n", "has the columns image, label; expected image or time_s"),
    ],
)
def test_what_holds_no_poses_is_refused(tmp_path, text, message):
    path = tmp_path / "truth.txt"
    path.write_text(text)
    with pytest.raises(SourceError, match=message):
        read_true_poses(path)


def test_a_file_of_another_drive_is_refused(tmp_path):
    run = _run(tmp_path, ["a", "b"], {"b": ["a"]})
    with pytest.raises(SourceError, match="none of the 2 keyframes"):
        label_by_poses(run, _truth({"z": _pose(0)}), 0.0)
    path = tmp_path / "t.tum"
    path.write_text("0 0 0 0 0 0 0 1\n10 0 0 0 0 0 0 1\n")
    elsewhere = _run(tmp_path, ["a", "b"], {"b": ["of-an-earlier-map"]})
    with pytest.raises(SourceError, match="keyframes of an earlier map, such as of-an-earlier-map"):
        label_by_poses(elsewhere, read_true_poses(path), 0.0)
    by_name = _truth({"a": _pose(0), "b": _pose(50), "of-an-earlier-map": _pose(50)})
    assert label_by_poses(elsewhere, by_name, 30.0).verdict(1, "of-an-earlier-map") == 1


def test_impossible_settings_are_refused():
    with pytest.raises(InputError, match="inside the radius of 10"):
        Nearness(neutral_m=5.0)
    for settings_ in ({"radius_m": 0.0}, {"max_angle_deg": 181.0}, {"radius_m": float("nan")}):
        with pytest.raises(InputError, match="are not possible"):
            Nearness(**settings_)
