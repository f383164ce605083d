from __future__ import annotations

import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.benchmark.result_file import read_result
from progeo_edge.benchmark.soak.course import MemorySample
from progeo_edge.benchmark.soak.figures import figures_of, latency_drift, memory_drift
from progeo_edge.benchmark.soak.newest_wins import NewestWins, Turn
from progeo_edge.benchmark.soak.run import Plan, Soaked, soak, there_and_back
from progeo_edge.benchmark.soak.schedule import Arrival, Disturbances, Losses, arrivals
from progeo_edge.benchmark.soak.show import lines_of, save_plot
from progeo_edge.cli import bench
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import InputError
from progeo_edge.map_store import MapStore
from tests.small_world import camera, encoder, settings, two_passes, write_images

CALM = Disturbances(0.0, 0.0, 0.0, 0.0, 1)


@given(
    num_frames=st.integers(1, 400),
    drop=st.floats(0, 1),
    pauses=st.floats(0, 3e4),
    bursts=st.floats(0, 3e4),
    seed=st.integers(0, 99),
)
def test_every_frame_arrives_in_order_or_is_counted_as_lost(
    num_frames: int, drop: float, pauses: float, bursts: float, seed: int
):
    losses = Losses()
    came = list(arrivals(num_frames, 10.0, Disturbances(drop, pauses, 1.0, bursts, 4), seed, losses))
    assert len(came) + losses.dropped + losses.paused == num_frames
    assert all(a.number < b.number and a.time_s <= b.time_s for a, b in itertools.pairwise(came))
    assert all(0 <= one.time_s - one.number / 10.0 < 0.31 for one in came), "a burst of four is late by three periods"
    again = list(arrivals(num_frames, 10.0, Disturbances(drop, pauses, 1.0, bursts, 4), seed, Losses()))
    assert came == again


def test_calm_frames_come_one_by_one_and_disturbed_ones_do_not():
    calm = list(arrivals(50, 10.0, CALM, 0, Losses()))
    assert [one.time_s for one in calm] == [number / 10.0 for number in range(50)]
    losses = Losses()
    wild = list(arrivals(36_000, 10.0, Disturbances(0.01, 20.0, 5.0, 60.0, 5), 0, losses))
    assert 200 < losses.dropped < 500 and 200 < losses.paused < 2500
    together = sum(a.time_s == b.time_s for a, b in itertools.pairwise(wild))
    assert 120 < together < 360


def play(work_s: float, times_s: list[float]) -> tuple[NewestWins, list[Turn]]:
    """The queue with a clock that only work moves on."""
    now = 0.0
    queue = NewestWins(real_time=False, now_s=lambda: now)
    turns = []
    for turn in queue.turns(Arrival(number, time_s) for number, time_s in enumerate(times_s)):
        turns.append(turn)
        now += work_s
    return queue, turns


def test_fast_work_loses_nothing_and_nothing_waits():
    queue, turns = play(0.05, [0.0, 0.1, 0.2, 0.3])
    assert [turn.arrival.number for turn in turns] == [0, 1, 2, 3] and queue.lost == 0 and queue.num_arrived == 4
    assert all(turn.waited_s == 0 and turn.depth == 0 for turn in turns)


