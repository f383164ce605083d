"""When a run may begin, continue or replace another, and what its folder says."""

from __future__ import annotations

import pytest
import torch
import yaml

from progeo_edge.errors import ConfigError, ModelError
from progeo_train.checkpoint_file import read_record
from progeo_train.config import load_config
from progeo_train.run_folder import Step, open_run_folder
from tests.train.small_training import one_process, small_config

DATA = "d" * 64


def open_folder(path, config=None, data=DATA, resume=False, force=False):
    return open_run_folder(path, one_process(), config or small_config(), data, resume=resume, force=force)


@pytest.fixture
def earlier(tmp_path):
    """A folder in which two epochs were trained."""
    folder = open_folder(tmp_path / "stage2")
    folder.write(folder.last, None, {"prompts.0": torch.ones(2)}, {"stage": 1, "epoch": 2, "iteration": 0})
    return folder


def test_a_new_folder_holds_the_config(tmp_path):
    path = tmp_path / "deep" / "stage1"
    config = small_config("vit", "stage2.epochs=7")
    folder = open_folder(path, config)
    assert folder.read_last() is None
    assert load_config(path / "config.yaml") == config


def test_steps_are_counted_over_the_epochs():
    assert Step(3, 2).total(10) == 32


def test_a_checkpoint_says_what_it_comes_from(earlier):
    training, tensors = earlier.read_last()
    assert tensors.keys() == {"prompts.0"}
    assert (training["stage"], training["epoch"], training["iteration"]) == (1, 2, 0)
    assert training["data_fingerprint"] == DATA
    assert training["config"] == small_config().model_dump(mode="json")
    assert training["versions"].keys() == {"progeo_edge", "torch"}
    assert read_record(earlier.last).kind == "training"


def test_an_earlier_run_is_not_overwritten(earlier):
    before = earlier.last.read_bytes()
    with pytest.raises(ConfigError, match=r"stage2 holds an earlier run; --resume continues it, --force starts again"):
        open_folder(earlier.path)
    assert earlier.last.read_bytes() == before


@pytest.mark.parametrize("name", ["best.safetensors", "prompts.safetensors", "metrics.jsonl"])
def test_any_result_is_an_earlier_run(tmp_path, name):
    (tmp_path / name).write_bytes(b"result")
    with pytest.raises(ConfigError, match="holds an earlier run"):
        open_folder(tmp_path)
    assert (tmp_path / name).read_bytes() == b"result"


def test_what_a_command_left_that_failed_at_once_is_no_run(tmp_path):
    open_folder(tmp_path / "stage1")
    (tmp_path / "stage1" / "data.txt").write_text("some data")
    (tmp_path / "stage1" / "metrics.jsonl").touch()
    changed = small_config("vit")
    open_folder(tmp_path / "stage1", changed)
    assert load_config(tmp_path / "stage1" / "config.yaml") == changed


def test_force_replaces_an_earlier_run(earlier):
    (earlier.path / "metrics.jsonl").write_text("{}\n")
    changed = small_config("vit")
    folder = open_folder(earlier.path, changed, force=True)
    assert folder.read_last() is None
    assert [path.name for path in earlier.path.iterdir()] == ["config.yaml"]
    assert load_config(earlier.path / "config.yaml") == changed


def test_resume_and_force_exclude_each_other(earlier):
    with pytest.raises(ConfigError, match="give one of them"):
        open_folder(earlier.path, resume=True, force=True)
    assert earlier.last.is_file()


