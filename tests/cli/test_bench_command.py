from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from progeo_edge.benchmark import run
from progeo_edge.benchmark.result_file import read_result
from progeo_edge.bundle import ModelSpec
from progeo_edge.cli import bench as bench_command
from progeo_edge.cli.bench import with_command
from progeo_edge.config import load_config
from progeo_edge.detector import LoopDetector
from progeo_edge.encoders import load_encoder
from progeo_edge.errors import ModelError
from progeo_edge.map_store import MapStore
from progeo_edge.sources import open_source
from progeo_edge.world import StreetWorld, WorldSource, forward_camera, simulate_drive

Command = Callable[..., tuple[int, str, str]]
LIGHT = ("--set", "verification.working_size_px=320", "--set", "verification.max_features=300")
FEW = ("--frames", 10, "--warmup", 1, "--rounds", 2, "--sizes", "50,1k", "--cold-starts", 0, *LIGHT)


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def enter(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-bench", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as exit:
            bench_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return enter


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drive along the street as a folder of pictures, without times or poses."""
    folder = tmp_path_factory.mktemp("drive") / "pictures"
    folder.mkdir()
    world = StreetWorld(0)
    drive = simulate_drive(world, frame_rate_hz=2.5, max_frames=22)
    for i, frame in enumerate(WorldSource(world, drive, forward_camera(160, 120))):
        cv2.imwrite(str(folder / f"{i:03d}.png"), frame.image)
    return folder


@pytest.fixture(scope="module")
def measured(recording: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run with all of its files."""
    folder = tmp_path_factory.mktemp("out")
    files = ("--json", folder / "a.json", "--plot", folder / "a.svg", "--markdown", folder / "a.md")
    arguments = ("progeo-bench", "vlad", "--source", recording, *FEW, *files)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(argument) for argument in arguments])
        with pytest.raises(SystemExit) as exit:
            bench_command.main()
    assert not exit.value.code
    return folder


def test_the_result_holds_every_stage_and_part(measured: Path):
    result = read_result(measured / "a.json", "run")
    series, figures = result.figures["series"], result.figures
    pipeline = [name for name in series if name.startswith("pipeline.")]
    assert pipeline[0] == "pipeline.decode" and pipeline[-1] == "pipeline.total"
    assert {"pipeline.encode", "pipeline.features", "pipeline.search", "pipeline.store", "pipeline.verify"} <= {*series}
    assert {"parts.resize", "parts.inference", "parts.features", "parts.verify", "parts.reject"} <= {*series}
    assert {"search.50", "search.1000", "growth.map_file", "growth.memory"} <= {*series}
    assert series["pipeline.total"]["summary"]["count"] == 20 and len(series["pipeline.total"]["rounds"]) == 2
    assert [facts["size"] for facts in figures["index"]] == [50, 1000]
    assert figures["rounds"]["frames_per_round"] == 10 and figures["map"] == {"keyframes": 11, "given": False}
    assert sum(figures["rounds"]["statuses"].values()) == 20
    assert figures["encoder"]["backend"] == "VladEncoder" and figures["encoder"]["dimension"] == 512
    assert figures["absent"]["cold_start"] == "left out with --cold-starts 0"
    assert "parts.host_to_device" in figures["absent"]
    assert result.options["settings"] == {
        "budget.deadline_ms": 0.0,
        "keyframe.every_frame": True,
        "verification.working_size_px": 320,
        "verification.max_features": 300,
    }


def test_stages_add_up_to_the_total(measured: Path):
    series = read_result(measured / "a.json").figures["series"]
    means = {name: s["summary"]["mean"] * s["summary"]["count"] for name, s in series.items() if "pipeline." in name}
    total = means.pop("pipeline.total")
    assert 0.8 * total < sum(means.values()) <= total


def test_no_path_of_this_machine_is_in_what_is_shown(measured: Path, recording: Path):
    for name in ("a.json", "a.md", "a.svg"):
        assert str(recording.parent) not in (measured / name).read_text()
    assert "pictures (recording, 160x120, pictures only)" in (measured / "a.md").read_text()


def test_the_markdown_block_is_made_of_tables(measured: Path):
    lines = (measured / "a.md").read_text().splitlines()
    assert lines[0].startswith("**progeo-bench run**, progeo-edge ")
    tables = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in tables}) == 1
    assert any(line.startswith("| total |") for line in tables) and any(line.startswith("| 1000 |") for line in tables)
    assert "- parts.host_to_device: vlad runs on the CPU" in lines


def test_the_plot_names_stages_and_sizes(measured: Path):
    text = (measured / "a.svg").read_text()
    for word in ("Pipeline, per keyframe", "Parts alone", "verify", "total", "1,000", "keyframes in the map"):
        assert word in text


def test_a_known_map_and_markdown_in_place_of_tables(command: Command, recording: Path, tmp_path: Path, measured: Path):
    known, encoder = tmp_path / "map.progeo", load_encoder("vlad")
    with MapStore.create(known, encoder.spec) as store:
        detector = LoopDetector(encoder, store, None, load_config(overrides=["keyframe.every_frame=true"]))
        for frame in open_source(recording):
            detector.process(frame)
    before = known.read_bytes()
    files = ("--json", tmp_path / "b.json", "--markdown", "-")
    code, out, _ = command("vlad", "--source", recording, "--map", known, *FEW, *files)
    assert code == 0 and out.startswith("**progeo-bench run**") and "not measured: " not in out
    assert known.read_bytes() == before, "the map is copied"
    figures = read_result(tmp_path / "b.json").figures
    assert figures["map"] == {"keyframes": 22, "given": True} and figures["rounds"]["frames_per_round"] == 10
    code, out, _ = command("compare", measured / "a.json", tmp_path / "b.json")
    assert code == 0 and "too few rounds" in out and "different options: map nothing → map.progeo" in out


