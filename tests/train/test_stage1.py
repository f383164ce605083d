"""Stage 1: its loss against numpy, what it changes, its schedule, its features and what it leaves for stage 2."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from open_clip.modified_resnet import ModifiedResNet

from progeo_edge.errors import SourceError
from progeo_train.checkpoint_file import read_record, read_tensors
from progeo_train.data.place_groups import PlaceGroups
from progeo_train.extraction import extract_features
from progeo_train.feature_file import FeatureFile
from progeo_train.models.clip_model import build_clip
from progeo_train.models.prompts import PromptLearner
from progeo_train.pipeline import train_stage1
from progeo_train.stage1 import Stage1, batches, group_features
from tests.train.small_training import (
    GROUPS,
    IMAGES,
    PLACES,
    metrics,
    one_process,
    small_config,
    small_job,
    write_images,
    write_weights,
)
from tests.train.tiny_models import JOINT_DIM, SIZE_PX

BROKEN = "4-1.png"
LABELS = [2, 0, 2, 1, 2, 0, 3]


@pytest.fixture(scope="module")
def clip():
    torch.manual_seed(3)
    return build_clip(small_config("vit").model, (SIZE_PX, SIZE_PX))


def new_stage(clip, num_groups=1, *assignments):
    """A stage with four places per group."""
    config = small_config("vit", *assignments)
    generator = torch.Generator().manual_seed(8)
    learners = [PromptLearner(clip.text, 4, config.prompt, generator) for _ in range(num_groups)]
    return Stage1(one_process(), config, clip.text, learners)


def new_batch():
    generator = torch.Generator().manual_seed(9)
    return torch.randn(len(LABELS), JOINT_DIM, generator=generator), torch.tensor(LABELS)


def contrastive(anchors, others, labels, temperature):
    """Khosla et al. 2020, eq. 2, as a double loop."""
    terms = []
    for i, anchor in enumerate(anchors):
        scores = [float(anchor @ other) / temperature for other in others]
        log_sum = max(scores) + np.log(sum(np.exp(score - max(scores)) for score in scores))
        terms.append(-np.mean([scores[p] - log_sum for p in range(len(others)) if labels[p] == labels[i]]))
    return float(np.mean(terms))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_loss_of_a_step_is_contrastive_in_both_directions(clip, temperature):
    """Places stand several times in the batch: all images of a place are positives of its text, and the reverse."""
    stage = new_stage(clip, 1, f"stage1.temperature={temperature}")
    features, labels = new_batch()
    with torch.no_grad():
        text = clip.text(stage.learners[0](labels)).double().numpy()
    images = features.double().numpy()
    expected = contrastive(images, text, LABELS, temperature) + contrastive(text, images, LABELS, temperature)
    assert stage.step(0, features, labels).item() == pytest.approx(expected, rel=1e-5)


def test_places_that_stand_several_times_in_a_batch_get_the_whole_gradient(clip):
    """The step computes every text once; the gradient must be that of computing it for every image."""
    stage, other = new_stage(clip), new_stage(clip)
    features, labels = new_batch()
    stage.step(0, features, labels)
    text = clip.text(other.learners[0](labels))
    scores = features @ text.T
    positive = (labels[:, None] == labels[None, :]).float()
    mask = positive / positive.sum(1, keepdim=True)
    loss = -(scores.log_softmax(1) * mask).sum(1).mean() - (scores.T.log_softmax(1) * mask).sum(1).mean()
    loss.backward()
    tokens = stage.learners[0].class_tokens
    torch.testing.assert_close(tokens.grad, other.learners[0].class_tokens.grad, rtol=1e-3, atol=1e-5)


def test_only_the_tokens_of_the_group_change(clip):
    stage = new_stage(clip, 2)
    before = [value.clone() for value in clip.model.state_dict().values()]
    tokens = [learner.class_tokens.detach().clone() for learner in stage.learners]
    buffers = [(learner.prefix.clone(), learner.suffix.clone()) for learner in stage.learners]
    stage.start_group(1, 0.01)
    for _ in range(2):
        stage.step(1, *new_batch())
    stage.end_group(1)
    assert all(torch.equal(a, b) for a, b in zip(clip.model.state_dict().values(), before, strict=True))
    assert all(parameter.grad is None for parameter in clip.model.parameters())
    assert torch.equal(stage.learners[0].class_tokens, tokens[0])
    changed = (stage.learners[1].class_tokens != tokens[1]).flatten(1).any(dim=1)
    assert changed.tolist() == [True] * 4
    for learner, (prefix, suffix) in zip(stage.learners, buffers, strict=True):
        assert torch.equal(learner.prefix, prefix) and torch.equal(learner.suffix, suffix)


def test_the_first_step_of_adam_is_as_large_as_the_rate(clip):
    stage = new_stage(clip)
    before = stage.learners[0].class_tokens.detach().clone()
    stage.start_group(0, 0.004)
    stage.step(0, *new_batch())
    moved = (stage.learners[0].class_tokens.detach() - before).abs()
    assert moved.max().item() == pytest.approx(0.004, rel=1e-3)
    assert moved.median().item() == pytest.approx(0.004, rel=1e-2)


def test_batches_pass_over_all_images_once():
    found = batches(10, 4, seed=1, epoch=2)
    assert [len(rows) for rows in found] == [4, 4, 2]
    assert sorted(np.concatenate(found).tolist()) == list(range(10))
    assert np.array_equal(np.concatenate(found), np.concatenate(batches(10, 4, seed=1, epoch=2)))
    for seed, epoch in ((1, 3), (2, 2)):
        assert not np.array_equal(np.concatenate(found), np.concatenate(batches(10, 4, seed, epoch)))


def test_a_groups_features_are_its_slice_without_unreadable_images():
    # The file has the order of the classes: rows 0-1 | 2-4 are those of group 0, rows 5-7 | 8-9 | 10 of group 1.
    groups = PlaceGroups.from_labels([2, 2, 2, 3, 3, 0, 0, 1, 1, 1, 4], [0, 0, 1, 1, 1], list("abcde"))
    values = np.arange(11 * 2, dtype=np.float16).reshape(11, 2)
    readable = np.ones(11, bool)
    readable[[3, 5, 8]] = False
    file: Any = SimpleNamespace(features=values, readable=readable)
    device = torch.device("cpu")
    first = group_features(groups, 0, file, device)
    assert first.labels.tolist() == [0, 0, 1, 1]
    assert first.features[:, 0].tolist() == [0, 2, 4, 8]
    second = group_features(groups, 1, file, device)
    assert second.labels.tolist() == [0, 0, 1, 2]
    assert second.features.tolist() == [[12, 13], [14, 15], [18, 19], [20, 21]]
    assert second.features.dtype == torch.float32 and len(second) == 4


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of nine epochs over three groups; one image is broken."""
    folder = tmp_path_factory.mktemp("stage1")
    table = write_images(folder / "images", broken=(BROKEN,))
    config = small_config("resnet", "stage1.epochs=9", weights=write_weights(folder / "weights.safetensors"))
    job = small_job(config, table, folder / "out")
    return SimpleNamespace(folder=folder, table=table, config=config, job=job, prompts=train_stage1(job))


