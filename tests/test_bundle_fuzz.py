"""Damaged bundles, opened in a subprocess: each is refused, or gives exactly the descriptors of the whole one."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.errors import ProgeoError
from progeo_edge.graph_file import file_sha256
from progeo_edge.types import Image
from tests.tiny_encoder import write_tiny_bundle, write_tiny_foreign

Descriptors = NDArray[np.float32]
CASES = 320
PAGE = 4096


def test_damaged_bundles_never_crash_and_never_lie(tmp_path: Path):
    write_models(tmp_path)
    outcomes: dict[int, dict[str, str]] = {}
    deaths: list[int] = []
    while len(outcomes) + len(deaths) < CASES:
        start = len(outcomes) + len(deaths)
        process = subprocess.run(
            [sys.executable, "-m", "tests.test_bundle_fuzz", str(tmp_path), str(start)],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            timeout=300,
        )
        for line in process.stdout.splitlines():
            outcomes[len(outcomes) + len(deaths)] = json.loads(line)
        if process.returncode != 0:
            deaths.append(len(outcomes) + len(deaths))
    assert not deaths, f"cases {deaths} killed the process: {process.stderr[-2000:]}"
    wrong = [item for item in outcomes.values() if item["outcome"] not in ("refused", "same")]
    assert not wrong
    refused = [item for item in outcomes.values() if item["outcome"] == "refused"]
    assert len(refused) > CASES / 2
    for file in ("model.onnx", "model.fp16.onnx", "weights.bin", "manifest.json"):
        for damage in DAMAGES:
            assert any(item["file"] == file and item["damage"] == damage for item in outcomes.values()), (file, damage)
    for item in outcomes.values():
        if item["file"] == "golden.npz":
            assert item["outcome"] == "same", "the golden samples are not needed to encode"
        if item["file"] in ("model.onnx", "model.fp16.onnx", "weights.bin"):
            assert item["outcome"] == "refused"


def write_models(root: Path) -> None:
    """A bundle with tensors in a file of its own, one in half precision, and a foreign model that states its hash."""
    write_tiny_bundle(root / "plain")
    write_tiny_bundle(root / "external", external_data=True)
    write_tiny_bundle(root / "half", precisions=("fp16",))
    path = write_tiny_foreign(root / "foreign")
    description = path.with_suffix(".yaml")
    description.write_text(description.read_text() + f"sha256: {file_sha256(path)}\n")


TARGETS = [
    ("plain", "model.onnx"),
    ("plain", "manifest.json"),
    ("plain", "golden.npz"),
    ("external", "model.onnx"),
    ("external", "weights.bin"),
    ("half", "model.fp16.onnx"),
    ("half", "manifest.json"),
    ("foreign", "model.onnx"),
]


def flip_bit(data: bytearray, rng: random.Random) -> bytearray:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def flip_many(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.randint(2, 64)):
        flip_bit(data, rng)
    return data


def zero_page(data: bytearray, rng: random.Random) -> bytearray:
    start = PAGE * rng.randrange(-(-len(data) // PAGE))
    end = min(start + PAGE, len(data))
    data[start:end] = bytes(end - start)
    return data


def truncate(data: bytearray, rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


DAMAGES = {function.__name__: function for function in (flip_bit, flip_many, zero_page, truncate)}


def run_cases(root: Path, start: int) -> None:
    """Print one JSON line per case; the same case always gives the same damage."""
    images = [np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)]
    whole: dict[str, Descriptors] = {}
    for case in range(start, CASES):
        model, file = TARGETS[case % len(TARGETS)]
        damage = list(DAMAGES)[case // len(TARGETS) % len(DAMAGES)]
        if model not in whole:
            whole[model] = OnnxEncoder(openable(root / model), threads=1).encode(images)
        folder = root / "damaged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(root / model, folder)
        data = (folder / file).read_bytes()
        altered = bytes(DAMAGES[damage](bytearray(data), random.Random(case)))
        (folder / file).write_bytes(altered)
        outcome = open_and_compare(openable(folder), images, whole[model]) if altered != data else "same"
        print(json.dumps({"model": model, "file": file, "damage": damage, "outcome": outcome}), flush=True)  # noqa: T201


def openable(folder: Path) -> Path:
    return folder / "model.onnx" if (folder / "model.yaml").exists() else folder


def open_and_compare(path: Path, images: list[Image], expected: Descriptors) -> str:
    try:
        descriptors = OnnxEncoder(path, threads=1).encode(images)
    except ProgeoError:
        return "refused"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "same" if np.array_equal(descriptors, expected) else "different descriptors"


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_alters_the_file(damage: str):
    data = bytes(range(1, 256)) * 40
    assert bytes(DAMAGES[damage](bytearray(data), random.Random(0))) != data


if __name__ == "__main__":
    run_cases(Path(sys.argv[1]), int(sys.argv[2]))