def test_no_recording_means_a_rendered_street(command: Command):
    code, out, err = command("vlad", *FEW[:4], "--rounds", 1, "--sizes", "", "--cold-starts", 1, *LIGHT)
    assert code == 0, err
    assert "rendered street (rendered frames, no recording, 640x480, odometry and camera): 1 rounds of 10" in out
    assert "cold start, ms" in out and "search, ms" not in out


# -- errors ----------------------------------------------------------------------------------------------------------


def refused(command: Command, *arguments: object) -> str:
    code, _, err = command(*arguments)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_what_cannot_be_measured_is_said_in_one_line(command: Command, recording: Path, tmp_path: Path):
    source = ("--source", recording)
    assert "model none is not there; expected a bundle folder" in refused(command, "none", *source)
    assert "size '10x' is not understood" in refused(command, "vlad", *source, "--sizes", "1k,10x")
    assert "gives 22 frames, of which 0 are left" in refused(command, "vlad", *source, "--warmup", 20)
    assert "street has 400" in refused(command, "vlad", "--frames", 300)
    assert "belong to a recording" in refused(command, "vlad", "--rate", 2)
    assert "is a folder; name a file" in refused(command, "vlad", "--json", tmp_path)
    assert "folder that does not exist" in refused(command, "vlad", "--markdown", tmp_path / "none" / "x.md")
    assert "ends in .gif; expected .svg, .png, .pdf" in refused(command, "vlad", "--plot", tmp_path / "x.gif")
    assert "did you mean" in refused(command, "vlad", *source, "--set", "serch.top_k=3")


def test_a_map_of_another_model_is_refused(command: Command, recording: Path, tmp_path: Path):
    MapStore.create(tmp_path / "m.progeo", ModelSpec("other", 8, "0" * 64)).close()
    assert "other" in refused(command, "vlad", "--source", recording, "--map", tmp_path / "m.progeo", *FEW)


def test_threads_and_spin_reach_the_encoder(command: Command, recording: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[dict[str, Any]] = []

    def refuse(path: str, **options: Any) -> None:
        opened.append({"path": path, **options})
        raise ModelError("no encoder is opened in this test")

    monkeypatch.setattr(run, "load_encoder", refuse)
    settings = ("--set", "encoder.threads=3", "--set", "encoder.spin=true")
    assert "no encoder is opened" in refused(command, "b", "--precision", "int8", "--backend", "openvino", *settings)
    assert opened == [{"path": "b", "backend": "openvino", "precision": "int8", "threads": 3, "spin": True}]


# -- compare ---------------------------------------------------------------------------------------------------------


def slower(path: Path, target: Path, factor: float, **fields: Any) -> Path:
    """The same result with five rounds, the pipeline's slower by a factor."""
    content = json.loads(path.read_text()) | fields
    rng = np.random.default_rng(int(1000 * factor))
    for name, series in content["figures"]["series"].items():
        by = factor if name.startswith("pipeline.") else 1.0
        series["rounds"] = [by * 10 * (1 + rng.normal(0, 0.002)) for _ in range(5)]
    target.write_text(json.dumps(content))
    return target


def test_compare_says_slower_and_fails_only_when_asked(command: Command, measured: Path, tmp_path: Path):
    a, b = (slower(measured / "a.json", tmp_path / f"{factor}.json", factor) for factor in (1.0, 1.2))
    code, out, _ = command("compare", a, b)
    rows = {line.split()[0]: line for line in out.splitlines() if line.startswith("   ") and line.strip()}
    assert code == 0 and "slower" in rows["encode"] and "slower" in rows["total"]
    assert "within noise" in rows["reject"] and "changed: by more than the noise and 3 %" in out
    code, out, _ = command("compare", a, b, "--fail-above", "10%")
    assert code == 1 and "worse by more than 10%: pipeline.decode, " in out
    assert command("compare", a, b, "--fail-above", "30")[0] == 0
    code, out, _ = command("compare", b, a, "--fail-above", "0%")
    assert code == 0 and "faster" in out


def test_compare_refuses_what_it_cannot_read(command: Command, measured: Path, tmp_path: Path):
    a = slower(measured / "a.json", tmp_path / "a.json", 1.0)
    assert "cannot be read" in refused(command, "compare", a, tmp_path / "none.json")
    (tmp_path / "x.json").write_text("{")
    assert "is no JSON" in refused(command, "compare", a, tmp_path / "x.json")
    other = slower(measured / "a.json", tmp_path / "soak.json", 1.0, kind="soak")
    assert "compare two of one kind" in refused(command, "compare", a, other)
    assert "expected a percentage" in refused(command, "compare", a, a, "--fail-above", "much")


# -- which command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("", ""),
        ("--help", "--help"),
        ("vlad --quick", "run vlad --quick"),
        ("run vlad", "run vlad"),
        ("compare a b", "compare a b"),
        ("soak --hours-equivalent 24", "soak --hours-equivalent 24"),
        ("--vs bundle", "vs bundle"),
        ("bundle --vs --json x", "vs bundle --json x"),
        ("vs bundle", "vs bundle"),
        ("./compare", "run ./compare"),
        ("--sizes 1k vlad", "run --sizes 1k vlad"),
    ],
)
def test_which_command_is_meant(typed: str, meant: str):
    assert with_command(typed.split()) == meant.split()


def test_help_teaches(command: Command):
    for arguments in ((), ("--help",), ("vlad", "--help"), ("compare", "--help")):
        code, out, err = command(*arguments)
        assert code in (0, 2) and "progeo-bench" in out + err and "Examples" in out + err
