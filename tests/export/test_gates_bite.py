"""Exports that end in a refusal although every step was taken, and what a user is told then."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch

from progeo_export import pipeline
from progeo_export.errors import ExportError
from progeo_export.int8 import Int8Report
from progeo_export.ort_runner import run_graph
from progeo_export.pipeline import ExportOptions, export_bundle
from progeo_export.probe_images import is_picture
from tests.export.probe_samples import small_probe
from tests.export.test_export_pipeline import FAST, loud, nothing_left, write
from tests.train.tiny_models import tiny_encoder

torch.set_num_threads(1)

GREY = tuple(np.full((64, 64, 3), level, np.uint8) for level in (78, 80, 82))
"""Images on which the tiny ResNet's last map is a quarter of what it is on the probe images."""


def export(encoder, folder, **options):
    checkpoint = write(encoder, folder / "best.safetensors")
    chosen = ExportOptions(**{"opset": FAST, "max_batch": 1, **options})
    return export_bundle(str(checkpoint), folder / "bundle", small_probe(), chosen)


def test_overflow_that_the_calibration_images_did_not_show_is_refused(tmp_path, caplog):
    """The audit saw no value above 30 000; the probe images reach more than half can hold."""
    with pytest.raises(ExportError) as caught:
        export(loud(2e3), tmp_path, fp16=True, calibration=GREY)
    assert "stays FP32" not in caplog.text
    message = str(caught.value)
    assert message.startswith("the FP16 graph is refused: interplace_loss_mean")
    assert "is nan (a descriptor is NaN, infinite or zero), the limit is at most 0.02" in message
    assert "give --calibration images like those that the robot will see" in message and "without --fp16" in message
    assert "\n" not in message and nothing_left(tmp_path)


def test_a_half_graph_that_onnx_runtime_cannot_load_is_refused(tmp_path, monkeypatch):
    """The strict executor may accept what another program does not."""

    def run(path, *arguments, **options):
        if path.name == "fp16.onnx":
            path.write_bytes(path.read_bytes()[:-1000])
        return run_graph(path, *arguments, **options)

    monkeypatch.setattr(pipeline, "run_graph", run)
    with pytest.raises(ExportError, match=r"ONNX Runtime on .*fp16\.onnx failed"):
        export(tiny_encoder("resnet"), tmp_path, fp16=True)
    assert nothing_left(tmp_path)


def test_int8_that_differs_is_refused(tmp_path, monkeypatch):
    """Whatever the quantiser does to a graph, the images show it."""

    def broken(model, images, preprocess, out, **_):
        graph = onnx.load(model)
        for tensor in graph.graph.initializer:
            if len(tensor.dims) == 4:
                values = onnx.numpy_helper.to_array(tensor)
                tensor.CopyFrom(onnx.numpy_helper.from_array(np.roll(values, 1), tensor.name))
        onnx.save(graph, out)
        return Int8Report(("all",), (), len(images), "percentile", ())

    monkeypatch.setattr(pipeline, "quantise", broken)
    with pytest.raises(ExportError, match=r"the INT8 graph is refused: .* the limit is at most .*at least 500"):
        export(tiny_encoder("resnet"), tmp_path, int8=True, calibration=GREY)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize(("max_batch", "batches"), [(5, [1, 2, 5]), (2, [1, 2]), (1, [1, 2])])
def test_fp32_is_compared_on_pictures_and_noise_at_three_batch_sizes(max_batch, batches, tmp_path, monkeypatch):
    seen = []

    def refuse(path, module, images, batches, **_):
        seen.append((list(images), batches))
        raise ExportError("seen enough")

    monkeypatch.setattr(pipeline, "fp32_parity", refuse)
    with pytest.raises(ExportError, match="seen enough"):
        export(tiny_encoder("resnet"), tmp_path, max_batch=max_batch)
    ((images, found),) = seen
    assert found == batches
    pictures = [image for image in images if is_picture(image)]
    assert len(pictures) == 8 and len(images) == 12
