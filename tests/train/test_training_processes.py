"""What needs processes of its own: two that train together give what one gives, and one is killed by SIGKILL."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from progeo_train.checkpoint_file import read_tensors
from progeo_train.cli import main as command
from progeo_train.pipeline import train_stage1, train_stage2
from tests.train.small_training import metrics, small_config, small_job, write_config, write_images, write_weights
from tests.train.training_processes import STAGE1_KILL, STAGE2_KILL, VARIANTS, command_line, train_variants

REPOSITORY = Path(__file__).parents[2]
LONGER = ("stage1.epochs=40", "stage2.epochs=4", "stage2.iterations_per_epoch=15", "run.checkpoint_every_s=0.05")


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The results of the other processes, and of the variants in this one."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder / "images", ("4-1.png",))
    for kind in ("vit", "resnet"):
        write_weights(folder / f"{kind}.safetensors", kind)
    write_config(folder / "config.yaml", killed_config(folder))
    train_variants(folder, folder / "one")
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "train")]))
    script = Path(__file__).with_name("training_processes.py")
    subprocess.run([sys.executable, str(script), str(folder)], env=environment, check=True, timeout=180)
    return folder


def killed_config(folder):
    return small_config("resnet", *LONGER, weights=folder / "resnet.safetensors")


def assert_close_lines(found, expected):
    assert len(found) == len(expected)
    for one, two in zip(found, expected, strict=True):
        assert one.pop("stage") == two.pop("stage")
        assert one == pytest.approx(two, rel=1e-5, abs=1e-5)


def assert_close_tensors(folder, name, prefix, atol):
    found, expected = (read_tensors(folder / count / name, prefix) for count in ("two", "one"))
    assert found.keys() == expected.keys() and found
    for key, value in expected.items():
        if key.endswith("in_proj_bias"):
            # The bias of attention's keys changes no output: its gradient is rounding noise, which Adam blows up.
            width = len(value) // 3
            value[width : 2 * width] = found[key][width : 2 * width]
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=atol, msg=f"{key} of {name} differs")


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_two_processes_learn_the_prompts_of_one(folder, kind):
    two, one = (metrics(folder / count / kind / "stage1") for count in ("two", "one"))
    assert_close_lines(two, one)
    assert_close_tensors(folder, f"{kind}/stage1/prompts.safetensors", "", 2e-5)


@pytest.mark.parametrize("name", VARIANTS)
def test_two_processes_train_the_encoder_of_one(folder, name):
    """Losses, recall, weights and classifiers; the image that cannot be read is replaced by the same one."""
    two, one = (metrics(folder / count / name / "stage2") for count in ("two", "one"))
    assert ("triplet" in one[0]) == ("triplet" in name)
    assert_close_lines(two, one)
    for prefix in ("model.", "classifiers."):
        assert_close_tensors(folder, f"{name}/stage2/last.safetensors", prefix, 2e-5)


def test_the_command_survives_sigkill_in_both_stages(folder, monkeypatch, capsys):
    """Killed in stage 1, continued, killed in stage 2, continued: every line and every bit is that of a whole run."""
    assert STAGE1_KILL <= int((folder / "lines1.txt").read_text()) < 40
    assert STAGE2_KILL <= int((folder / "lines2.txt").read_text()) < 60
    out = folder / "killed"
    monkeypatch.setattr(sys, "argv", [*command_line(folder, out), "--resume"])
    with pytest.raises(SystemExit) as exit:
        command.main()
    assert exit.value.code == 0, capsys.readouterr()

    whole = small_job(killed_config(folder), folder / "images" / "places.csv", folder / "whole")
    train_stage2(whole, train_stage1(whole), [])
    assert len(metrics(folder / "whole" / "stage2")) == 60
    for stage, name in (("stage1", "prompts"), ("stage1", "last"), ("stage2", "last")):
        lines = [(run / stage / "metrics.jsonl").read_text() for run in (out, folder / "whole")]
        assert lines[0] == lines[1]
        found, expected = (read_tensors(run / stage / f"{name}.safetensors") for run in (out, folder / "whole"))
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
