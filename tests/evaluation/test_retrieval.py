from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import progeo_edge.evaluation.retrieval as retrieval
from progeo_edge.bundle import ModelSpec
from progeo_edge.errors import InputError, SourceError
from progeo_edge.evaluation.labels import GroundTruth
from progeo_edge.evaluation.protocols import describe_set, set_from_matches, set_from_places, set_from_sequence
from progeo_edge.evaluation.retrieval import (
    Ranking,
    extract_descriptors,
    judge_retrieval,
    list_images,
    rerank,
    search,
)


class MeanColour:
    """(B, G, R) means as a unit vector."""

    spec = ModelSpec("mean-colour", 3, "0" * 64)

    def encode(self, images):
        means = np.array([image.reshape(-1, 3).mean(axis=0) for image in images], np.float32) + 1
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    def close(self):
        pass


def _unit_rows(rng, count, width=6):
    rows = rng.normal(size=(count, width)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def _rows(*lists):
    return tuple(np.array(rows, np.int64) for rows in lists)


def _write_image(path, colour):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((12, 16, 3), colour, np.uint8))


@settings(max_examples=40, deadline=None)
@given(queries=st.integers(1, 9), database=st.integers(1, 60), k=st.integers(1, 25), seed=st.integers(0, 1000))
def test_search_in_blocks_agrees_with_sorting_everything(queries, database, k, seed):
    rng = np.random.default_rng(seed)
    asked, known = _unit_rows(rng, queries), _unit_rows(rng, database)
    excluded = [np.flatnonzero(rng.random(database) < 0.3) for _ in range(queries)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retrieval, "DATABASE_ROWS", 7)
        patch.setattr(retrieval, "QUERY_ROWS", 4)
        ranking = search(asked, known, k, excluded)
    for row in range(queries):
        similarities = (asked[row] @ known.T).astype(np.float64)
        similarities[excluded[row]] = -np.inf
        expected = np.argsort(-similarities, kind="stable")[: min(k, database - len(excluded[row]))]
        assert ranking.rows[row, : len(expected)].tolist() == expected.tolist()
        assert np.all(ranking.rows[row, len(expected) :] == -1)
        assert np.allclose(ranking.similarities[row, : len(expected)], similarities[expected], atol=1e-6)


def test_equal_similarities_keep_the_order_of_the_database(monkeypatch):
    monkeypatch.setattr(retrieval, "DATABASE_ROWS", 3)
    same = np.tile(np.array([[1.0, 0.0]], np.float32), (8, 1))
    assert search(same[:1], same, 8).rows.tolist() == [list(range(8))]


def test_the_database_may_be_a_memory_map_in_half_precision(tmp_path):
    known = _unit_rows(np.random.default_rng(0), 30)
    path = tmp_path / "database.npy"
    np.save(path, known.astype(np.float16))
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    assert search(known[:5], mapped, 1).rows[:, 0].tolist() == [0, 1, 2, 3, 4]


def test_search_refuses_what_does_not_fit():
    rows = _unit_rows(np.random.default_rng(0), 3)
    with pytest.raises(InputError, match="equal width"):
        search(rows, rows[:, :4], 1)
    with pytest.raises(InputError, match="at least 1"):
        search(rows, rows, 0)
    with pytest.raises(InputError, match="all 3 queries"):
        search(rows, rows, 1, _rows([0]))


def test_recall_by_hand():
    ranking = Ranking(np.array([[0, 1, 2], [2, 1, 0], [1, 2, 0], [0, 1, 2]]), np.zeros((4, 3), np.float32))
    truth = GroundTruth(_rows([0], [0, 1], [0], []), _rows([], [], [], []), 3)
    result = judge_retrieval(ranking, truth, recall_at=(1, 2, 3))
    assert [result.recall[n].value for n in (1, 2, 3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert (result.num_queries, result.num_without_positive, result.num_database) == (3, 1, 3)
    assert result.missed == (1, 2)
    assert result.to_dict()["recall"]["3"]["value"] == 1.0


def test_padding_is_never_a_hit():
    ranking = Ranking(np.array([[-1, -1]]), np.full((1, 2), -np.inf, np.float32))
    truth = GroundTruth(_rows([4]), _rows([]), 5)
    assert judge_retrieval(ranking, truth, recall_at=(1, 2)).recall[2].value == 0.0


def test_no_query_at_all_is_an_error():
    with pytest.raises(InputError, match="none of the 2 query images has a positive"):
        judge_retrieval(
            Ranking(np.zeros((2, 1), np.int64), np.zeros((2, 1), np.float32)),
            GroundTruth(_rows([], []), _rows([], []), 1),
        )


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), queries=st.integers(1, 12), database=st.integers(1, 30))
def test_recall_grows_with_n_and_does_not_depend_on_the_order_of_either_side(seed, queries, database):
    rng = np.random.default_rng(seed)
    asked, known = _unit_rows(rng, queries), _unit_rows(rng, database)
    relevant = rng.random((queries, database)) < 0.2
    relevant[0, 0] = True

    def recall(query_order, database_order):
        shuffled = relevant[query_order][:, database_order]
        truth = GroundTruth(
            tuple(np.flatnonzero(row) for row in shuffled), tuple(np.zeros(0, np.int64) for _ in shuffled), database
        )
        ranking = search(asked[query_order], known[database_order], 20)
        judged = judge_retrieval(ranking, truth, resamples=5).recall
        return [judged[n].value for n in (1, 5, 10, 20)]

    straight = recall(np.arange(queries), np.arange(database))
    assert straight == sorted(straight)
    assert straight == pytest.approx(recall(rng.permutation(queries), rng.permutation(database)))


