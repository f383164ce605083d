"""report.html: one file, escaped, and whole for runs with and without closures."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.config import config_to_yaml
from progeo_edge.detector import LoopDetector
from progeo_edge.errors import SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.report import write_report
from progeo_edge.report.pairs import revisits
from progeo_edge.report.words import MEANING, count, duration
from progeo_edge.runner import run
from progeo_edge.types import Frame, LoopClosure, Status
from tests.small_world import ListSource, camera, encoder, rig, settings, there_and_back, two_passes, without_odometry

NASTY = "<b>bold</b><script>alert(1)</script>"


class Tags(HTMLParser):
    """Open tags with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))


def make_report(out: Path, frames: list[Frame], *overrides: str, name: str = "drive") -> str:
    config = settings(*overrides)
    (out / "config.yaml").write_text(config_to_yaml(config))
    store = MapStore.create(None, encoder().spec)
    detector = LoopDetector(encoder(), store, camera(), config)
    try:
        run(ListSource(frames, name), detector, out)
    except SourceError:
        pytest.fail("no frame was usable")
    assert write_report(out, store) == out / "report.html"
    return (out / "report.html").read_text(encoding="utf-8")


def assert_self_contained(html: str) -> None:
    for tag, attributes in Tags(html).seen:
        assert tag not in ("script", "link", "iframe", "object")
        for attribute in ("src", "href", "xlink:href", "data"):
            value = attributes.get(attribute)
            assert value is None or value.startswith(("data:image/jpeg;base64,", "data:image/png;base64,", "#")), (
                tag,
                attribute,
                value,
            )
    assert not re.search(r"@import|url\((?!['\"]?#)", html)


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> str:
    frames = [replace(frame, name=f"{i}{NASTY}") for i, frame in enumerate(two_passes()[0])]
    cap = replace(frames[-1], stamp_ns=frames[-1].stamp_ns + 10**9, T_odom_base=None, name="cap")
    broken = replace(cap, name=NASTY, T_odom_base=np.zeros((4, 4)))
    return make_report(tmp_path_factory.mktemp("full"), [*frames, broken], name=NASTY)


def test_the_report_is_one_file_that_loads_nothing(full):
    assert_self_contained(full)
    assert full.rstrip().endswith("</html>")


def test_names_are_escaped_everywhere(full):
    assert NASTY not in full
    assert "<b>bold" not in full
    assert full.count("&lt;b&gt;bold") >= 4, "title, headline, a pair and a skipped frame"


def test_the_report_tells_what_happened_with_pictures(full):
    assert "In 12 keyframes over 1 min 50 s the robot came back to known places" in full
    pictures = [attributes for tag, attributes in Tags(full).seen if tag == "img"]
    assert len(pictures) >= 1
    assert "frames skipped" in full
    assert full.count("<svg") >= 4
    assert "sees the place of" in full


def test_refusals_are_shown_with_their_reason(tmp_path):
    html = make_report(tmp_path, list(two_passes()[0][:8]), "verification.min_inliers=5000")
    assert_self_contained(html)
    assert 'class="status">FEW_INLIERS<' in html
    assert MEANING[Status.FEW_INLIERS] in html
    assert "no place was recognised again" in html


def test_a_run_without_closures_opens(tmp_path):
    html = make_report(tmp_path, without_odometry(two_passes()[0][:2]))
    assert_self_contained(html)
    assert "In 2 keyframes over 2 s no place was recognised again." in html


def test_a_run_without_keyframes_opens(tmp_path):
    black = [replace(frame, image=np.zeros((240, 320, 3), np.uint8)) for frame in two_passes()[0][:2]]
    html = make_report(tmp_path, black)
    assert_self_contained(html)
    assert "In no keyframes over 0 s no place was recognised again." in html
    assert MEANING[Status.UNRECOGNISABLE] in html


def test_the_recall_profile_does_not_claim_verification(tmp_path):
    html = make_report(tmp_path, list(two_passes()[0][:9]), "profile=recall")
    assert "not verified (profile recall)" in html
    assert "verified by geometry" not in html


def test_a_map_without_thumbnails_and_a_torn_record_are_no_obstacle(tmp_path):
    frames = list(two_passes()[0][:8])
    make_report(tmp_path, frames, "store.thumbnails=false", "store.features=true")
    with (tmp_path / "candidates.jsonl").open("a") as file:
        file.write('{"query_id": 8, "cand')
    store = MapStore.create(None, encoder().spec)
    html = write_report(tmp_path, store).read_text(encoding="utf-8")
    assert_self_contained(html)
    assert json.loads((tmp_path / "run.json").read_text())["num_keyframes"] == 8


def test_what_was_passed_the_other_way_round_is_marked(tmp_path, full):
    rig_frames = list(there_and_back()[0])
    (tmp_path / "config.yaml").write_text(config_to_yaml(settings()))
    store = MapStore.create(None, encoder().spec)
    overrides = ("exclusion.distance_m=0", "exclusion.keyframes=2")
    run(ListSource(rig_frames), LoopDetector(encoder(), store, rig(), settings(*overrides)), tmp_path)
    html = write_report(tmp_path, store).read_text(encoding="utf-8")
    assert "the other way round</span>" in html
    num_closures = len(store.closures())
    tile = f"<b>{num_closures}</b><span>closures of a place passed the other way round</span>"
    assert tile in html
    assert "the other way round" not in full


def test_every_status_has_a_meaning():
    assert set(MEANING) == set(Status)


def test_closures_are_grouped_into_revisits():
    def closures(*pairs: tuple[int, int]) -> list[LoopClosure]:
        return [LoopClosure(query, reference, 0.9) for query, reference in pairs]

    groups = revisits(closures((50, 10), (51, 11), (53, 12), (51, 30), (52, 31), (90, 13)))
    assert [[(c.query_id, c.reference_id) for c in group] for group in groups] == [
        [(50, 10), (51, 11), (53, 12)],
        [(51, 30), (52, 31)],
        [(90, 13)],
    ]
    assert revisits([]) == []


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (59.9, "1 min 00 s"), (7500, "2 h 05 min")]
)
def test_durations_are_said_as_people_do(seconds, words):
    assert duration(seconds) == words


def test_counts_carry_their_noun():
    assert [count(n, "closure") for n in (0, 1, 2)] == ["no closures", "1 closure", "2 closures"]
    assert count(3, "entry", "entries") == "3 entries"
