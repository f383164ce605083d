"""One contender of `tools.encoder_table`: opens its encoder, then answers every number on stdin with so many times.

The first frame is described before the first number is answered, so that a first answer to 1 ends a cold start.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray


def main() -> None:
    """Serve until stdin ends."""
    told = json.loads(sys.argv[1])
    contender, question = told["contender"], told["question"]
    width, height = question["size_px"]
    frame = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if contender["backend"] == "torch":
        encode = _open_torch(question["torch"], contender["threads"])
    else:
        encode = _open_bundle(question["bundle"], contender)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            begin = time.perf_counter()
            encode(frame)
            times.append((time.perf_counter() - begin) * 1e3)
        print(json.dumps(times), flush=True)


def _open_bundle(bundle: str, contender: dict[str, Any]) -> Callable[[NDArray[np.uint8]], object]:
    from progeo_edge import load_encoder

    options = {key: contender[key] for key in ("backend", "precision", "threads", "spin")}
    encoder = load_encoder(bundle, **options)
    return lambda frame: encoder.encode([frame])


def _open_torch(architecture: str, threads: int) -> Callable[[NDArray[np.uint8]], object]:
    """As its users call it: a PIL image of the frame's RGB values, the model's own preprocessing, eager."""
    import open_clip
    import torch
    from PIL import Image

    torch.set_num_threads(threads)
    model, _, preprocess = open_clip.create_model_and_transforms(architecture, pretrained=None)
    model.eval()

    def encode(frame: NDArray[np.uint8]) -> object:
        with torch.inference_mode():
            features = model.encode_image(preprocess(Image.fromarray(frame[..., ::-1]))[None])
            return (features / features.norm(dim=-1, keepdim=True)).numpy()

    return encode


if __name__ == "__main__":
    main()
