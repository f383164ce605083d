"""progeo-map locate as a user calls it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from progeo_edge.cli import map as map_command
from progeo_edge.detector import LoopDetector
from progeo_edge.map_store import MapStore
from tests.small_world import LIGHT, NUM_POSES, camera, encoder, settings, two_passes, write_images

SETTINGS = [argument for item in LIGHT for argument in ("--set", item)]


@pytest.fixture
def command(capsys, monkeypatch):
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-map", "locate", *map(str, arguments), *SETTINGS])
        monkeypatch.setenv("COLUMNS", "200")
        with pytest.raises(SystemExit) as exit:
            map_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> Path:
    """A map of the first pass, and beside it the images of the second, calibration and a blank image."""
    folder: Path = tmp_path_factory.mktemp("known")
    frames = two_passes()[0]
    with MapStore.create(folder / "map.progeo", encoder().spec) as store:
        detector = LoopDetector(encoder(), store, camera(), settings(), session="monday")
        for frame in frames[:NUM_POSES]:
            detector.process(frame)
    write_images(folder / "tuesday", frames[NUM_POSES:])
    (folder / "camera.yaml").write_text(yaml.safe_dump(camera().to_dict()))
    cv2.imwrite(str(folder / "blank.png"), np.zeros((240, 320, 3), np.uint8))
    return folder


@pytest.fixture
def contents(known):
    before = (known / "map.progeo").read_bytes()
    yield
    assert (known / "map.progeo").read_bytes() == before


def test_a_recording_is_found_with_pose_and_picture(command, known, tmp_path, contents):
    picture = tmp_path / "match.jpg"
    options = ("--camera", known / "camera.yaml", "--fps", 0.5, "--picture", picture, "--json")
    code, out, err = command(known / "map.progeo", known / "tuesday", *options)
    answer: dict[str, Any] = json.loads(out)
    assert (code, err) == (0, "")
    assert (answer["status"], answer["session_name"]) == ("ACCEPTED", "monday")
    assert answer["probability"] >= 0.95 and 1 <= answer["num_frames"] <= answer["num_frames_read"] <= NUM_POSES
    match = answer["match"]
    assert abs(match["reference_id"] - int(Path(match["query"]).stem)) <= 1
    assert match["num_inliers"] >= 30 and match["query_stamp_ns"] is not None
    assert np.shape(match["T_reference_query"]) == (4, 4)
    drawn = cv2.imread(str(picture))
    assert drawn is not None and drawn.shape[0] == 220 and drawn.shape[1] > 500


def test_people_read_what_was_found(command, known):
    code, out, _ = command(known / "map.progeo", known / "tuesday", "--fps", 0.5)
    assert code == 0
    assert out.startswith("match with probability 0.9") and "of session monday" in out


def test_one_image_is_enough_of_a_source(command, known):
    lenient = ("--set", "relocalisation.min_probability=0.5")
    code, out, _ = command(known / "map.progeo", known / "tuesday" / "002.png", "--json", *lenient)
    answer = json.loads(out)
    assert code == 0 and answer["match"]["query"] == "002.png" and answer["T_odom_base"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_no_match_is_exit_code_1_and_no_picture(command, known, tmp_path, as_json):
    picture = tmp_path / "match.png"
    options = ["--picture", picture, *(["--json"] if as_json else [])]
    code, out, _ = command(known / "map.progeo", known / "blank.png", *options)
    assert code == 1 and not picture.exists()
    if as_json:
        answer = json.loads(out)
        assert (answer["match"], answer["status"], answer["probability"]) == (None, "UNRECOGNISABLE", 0.0)
    else:
        assert out.startswith("no match after 0 views (UNRECOGNISABLE): The image is blank")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("map.progeo", "missing.jpg"), "does not exist"),
        (("map.progeo", "camera.yaml"), "is not understood"),
        (("missing.progeo", "tuesday"), "does not exist"),
        (("map.progeo", "torn.jpg"), "cannot be used"),
        (("map.progeo", "tuesday", "--picture", "match.gif"), "is no .jpg or .png"),
        (("map.progeo", "tuesday", "--picture", "nowhere/match.png", "--fps", "0.5"), "cannot be written"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(command, known, monkeypatch, arguments, message):
    (known / "torn.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.chdir(known)
    code, out, err = command(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_a_map_without_pictures_says_so(command, known, tmp_path):
    with MapStore.create(tmp_path / "bare.progeo", encoder().spec) as store:
        detector = LoopDetector(encoder(), store, camera(), settings("store.thumbnails=false"))
        for frame in two_passes()[0][:NUM_POSES]:
            detector.process(frame)
    options = ("--fps", 0.5, "--picture", tmp_path / "match.png")
    code, _, err = command(tmp_path / "bare.progeo", known / "tuesday", *options)
    assert code == 2 and "keeps no pictures" in err
