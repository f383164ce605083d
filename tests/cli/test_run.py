"""progeo-run as a user calls it, and killed in the middle."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from progeo_edge.camera_file import cameras_to_dict
from progeo_edge.cli import run as run_command
from progeo_edge.encoders import load_encoder
from progeo_edge.geometry import quaternion_xyzw
from progeo_edge.map_store import MapStore
from tests.map_samples import sample_map
from tests.small_world import LIGHT, camera, rig, there_and_back, two_passes, write_images
from tests.tiny_encoder import write_tiny_bundle

ROOT = Path(__file__).parent.parent.parent
PROGRAM = [sys.executable, "-c", "from progeo_edge.cli.run import main; main()"]
SETTINGS = [argument for item in (*LIGHT, "budget.max_verifications=1") for argument in ("--set", item)]
RESULTS = (
    *(
        "map.progeo",
        "closures.jsonl",
        "candidates.jsonl",
        "trajectory.g2o",
        "trajectory_gtsam.g2o",
        "config.yaml",
        "report.html",
        "run.json",
    ),
)


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-run", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            run_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def recording(tmp_path_factory) -> Path:
    """12 images with stamps, poses and calibration."""
    folder: Path = tmp_path_factory.mktemp("recording")
    frames = two_passes()[0]
    write_images(folder / "images", frames)
    stamps = [f"{frame.stamp_ns * 1e-9:.3f}" for frame in frames]
    (folder / "times.txt").write_text("\n".join(stamps) + "\n")
    rows = []
    for i, frame in enumerate(frames):
        assert frame.T_odom_base is not None
        values = [*frame.T_odom_base[:3, 3], *quaternion_xyzw(frame.T_odom_base[:3, :3])]
        rows.append(",".join([f"{i:03d}.png", *(f"{value:.9f}" for value in values)]))
    (folder / "poses.csv").write_text("image,x,y,z,qx,qy,qz,qw\n" + "\n".join(rows) + "\n")
    (folder / "camera.yaml").write_text(yaml.safe_dump(camera().to_dict()))
    return folder


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_folder_of_images_gives_every_result(command, recording, tmp_path):
    out = tmp_path / "out"
    beside = ("--stamps", recording / "times.txt", "--poses", recording / "poses.csv")
    code, text, errors = command(
        recording / "images", "--out", out, "--camera", recording / "camera.yaml", *beside, *SETTINGS
    )
    assert (code, errors) == (0, "")
    assert {path.name for path in out.iterdir()} == set(RESULTS)
    closures, candidates = lines(out / "closures.jsonl"), lines(out / "candidates.jsonl")
    assert [record["query_id"] for record in candidates] == list(range(12))
    assert [(c["query"], c["reference"]) for c in closures] == [(f"{6 + i:03d}.png", f"{i:03d}.png") for i in range(6)]
    assert {c["pose_kind"] for c in closures} == {"ROTATION_ONLY"}, "15 cm beside, without depth"
    assert (out / "trajectory.g2o").read_text().count("VERTEX_SE3:QUAT") == 12
    assert yaml.safe_load((out / "config.yaml").read_text())["budget"]["max_verifications"] == 1
    assert text.startswith("6 loop closures in 12 keyframes of 12 frames from ")
    assert "p50 ms" in text and "KiB on disk per keyframe" in text and "open report.html" in text

    code, _, errors = command(recording / "images", "--out", out)
    assert code == 2
    assert "holds the results of an earlier run" in errors and errors.count("\n") == 1

    # Tuesday on Monday's map: every place is known at once, and Monday's map stays as it was.
    before = (out / "map.progeo").read_bytes()
    tuesday = tmp_path / "tuesday"
    code, text, _ = command(recording / "images", "--out", tuesday, "--map", out / "map.progeo", *SETTINGS)
    assert code == 0
    assert lines(tuesday / "candidates.jsonl")[0]["status"] == "ACCEPTED"
    assert (out / "map.progeo").read_bytes() == before
    assert not (tuesday / "trajectory.g2o").exists() or "VERTEX" in (tuesday / "trajectory.g2o").read_text()


def test_a_rig_s_recording_is_told_with_its_cameras_and_directions(command, tmp_path):
    """Without depth: rotations, which turn by half a circle on the way back."""
    frames = there_and_back()[0]
    write_images(tmp_path / "images", frames)
    rows = ["image,time_ns,camera,x,y,z,qx,qy,qz,qw"]
    for i, frame in enumerate(frames):
        assert frame.T_odom_base is not None
        values = [*frame.T_odom_base[:3, 3], *quaternion_xyzw(frame.T_odom_base[:3, :3])]
        numbers = ",".join(f"{value:.9f}" for value in values)
        rows.append(f"images/{i:03d}.png,{frame.stamp_ns},{frame.camera},{numbers}")
    (tmp_path / "rig.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(cameras_to_dict(rig()), sort_keys=False))
    close = ["--set", "exclusion.distance_m=0", "--set", "exclusion.keyframes=2"]
    code, _, _ = command(
        tmp_path / "rig.csv", "--camera", tmp_path / "rig.yaml", "--out", tmp_path / "out", *SETTINGS, *close
    )
    assert code == 0
    closures = lines(tmp_path / "out" / "closures.jsonl")
    assert len(closures) >= 6
    for closure in closures:
        assert {closure["query_camera"], closure["reference_camera"]} == {"front", "rear"}
        assert closure["is_reverse"] is True
        assert abs(closure["heading_change_deg"] - 180.0) < 6.0
    with MapStore.open(tmp_path / "out" / "map.progeo", read_only=True) as store:
        assert [info.camera for info in store.infos()] == ["front", "rear"] * 12
    edges = [line.split() for line in (tmp_path / "out" / "trajectory.g2o").read_text().splitlines() if "EDGE" in line]
    within_a_moment = [edge for edge in edges if int(edge[2]) == int(edge[1]) + 1 and int(edge[1]) % 2 == 0]
    assert len(within_a_moment) == 12
    for edge in within_a_moment:
        assert [float(value) for value in edge[3:10]] == pytest.approx([0, 0, 0, 0, 0, 0, 1], abs=1e-9)
        assert float(edge[10]) == pytest.approx(1e8), "tied within a tenth of a millimetre"


def test_a_map_of_one_precision_is_read_in_another_but_not_in_int8(command, recording, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle", precisions=("fp32", "fp16", "int8"))
    images = (recording / "images", "--fps", 5, "--no-report", "--encoder", bundle, "--backend", "onnx", *SETTINGS)
    known = ("--map", tmp_path / "exact" / "map.progeo")
    code, _, errors = command(*images, "--out", tmp_path / "exact")
    assert (code, errors) == (0, "")
    code, _, errors = command(*images, "--out", tmp_path / "half", "--precision", "fp16", *known)
    assert (code, errors) == (0, "")
    code, _, errors = command(*images, "--out", tmp_path / "int8", "--precision", "int8", *known)
    assert code == 2 and "fingerprint" in errors and errors.count("\n") == 1
    code, _, errors = command(recording / "images", "--fps", 5, "--out", tmp_path / "vlad", "--backend", "onnx")
    assert code == 2 and "model vlad is built in; backend and precision can only be chosen for a bundle" in errors


def test_a_broken_image_is_skipped_and_counted(command, recording, tmp_path):
    folder = write_images(tmp_path / "images", two_passes()[0][:3])
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:200])
    code, text, _ = command(folder, "--out", tmp_path / "out", "--no-report", *SETTINGS)
    assert code == 0
    assert "1 frames skipped, the first: 001.png" in text
    assert not (tmp_path / "out" / "report.html").exists()
    assert [record["query"] for record in lines(tmp_path / "out" / "candidates.jsonl")] == ["000.png", "002.png"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing", "--out", "out"), "missing"),
        (("images", "--out", "out", "--set", "search.topk=3"), "did you mean 'search.top_k'?"),
        (("images", "--out", "out", "--profile", "brave"), "profile 'brave' is unknown"),
        (("images", "--out", "out", "--encoder", "none"), "none"),
        (("images", "--out", "out", "--camera", "none.yaml"), "camera file none.yaml"),
        (("images", "--out", "out", "--resume"), "no run to resume"),
        (("images", "--out", "out", "--map", "sample.progeo"), "made by model sample"),
        (("images", "--out", "out", "--map", "none.progeo"), "none.progeo"),
        (("empty", "--out", "out"), "empty"),
    ],
)
def test_what_the_user_can_mend_is_one_line_and_exit_2(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images", two_passes()[0][:1])
    (tmp_path / "empty").mkdir()
    sample_map(tmp_path / "sample.progeo", 3)
    code, out, errors = command(*arguments)
    assert (code, out) == (2, "")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert message in errors
    assert not (tmp_path / "out" / "map.progeo").exists()


def test_help_shows_the_options(command):
    code, out, _ = command("--help")
    assert code == 0
    for option in ("--out", "--camera", "--map", "--resume", "--profile", "--set", "--viz"):
        assert option in out


def test_a_resumed_session_without_keyframes_reads_from_its_start(tmp_path):
    """Earlier sessions of the map have other clocks: their stamps say nothing about where this one stopped."""
    with MapStore.open(sample_map(tmp_path / "m.progeo", 4)) as store:
        assert run_command._last_stamp_ns(store) == store.infos()[-1].stamp_ns
        store.begin_session("tuesday", camera=None, config_yaml="")
        assert run_command._last_stamp_ns(store) is None


# -- SIGKILL -----------------------------------------------------------------------------------------------------


def start(images: Path, out: Path, *more: str) -> subprocess.Popen[bytes]:
    arguments = [str(images), "--out", str(out), "--fps", "0.5", "--no-report", *SETTINGS, *more]
    return subprocess.Popen([*PROGRAM, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_later(process: subprocess.Popen[bytes], path: Path, wait_s: float) -> None:
    """SIGKILL a little after the process has written its next line."""
    written = num_lines(path)
    deadline = time.monotonic() + 60
    while num_lines(path) == written and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(wait_s)
    process.kill()
    process.communicate()


def acknowledged(path: Path) -> set[int]:
    """Ids on whole lines."""
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
    return {record["query_id"] for record in map(json.loads, whole)} - {None}


def test_killed_five_times_a_run_loses_nothing_and_ends_as_if_never_killed(tmp_path):
    frames = two_passes()[0]
    images = write_images(tmp_path / "images", [frame for frame in (*frames, *frames) for _ in range(2)])
    rng = random.Random(0)
    out = tmp_path / "killed"
    told: set[int] = set()
    for number in range(5):
        process = start(images, out, *(["--resume"] if number else []))
        kill_later(process, out / "candidates.jsonl", rng.uniform(0, 0.15))
        told |= acknowledged(out / "candidates.jsonl")
        with MapStore.open(out / "map.progeo", spec=load_encoder("vlad").spec) as store:
            assert told <= {info.id for info in store.infos()}
    whole = tmp_path / "whole"
    for folder, more in ((out, ["--resume"]), (whole, [])):
        process = start(images, folder, *more)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors.decode()
    with MapStore.open(out / "map.progeo") as killed, MapStore.open(whole / "map.progeo") as unkilled:
        assert len(killed.sessions()) == 1
        assert [info.name for info in killed.infos()] == [info.name for info in unkilled.infos()]
        assert len(unkilled) == 24
    for record in lines(out / "candidates.jsonl"):
        assert record["query_id"] in range(24)