def test_images_are_listed_at_any_depth_in_natural_order(tmp_path):
    for name in ("b/10.jpg", "b/9.JPG", "a/1.png", "frame2.jpg", "frame10.jpg", "x²3.jpg"):
        _write_image(tmp_path / name, 0) if not name.endswith("JPG") else (tmp_path / name).write_bytes(b"")
    (tmp_path / "notes.txt").write_text("no image")
    assert list_images(tmp_path) == ["a/1.png", "b/9.JPG", "b/10.jpg", "frame2.jpg", "frame10.jpg", "x²3.jpg"]
    with pytest.raises(SourceError, match="holds no image"):
        empty = tmp_path / "empty"
        empty.mkdir()
        list_images(empty)
    with pytest.raises(SourceError, match="is not a folder"):
        list_images(tmp_path / "nowhere")


def test_extraction_fills_the_given_array_and_reports_each_image(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, colour in zip(paths, [(255, 0, 0), (0, 255, 0), (0, 0, 255)], strict=True):
        _write_image(path, colour)
    out = np.lib.format.open_memmap(tmp_path / "out.npy", mode="w+", dtype=np.float32, shape=(3, 3))
    calls = []
    descriptors, encode_ms = extract_descriptors(paths, MeanColour(), progress=lambda: calls.append(1), out=out)
    assert descriptors is out
    assert np.argmax(out, axis=1).tolist() == [0, 1, 2]
    assert len(calls) == 3 and encode_ms.shape == (3,) and (encode_ms >= 0).all()
    with pytest.raises(InputError, match=r"shape \(2, 3\); expected \(3, 3\)"):
        extract_descriptors(paths, MeanColour(), out=np.zeros((2, 3), np.float32))


def test_unreadable_images_and_bad_descriptors_are_named(tmp_path):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"not an image")
    with pytest.raises(SourceError, match=r"broken\.jpg is missing or cannot be decoded"):
        extract_descriptors([broken], MeanColour())

    class Broken(MeanColour):
        def encode(self, images):
            return np.full((len(images), 3), np.nan, np.float32)

    _write_image(tmp_path / "fine.png", 9)
    with pytest.raises(InputError, match=r"not finite for .*fine\.png"):
        extract_descriptors([tmp_path / "fine.png"], Broken())


def test_protocols_agree_on_what_asks_what(tmp_path):
    for row in range(3):
        _write_image(tmp_path / f"q/{row}.png", (10 * row, 0, 0))
        _write_image(tmp_path / f"d/{row}.png", (0, 10 * row, 0))
    (tmp_path / "m.csv").write_text("query,database,label\nq/0.png,d/1.png,positive\n")
    two = set_from_matches(tmp_path / "q", tmp_path / "d", tmp_path / "m.csv")
    assert (two.one_set, two.num_images) == (False, 6)
    (tmp_path / "p.csv").write_text("image,place\nd/2.png,x\nd/0.png,x\n")
    places = set_from_places(tmp_path / "d", tmp_path / "p.csv")
    assert [path.name for path in places.queries] == ["2.png", "0.png"]
    assert (places.one_set, places.num_images) == (True, 2)
    assert [rows.tolist() for rows in places.truth.positives] == [[1], [0]]
    assert describe_set(places, MeanColour()).encode_ms.shape == (2,)
    assert describe_set(two, MeanColour()).encode_ms.shape == (6,)


def test_a_sequence_needs_times_to_leave_pairs_out(tmp_path):
    for row in range(3):
        _write_image(tmp_path / f"{row}.png", 0)
    (tmp_path / "m.csv").write_text("query,earlier,label\n2.png,0.png,positive\n")
    (tmp_path / "t.csv").write_text("image,time_s\n0.png,0\n2.png,8\n")
    all_images = set_from_sequence(tmp_path, tmp_path / "m.csv", None, 0.0)
    assert all_images.num_images == 3
    listed = set_from_sequence(tmp_path, tmp_path / "m.csv", tmp_path / "t.csv", 5.0)
    assert [rows.tolist() for rows in listed.truth.positives] == [[1], [0]]
    with pytest.raises(SourceError, match="add --times CSV"):
        set_from_sequence(tmp_path, tmp_path / "m.csv", None, 5.0)
    (tmp_path / "t.csv").write_text("image,time_s\n0.png,0\n7.png,8\n")
    with pytest.raises(SourceError, match=r"lists 1 images that are not in .* such as 7\.png"):
        set_from_sequence(tmp_path, tmp_path / "m.csv", tmp_path / "t.csv", 5.0)


def test_reranking_reorders_the_head_and_leaves_the_tail(tmp_path, monkeypatch):
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for row, path in enumerate(paths):
        _write_image(path, row)
    looks = {0: 0.0, 1: 0.0, 2: 1.0, 3: 1.0}
    monkeypatch.setattr(retrieval, "describe_appearance", lambda image: np.array([image[0, 0, 0]], np.uint8))
    monkeypatch.setattr(
        retrieval,
        "appearance_similarity",
        lambda query, references: np.array([looks[int(r[0])] for r in references], np.float32),
    )
    before = Ranking(np.array([[0, 1, 2, 3, -1]]), np.array([[0.9, 0.8, 0.7, 0.6, -np.inf]], np.float32))
    after = rerank(before, paths[:1], paths, 0.5, top_k=3)
    assert after.rows.tolist() == [[2, 0, 1, 3, -1]]
    assert after.similarities[0, :4] == pytest.approx([0.85, 0.45, 0.4, 0.6])
    assert rerank(before, paths[:1], paths, 0.0, top_k=5).rows.tolist() == before.rows.tolist()
    nothing = Ranking(np.full((1, 2), -1), np.full((1, 2), -np.inf, np.float32))
    assert rerank(nothing, paths[:1], paths, 0.5, top_k=2).rows.tolist() == [[-1, -1]]
