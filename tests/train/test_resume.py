"""A run that is killed at any moment and continued ends as one that was not: same losses, same bits."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from progeo_edge.errors import ConfigError
from progeo_train.checkpoint_file import read_record, read_tensors
from progeo_train.pipeline import train_stage1, train_stage2
from progeo_train.run_folder import RunFolder
from progeo_train.validation import parse_validation_spec
from tests.train.small_training import (
    metrics,
    quiet,
    small_config,
    small_job,
    write_images,
    write_weights,
)


class Killed(Exception):
    """Stands for SIGKILL where a test stays in its process."""


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("resume")
    weights = write_weights(folder / "weights.safetensors")
    return SimpleNamespace(folder=folder, table=write_images(folder / "images", ("4-1.png",)), weights=weights)


def run(small, stage, out, *assignments, progress=None, resume=False):
    """One stage; stage 2 with a validation set and without text."""
    config = small_config("resnet", "stage2.text_weight=0", *assignments, weights=small.weights)
    job = small_job(config, small.table, out, resume=resume, progress=progress)
    if stage == "stage1":
        return train_stage1(job)
    return train_stage2(job, None, [parse_validation_spec(str(small.table.parent), 25.0)])


def killing(count):
    """A progress bar that ends the program after so many batches."""
    bar, left = quiet(), [count]
    advance = bar.advance

    def advance_or_die(task, by=1):
        advance(task, by)
        if any(one.id == task and one.description.startswith("stage") for one in bar.tasks):
            left[0] -= 1
            if left[0] == 0:
                raise Killed

    bar.advance = advance_or_die  # type: ignore[method-assign]
    return bar


RESULTS = {"stage1": ("last", "prompts"), "stage2": ("last", "best")}


def assert_same(stage, found, expected):
    lines = [(folder / stage / "metrics.jsonl").read_text().splitlines() for folder in (found, expected)]
    assert lines[0] == lines[1]
    for name in RESULTS[stage]:
        tensors = [read_tensors(folder / stage / f"{name}.safetensors") for folder in (found, expected)]
        assert tensors[0].keys() == tensors[1].keys()
        different = [key for key in tensors[0] if not torch.equal(tensors[0][key], tensors[1][key])]
        assert not different, name


@pytest.fixture(scope="module")
def whole(small):
    """Results of uninterrupted runs, by stage and log_every."""
    found = {}
    for stage, log_every in (("stage1", 1), ("stage2", 1), ("stage2", 3)):
        out = small.folder / f"{stage} {log_every}"
        run(small, stage, out, f"run.log_every={log_every}")
        found[stage, log_every] = out
    return found


def test_uninterrupted_runs_log_what_is_expected(whole):
    steps = [(line["stage"], line["step"]) for line in metrics(whole["stage2", 3] / "stage2")]
    assert steps == [(kind, step) for end in (4, 8, 12) for kind, step in
                     (("stage2", end - 1), ("stage2", end), ("validation", end))]  # fmt: skip
    assert len(metrics(whole["stage1", 1] / "stage1")) == 6


@pytest.mark.parametrize("batches", [1, 4, 9, 15])
@pytest.mark.parametrize("every_s", [0, 1e9])
def test_stage_1_continues(small, whole, tmp_path, batches, every_s):
    setting = f"run.checkpoint_every_s={every_s}"
    with pytest.raises(Killed):
        run(small, "stage1", tmp_path, setting, progress=killing(batches))
    run(small, "stage1", tmp_path, setting, resume=True)
    assert_same("stage1", tmp_path, whole["stage1", 1])


@pytest.mark.parametrize("log_every", [1, 3])
@pytest.mark.parametrize("batches", [1, 2, 4, 7, 12])
def test_stage_2_continues(small, whole, tmp_path, batches, log_every):
    setting = f"run.log_every={log_every}"
    with pytest.raises(Killed):
        run(small, "stage2", tmp_path, setting, progress=killing(batches))
    run(small, "stage2", tmp_path, setting, resume=True)
    assert_same("stage2", tmp_path, whole["stage2", log_every])


def test_checkpoints_at_the_ends_of_epochs_suffice(small, whole, tmp_path):
    with pytest.raises(Killed):
        run(small, "stage2", tmp_path, "run.checkpoint_every_s=1e9", progress=killing(7))
    assert len(metrics(tmp_path / "stage2")) == 7
    run(small, "stage2", tmp_path, "run.checkpoint_every_s=1e9", resume=True)
    assert_same("stage2", tmp_path, whole["stage2", 1])


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_run_may_be_killed_again_and_again(small, whole, tmp_path, stage):
    kills = 0
    while True:
        try:
            run(small, stage, tmp_path, progress=killing(4), resume=True)
            break
        except Killed:
            kills += 1
    assert kills >= 3
    assert_same(stage, tmp_path, whole[stage, 1])


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", ["last.safetensors", "best.safetensors"])
def test_a_kill_around_a_checkpoint_changes_nothing(small, whole, tmp_path, monkeypatch, when, name):
    """Between the line of metrics and the checkpoint, and between the best and the last."""
    write = RunFolder.write
    left = [1 if name.startswith("best") else 6]

    def write_or_die(folder, path, *rest):
        counts = path.name == name
        left[0] -= counts
        if counts and left[0] == 0 and when == "before":
            raise Killed
        write(folder, path, *rest)
        if counts and left[0] == 0:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write", write_or_die)
        with pytest.raises(Killed):
            run(small, "stage2", tmp_path)
    run(small, "stage2", tmp_path, resume=True)
    assert_same("stage2", tmp_path, whole["stage2", 1])


def test_a_finished_run_stays_as_it_is(small, tmp_path, whole):
    for stage in ("stage1", "stage2"):
        run(small, stage, tmp_path)
        run(small, stage, tmp_path, resume=True)
        assert_same(stage, tmp_path, whole[stage, 1])


def test_more_epochs_may_be_added(small, whole, tmp_path):
    run(small, "stage2", tmp_path, "stage2.epochs=2")
    run(small, "stage2", tmp_path, resume=True)
    assert_same("stage2", tmp_path, whole["stage2", 1])


def test_other_data_and_settings_are_refused(small, tmp_path):
    run(small, "stage2", tmp_path / "out", "stage2.epochs=1")
    with pytest.raises(ConfigError, match=r"stage2.batch_size = 4, now it is 6"):
        run(small, "stage2", tmp_path / "out", "stage2.batch_size=6", resume=True)
    other = SimpleNamespace(**{**vars(small), "table": tmp_path / "images" / "fewer.csv"})
    write_images(tmp_path / "images")
    lines = small.table.read_text().splitlines()
    other.table.write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ConfigError, match="trained on other images or places"):
        run(other, "stage2", tmp_path / "out", resume=True)


def test_a_continued_run_remembers_the_best_recall(small, tmp_path, monkeypatch):
    recalls = iter([0.9, 0.5, 0.5, 0.5])

    def validate(*_):
        return SimpleNamespace(mean_recall_at_1=next(recalls), recall={}, scalars=dict, write_worst=lambda *_: [])

    monkeypatch.setattr("progeo_train.stage2.validate", validate)
    with pytest.raises(Killed):
        run(small, "stage2", tmp_path, progress=killing(6))
    run(small, "stage2", tmp_path, resume=True)
    assert read_record(tmp_path / "stage2" / "best.safetensors").training["epoch"] == 1
