"""progeo-train as a user meets it: help, a first try, and one line for each mistake."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer

from progeo_edge.cli.console import EXIT_ERROR
from progeo_train.checkpoint_file import load_encoder_weights, read_record
from progeo_train.cli import main as command
from progeo_train.config import load_config
from tests.train.small_training import (
    GROUPS,
    PLACES,
    metrics,
    small_config,
    small_job,
    write_config,
    write_images,
    write_weights,
)

REPOSITORY = Path(__file__).parents[2]
COMMANDS = sorted(typer.main.get_command(command.app).commands)  # type: ignore[attr-defined]

HELP_OF_ALL = """
import sys
from progeo_train.cli.main import main
for name in [*sys.argv[1:], ""]:
    sys.argv = ["progeo-train", *([name] if name else []), "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, name
heavy = {"torch", "torchvision", "open_clip", "cv2", "lightning_fabric"} & sys.modules.keys()
print("imported:", sorted(heavy))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images, weights and a config of a ResNet."""
    folder = tmp_path_factory.mktemp("command")
    write_images(folder / "images", ("4-1.png",))
    write_weights(folder / "weights.safetensors")
    write_config(folder / "config.yaml", small_config("resnet", "stage1.epochs=3", "stage2.epochs=1"))
    return folder


@pytest.fixture
def run(monkeypatch, capsys, folder):
    """Runs progeo-train in this process: exit code, stdout and stderr."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["progeo-train", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            command.main()
        found = capsys.readouterr()
        return end.value.code, found.out, found.err

    return run


def arguments(out, *more, data="images/places.csv", config="config.yaml"):
    return (config, "--data", data, "--out", out, "--accelerator", "cpu", *more)


def test_help_of_every_command_needs_no_torch():
    assert {"all", "stage1", "stage2"} <= set(COMMANDS)
    environment = dict(os.environ, COLUMNS="120", NO_COLOR="1")
    environment["PYTHONPATH"] = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "train")])
    found = subprocess.run(
        [sys.executable, "-c", HELP_OF_ALL, *COMMANDS], env=environment, capture_output=True, text=True, timeout=60
    )
    assert found.returncode == 0, found.stderr
    assert "imported: []" in found.stdout
    assert found.stdout.count("Usage: ") == len(COMMANDS) + 1
    for name in COMMANDS:
        assert f" {name} " in found.stdout
    for text in ("docs/training.md", "--resume", "--force", "--dev", "--val", "--prompts", "--set", "torchrun"):
        assert text in found.stdout


def test_without_arguments_the_help_is_shown(run):
    code, out, _ = run()
    assert code == EXIT_ERROR and "Usage: " in out


def test_a_first_try_runs_both_stages_end_to_end(run, tmp_path):
    """Two iterations of everything; weights are not asked for, although the config names some."""
    more = ("--dev", "--val", "images", "--pretrained", "no-such-weights.safetensors")
    code, out, err = run("all", *arguments(tmp_path, *more))
    assert code == 0, err
    assert "27 images" in out and f"encoder in {tmp_path}/stage2/best.safetensors; progeo-eval" in out
    assert (tmp_path / "stage1" / "prompts.safetensors").is_file()
    assert "RANDOM weights" in err
    lines = metrics(tmp_path / "stage2")
    assert [line["step"] for line in lines if line["stage"] == "stage2"] == [1, 2, 3, 4]
    validation = [line for line in lines if line["stage"] == "validation"]
    assert len(validation) == 1 and {"images/recall@1", "images/recall@20", "mean recall@1"} <= validation[0].keys()
    assert len(metrics(tmp_path / "stage1")) == 2
    config = load_config(tmp_path / "stage2" / "config.yaml")
    assert (config.stage2.iterations_per_epoch, config.model.pretrained) == (2, None)
    assert "9 places in 3 groups" in (tmp_path / "stage2" / "data.txt").read_text()
    assert list((tmp_path / "stage2" / "tensorboard").iterdir())
    assert load_encoder_weights(tmp_path / "stage2" / "best.safetensors").spec.descriptor_dim == 32


