"""How long an image takes to become the input of a graph, and how far the descriptor moves: one thread, one run.

    python -m tools.resize_table IMAGES --bundle BUNDLE --json resize.json

Every way to resize takes its turn, image by image, at 640x480, 1280x720 and 1920x1080. Images of other sizes are joined
to mosaics, without any resizing, so that their finest detail is real. A descriptor's move is given as a share of the
distance between two different images: (1 - cosine) / (1 - mean cosine between different images), against INTER_AREA
and against Pillow's bicubic resize, which averages too and is what open_clip uses.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from progeo_edge.atomic import write_text
from progeo_edge.bundle import Preprocess, read_manifest
from progeo_edge.encoders.onnx import OnnxEncoder
from progeo_edge.preprocess import to_model_input
from progeo_edge.shrinking import shrink
from progeo_edge.types import Image

FRAMES_PX = ((640, 480), (1280, 720), (1920, 1080))
MEAN = np.array([0.48145466, 0.4578275, 0.40821073], dtype=np.float32)
STD = np.array([0.26862954, 0.26130258, 0.27577711], dtype=np.float32)
SUFFIXES = (".jpg", ".jpeg", ".png")

Resize = Callable[[Image, int], Any]


def main() -> None:
    """Measure, print Markdown, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="folder of images, at least 400 pixels a side are taken")
    parser.add_argument("--bundle", type=Path, action="append", default=[], help="whose descriptors are compared")
    parser.add_argument("--size", type=int, default=224, help="side of the graph's input for the milliseconds")
    parser.add_argument("--frames", type=int, default=24, help="per size")
    parser.add_argument("--processor-time", action="store_true", help="of this thread; for a machine that is not quiet")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    clock_ns = time.thread_time_ns if arguments.processor_time else time.perf_counter_ns
    frames = {size: list(itertools.islice(mosaics(arguments.images, size), arguments.frames)) for size in FRAMES_PX}
    document = {
        "machine": {"processor": platform.machine(), "python": sys.version.split()[0], "opencv": cv2.__version__},
        "side_px": arguments.size,
        "clock": "processor time of the thread" if arguments.processor_time else "wall",
        "ms": {label(size): clock(images, arguments.size, clock_ns) for size, images in frames.items()},
        "moves": {
            named(bundle): {label(size): moves(images, bundle) for size, images in frames.items()}
            for bundle in arguments.bundle
        },
    }
    print(markdown(document))
    if arguments.json is not None:
        write_text(arguments.json, json.dumps(document, indent=2) + "\n")


def named(bundle: Path) -> str:
    """Name and input size of the encoder."""
    manifest = read_manifest(bundle)
    return f"{manifest.name}, {manifest.preprocess.width_px} px"


def label(size_px: tuple[int, int]) -> str:
    """Width x height."""
    return f"{size_px[0]}x{size_px[1]}"


def mosaics(folder: Path, size_px: tuple[int, int]) -> Iterator[Image]:
    """Frames of that size: parts of the folder's images side by side, cut and never resized."""
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in SUFFIXES]
    tiles = (tile for path in paths if (tile := cv2.imread(str(path))) is not None and min(tile.shape[:2]) >= 400)
    width, height = size_px
    columns, rows = -(-width // 400), -(-height // 400)
    while True:
        chosen = [tile[:400, :400] for tile in itertools.islice(tiles, columns * rows)]
        if len(chosen) < columns * rows:
            return
        lines = [np.hstack(chosen[row * columns : (row + 1) * columns]) for row in range(rows)]
        yield np.ascontiguousarray(np.vstack(lines)[:height, :width])


def pillow(resample: PillowImage.Resampling) -> Resize:
    """Pillow's resize, which averages when it shrinks."""
    return lambda image, side: np.asarray(PillowImage.fromarray(image).resize((side, side), resample))


def opencv(interpolation: int) -> Resize:
    """OpenCV's own."""
    return lambda image, side: cv2.resize(image, (side, side), interpolation=interpolation)


RESIZES: dict[str, Resize] = {
    "Pillow bicubic": pillow(PillowImage.Resampling.BICUBIC),
    "Pillow bilinear": pillow(PillowImage.Resampling.BILINEAR),
    "Pillow box": pillow(PillowImage.Resampling.BOX),
    "INTER_AREA": opencv(cv2.INTER_AREA),
    "INTER_LINEAR (aliases)": opencv(cv2.INTER_LINEAR),
    "ours": lambda image, side: shrink(image, side, side),
}


def open_clip_preprocess(image: Image, side: int) -> NDArray[np.float32]:
    """The steps of open_clip's transform on a BGR frame, squashed: Pillow, to float, normalise, transpose."""
    rgb = PillowImage.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)).convert("RGB")
    values = np.asarray(rgb.resize((side, side), PillowImage.Resampling.BICUBIC)).astype(np.float32) / np.float32(255)
    return np.ascontiguousarray(((values - MEAN) / STD).transpose(2, 0, 1))[None]