def test_slow_work_takes_the_newest_and_counts_the_rest():
    queue, turns = play(0.25, [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    # Busy until 0.25, when 0.2 waits; until 0.5, when 0.4 waits and 0.5 comes at that moment; then 0.5.
    assert [turn.arrival.number for turn in turns] == [0, 2, 4, 5] and queue.lost == 2
    np.testing.assert_allclose([turn.waited_s for turn in turns], [0.0, 0.05, 0.1, 0.25], atol=1e-9)
    assert [turn.depth for turn in turns] == [0, 2, 2, 1]


@given(work_s=st.floats(0.001, 1.0), gaps=st.lists(st.floats(0.0, 0.5), min_size=1, max_size=60))
def test_nothing_is_lost_uncounted_and_no_frame_waits_longer_than_one_work(work_s: float, gaps: list[float]):
    queue, turns = play(work_s, np.cumsum(gaps).tolist())
    assert len(turns) + queue.lost == queue.num_arrived == len(gaps)
    assert turns[-1].arrival.number == len(gaps) - 1, "the newest is never lost"
    assert all(-1e-9 <= turn.waited_s <= work_s + 1e-9 for turn in turns)


def test_real_time_waits_for_the_frames(monkeypatch: pytest.MonkeyPatch):
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr("progeo_edge.benchmark.soak.newest_wins.time.sleep", sleep)
    queue = NewestWins(real_time=True, now_s=lambda: now)
    assert len(list(queue.turns(Arrival(i, i / 10) for i in range(4)))) == 4
    np.testing.assert_allclose(slept, [0.0, 0.1, 0.1, 0.1], atol=1e-9)


def test_there_and_back_again():
    assert [there_and_back(i, 4) for i in range(9)] == [0, 1, 2, 3, 2, 1, 0, 1, 2]
    assert {there_and_back(i, 1) for i in range(5)} == {0}


def samples(per_hour_mb: float, keyframes_per_hour: int, noise_mb: float = 0.5, count: int = 100) -> list[MemorySample]:
    rng = np.random.default_rng(0)
    result = []
    for hours in np.linspace(0, 24, count):
        warm_up_mb = 80 * min(1.0, hours / 2)
        own = 300 + warm_up_mb + per_hour_mb * hours + rng.normal(0, noise_mb)
        result.append(MemorySample(float(hours), own, own + 60, int(keyframes_per_hour * hours), hours))
    return result


def test_growth_that_the_keyframes_explain_is_no_leak_and_other_growth_is():
    fine = memory_drift(samples(4.0, 1000), 512)
    leak = memory_drift(samples(4.0, 10), 512)
    assert fine is not None and leak is not None
    assert fine["is_explained"] and not leak["is_explained"]
    assert fine["per_hour_mb"] == pytest.approx(4.0, abs=0.1) and fine["per_keyframe_kib"] == pytest.approx(
        3.9, abs=0.2
    )
    assert fine["noise_mb"] < 2 and fine["grown_mb"] == pytest.approx(64, abs=3)
    still = memory_drift(samples(0.0, 0), 512)
    assert still is not None and still["is_explained"] and still["per_keyframe_kib"] is None


def test_a_pool_that_is_given_back_for_a_moment_moves_nothing():
    shaken = [replace(one, own_mb=one.own_mb - 40 * (i % 7 == 0)) for i, one in enumerate(samples(1.0, 1000))]
    drift = memory_drift(shaken, 512)
    assert drift is not None and drift["per_hour_mb"] == pytest.approx(1.0, abs=0.1)


def test_too_few_samples_say_nothing():
    assert memory_drift(samples(1.0, 1, count=12), 512) is None
    unknown = [replace(one, own_mb=float("nan")) for one in samples(1.0, 1)]
    assert memory_drift(unknown, 512) is None
    assert latency_drift(np.ones(99, np.float32)) is None


def test_the_last_tenth_is_compared_with_the_first():
    slower = latency_drift(np.linspace(10, 20, 1000, dtype=np.float32))
    assert slower is not None and slower["last_over_first"]["median"] == pytest.approx(19.5 / 10.5, abs=0.02)
    even = latency_drift(np.full(1000, 7, np.float32))
    assert even is not None and even["last_over_first"]["low"] == even["last_over_first"]["high"] == 1.0


@pytest.fixture
def detector(tmp_path: Path) -> Iterator[LoopDetector]:
    with MapStore.create(tmp_path / "soak.progeo", encoder().spec) as store:
        yield LoopDetector(encoder(), store, camera(), settings("keyframe.every_frame=true"))


def test_a_detector_soaks(detector: LoopDetector, tmp_path: Path):
    frames = two_passes()[0][:6]
    plan = Plan(0.5, rate_hz=10, speed_up=150, disturbances=Disturbances(0.1, 0.0, 0.0, 0.0, 1))
    told: list[int] = []
    soaked = soak(frames, detector, plan, progress=told.append)
    figures = figures_of(soaked, 512)
    counts = figures["frames"]
    assert counts["of_the_camera"] == plan.num_frames == 120 and not figures["stopped_early"]
    assert counts["arrived"] == counts["worked_on"] + counts["replaced_by_newer"] and counts["dropped_on_the_way"] > 2
    assert figures["hours_equivalent"] == pytest.approx(0.5, abs=0.01) and told[-1] >= 118
    assert sum(figures["statuses"].values()) == counts["worked_on"] == soaked.course.count
    assert figures["map"]["num_keyframes"] == len(detector.map_store) > 3
    assert figures["num_closures"] > 0, "the way back sees the places of the way there"
    json.dumps(figures, allow_nan=False)
    assert dict(lines_of(figures))["hours on the robot's clock"].startswith("0.")
    save_plot(figures, tmp_path / "soak.png")
    assert (tmp_path / "soak.png").read_bytes().startswith(b"\x89PNG")


def test_it_ends_early_with_what_there_is(detector: LoopDetector):
    frames, left = two_passes()[0][:6], iter([False] * 15 + [True])
    soaked = soak(frames, detector, Plan(1.0, speed_up=100), stop=lambda: next(left))
    figures = figures_of(soaked, 512)
    assert figures["stopped_early"] and figures["frames"]["worked_on"] == 15 and figures["keyframe_ms"] is not None
    assert ", ended early" in dict(lines_of(figures))["hours on the robot's clock"]


def test_nothing_at_all_can_still_be_shown(detector: LoopDetector, tmp_path: Path):
    soaked = soak(two_passes()[0][:2], detector, Plan(1.0), stop=lambda: True)
    figures = figures_of(soaked, 512)
    assert isinstance(soaked, Soaked) and figures["queue"] is None and figures["map"] is None
    assert lines_of(figures)
    save_plot(figures, tmp_path / "empty.png")


def test_too_short_a_soak_is_refused(detector: LoopDetector):
    with pytest.raises(InputError, match=r"0.001 hours at 10 Hz and speed-up 1 are 36 frames; expected 100"):
        soak(two_passes()[0][:2], detector, Plan(0.001))


def test_the_command_ends_at_ctrl_c_and_keeps_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = write_images(tmp_path / "drive", two_passes()[0][:6])
    asked = 0
    process = LoopDetector.process

    def interrupted(self: LoopDetector, frame: object) -> object:
        nonlocal asked
        asked += 1
        if asked == 12:
            os.kill(os.getpid(), signal.SIGINT)
        return process(self, frame)  # type: ignore[arg-type]

    monkeypatch.setattr(LoopDetector, "process", interrupted)
    arguments = ["soak", "vlad", "--source", folder, "--speed-up", "100", "--json", tmp_path / "s.json",
                 "--plot", tmp_path / "s.png", "--markdown", "-", "--set", "verification.max_features=300"]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["progeo-bench", *map(str, arguments)])
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit) as exit:
        bench.main()
    captured = capsys.readouterr()
    assert exit.value.code == 0 and "ending after this frame" in captured.err
    result = read_result(tmp_path / "s.json", "soak")
    assert result.figures["stopped_early"] and result.figures["frames"]["worked_on"] == 12
    assert "| frames |" in captured.out and str(tmp_path) not in captured.out
    assert (tmp_path / "s.png").is_file() and signal.getsignal(signal.SIGINT) is before