def test_every_option_of_all_reaches_the_run(run, tmp_path):
    settings = ("--set", "run.log_every=2", "--set", "stage2.learning_rate=3e-4", "--cache", tmp_path / "cache")
    more = ("--pretrained", "weights.safetensors", *settings)
    code, out, err = run("all", *arguments(tmp_path / "out", *more))
    assert code == 0, err
    assert "RANDOM" not in err
    assert "no --val: the last encoder is kept" in out
    assert "encoder in " in out and "last.safetensors" in out
    config = load_config(tmp_path / "out" / "stage2" / "config.yaml")
    assert config.model.pretrained == "weights.safetensors"
    assert config.run.log_every == 2 and config.stage2.learning_rate == 3e-4
    assert [line["step"] for line in metrics(tmp_path / "out" / "stage2")] == [2, 4]
    assert (tmp_path / "cache" / "clip_features" / "features.npy").is_file()
    assert not (tmp_path / "out" / "cache").exists()


def test_stages_run_one_after_the_other(run, tmp_path):
    code, out, err = run("stage1", *arguments(tmp_path / "a"))
    assert code == 0, err
    prompts = tmp_path / "a" / "stage1" / "prompts.safetensors"
    assert f"prompts in {prompts}" in out
    assert not (tmp_path / "a" / "stage2").exists()
    code, _, err = run("stage2", *arguments(tmp_path / "b", "--prompts", prompts))
    assert code == 0, err
    assert "text" in metrics(tmp_path / "b" / "stage2")[0]


def test_brackets_in_names_are_shown_as_they_are(run, tmp_path):
    more = ("--set", "stage2.text_weight=0")
    code, out, err = run("all", *arguments(tmp_path / "try [red] [", *more))
    assert code == 0, err
    assert f"encoder in {tmp_path}/try [red] [/stage2/last.safetensors" in out


def test_all_leaves_stage_1_out_without_the_text_term(run, tmp_path):
    code, _, err = run("all", *arguments(tmp_path, "--set", "stage2.text_weight=0"))
    assert code == 0, err
    assert not (tmp_path / "stage1").exists()
    assert "text" not in metrics(tmp_path / "stage2")[0]


def test_unreadable_images_are_counted_not_fatal(run, tmp_path):
    code, _, err = run("all", *arguments(tmp_path, "--set", "stage2.epochs=3"))
    assert code == 0
    assert "1 of 27 images cannot be read and have no features" in err
    assert "4-1.png" in (tmp_path / "cache" / "clip_features" / "unreadable.txt").read_text()
    if "images could not be read up to epoch" in err:
        assert "4-1.png" in (tmp_path / "stage2" / "unreadable.0.txt").read_text()


def test_an_earlier_run_is_continued_or_replaced_only_when_asked(run, tmp_path):
    more = ("--set", "stage2.text_weight=0")
    assert run("stage2", *arguments(tmp_path, *more))[0] == 0
    assert_one_line(run("stage2", *arguments(tmp_path, *more)), "holds an earlier run; --resume continues it, --force")
    code, _, _ = run("stage2", *arguments(tmp_path, *more, "--resume", "--set", "stage2.epochs=2"))
    assert code == 0 and read_record(tmp_path / "stage2" / "last.safetensors").training["epoch"] == 2
    changed = (*more, "--set", "augmentation.hue=0.1")
    assert_one_line(run("stage2", *arguments(tmp_path, *changed, "--resume")), "augmentation.hue = 0.5, now it is 0.1")
    assert_one_line(run("stage2", *arguments(tmp_path, *changed, "--resume", "--force")), "give one of them")
    assert run("stage2", *arguments(tmp_path, *changed, "--force"))[0] == 0
    assert read_record(tmp_path / "stage2" / "last.safetensors").training["epoch"] == 1