def test_resume_begins_where_there_is_no_checkpoint(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    assert open_folder(tmp_path, resume=True).read_last() is None


def test_resume_continues_the_same_run(earlier):
    found = open_folder(earlier.path, resume=True).read_last()
    assert found is not None and found[0]["epoch"] == 2


@pytest.mark.parametrize(
    "assignment",
    [
        "run.workers=3",
        "run.checkpoint_every_s=5",
        "validation.every_epochs=2",
        "stage2.epochs=9",
        "stage1.feature_batch_size=2",
    ],
)
def test_resume_may_change_what_does_not_change_the_steps_done(earlier, assignment):
    changed = small_config("resnet", assignment)
    assert open_folder(earlier.path, changed, resume=True).read_last() is not None
    assert load_config(earlier.path / "config.yaml") == changed


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("stage2.batch_size=8", "stage2.batch_size = 4, now it is 8"),
        ("stage2.learning_rate=1e-4", "stage2.learning_rate = 0.001, now it is 0.0001"),
        ("stage1.learning_rate=0.1", "stage1.learning_rate = 0.01, now it is 0.1"),
        ("model.image_size_px=[32, 64]", r"model.image_size_px = \[64, 64\], now it is \[32, 64\]"),
        ("augmentation.hue=0.1", "augmentation.hue = 0.5, now it is 0.1"),
        ("places.cell_m=20", "places.cell_m = 10.0, now it is 20.0"),
        ("prompt.template=A X.", "prompt.template = A photo of a X X X X street., now it is A X."),
        ("run.seed=1", "run.seed = 0, now it is 1"),
        ("run.precision=bf16", "run.precision = fp32, now it is bf16"),
    ],
)
def test_resume_refuses_other_settings_by_name(earlier, assignment, says):
    before = (earlier.path / "config.yaml").read_bytes()
    with pytest.raises(ConfigError, match=says) as error:
        open_folder(earlier.path, small_config("resnet", assignment), resume=True)
    assert "--resume needs the same settings, --force starts again" in str(error.value)
    assert "\n" not in str(error.value)
    assert (earlier.path / "config.yaml").read_bytes() == before


def test_resume_refuses_other_data(earlier):
    with pytest.raises(ConfigError, match="trained on other images or places"):
        open_folder(earlier.path, data="e" * 64, resume=True)


def test_a_checkpoint_of_an_older_version_may_lack_a_setting(earlier):
    """A setting that came later counts as changed, by name, and not as a crash."""
    training, tensors = earlier.read_last()
    older = {**training["config"], "stage2": {**training["config"]["stage2"]}}
    del older["stage2"]["triplet"]
    earlier._config = _Dump(older)
    earlier.write(earlier.last, None, tensors, {"stage": 1, "epoch": 2, "iteration": 0})
    with pytest.raises(ConfigError, match=r"stage2.triplet = None, now it is False"):
        open_folder(earlier.path, resume=True)


class _Dump:
    def __init__(self, values) -> None:
        self._values = values
        self.model = small_config().model

    def model_dump(self, mode):
        assert mode == "json"
        return self._values


def test_a_damaged_checkpoint_is_one_line(earlier):
    earlier.last.write_bytes(earlier.last.read_bytes()[:-3])
    with pytest.raises(ModelError, match=r"last.safetensors is damaged") as error:
        open_folder(earlier.path, resume=True)
    assert "\n" not in str(error.value)


def test_a_pickle_in_place_of_the_checkpoint_is_not_opened(earlier):
    torch.save({"weights": torch.ones(1)}, earlier.last)
    with pytest.raises(ModelError, match="is a pickle, which may hold code and is not opened"):
        open_folder(earlier.path, resume=True)


def test_unreadable_images_are_named_once(earlier, caplog):
    earlier.report_unreadable(["b.png", "a.png"], 0)
    earlier.report_unreadable(["c.png", "a.png"], 1)
    path = earlier.path / "unreadable.0.txt"
    assert path.read_text() == "a.png\nb.png\nc.png\n"
    assert "3 images could not be read up to epoch 2" in caplog.messages[-1]


def test_the_config_is_yaml_that_people_can_read(tmp_path):
    open_folder(tmp_path / "stage1")
    values = yaml.safe_load((tmp_path / "stage1" / "config.yaml").read_text())
    assert values["stage1"]["epochs"] == 6
