from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from progeo_edge.benchmark.peers.frames import search_product
from progeo_edge.benchmark.result_file import read_result
from progeo_edge.benchmark.versus.cold_start import compare_cold_starts
from progeo_edge.benchmark.versus.contenders import TORCH_COMPILE, TORCH_EAGER
from progeo_edge.benchmark.versus.frames import MOVED, RECALL, compare_frames
from progeo_edge.benchmark.versus.indexes import _who_fits, compare_indexes, contestants, exact_similarities, recall
from progeo_edge.benchmark.versus.inputs import (
    Frames,
    Vectors,
    perturbed,
    random_vectors,
    read_descriptors,
    real_vectors,
    spread_of_places,
    tiled,
)
from progeo_edge.benchmark.versus.interleaving import Pace
from progeo_edge.benchmark.versus.job import PARTS, Job, parse_parts, parse_sizes
from progeo_edge.benchmark.versus.matching import compare_matchers, shared
from progeo_edge.cli import bench
from progeo_edge.errors import InputError
from tests.benchmark.fake_peers import HERE
from tests.tiny_encoder import write_tiny_bundle

FAST = Pace(rounds=2, block=2, warm_up=1)
EAGER = {TORCH_EAGER: f"{HERE}:MeanColour"}


def quiet(_: str) -> None:
    """Nobody is told."""


@pytest.fixture(scope="module")
def frames() -> Frames:
    """Blurred noise: pictures with features, as large as a camera's."""
    import cv2

    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (4, 720, 1280, 3), dtype=np.uint8)
    images = [np.asarray(cv2.GaussianBlur(image, (0, 0), 2.5), np.uint8) for image in noise]
    return Frames("noise", tuple(images))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bundle(tmp_path_factory.mktemp("vs") / "bundle")


def test_frames_through_everybody(bundle: Path, frames: Frames):
    pytest.importorskip("onnxruntime")
    job = Job(
        str(bundle),
        precisions=("fp32", "int8"),
        backends=("onnx",),
        pace=FAST,
        num_database=50,
        compiled=False,
        extra_peers=EAGER | {TORCH_COMPILE: "never.opened:Peer"},
    )
    whole, encoder, small, large = compare_frames(job, frames, quiet)
    rows = {row.name: row for row in whole.rows}
    assert set(rows) == {"ours fp32 onnx", "ORT default + PIL", "ORT default + cv2", TORCH_EAGER}
    assert whole.ours is rows["ours fp32 onnx"] and rows["ours fp32 onnx"].facts["index"] == "exact"
    assert {row.agreement[RECALL] for row in whole.rows} == {1.0}
    assert rows["ours fp32 onnx"].agreement["cosine"] == pytest.approx(1.0)
    assert len(rows[TORCH_EAGER].agreement) == 1, "random weights are compared with nobody"
    assert "holds no int8" in whole.absent["ours int8 onnx"] and "--no-compile" in whole.absent[TORCH_COMPILE]
    assert any("random weights" in note for note in whole.notes)
    assert len(encoder.rows) == 4 and all(row.time_ms.count == 4 for row in encoder.rows)
    assert "640x480" in small.case and "1280x720" in large.case
    names = [row.name for row in large.rows]
    assert names[0] == "ours fp32 onnx" and "PIL bicubic, float32" in names and "cv2 linear" in names
    differences = {row.name: row.agreement.get(MOVED) for row in large.rows}
    assert differences["PIL bicubic"] == differences["PIL bicubic, float32"] == 0.0
    linear, ours = differences["cv2 linear"], differences["ours fp32 onnx"]
    assert linear is not None and ours is not None and linear > 2 * ours > 0, "aliasing moves descriptors"


def test_a_model_that_nobody_runs_is_refused(bundle: Path, frames: Frames):
    job = Job(str(bundle), precisions=("int8",), backends=("onnx",), pace=FAST)
    with pytest.raises(InputError, match=r"none of ours runs it: ours int8 onnx: .*no int8"):
        compare_frames(job, frames, quiet)


def test_cold_starts_say_where_the_time_goes(bundle: Path, frames: Frames):
    pytest.importorskip("onnxruntime")
    job = Job(
        str(bundle), precisions=("fp32",), backends=("onnx",), cold_repeats=1,
        extra_peers={TORCH_EAGER: "no_such_package:Peer", "fake": f"{HERE}:MeanColour"},
    )  # fmt: skip
    first, alone = compare_cold_starts(job, frames, quiet)
    assert [row.name for row in first.rows] == ["ours fp32 onnx", "ORT default + PIL", "fake"]
    for row in first.rows:
        parts = [row.agreement[part] for part in ("import", "load", "first")]
        assert 0 < sum(parts) < row.time_ms.max
    assert "no_such_package" in first.absent[TORCH_EAGER]
    assert alone.ours is not None and alone.ours.name == "progeo_edge, the runtime"
    assert "torch" not in alone.ours.facts["loads"].split() and "matplotlib" not in alone.ours.facts["loads"].split()


