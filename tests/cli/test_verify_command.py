from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from progeo_edge.cli import verify as verify_command
from tests.encoders.tensorrt_bundle import write_golden, write_golden_bundle
from tests.encoders.trt_fixtures import make_machine, open_and_close
from tests.tiny_encoder import replace_graph, tiny_graph, write_tiny_foreign

ROOT = Path(__file__).parent.parent.parent
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["progeo-verify", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "160")
        with pytest.raises(SystemExit) as exit:
            verify_command.main()
        captured = capsys.readouterr()
        return int(exit.value.code or 0), captured.out, captured.err

    return run


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    return write_golden_bundle(tmp_path / "bundle")


def test_a_sound_bundle(command: Command, bundle: Path, tmp_path: Path):
    code, out, err = command(bundle, "--json", tmp_path / "v.json")
    assert code == 0
    assert "3 files match their hashes; 3 images by ONNX Runtime" in out and "CPUExecutionProvider, fp32" in out
    assert "ok: this device gives the descriptors that the bundle was exported with" in out
    assert "FAILED" not in out and "at least 0.99999" in out
    assert "TensorRT is not used: it is not installed here" in err
    assert "ONNX Runtime runs on CPUExecutionProvider" in err
    result = json.loads((tmp_path / "v.json").read_text())
    assert result["ok"] is True and result["precision"] == "fp32" and result["problems"] == []
    assert result["figures"]["min_cosine"]["at_least"] == 0.99999
    logger = logging.getLogger("progeo_edge")
    assert logger.handlers == [] and logger.level == logging.NOTSET


def test_a_named_precision(command: Command, bundle: Path):
    code, out, err = command(bundle, "--backend", "onnx", "--precision", "fp16")
    assert code == 0 and "CPUExecutionProvider, fp16" in out and "at most 0.02" in out
    assert "TensorRT" not in err


def test_altered_golden_outputs_exit_1(command: Command, bundle: Path, tmp_path: Path):
    with np.load(bundle / "golden.npz") as arrays:
        images, stored = arrays["images"], arrays["descriptors"]
    write_golden(bundle, images, stored[::-1].copy())
    code, out, _ = command(bundle, "--json", tmp_path / "v.json")
    assert code == 1 and "FAILED" in out and "DISAGREES" in out
    assert "min_cosine (smallest cosine between a descriptor and the stored one) is" in out
    assert json.loads((tmp_path / "v.json").read_text())["ok"] is False


def test_an_altered_file_exits_1(command: Command, bundle: Path):
    (bundle / "model.onnx").write_bytes(b"something else")
    code, out, err = command(bundle)
    assert code == 1 and "model.onnx was altered or damaged" in out and "DISAGREES" in out
    assert "ONNX Runtime runs" not in err


def test_nan_exits_1_in_one_sentence(command: Command, bundle: Path):
    replace_graph(bundle, tiny_graph(gain=float("nan")))
    code, out, _ = command(bundle)
    assert code == 1 and "gave a descriptor of norm nan" in out


def test_an_engine_is_named(command: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    machine = make_machine(monkeypatch, tmp_path / "cache")
    code, out, err = command(bundle)
    assert code == 0 and "by ONNX Runtime" in out and f"build it with: progeo-export {bundle} --fp16" in err
    open_and_close(bundle)
    code, out, err = command(bundle)
    assert code == 0 and f"3 images by TensorRT 10.3.0, {machine.cuda.name}, fp16" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{foreign}",), "is no bundle folder, so it has no golden images"),
        (("nothing",), "is no bundle folder"),
        (("{bundle}", "--backend", "tensorrt"), "cannot be imported"),
        (("{bundle}", "--precision", "int8"), "holds no int8 graph; it holds fp16, fp32"),
        (("{bundle}", "--json", "no/such/folder/v.json"), "cannot be written"),
    ],
)
def test_what_cannot_be_run_exits_2_in_one_line(
    arguments: tuple[str, ...], message: str, command: Command, bundle: Path, tmp_path: Path
):
    foreign = write_tiny_foreign(tmp_path / "foreign")
    code, _, err = command(*(text.format(foreign=foreign, bundle=bundle) for text in arguments))
    assert code == 2
    assert err.splitlines()[-1].startswith("error: ") and message in err.splitlines()[-1]


def test_an_unknown_backend_exits_2_with_the_known_ones(command: Command, bundle: Path):
    code, _, err = command(bundle, "--backend", "tensort")
    assert code == 2 and "'auto', 'tensorrt', 'openvino', 'onnx'" in err


def test_help_teaches_and_loads_nothing_heavy():
    code = "import sys; sys.argv = ['progeo-verify', '--help']; from progeo_edge.cli.verify import main; main()"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0
    for text in ("Prove a model on the device", "Exit code", "--backend", "--json", "progeo-verify my-bundle"):
        assert text in done.stdout
    code = "import sys, progeo_edge.cli.verify; print({'numpy', 'pydantic', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
