"""Levels, sentences and keys of diagnostics."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

import pytest
from rosbags.typesys import Stores, get_typestore

from progeo_edge.bundle import NOT_TRAINED, read_manifest, write_manifest
from progeo_edge.types import Candidate, PoseKind, Status
from progeo_ros import health as health_module
from progeo_ros.config import NodeConfig
from progeo_ros.device_state import power_mode, resident_mb, temperatures_c, throttled
from progeo_ros.frame_assembler import FrameAssembler
from progeo_ros.health import ERROR, OK, WARN, Health, diagnostics_message, model_problem
from progeo_ros.message_types import stamp_ns_of
from progeo_ros.neighbour_similarity import NeighbourSimilarity
from progeo_ros.rosbags_types import RosbagsTypes
from tests.ros_bridge.messages import SECOND, camera_info, closure, image, outcome, transforms, turned, verification
from tests.small_world import fake_keyframe
from tests.tiny_encoder import write_tiny_bundle

T0 = 100 * SECOND


@pytest.fixture(autouse=True)
def cool(monkeypatch):
    """The computer that runs the tests may be hot."""
    monkeypatch.setattr(health_module, "throttled", list)


class Drive:
    """A node's second by second life."""

    def __init__(self, *, calibrated: bool = True, **settings: Any) -> None:
        config = NodeConfig.model_validate({"input": {"odometry": "none", "max_rate_hz": 1000.0}, **settings})
        self.health, self.assembler = Health(config), FrameAssembler(config)
        self.now_ns, self.busy = T0, 0
        if calibrated:
            self.assembler.on_camera_info(camera_info())
        self.assembler.on_transforms(transforms(0, ("base_link", "cam", turned(0.2))), is_static=True)

    def seconds(
        self, number: int, *, rate_hz: int = 10, used: int | None = None, busy: int = 0, skew_s: float = 0.02
    ) -> None:
        """Every second so many images come, of which `used` are processed and `busy` dropped by the worker."""
        for _ in range(number):
            for k in range(rate_hz):
                stamp_ns = self.now_ns + k * SECOND // rate_hz
                self.assembler.on_image(image(stamp_ns), stamp_ns)
                self.assembler.pop(stamp_ns + 10 * SECOND)
                self.health.note_image(stamp_ns - round(skew_s * SECOND), stamp_ns)
            for _ in range(rate_hz - busy if used is None else used):
                self.health.note_outcome(outcome())
            self.busy += busy
            self.now_ns += SECOND
            self.health.observe(self.assembler, self.now_ns, dropped_busy=self.busy, queue_age_s=0.004)

    @property
    def level(self) -> int:
        return self.health.verdict(self.now_ns)[0]

    @property
    def sentence(self) -> str:
        return self.health.verdict(self.now_ns)[1]

    @property
    def values(self) -> dict[str, str]:
        return self.health.values(self.now_ns)


def test_all_is_well():
    drive = Drive()
    drive.seconds(12)
    assert drive.level == OK and "active: 0 keyframes" not in drive.sentence and "keyframes" in drive.sentence
    values = drive.values
    assert values["images received (Hz)"] == values["images used (Hz)"] == "10.00"
    assert values["waiting for"] == "nothing" and values["queue age (ms)"] == "4.0"


@pytest.mark.parametrize("ros", [Stores.ROS2_HUMBLE, Stores.ROS2_JAZZY, Stores.ROS1_NOETIC])
def test_the_message_can_be_sent(ros):
    types, drive = RosbagsTypes(get_typestore(ros)), Drive()
    drive.seconds(3)
    message = diagnostics_message(types, drive.health, drive.now_ns, "progeo_node")
    again = types.from_bytes(types.to_bytes(message), "diagnostic_msgs/msg/DiagnosticArray")
    (status,) = again.status
    assert stamp_ns_of(again.header.stamp) == drive.now_ns
    assert (status.level, status.name, status.hardware_id) == (OK, "progeo_node: place recognition", "progeo_node")
    assert {value.key: value.value for value in status.values}["images processed"] == "30"
    assert (status.OK, status.WARN, status.ERROR) == (OK, WARN, ERROR)


# -- what makes it warn ------------------------------------------------------------------------------------------------


def test_no_image_since_the_start():
    drive = Drive()
    assert drive.level == OK
    drive.now_ns += 3 * SECOND
    assert drive.level == WARN and "no image (none has come since the start)" in drive.sentence


def test_a_camera_that_stalls():
    drive = Drive()
    drive.seconds(5)
    drive.now_ns += 1 * SECOND
    assert drive.level == OK
    drive.now_ns += 2 * SECOND
    assert drive.level == WARN and "no image (the last came 3.1 s ago)" in drive.sentence
    drive.health.state = "inactive"
    assert drive.level == OK