def test_matchers_find_what_ours_finds(frames: Frames):
    comparisons = compare_matchers(Job("vlad", pace=FAST), frames, quiet)
    features, match, whole = comparisons
    assert [len(one.rows) for one in comparisons] == [3, 2, 3]
    assert {row.name: row.agreement["features"] for row in features.rows}["OpenCV, ORB as it comes"] <= 500
    found = {row.name: row.agreement for row in match.rows}
    assert found["ours"]["shared"] == 1.0
    assert found["OpenCV, BFMatcher"]["shared"] > 0.9
    assert whole.ours is not None


def test_shared_matches():
    own = [np.array([[1, 2], [3, 4]]), np.zeros((0, 2), int)]
    assert shared(own, [np.array([[3, 4], [5, 6]]), np.array([[1, 2]])]) == 0.5
    assert shared(own[1:], own[1:]) == 1.0


def test_every_index_finds_what_float64_finds():
    job = Job("vlad", pace=Pace(2, 1, 1), sizes=(40, 120))
    real = ("drive", random_vectors(60, 16, 5).rows)
    comparisons = compare_indexes(job, real, quiet, dimension=16)
    assert [(one.size, one.case) for one in comparisons] == [
        (40, "random unit vectors, 40 x 16"),
        (120, "random unit vectors, 120 x 16"),
        (40, "drive (tiled), 40 x 16"),
        (120, "drive (tiled), 120 x 16"),
    ]
    for one in comparisons:
        assert {row.name for row in one.rows} | set(one.absent) == {each.name for each in contestants()}
        ours = {row.name: row for row in one.rows}
        assert ours["ours"].agreement == ours["NumPy"].agreement == {"recall@1": 1.0, "recall@10": 1.0}
        assert all(row.agreement["recall@1"] > 0.9 for row in one.rows) and ours["ours"].facts["build_s"] > 0


