"""Every command hands `encoder.threads` and `encoder.spin` to the encoder that it opens."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from progeo_edge import encoders
from progeo_edge.bundle import ModelSpec
from progeo_edge.config import load_config
from progeo_edge.errors import ModelError
from progeo_edge.map_store import MapStore
from progeo_ros import place_recogniser
from progeo_ros.config import NodeConfig

SETTINGS = ("--set", "encoder.threads=3", "--set", "encoder.spin=true")
COMMANDS = {
    "run": ("run", ["IMAGES", "--fps", "5", "--out", "OUT"]),
    "locate": ("map", ["locate", "MAP", "IMAGES"]),
    "calibrate": ("calibrate", ["IMAGES"]),
    "whiten": ("calibrate", ["IMAGES", "--whiten", "OUT"]),
    "profiles": ("eval", ["profiles", "IMAGES", "--matches", "MATCHES", "--fps", "5", "--out", "OUT"]),
}


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What encoders were opened with; none is."""
    seen: list[dict[str, Any]] = []

    def refuse(path: object, **options: Any) -> None:
        seen.append({"path": str(path), **options})
        raise ModelError("no encoder is opened in this test")

    monkeypatch.setattr(encoders, "load_encoder", refuse)
    monkeypatch.setattr(place_recogniser, "load_encoder", refuse)
    return seen


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(2):
        cv2.imwrite(str(images / f"{number}.png"), np.full((48, 64, 3), 40 * number, np.uint8))
    MapStore.create(tmp_path / "map.progeo", ModelSpec("any", 8, "0" * 64)).close()
    (tmp_path / "matches.csv").write_text("query,earlier,label\n1.png,0.png,positive\n")
    names = {"IMAGES": "images", "MAP": "map.progeo", "OUT": "out", "MATCHES": "matches.csv"}
    return {word: str(tmp_path / name) for word, name in names.items()}


@pytest.mark.parametrize("name", COMMANDS)
def test_the_settings_reach_the_encoder(
    name: str, opened: list[dict[str, Any]], places: dict[str, str], monkeypatch: pytest.MonkeyPatch
):
    module, arguments = COMMANDS[name]
    words = [places.get(word, word) for word in arguments]
    monkeypatch.setattr(sys, "argv", [f"progeo-{module}", *words, "--encoder", "some-bundle", *SETTINGS])
    with pytest.raises(SystemExit) as left:
        importlib.import_module(f"progeo_edge.cli.{module}").main()
    assert left.value.code == 2
    assert [(call["path"], call["threads"], call["spin"]) for call in opened] == [("some-bundle", 3, True)]


def test_the_settings_reach_the_encoder_of_the_node(opened: list[dict[str, Any]]):
    config = load_config(overrides=["encoder.threads=3", "encoder.spin=true"])
    with pytest.raises(ModelError, match="no encoder is opened"):
        place_recogniser.PlaceRecogniser.open(NodeConfig(), config)
    assert [(call["path"], call["threads"], call["spin"]) for call in opened] == [("vlad", 3, True)]