def test_no_camera_info_and_an_uncalibrated_one():
    drive = Drive(calibrated=False)
    drive.seconds(1)
    assert drive.level == WARN and drive.sentence.count("camera_info") == 1 and "publish it" in drive.sentence
    drive.assembler.on_camera_info(camera_info(fx=0.0))
    drive.seconds(1)
    assert drive.level == WARN and "camera_info is not usable" in drive.sentence and "publish it" not in drive.sentence


@pytest.mark.parametrize(("busy", "level"), [(1, OK), (2, WARN)])
def test_more_than_a_tenth_dropped(busy, level):
    drive = Drive()
    drive.seconds(12, busy=busy)
    assert drive.level == level
    assert (level == OK) or "20 % of the images are dropped" in drive.sentence
    assert drive.values["images dropped, worker busy"] == str(12 * busy)


def test_images_left_out_by_the_rate_are_no_drops():
    drive = Drive(input={"odometry": "none", "max_rate_hz": 2.0})
    drive.seconds(12, rate_hz=10, used=2)
    assert drive.level == OK and int(drive.values["images dropped by rate"]) > 90


def test_a_camera_that_slows_down():
    drive = Drive()
    drive.seconds(12, rate_hz=30)
    drive.seconds(12, rate_hz=10)
    assert drive.level == WARN and "the camera gives 10.0 images/s, it gave 30.0" in drive.sentence
    drive.seconds(12, rate_hz=30)
    assert drive.level == OK


def test_stamps_of_another_clock():
    drive = Drive()
    drive.seconds(1, skew_s=4.9)
    assert drive.level == OK
    drive.seconds(1, skew_s=-1000.0)
    assert drive.level == WARN and "use_sim_time" in drive.sentence


def test_errors_of_images_warn_for_a_while():
    drive = Drive()
    drive.seconds(1)
    drive.health.note_error("the image is odd", drive.now_ns)
    assert drive.level == WARN and drive.sentence == "the image is odd"
    drive.seconds(11)
    assert drive.level == OK and drive.values["errors"] == "1"


def test_conditions_that_the_node_knows():
    drive = Drive()
    drive.seconds(1)
    drive.health.warnings["map"] = "the disk is nearly full"
    assert drive.level == WARN
    drive.health.errors["model"] = "the map is of another model"
    assert drive.level == ERROR and drive.sentence == "the map is of another model; the disk is nearly full"
    del drive.health.errors["model"], drive.health.warnings["map"]
    assert drive.level == OK


def test_a_camera_that_hangs():
    drive = Drive()
    drive.seconds(1)
    said = outcome(kept=False)
    drive.health.note_outcome(replace(said, update=replace(said.update, status=Status.FROZEN)))
    assert drive.level == WARN and "the same picture over and over" in drive.sentence
    drive.seconds(1)
    assert drive.level == OK


def test_a_computer_that_is_too_hot(monkeypatch):
    monkeypatch.setattr(health_module, "throttled", lambda: ["cpufreq-cpu0"])
    drive = Drive()
    drive.seconds(1)
    assert drive.level == WARN and "cpufreq-cpu0 slowed down because of heat" in drive.sentence


def test_a_model_that_was_not_trained(tmp_path):
    bundle = write_tiny_bundle(tmp_path / "bundle")
    assert model_problem(str(bundle)) == model_problem("vlad") == model_problem("/nowhere") == ""
    manifest = read_manifest(bundle)
    write_manifest(manifest.model_copy(update={"notes": (NOT_TRAINED,)}), bundle)
    drive = Drive(model={"path": str(bundle)})
    drive.seconds(1)
    assert drive.level == WARN and "not trained for places" in drive.sentence


def test_a_clock_that_is_set_back_leaves_no_stale_warning():
    drive = Drive()
    drive.seconds(12)
    drive.now_ns = T0 - 50 * SECOND
    drive.seconds(1)
    assert drive.level == OK and float(drive.values["images received (Hz)"]) == 0.0


# -- what is counted ---------------------------------------------------------------------------------------------------