def assert_one_line(result, says):
    """The command failed with one red line; a warning about random weights may stand above it."""
    code, _, err = result
    assert code == EXIT_ERROR
    lines = [line for line in err.splitlines() if line.strip()]
    assert lines[-1].startswith("error: ") and re.search(says, lines[-1]), err
    assert all("RANDOM weights" in line for line in lines[:-1]), err
    assert not any("have no features" in line for line in lines), "noticed only after the images were described"
    assert "Traceback" not in err


def write_table(path, header, lines):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def rows(*columns):
    """A line per image with the columns given."""
    return [",".join([f"{p}-{n}.png", *columns]) for p in range(PLACES) for n in range(3)]


def test_missing_data_is_one_line(run, tmp_path):
    assert_one_line(run("all", *arguments(tmp_path, data="nowhere")), "training data nowhere does not exist")


def test_a_table_without_headings_is_one_line(run, folder, tmp_path):
    table = write_table(folder / "images" / "no_heading.csv", "image,east_m,north_m", rows("1.0", "2.0"))
    says = "no column heading_deg, .* add it, or set places.heading_deg=360"
    assert_one_line(run("all", *arguments(tmp_path, data=table)), says)


def test_a_table_that_tells_no_places_is_one_line(run, folder, tmp_path):
    table = write_table(folder / "images" / "nothing.csv", "image", rows())
    assert_one_line(run("all", *arguments(tmp_path, data=table)), "no columns that tell places")


def test_a_table_with_a_bad_number_is_one_line(run, folder, tmp_path):
    header = "image,east_m,north_m,heading_deg"
    table = write_table(folder / "images" / "bad.csv", header, rows("1.0", "", "90"))
    assert_one_line(run("all", *arguments(tmp_path, data=table)), "line 2: north_m is ''")


def test_no_place_with_enough_images_is_one_line(run, tmp_path):
    more = ("--set", "places.min_images_per_class=4")
    assert_one_line(run("all", *arguments(tmp_path, *more)), "none of 9 places .* lower it")


def test_groups_of_single_places_are_one_line(run, folder, tmp_path):
    regions = [f"{p}-{n}.png,{p},one" for p in range(GROUPS) for n in range(3)]
    table = write_table(folder / "images" / "single.csv", "image,place,region", regions)
    assert_one_line(run("all", *arguments(tmp_path, data=table)), "expected two in a group")


def test_a_wrong_descriptor_dimension_is_one_line(run, tmp_path):
    more = ("--set", "model.descriptor_dim=16")
    says = "descriptors have 16 dimensions and CLIP's text features 32.* set it to 32, or set stage2.text_weight=0"
    assert_one_line(run("all", *arguments(tmp_path, *more)), says)


def test_prompts_that_are_missing_are_one_line(run, tmp_path):
    says = "stage1/prompts.safetensors is not there; run stage 1 first, name its file with --prompts"
    assert_one_line(run("stage2", *arguments(tmp_path)), says)
    assert not (tmp_path / "stage2").exists()


@pytest.fixture(scope="module")
def prompts(folder):
    """Prompts of the first six places."""
    lines = (folder / "images" / "places.csv").read_text().splitlines()
    table = write_table(folder / "images" / "six.csv", lines[0], lines[1:19])
    from progeo_train.pipeline import train_stage1

    return train_stage1(small_job(small_config("resnet", "stage1.epochs=1"), table, folder / "six"))


def test_prompts_of_other_places_are_one_line(run, prompts, tmp_path):
    result = run("stage2", *arguments(tmp_path, "--prompts", prompts))
    assert_one_line(result, "were learned for other places; use the --data and places")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PK\x03\x04 and so on", "is a pickle, which may hold code and is not opened"),
        (b"", "is damaged or no .safetensors file"),
        (b"\x10\x00\x00\x00\x00\x00\x00\x00{}", "is damaged or no .safetensors file"),
    ],
)
def test_a_file_that_holds_no_prompts_is_one_line(run, tmp_path, content, says):
    path = tmp_path / "prompts.safetensors"
    path.write_bytes(content)
    assert_one_line(run("stage2", *arguments(tmp_path / "out", "--prompts", path)), says)


