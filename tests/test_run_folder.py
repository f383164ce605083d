"""A run's folder: nothing is overwritten unasked, and a given map is only read."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from progeo_edge.bundle import ModelSpec
from progeo_edge.config import Config, load_config
from progeo_edge.errors import MapError, SourceError
from progeo_edge.map_store import MapStore
from progeo_edge.run_folder import MAP, RESULTS, finish_run, open_run_folder
from tests.map_samples import SPEC, content_hash, fill, sample_map

OTHER = ModelSpec("other", SPEC.dimension, "0b" * 32)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """A folder with the results of a run."""
    out = tmp_path / "out"
    with open_run_folder(out, SPEC, Config()) as store:
        fill(store, 5)
    for name in RESULTS:
        (out / name).write_text(f"earlier {name}")
    (out / "notes.txt").write_text("mine")
    return out


def test_a_new_folder_is_made_with_map_and_config(tmp_path):
    out = tmp_path / "deep" / "out"
    config = load_config(overrides=["search.top_k=7", "store.descriptor_dtype=float32"])
    with open_run_folder(out, SPEC, config) as store:
        assert store.path == out / MAP
        assert store.descriptor_dtype == "float32"
        assert len(store) == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["search"]["top_k"] == 7
    assert load_config(out / "config.yaml") == config


def test_results_are_not_overwritten_unasked(earlier):
    before = snapshot(earlier)
    with pytest.raises(SourceError, match=r"--resume.*--map.*--force"), open_run_folder(earlier, SPEC, Config()):
        pytest.fail("the folder was opened")
    assert snapshot(earlier) == before


def test_force_removes_the_results_and_nothing_else(earlier):
    with open_run_folder(earlier, SPEC, Config(), force=True) as store:
        assert len(store) == 0
        assert {path.name for path in earlier.glob("*") if not path.name.startswith(MAP)} == {
            "config.yaml",
            "notes.txt",
        }
    assert (earlier / "notes.txt").read_text() == "mine"


def test_resume_opens_the_map_that_is_there(earlier):
    with open_run_folder(earlier, SPEC, Config(), resume=True) as store:
        assert len(store) == 5
    assert (earlier / "candidates.jsonl").read_text() == "earlier candidates.jsonl"


def test_resume_without_a_run_is_refused(tmp_path):
    with pytest.raises(MapError, match="no run to resume"), open_run_folder(tmp_path, SPEC, Config(), resume=True):
        pytest.fail("the folder was opened")


def test_a_given_map_is_copied_and_left_untouched(tmp_path):
    (tmp_path / "monday").mkdir()
    known = sample_map(tmp_path / "monday" / MAP)
    before = snapshot(known.parent)
    with open_run_folder(tmp_path / "tuesday", SPEC, Config(), existing_map=known) as store:
        assert store.path == tmp_path / "tuesday" / MAP
        assert len(store) == 20
        fill(store, 5, seed=3, session_name="tuesday")
        assert len(store) == 25
    assert snapshot(known.parent) == before


def test_a_folder_goes_on_with_its_own_map(earlier):
    with open_run_folder(earlier, SPEC, Config(), existing_map=earlier / MAP) as store:
        assert len(store) == 5
    assert (earlier / "closures.jsonl").exists()


@pytest.mark.parametrize("how", ["existing_map", "resume"])
def test_a_map_of_another_model_is_refused_with_both_names(earlier, tmp_path, how):
    out = earlier if how == "resume" else tmp_path / "new"
    options = {"resume": True} if how == "resume" else {"existing_map": earlier / MAP}
    before = snapshot(earlier)
    with pytest.raises(MapError, match=rf"{SPEC.name}.*{OTHER.name}"), open_run_folder(out, OTHER, Config(), **options):
        pytest.fail("the folder was opened")
    assert snapshot(earlier) == before
    assert not (tmp_path / "new" / MAP).exists()


def test_a_map_that_fails_to_open_leaves_the_earlier_results_in_place(earlier, tmp_path):
    """--force with a --map that cannot be used must not cost the results that were there."""
    before = snapshot(earlier)
    missing = tmp_path / "missing.progeo"
    with pytest.raises(MapError), open_run_folder(earlier, SPEC, Config(), existing_map=missing, force=True):
        pytest.fail("the folder was opened")
    assert snapshot(earlier) == before


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="cannot be made"), open_run_folder(tmp_path / "file" / "out", SPEC, Config()):
        pytest.fail("the folder was opened")


def test_the_trajectory_is_written_only_where_there_are_poses(tmp_path):
    with MapStore.create(None, SPEC) as store:
        finish_run(tmp_path, store, with_report=False)
        assert list(tmp_path.iterdir()) == []
        fill(store, 6)
        before = content_hash(store)
        finish_run(tmp_path, store, with_report=False)
        assert content_hash(store) == before
    assert (tmp_path / "trajectory.g2o").read_text().startswith("VERTEX_SE3:QUAT 1 ")
