"""What progeo-replay cannot replay, and what it leaves when it is stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from progeo_edge.detector import LoopDetector
from tests.ros_bridge.replaying import ENVIRONMENT, PROGRAM, WITH_DEPTH
from tests.ros_bridge.street_bag import IMAGE, INFO, write_street
from tests.sources.bag_writer import Messages
from tests.tiny_encoder import write_tiny_bundle


def no_images(folder):
    messages = Messages("mcap")
    messages.add("/odom", 1, messages.odometry(1, (0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 1.0)))
    return messages.write(folder)


def black_images_without_stamp(folder):
    messages = Messages("mcap")
    for i in range(3):
        messages.add(IMAGE, 10**9 + i, messages.grey(0, 0))
    return messages.write(folder)


def truncated(folder):
    path = write_street(folder, "ros1", passes=(0,))
    path.write_bytes(path.read_bytes()[:200_000])
    return path


def missing(folder):
    return folder / "nowhere.bag"


def two_cameras(folder):
    return write_street(folder, "mcap", passes=(0,), second_camera=True)


@pytest.mark.parametrize(
    ("bag", "arguments", "message"),
    [
        (missing, [], "nowhere.bag does not exist"),
        (no_images, [], "has no image topic; name one (--topic image=...)"),
        (two_cameras, [], "has several image topics; name one (--topic image=...). Topics: /camera/camera_info"),
        (truncated, [], "cannot be read"),
        (black_images_without_stamp, [], "the image has no stamp"),
        (None, ["--topic", "image=/front"], "topic /front of bag"),
        (None, ["--topic", "picture=/front"], "--topic 'picture=/front' is none"),
        (None, ["--set", "input.depth=true"], "give --topic depth=..."),
        (None, ["--set", "input.external_keyframes=true"], "has no topic /keyframe"),
        (None, ["--topic", f"odom={INFO}"], "expected nav_msgs/msg/Odometry"),
        (None, ["--set", "model.path=nowhere"], "nowhere"),
        (None, ["--map", "nowhere.progeo"], "nowhere.progeo"),
        (None, ["--params", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (None, ["--set", "serch.top_k=3"], "did you mean 'search.top_k'"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(command, first_pass, tmp_path, bag, arguments, message):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    path = first_pass if bag is None else bag(tmp_path / "in")
    by_type = bag in (two_cameras, no_images) or any("image=" in argument for argument in arguments)
    image = [] if by_type else ["--topic", f"image={IMAGE}"]
    code, text, errors = command(path, "--out", tmp_path / "out" / "out.mcap", *image, *arguments)
    assert (code, text) == (2, "")
    assert errors.splitlines()[-1].startswith("error: ")
    assert message in errors.splitlines()[-1]
    assert list((tmp_path / "out").iterdir()) == []


def test_without_rosbags_it_says_what_to_install(command, first_pass, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rosbags", None)
    code, _, errors = command(first_pass, "--out", tmp_path / "out.mcap")
    assert (code, errors.count("\n")) == (2, 1)
    assert "pip install 'progeo-edge[bags]'" in errors


def test_a_map_of_another_model_is_refused(command, first_pass, tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    assert command(first_pass, "--out", tmp_path / "first.mcap", *WITH_DEPTH)[0] == 0
    arguments = ("--map", tmp_path / "first.progeo", "--set", f"model.path={bundle}", *WITH_DEPTH)
    code, _, errors = command(first_pass, "--out", tmp_path / "second.mcap", *arguments)
    assert code == 2
    assert "first.progeo" in errors and "model" in errors
    assert not (tmp_path / "second.mcap").exists()


def test_results_are_replaced_only_when_asked(command, first_pass, tmp_path):
    out = tmp_path / "out.mcap"
    assert command(first_pass, "--out", out, *WITH_DEPTH)[0] == 0
    before = out.stat().st_ino
    code, _, errors = command(first_pass, "--out", out, *WITH_DEPTH)
    assert code == 2 and "--force" in errors
    assert out.stat().st_ino == before
    assert command(first_pass, "--out", out, "--force", *WITH_DEPTH)[0] == 0
    assert out.stat().st_ino != before


def test_a_killed_replay_leaves_no_file_under_the_final_name(tmp_path):
    bag = write_street(tmp_path, "mcap")
    out = tmp_path / "out.mcap"
    process = subprocess.Popen([*PROGRAM, bag, "--out", out, *WITH_DEPTH], env=ENVIRONMENT)
    end = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/out/out.mcap")):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not out.exists() and not out.with_suffix(".progeo").exists()


def test_an_interrupted_replay_cleans_up(command, first_pass, tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    monkeypatch.setattr(LoopDetector, "process", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert command(first_pass, "--out", tmp_path / "out" / "out.mcap", *WITH_DEPTH)[0] == 130
    assert list((tmp_path / "out").iterdir()) == []