def test_groups_take_turns_and_rates_fall_in_each(trained):
    lines = metrics(trained.folder / "out" / "stage1")
    assert [line["step"] for line in lines] == list(range(1, 10))
    assert [line["group"] for line in lines] == [0, 1, 2] * 3
    # 0.01 (1 + cos(pi t / 3)) / 2 for t = 0, 1, 2
    assert [line["learning_rate"] for line in lines] == pytest.approx([0.01] * 3 + [0.0075] * 3 + [0.0025] * 3)
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_the_texts_come_closer_to_the_images(trained):
    losses = np.array([line["loss"] for line in metrics(trained.folder / "out" / "stage1")]).reshape(3, 3)
    assert (losses[2] < 0.8 * losses[0]).all()


def test_prompts_are_those_of_every_place_with_their_text_features(trained):
    assert trained.prompts == trained.folder / "out" / "stage1" / "prompts.safetensors"
    record, tensors = read_record(trained.prompts), read_tensors(trained.prompts)
    assert record.encoder is None
    assert record.training["places"] == trained.job.data.groups.fingerprint()
    assert tensors.keys() == {f"{name}.{group}" for name in ("prompts", "text_features") for group in range(GROUPS)}
    torch.manual_seed(trained.config.run.seed)
    text = build_clip(trained.config.model, (SIZE_PX, SIZE_PX)).text
    for group in range(GROUPS):
        learner = PromptLearner(text, PLACES // GROUPS, trained.config.prompt)
        with torch.no_grad():
            learner.class_tokens.copy_(tensors[f"prompts.{group}"])
            fresh = text(learner(torch.arange(PLACES // GROUPS)))
        torch.testing.assert_close(tensors[f"text_features.{group}"], fresh, rtol=1e-5, atol=1e-5)
        last = read_tensors(trained.prompts.with_name("last.safetensors"))
        assert torch.equal(last[f"prompts.{group}"], tensors[f"prompts.{group}"])


def test_text_features_do_not_depend_on_how_many_are_computed_at_once(clip):
    stage = new_stage(clip)
    whole, parts = stage.class_text_features(0), stage.class_text_features(0, batch_size=3)
    assert whole.shape == (4, JOINT_DIM)
    torch.testing.assert_close(whole, parts, rtol=1e-5, atol=1e-6)


class FeatureCalls:
    """Counts images that the frozen CLIP is given."""

    def __init__(self, monkeypatch) -> None:
        self.images = 0
        forward = ModifiedResNet.forward

        def counting(tower, images):
            self.images += len(images)
            return forward(tower, images)

        monkeypatch.setattr(ModifiedResNet, "forward", counting)


def again(trained, tmp_path, monkeypatch, *assignments, weights=None, cache=None):
    """Run stage 1 for an epoch with the cache of the first run, or a copy; returns the images described."""
    calls = FeatureCalls(monkeypatch)
    chosen = ["stage1.epochs=1", *assignments]
    config = small_config("resnet", *chosen, weights=weights or trained.folder / "weights.safetensors")
    job = small_job(config, trained.table, tmp_path / "again")
    job = type(job)(**{**fields(job), "cache": cache or trained.job.cache})
    train_stage1(job)
    return calls.images


def fields(job):
    return {name: getattr(job, name) for name in type(job).__slots__}


def test_features_are_taken_from_the_cache(trained, tmp_path, monkeypatch):
    assert again(trained, tmp_path, monkeypatch) == 0
    first = metrics(trained.folder / "out" / "stage1")[0]
    assert metrics(tmp_path / "again" / "stage1")[0]["loss"] == first["loss"]


@pytest.fixture
def cache(trained, tmp_path):
    """A copy of the cache, for tests that spoil it."""
    source = trained.job.cache / "clip_features"
    target = tmp_path / "cache" / "clip_features"
    target.mkdir(parents=True)
    for path in source.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target.parent


def test_a_changed_image_invalidates_the_cache(trained, cache, tmp_path, monkeypatch, caplog):
    image = trained.table.parent / "0-0.png"
    before = image.stat()
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns + 1_000_000))
    try:
        assert again(trained, tmp_path, monkeypatch, cache=cache) == PLACES * IMAGES
    finally:
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "computed anew: images, weights or settings have changed" in caplog.text


def test_other_weights_invalidate_the_cache(trained, cache, tmp_path, monkeypatch, caplog):
    weights = write_weights(tmp_path / "other.safetensors", seed=1)
    assert again(trained, tmp_path, monkeypatch, cache=cache, weights=weights) == PLACES * IMAGES
    assert "computed anew: images, weights or settings have changed" in caplog.text


def test_another_normalisation_invalidates_the_cache(trained, cache, tmp_path, monkeypatch):
    changed = "model.mean=[0.5, 0.5, 0.5]"
    assert again(trained, tmp_path, monkeypatch, changed, cache=cache) == PLACES * IMAGES


def test_a_truncated_cache_is_computed_anew(trained, cache, tmp_path, monkeypatch, caplog):
    path = cache / "clip_features" / "features.npy"
    path.write_bytes(path.read_bytes()[:-100])
    assert again(trained, tmp_path, monkeypatch, cache=cache) == PLACES * IMAGES
    assert "truncated" in caplog.text
    first = metrics(trained.folder / "out" / "stage1")[0]
    assert metrics(tmp_path / "again" / "stage1")[0]["loss"] == first["loss"]


def test_features_are_of_the_images_in_the_order_of_the_places(trained):
    """The slice of a group holds what the frozen CLIP says of its images."""
    data, config = trained.job.data, trained.config
    torch.manual_seed(config.run.seed)
    visual = build_clip(config.model, config.stage1.image_size_px).visual
    file = extract_features(
        visual,
        data.tables[0],
        config.stage1.image_size_px,
        config.model.mean,
        config.model.std,
        trained.folder / "by row",
        "k",
        one_process(),
        dim=JOINT_DIM,
        batch_size=5,
    )
    cached = FeatureFile.open_existing(trained.job.cache / "clip_features")
    broken_row = list(data.tables[0].names).index(BROKEN)
    for group in range(GROUPS):
        rows = np.concatenate([data.groups.members(group, k) for k in range(PLACES // GROUPS)])
        labels = np.repeat(np.arange(PLACES // GROUPS), IMAGES)
        kept = rows != broken_row
        found = group_features(data.groups, group, cached, torch.device("cpu"))
        assert found.labels.tolist() == labels[kept].tolist()
        np.testing.assert_allclose(found.features.numpy(), file.features[rows[kept]], rtol=1e-4, atol=1e-4)


def test_images_none_of_which_can_be_read_are_one_line(tmp_path):
    names = tuple(f"{place}-{number}.png" for place in range(PLACES) for number in range(IMAGES))
    table = write_images(tmp_path / "images", broken=names)
    with pytest.raises(SourceError, match="none of the 27 images can be read") as error:
        train_stage1(small_job(small_config(), table, tmp_path / "out"))
    assert "\n" not in str(error.value)


def test_images_without_features_are_named(trained):
    names = (trained.job.cache / "clip_features" / "unreadable.txt").read_text()
    assert names == f"{trained.table.parent / BROKEN}\n"