def test_weights_given_as_prompts_are_one_line(run, folder, tmp_path):
    result = run("stage2", *arguments(tmp_path / "out", "--prompts", folder / "weights.safetensors"))
    assert_one_line(result, "no checkpoint of progeo-train")


def test_a_pickle_with_code_is_not_opened(run, tmp_path):
    """As prompts, and as the checkpoint to continue from."""
    path = tmp_path / "prompts.pt"
    torch.save({"trap": _Trap(tmp_path / "sprung")}, path)
    assert_one_line(run("stage2", *arguments(tmp_path / "out", "--prompts", path)), "is a pickle")
    last = tmp_path / "out" / "stage2" / "last.safetensors"
    last.parent.mkdir(parents=True)
    last.write_bytes(path.read_bytes())
    more = ("--resume", "--set", "stage2.text_weight=0")
    assert_one_line(run("stage2", *arguments(tmp_path / "out", *more)), "is a pickle")
    assert_one_line(run("stage1", *arguments(tmp_path / "w", "--pretrained", path)), str(path))
    assert not (tmp_path / "sprung").exists()


class _Trap:
    def __init__(self, path) -> None:
        self._path = str(path)

    def __reduce__(self):
        return os.mkdir, (self._path,)


def test_an_unknown_preset_is_one_line(run, tmp_path):
    result = run("all", *arguments(tmp_path, config="rn5O"))
    assert_one_line(result, "config rn5O is neither a file nor a preset; the presets are .*rn50")


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stage2.epoch=3", "stage2.epoch.*stage2.epochs"),
        ("stage3.epochs=3", "stage3.*stage[12]"),
        ("stage2.epochs=many", "stage2.epochs.*integer"),
        ("stage2.epochs=0", "stage2.epochs.*greater"),
        ("stage2.images_per_class=3", "batch_size 4 is no multiple of images_per_class 3"),
        ("run.precision=fp16", "fp16, which needs a GPU"),
        ("prompt.template=A photo.", "has no word X"),
        ("model.image_size_px=[8, 64]", "8"),
        ("model.backbone=RN5O", "RN5O"),
    ],
)
def test_a_wrong_setting_is_one_line(run, tmp_path, setting, says):
    assert_one_line(run("all", *arguments(tmp_path, "--set", setting)), says)
    assert not (tmp_path / "stage2").exists()


def test_weights_that_are_missing_are_one_line(run, tmp_path):
    assert_one_line(run("all", *arguments(tmp_path, "--pretrained", "none.safetensors")), "none.safetensors")


def test_a_validation_set_that_is_missing_is_one_line(run, tmp_path):
    more = ("--val", "nowhere", "--set", "stage2.text_weight=0")
    assert_one_line(run("all", *arguments(tmp_path, *more)), "validation set nowhere is no folder")


def test_a_wrong_validation_set_is_noticed_before_stage_1(run, tmp_path):
    """Stage 1 takes hours; what is wrong with stage 2's inputs is said first."""
    assert_one_line(run("all", *arguments(tmp_path, "--val", "nowhere")), "validation set nowhere is no folder")
    assert not (tmp_path / "stage1").exists()


def test_a_backbone_whose_dimension_does_not_fit_is_noticed_before_stage_1(run, tmp_path):
    more = ("--set", "model.descriptor_dim=16")
    assert_one_line(run("all", *arguments(tmp_path, *more)), "16 dimensions")
    assert not (tmp_path / "stage1").exists()


def test_a_run_that_is_there_is_noticed_before_stage_1(run, tmp_path):
    (tmp_path / "stage2").mkdir()
    (tmp_path / "stage2" / "last.safetensors").touch()
    assert_one_line(run("all", *arguments(tmp_path)), "stage2 holds an earlier run")
    assert not (tmp_path / "stage1").exists()