def test_what_takes_too_long_or_has_no_room_is_left_out(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("progeo_edge.benchmark.versus.indexes.available_mb", lambda: 500.0)
    absent, kept = _who_fits(contestants(), 100_000_000, 100_000, {"hnswlib": (10_000, 20.0)}, 120.0)
    assert "would take about 250 s" in absent["hnswlib"]
    assert [one.name for one in kept] == ["ours", "ours, exact", "NumPy"]
    assert "130 MB each do not fit" in absent["usearch HNSW"] and len(absent) == 5


@given(seed=st.integers(0, 1000), count=st.integers(1, 60), num_queries=st.integers(1, 5))
def test_exact_answers_have_full_recall_and_wrong_ones_have_not(seed: int, count: int, num_queries: int):
    vectors = random_vectors(count, 8, num_queries, seed)
    best = exact_similarities(vectors.rows, vectors.queries, 10)
    order = np.argsort(-(vectors.queries.astype(float) @ vectors.rows.astype(float).T), axis=1)[:, :10]
    assert recall(vectors, best, list(order)) == {"recall@1": 1.0, "recall@10": 1.0}
    assert recall(vectors, best, [np.full(10, -1)] * num_queries)["recall@1"] == 0.0
    worst = np.argsort(vectors.queries.astype(float) @ vectors.rows.astype(float).T, axis=1)[:, :10]
    if count >= 20:
        assert recall(vectors, best, list(worst)) == {"recall@1": 0.0, "recall@10": 0.0}
    same = [np.repeat(row[:1], 10) for row in order]
    assert recall(vectors, best, same)["recall@10"] == pytest.approx(1 / min(10, count))


def test_the_product_of_everybody_gives_the_nearest_in_order():
    vectors = random_vectors(3000, 16, 1)
    order = np.argsort(-(vectors.rows @ vectors.queries[0]))
    np.testing.assert_array_equal(search_product(vectors.rows, vectors.queries[0], 1000), order[:1000])
    assert len(search_product(vectors.rows[:3], vectors.queries[0], 50)) == 3


def test_equal_rows_are_equally_right():
    rows = np.repeat(np.eye(4, dtype=np.float32), 2, axis=0)
    vectors = Vectors("pairs", rows, rows[:1], "")
    best = exact_similarities(rows, rows[:1], 2)
    assert recall(vectors, best, [np.array([1, 0])]) == {"recall@1": 1.0, "recall@10": 1.0}


@given(cosine=st.floats(0.5, 0.999))
def test_perturbed_rows_have_the_cosine_asked_for(cosine: float):
    rows = random_vectors(200, 256, 1).rows
    moved = perturbed(rows, cosine, np.random.default_rng(1))
    np.testing.assert_allclose(np.linalg.norm(moved, axis=1), 1.0, rtol=1e-5)
    assert np.sum(rows * moved, axis=1).mean() == pytest.approx(cosine, abs=0.02)


def test_tiled_descriptors_keep_the_first_lap_and_say_so():
    rows = random_vectors(30, 64, 1).rows
    many = tiled(rows, 75)
    np.testing.assert_array_equal(many[:30], rows)
    assert len(many) == 75 and 0.9 < np.sum(many[30:60] * rows, axis=1).mean() < 0.99
    few, enough = real_vectors("drive", rows, 40, 5), real_vectors("drive", rows, 10, 5)
    assert "tiled to 40" in few.note and few.name == "drive (tiled)" and len(few.rows) == 40
    assert "tiled" not in enough.note and len(enough.rows) == 10
    assert not set(map(bytes, enough.queries)) & set(map(bytes, few.rows)), "queries are held out"


def test_descriptor_files(tmp_path: Path):
    rows = random_vectors(5, 8, 1).rows
    np.save(tmp_path / "a.npy", rows)
    np.savez(tmp_path / "b.npz", descriptors=rows.astype(np.float16))
    np.testing.assert_allclose(read_descriptors(tmp_path / "a.npy"), rows, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(read_descriptors(tmp_path / "b.npz"), axis=1), 1.0, rtol=1e-6)
    np.savez(tmp_path / "c.npz", other=rows)
    np.save(tmp_path / "d.npy", 2 * rows)
    np.save(tmp_path / "e.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name, said in [
        ("c.npz", "other; expected"),
        ("d.npy", "unit norm"),
        ("e.npy", "cannot be read"),
        ("f", "read"),
    ]:
        with pytest.raises(InputError, match=said):
            read_descriptors(tmp_path / name)


def test_frames_are_cut_to_the_aspect_and_resized(frames: Frames):
    same = frames.of_size(1280, 720)
    np.testing.assert_array_equal(same[0], frames.images[0])
    assert frames.of_size(640, 480).shape == (4, 480, 640, 3)


def test_the_spread_of_places():
    assert spread_of_places(np.eye(3, dtype=np.float32)) == pytest.approx(1.0)
    assert spread_of_places(np.ones((2, 1), np.float32)) == pytest.approx(0.0)


def test_parts_and_sizes_are_read():
    assert parse_parts("cold, frame") == ("frame", "cold") and parse_parts(",".join(PARTS)) == PARTS
    assert parse_sizes("1M,10k, 300") == (300, 10_000, 1_000_000)
    for bad in ("", "frames"):
        with pytest.raises(InputError, match="no known part"):
            parse_parts(bad)
    for bad in ("1x", "0", "-3", ""):
        with pytest.raises(InputError, match="--sizes"):
            parse_sizes(bad)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    files = {name: tmp_path / f"vs.{name}" for name in ("json", "png", "md")}
    arguments = ["vlad", "--vs", "--only", "index", "--sizes", "50,80", "--rounds", "2", "--block", "1",
                 "--json", files["json"], "--plot", files["png"], "--markdown", files["md"]]  # fmt: skip
    monkeypatch.setattr(sys, "argv", ["progeo-bench", *map(str, arguments)])
    with pytest.raises(SystemExit) as exit:
        bench.main()
    assert exit.value.code == 0 and "index: random unit vectors, 80 x 512" in capsys.readouterr().out
    result = read_result(files["json"], "vs")
    first = result.figures["comparisons"][0]
    assert first["size"] == 50 and first["ours"].startswith("ours") and result.options["sizes"] == [50, 80]
    assert all(row["times_ours"]["low"] <= row["times_ours"]["high"] for row in first["rows"])
    assert files["png"].read_bytes().startswith(b"\x89PNG")
    text = files["md"].read_text()
    assert "| ours |" in text.replace("**", "") and str(tmp_path) not in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--peer", "mine"], "NAME=module:Class"),
        (["--plot", "x.bmp"], "ends in .bmp; expected"),
        (["--only", "everything"], "no known part"),
    ],
)
def test_wrong_arguments_are_refused_at_once(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["progeo-bench", "vs", "vlad", *arguments])
    with pytest.raises(SystemExit) as exit:
        bench.main()
    assert exit.value.code == 2 and said in " ".join(capsys.readouterr().err.split())
