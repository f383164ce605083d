"""Tables of places for the images in a `train` folder, in the form that `progeo-train --data` reads.

    python tools/training_tables.py ../shared/data/train OUT

Writes OUT/<set>.csv for ie_tower_indoor, camvid_driving, postech_road and agh_campus_buildings. The recordings get a
sequence and a time; images close in time are a place. A second of these times is a different distance in each
recording, so the times are stretched until `--window-s` seconds span one place: 4 images of the indoor videos (one
per second), 3 of the drives in Cambridge (one per second, faster), 6 of the road in Pohang (several per second).
Floors of the tower are regions: two videos of one floor may show the same place, so they are never told apart; two
floors may look alike, and are.

With `--size-px N` the images are squashed to N x N once, as the training would do each time, and written as PNG, so
that a training at that size sees the same pixels and reads them faster.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Iterator
from pathlib import Path

import cv2

from progeo_edge.bundle import Preprocess
from progeo_edge.preprocess import to_model_input
from progeo_edge.sources.images import read_image

IMAGES_PER_WINDOW = {"ie_tower_indoor": 4, "camvid_driving": 3, "postech_road": 6}

Row = dict[str, str | float]


def main() -> None:
    """Write one table per set that is there."""
    parser = argparse.ArgumentParser(description="Tables of places for the images in a train folder.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--window-s", type=float, default=4.0, help="places.window_s of the training")
    parser.add_argument("--size-px", type=int, help="write the images at this size too")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, images_per_window in IMAGES_PER_WINDOW.items():
        stretch = arguments.window_s / images_per_window
        rows = list(_sequence_rows(arguments.folder / name, name, stretch))
        _write(arguments.out / f"{name}.csv", ["image", "sequence", "time_s", "region"], rows, arguments)
    buildings = list(_building_rows(arguments.folder / "agh_campus_buildings"))
    _write(arguments.out / "agh_campus_buildings.csv", ["image", "place"], buildings, arguments)


def _sequence_rows(folder: Path, name: str, stretch: float) -> Iterator[Row]:
    table = folder / ("places.csv" if name == "ie_tower_indoor" else "sequence.csv")
    for row in _read(table):
        if name == "ie_tower_indoor":
            sequence, time, region = row["video"], row["frame_1fps"], row["floor"]
        elif name == "camvid_driving":
            sequence, time, region = row["sequence"], row["time_s"], "Cambridge"
        else:
            sequence, time, region = "postech", row["index"], "Pohang"
        yield {
            "image": str(folder / row["image"]),
            "sequence": sequence,
            "time_s": float(time) * stretch,
            "region": region,
        }


def _building_rows(folder: Path) -> Iterator[Row]:
    for row in _read(folder / "places.csv"):
        yield {"image": str(folder / row["image"]), "place": f"agh {row['building']}"}


def _read(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _shrunk(image: Path, folder: Path, size_px: int) -> Path:
    """The image at its size for the training, written once."""
    path = folder / f"{image.stem}.png"
    if not path.is_file():
        form = Preprocess(
            height_px=size_px, width_px=size_px, color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None
        )
        folder.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(path), to_model_input([read_image(image)], form)[0]):
            raise SystemExit(f"{path} could not be written")
    return path


def _write(path: Path, columns: list[str], rows: list[Row], arguments: argparse.Namespace) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for row in rows:
            image = Path(str(row["image"]))
            if arguments.size_px is not None:
                image = _shrunk(image, arguments.out / "images" / path.stem, arguments.size_px)
            writer.writerow(row | {"image": os.path.relpath(image, arguments.out)})
    print(f"{path}: {len(rows)} images")


if __name__ == "__main__":
    main()