def test_reasons_times_and_adapters():
    drive = Drive()
    refused = (Candidate(0, 0.5, Status.FEW_INLIERS), Candidate(1, 0.4, Status.FEW_INLIERS))
    found = outcome(closure(2, verification(PoseKind.METRIC)), refused=refused)
    for k in range(100):
        timed = replace(found.update, timings_ms={"encode": float(k), "total": 2.0 * k})
        drive.health.note_outcome(replace(found, update=timed, latency_ms=2.0 * k))
    drive.health.facts["model_id"] = "c0ffee"
    drive.health.observe(drive.assembler, drive.now_ns, adapters={"rtabmap_links": {"sent": 3, "confirmed": 2}})
    values = drive.values
    assert values["encode p50/p95/p99 (ms)"] == "49.5 / 94.0 / 98.0"
    assert values["latency p50/p95/p99 (ms)"] == "99.0 / 188.1 / 196.0"
    assert values["candidates FEW_INLIERS"] == "200" and values["candidates ACCEPTED"] == "100"
    assert values["images ACCEPTED"] == values["loop closures"] == values["keyframes of this run"] == "100"
    assert values["last loop closure (image stamp, s)"] == "100.000"
    assert values["rtabmap_links sent"] == "3" and values["rtabmap_links confirmed"] == "2"
    assert values["model_id"] == "c0ffee"
    assert float(values["memory of the process (MB)"]) > 10


def test_closures_that_were_withheld_and_doubts_are_counted():
    drive = Drive()
    late = (closure(2, None, query_id=3), closure(2, None, query_id=1))
    drive.health.note_outcome(outcome(closure(0, None), released=late, doubtful=((3, 2),)))
    assert (drive.values["loop closures"], drive.values["loop closures in doubt"]) == ("3", "1")


# -- the computer ------------------------------------------------------------------------------------------------------


def write(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name).write_text(f"{text}\n", encoding="utf-8")


def test_temperatures_and_throttling_are_read_from_the_kernel(tmp_path):
    thermal = tmp_path / "class" / "thermal"
    write(thermal / "thermal_zone0", type="CPU-therm", temp=51500)
    write(thermal / "thermal_zone1", type="off")
    write(thermal / "cooling_device0", type="pwm-fan", cur_state=3)
    write(thermal / "cooling_device1", type="cpufreq-cpu0", cur_state=0)
    write(thermal / "cooling_device2", type="17000000.gpu", cur_state=2)
    assert temperatures_c(tmp_path) == {"CPU-therm": 51.5}
    assert throttled(tmp_path) == ["17000000.gpu"]
    assert temperatures_c(tmp_path / "none") == {} and throttled(tmp_path / "none") == []


def test_memory_of_the_process(tmp_path):
    write(tmp_path / "self", statm="9000 1000 200 1 0 300 0")
    assert resident_mb(tmp_path) == 1000 * os.sysconf("SC_PAGE_SIZE") / 1e6
    assert resident_mb(tmp_path / "none") is None


def test_the_power_mode_of_a_jetson(tmp_path):
    assert power_mode(tmp_path) == ""
    write(tmp_path / "var" / "lib" / "nvpmodel", status="pmode:0002")
    assert power_mode(tmp_path) == "2"
    modes = (
        "# < POWER_MODEL ID=2 NAME=COMMENT >",
        "< POWER_MODEL ID=0 NAME=MAXN >",
        "< POWER_MODEL ID=2 NAME=MODE_15W >",
    )
    write(tmp_path / "etc", **{"nvpmodel.conf": "\n".join(modes)})
    assert power_mode(tmp_path) == "MODE_15W (2)"
    (tmp_path / "var" / "lib" / "nvpmodel" / "status").write_bytes(b"\xff\xfe")
    assert power_mode(tmp_path) == ""


def test_the_power_mode_is_among_the_values_only_where_there_is_one(monkeypatch):
    assert "power mode (nvpmodel)" not in Drive().values
    monkeypatch.setattr(health_module, "power_mode", lambda: "MAXN (0)")
    assert Drive().values["power mode (nvpmodel)"] == "MAXN (0)"


# -- neighbours --------------------------------------------------------------------------------------------------------


def test_only_keyframes_of_one_session_and_camera_are_neighbours():
    neighbours = NeighbourSimilarity()
    neighbours.note(fake_keyframe(0, 0.0))
    assert neighbours.facts() == {}
    neighbours.note(fake_keyframe(1, 60.0))
    assert neighbours.facts()["similarity to the previous keyframe"] == "0.500"
    neighbours.note(fake_keyframe(2, 60.0, session=1))
    neighbours.note(fake_keyframe(3, 0.0, session=1, camera="rear"))
    assert neighbours.facts()["similarity to the previous keyframe"] == "0.500"
    neighbours.note(fake_keyframe(4, 90.0, session=1, camera="rear"))
    assert neighbours.facts()["similarity to the previous keyframe"] == "0.000"
    assert neighbours.facts()["similarity to the previous keyframe, median"] == "0.250"