def our_preprocess(image: Image, side: int) -> NDArray[Any]:
    """Bytes for a graph that normalises itself."""
    return to_model_input([image], graph_input(side))


@cache
def graph_input(side: int) -> Preprocess:
    """As the exporter writes it."""
    return Preprocess(width_px=side, height_px=side, color="bgr", layout="nhwc", dtype="uint8", mean=None, std=None)


def torchvision_resize() -> dict[str, Resize]:
    """Torchvision's antialiased resize on bytes, where it is installed."""
    try:
        torch = importlib.import_module("torch")
        transforms = importlib.import_module("torchvision.transforms.v2")
    except ImportError:
        return {}
    torch.set_num_threads(1)

    def resize(image: Image, side: int) -> Any:  # noqa: ANN401
        planes = torch.from_numpy(image).permute(2, 0, 1)
        bicubic = transforms.InterpolationMode.BICUBIC
        found = transforms.functional.resize(planes, [side, side], bicubic, antialias=True)
        return found.permute(1, 2, 0).contiguous().numpy()

    return {"torchvision bicubic, bytes": resize}


def clock(images: Sequence[Image], side: int, clock_ns: Callable[[], int]) -> dict[str, dict[str, float]]:
    """Milliseconds of every way, and how many times faster than Pillow's bicubic it is: medians of the ratios."""
    acts = {**RESIZES, **torchvision_resize(), "whole: open_clip": open_clip_preprocess, "whole: ours": our_preprocess}
    spent: dict[str, list[float]] = {name: [] for name in acts}
    for turn, image in enumerate(itertools.chain(images[:1], images, images)):
        for name, act in acts.items():
            start_ns = clock_ns()
            act(image, side)
            if turn:  # the first one warms up
                spent[name].append((clock_ns() - start_ns) * 1e-6)
    return {name: row(values, spent[base(name)]) for name, values in spent.items()}


def base(name: str) -> str:
    """What a way is compared with."""
    return "whole: open_clip" if name.startswith("whole") else "Pillow bicubic"


def row(values: Sequence[float], compared: Sequence[float]) -> dict[str, float]:
    """Least and percentiles, and the spread of the ratio within the same turn."""
    ratios = np.array(compared) / np.array(values)
    found = {"min": float(np.min(values)), "p50": float(np.median(values)), "p90": float(np.percentile(values, 90))}
    quarters = {f"ratio_p{p}": float(np.percentile(ratios, p)) for p in (25, 50, 75)}
    return {**found, "ratio_of_min": min(compared) / min(values), **quarters}


def moves(images: Sequence[Image], bundle: Path) -> dict[str, dict[str, float]]:
    """Share of the distance between images by which each way moves a descriptor, mean and worst."""
    encoder = OnnxEncoder(bundle)
    side = read_manifest(bundle).preprocess.width_px
    ways = {**RESIZES, **torchvision_resize()}
    found = {name: encoder.encode([act(image, side) for image in images]) for name, act in ways.items()}
    encoder.close()
    exact = found["INTER_AREA"]
    between = 1.0 - float((exact @ exact.T)[~np.eye(len(exact), dtype=bool)].mean())
    result = {}
    for name, descriptors in found.items():
        shares = {
            against: (1.0 - (descriptors * found[other]).sum(axis=1)) / between
            for against, other in (("area", "INTER_AREA"), ("bicubic", "Pillow bicubic"))
        }
        result[name] = {
            f"{against}_{what}": float(act(share))
            for against, share in shares.items()
            for what, act in (("mean", np.mean), ("max", np.max))
        }
    return result


def markdown(document: dict[str, Any]) -> str:
    """Tables for a page."""
    lines = [
        f"| to {document['side_px']} px | way | min ms | p50 | p90 | faster, minima | faster, medians [quartiles] |"
    ]
    lines.append("|---|---|---:|---:|---:|---:|---:|")
    for size, ways in document["ms"].items():
        for name, r in ways.items():
            quarters = f"{r['ratio_p50']:.1f} [{r['ratio_p25']:.1f}, {r['ratio_p75']:.1f}]"
            cells = [*(f"{r[key]:.2f}" for key in ("min", "p50", "p90")), f"{r['ratio_of_min']:.1f}", quarters]
            lines.append(f"| {size} | {name} | " + " | ".join(cells) + " |")
    lines += ["", "| bundle | frame | way | from INTER_AREA, mean / worst | from Pillow bicubic, mean / worst |"]
    lines.append("|---|---|---|---:|---:|")
    for bundle, sizes in document["moves"].items():
        for size, ways in sizes.items():
            for name, r in ways.items():
                cells = [f"{100 * r[f'{a}_mean']:.2f} % / {100 * r[f'{a}_max']:.2f} %" for a in ("area", "bicubic")]
                lines.append(f"| {bundle} | {size} | {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
