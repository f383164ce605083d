"""The loop over a source: what is written, what is skipped, and what a killed run leaves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import progeo_edge
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.runner import RunSummary, percentiles, run
from progeo_edge.types import Frame, Update
from tests.small_world import ListSource, camera, encoder, rig, settings, there_and_back, two_passes


def bad_frame(frame: Frame) -> Frame:
    return replace(frame, name="bad.png", T_odom_base=np.full((4, 4), np.nan))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run_list(out: Path, store: MapStore, frames: list[Frame], **options: Any) -> RunSummary:
    resume = options.get("skip_until_ns") is not None
    detector = LoopDetector(encoder(), store, camera(), settings(), resume=resume)
    return run(ListSource(frames), detector, out, **options)


@pytest.fixture(scope="module")
def mixed() -> list[Frame]:
    """Both passes with a broken pose, a lens cap and a frame where the robot stands."""
    frames = list(two_passes()[0])
    cap = replace(frames[4], name="cap.png", stamp_ns=frames[3].stamp_ns + 1, image=np.zeros((240, 320), np.uint8))
    standing = replace(frames[5], stamp_ns=frames[5].stamp_ns + 10**9, name="standing.png")
    return [*frames[:2], bad_frame(frames[2]), *frames[2:4], cap, *frames[4:6], standing, *frames[6:]]


@pytest.fixture(scope="module")
def done(tmp_path_factory, mixed) -> tuple[Path, RunSummary, MapStore, list[tuple[Frame, Update]]]:
    out = tmp_path_factory.mktemp("run")
    store = MapStore.create(out / "map.progeo", encoder().spec)
    seen: list[tuple[Frame, Update]] = []
    summary = run_list(out, store, mixed, observers=(lambda frame, update: seen.append((frame, update)),))
    return out, summary, store, seen


def test_frames_that_cannot_be_used_are_counted_and_skipped(done, mixed):
    _, summary, store, seen = done
    assert [item["name"] for item in summary.skipped] == ["bad.png"]
    assert "T_odom_base" in summary.skipped[0]["reason"]
    assert summary.num_frames == len(mixed) - 1 == len(seen)
    assert summary.num_keyframes == len(store) == 12
    assert summary.statuses == {"NO_CANDIDATE": 6, "UNRECOGNISABLE": 1, "NOT_A_KEYFRAME": 1, "ACCEPTED": 6}


def test_candidate_lines_agree_with_the_map(done):
    out, summary, store, _ = done
    records = lines(out / "candidates.jsonl")
    assert [r["query_id"] for r in records if r["query_id"] is not None] == [info.id for info in store.infos()]
    assert [r["query"] for r in records if r["query_id"] is None] == ["cap.png"]
    by_id = {r["query_id"]: r for r in records}
    for info in store.infos():
        record = by_id[info.id]
        assert (record["query"], record["stamp_ns"], record["status"]) == (info.name, info.stamp_ns, info.status.value)
        assert record["timings_ms"]["total"] > 0
        for candidate in record["candidates"]:
            assert candidate["reference"] == store.keyframe(candidate["reference_id"]).name
            assert {"similarity", "num_inliers", "status"} <= set(candidate)
    counted = [c["status"] for r in records for c in r["candidates"]]
    assert summary.candidate_statuses == {status: counted.count(status) for status in set(counted)}


def test_closure_lines_agree_with_the_map(done):
    out, summary, store, _ = done
    records = lines(out / "closures.jsonl")
    stored = store.closures()
    assert len(stored) >= 6
    assert summary.num_closures == len(records) == len(stored)
    for record, closure in zip(records, stored, strict=True):
        assert (record["query_id"], record["reference_id"]) == (closure.query_id, closure.reference_id)
        assert closure.verification is not None
        assert record["pose_kind"] == "METRIC"
        assert np.allclose(record["T_reference_query"], closure.verification.T_reference_query)


def test_run_json_says_what_happened(done):
    out, summary, _, _ = done
    text = (out / "run.json").read_text(encoding="utf-8")
    told = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert told["source"] == "list"
    assert told["model"] == {"name": encoder().spec.name, "fingerprint": encoder().spec.fingerprint}
    assert told["profile"] == "conservative"
    assert (told["num_frames"], told["num_keyframes"]) == (summary.num_frames, 12)
    assert told["skipped"] == summary.skipped
    assert told["versions"]["progeo-edge"] == progeo_edge.__version__
    assert told["index"]["kind"] == "exact"
    assert told["index"]["recall_at_1"] == 1.0
    assert told["memory"]["map_per_keyframe_bytes"] > 1000
    assert told["stages_ms"]["total"]["n"] == 12
    assert told["stages_ms"]["verify"]["n"] < 12
    for stage in told["stages_ms"].values():
        assert 0 <= stage["p50"] <= stage["p90"] <= stage["p99"] <= stage["max"]


def test_observers_see_every_frame_after_it_was_written(tmp_path):
    frames = list(two_passes()[0][:3])
    seen = []

    def look(frame: Frame, update: Update) -> None:
        assert update.keyframe is not None
        assert lines(tmp_path / "candidates.jsonl")[-1]["query_id"] == update.keyframe.id
        seen.append(frame.stamp_ns)

    run_list(tmp_path, MapStore.create(None, encoder().spec), frames, observers=(look,))
    assert seen == [frame.stamp_ns for frame in frames]


def test_a_resumed_run_drops_the_torn_line_and_reads_only_what_is_new(tmp_path):
    frames = list(two_passes()[0][:5])
    store = MapStore.create(None, encoder().spec)
    run_list(tmp_path, store, frames[:3])
    path = tmp_path / "candidates.jsonl"
    with path.open("a") as file:
        file.write('{"query_id": 3, "candida')
    summary = run_list(tmp_path, store, frames, skip_until_ns=frames[2].stamp_ns)
    assert summary.num_frames == summary.num_keyframes == 2
    assert [record["query_id"] for record in lines(path)] == [0, 1, 2, 3, 4]


def test_a_run_killed_between_the_images_of_a_moment_goes_on_with_the_next_image(tmp_path):
    frames = list(there_and_back()[0][:6])
    store = MapStore.create(None, encoder().spec)
    first = LoopDetector(encoder(), store, rig(), settings())
    for frame in frames[:3]:  # front, rear, front
        first.process(frame)
    resumed = LoopDetector(encoder(), store, rig(), settings(), resume=True)
    summary = run(ListSource(frames), resumed, tmp_path, skip_until_ns=frames[2].stamp_ns)
    assert summary.num_frames == 3
    assert [(info.stamp_ns, info.camera) for info in store.infos()] == [(f.stamp_ns, f.camera) for f in frames]


def test_a_file_that_is_all_torn_line_becomes_empty(tmp_path):
    (tmp_path / "closures.jsonl").write_text('{"query')
    run_list(tmp_path, MapStore.create(None, encoder().spec), list(two_passes()[0][:1]))
    assert (tmp_path / "closures.jsonl").read_text() == ""


def test_a_source_without_a_usable_frame_is_an_error_with_the_reason(tmp_path):
    frames = [bad_frame(frame) for frame in two_passes()[0][:2]]
    with pytest.raises(SourceError, match=r"list gave no usable frame \(bad\.png: .*T_odom_base"):
        run_list(tmp_path, MapStore.create(None, encoder().spec), frames)


def test_an_empty_source_is_an_error(tmp_path):
    with pytest.raises(SourceError, match=r"list gave no usable frame$"):
        run_list(tmp_path, MapStore.create(None, encoder().spec), [])


def test_resuming_a_finished_run_is_no_error(tmp_path):
    frames = list(two_passes()[0][:2])
    store = MapStore.create(None, encoder().spec)
    run_list(tmp_path, store, frames)
    summary = run_list(tmp_path, store, frames, skip_until_ns=frames[-1].stamp_ns)
    assert (summary.num_frames, summary.num_keyframes, summary.stages_ms) == (0, 0, {})


def test_percentiles_are_those_of_the_sample():
    values = percentiles([float(v) for v in range(101)])
    assert values == {"p50": 50.0, "p90": 90.0, "p99": 99.0, "max": 100.0, "n": 101.0}
    assert percentiles([3.0]) == {"p50": 3.0, "p90": 3.0, "p99": 3.0, "max": 3.0, "n": 1.0}
