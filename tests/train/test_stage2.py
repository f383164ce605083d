"""Stage 2: its loss against numpy, what it changes and what not, its rates, its groups, and what it leaves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from progeo_edge.errors import ConfigError, ModelError
from progeo_train.checkpoint_file import load_encoder_weights, read_record, read_tensors
from progeo_train.losses import CosFace
from progeo_train.models.place_encoder import freeze
from progeo_train.pipeline import train_stage1, train_stage2
from progeo_train.stage2 import Stage2, stage2_loss
from progeo_train.validation import parse_validation_spec
from tests.train.small_training import (
    GROUPS,
    PLACES,
    metrics,
    one_process,
    small_config,
    small_job,
    write_images,
    write_weights,
)
from tests.train.tiny_models import JOINT_DIM, SIZE_PX, tiny_encoder

CLASSES = 5
LABELS = [3, 0, 3, 1, 4, 0]


def unit(rows):
    return rows / rows.norm(dim=1, keepdim=True)


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(4)
    torch.manual_seed(6)
    return SimpleNamespace(
        descriptors=unit(torch.randn(len(LABELS), JOINT_DIM, generator=generator)),
        labels=torch.tensor(LABELS),
        classifier=CosFace(JOINT_DIM, CLASSES, 30.0, 0.4),
        text=3 * torch.randn(CLASSES, JOINT_DIM, generator=generator),
    )


def log_softmax(rows):
    shifted = rows - rows.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def place_term(descriptors, weight, scale, margin):
    """Cross-entropy over CosFace logits (Wang et al. 2018)."""
    cosine = descriptors @ weight.T / np.linalg.norm(descriptors, axis=1)[:, None] / np.linalg.norm(weight, axis=1)
    for row, label in enumerate(LABELS):
        cosine[row, label] -= margin
    return -np.mean(log_softmax(scale * cosine)[np.arange(len(LABELS)), LABELS])


def text_term(descriptors, text, smoothing):
    """Cross-entropy against a target of 1 - smoothing on the place and smoothing spread over all places."""
    target = np.full((len(LABELS), CLASSES), smoothing / CLASSES)
    target[np.arange(len(LABELS)), LABELS] += 1 - smoothing
    return -np.mean((target * log_softmax(descriptors @ text.T)).sum(axis=1))


def triplet_term(descriptors):
    """Soft margin with weights exp(d) over positives and exp(-d) over negatives, anchor by anchor."""
    losses = []
    for anchor, own in enumerate(LABELS):
        distance = np.array([np.linalg.norm(descriptors[anchor] - other) for other in descriptors])
        distance[anchor] = 1e-6
        same = np.array(LABELS) == own
        to_same = np.exp(distance[same] - distance[same].max())
        to_other = np.exp(-distance[~same])
        positive = (to_same * distance[same]).sum() / (to_same.sum() + 1e-6)
        negative = (to_other * distance[~same]).sum() / (to_other.sum() + 1e-6)
        losses.append(np.log1p(np.exp(positive - negative)))
    return np.mean(losses)


@pytest.mark.parametrize(
    "assignments",
    [
        (),
        ("stage2.triplet=true",),
        ("stage2.text_weight=0.3", "stage2.label_smoothing=0.25", "stage2.triplet=true"),
    ],
)
def test_the_loss_is_the_sum_of_its_terms(inputs, assignments):
    config = small_config("vit", *assignments).stage2
    loss = stage2_loss(one_process(), inputs.descriptors, inputs.labels, inputs.classifier, inputs.text, config)
    descriptors, text = inputs.descriptors.double().numpy(), inputs.text.double().numpy()
    weight = inputs.classifier.weight.detach().double().numpy()
    place = place_term(descriptors, weight, 30.0, 0.4)
    text_loss = config.text_weight * text_term(descriptors, text, config.label_smoothing)
    triplet = len(LABELS) * triplet_term(descriptors) if config.triplet else 0.0
    assert loss.place.item() == pytest.approx(place, rel=1e-5)
    assert loss.text is not None and loss.text.item() == pytest.approx(text_loss, rel=1e-5)
    assert loss.total.item() == pytest.approx(place + text_loss + triplet, rel=1e-5)
    assert loss.scalars().keys() == {"loss", "place", "text", *(["triplet"] if config.triplet else [])}
    if loss.triplet is not None:
        assert loss.triplet.item() == pytest.approx(triplet, rel=1e-4)


def test_without_text_features_there_is_no_text_term(inputs):
    config = small_config("vit").stage2
    loss = stage2_loss(one_process(), inputs.descriptors, inputs.labels, inputs.classifier, None, config)
    assert loss.text is None and loss.triplet is None
    assert loss.scalars().keys() == {"loss", "place"}
    assert torch.equal(loss.total, loss.place)


def new_stage(kind, *assignments, classes=(4, 3)):
    """A stage over a living encoder, frozen as the settings say."""
    config = small_config(kind, *assignments)
    encoder = tiny_encoder(kind).train()
    freeze(encoder, config.model)
    torch.manual_seed(2)
    text = [torch.randn(count, JOINT_DIM) for count in classes]
    return Stage2(one_process(), config, encoder, classes, text)


def take_steps(stage, group, count=2):
    generator = torch.Generator().manual_seed(1)
    stage.trained.train()
    with stage.group_on_device(group) as (classifier, text):
        for _ in range(count):
            images = torch.randn(4, 3, SIZE_PX, SIZE_PX, generator=generator)
            stage.step(images, torch.tensor([0, 1, 2, 1]), classifier, text)


@pytest.mark.parametrize(
    ("kind", "frozen"),
    [
        ("resnet", ("trunk.conv", "trunk.bn", "trunk.layer1.")),
        ("vit", ("trunk.conv1.", "trunk.ln_pre.", "trunk.transformer.resblocks.0.")),
    ],
)
def test_frozen_parameters_stay_and_all_others_change(kind, frozen):
    stage = new_stage(kind)
    before = {name: value.detach().clone() for name, value in stage.encoder.named_parameters()}
    take_steps(stage, 0)
    for name, value in stage.encoder.named_parameters():
        assert torch.equal(value, before[name]) == name.startswith(frozen), name
    assert any(name.startswith(frozen) for name in before)
    assert not all(name.startswith(frozen) for name in before)


def test_only_the_classifier_of_the_group_changes():
    stage = new_stage("vit")
    before = [value.detach().clone() for value in stage.classifiers.parameters()]
    take_steps(stage, 1)
    after = list(stage.classifiers.parameters())
    assert torch.equal(after[0], before[0])
    assert (after[1] != before[1]).any(dim=1).all()
    take_steps(stage, 0)
    stays = after[1].detach().clone()
    take_steps(stage, 0)
    assert torch.equal(after[1], stays), "Adam moves it no further once its group is over"
    assert (after[0] != before[0]).any(dim=1).all()


def test_text_features_do_not_change():
    stage = new_stage("vit")
    with stage.group_on_device(0) as (_, text):
        before = text.clone()
    take_steps(stage, 0)
    with stage.group_on_device(0) as (_, text):
        assert torch.equal(text, before) and not text.requires_grad


def test_encoder_and_classifier_have_rates_of_their_own():
    stage = new_stage("vit", "stage2.learning_rate=1e-4", "stage2.classifier_learning_rate=0.02")
    encoder_group, classifier_group = stage.optimizer.param_groups
    assert (encoder_group["lr"], classifier_group["lr"]) == (1e-4, 0.02)
    parameters = {id(value) for value in stage.encoder.parameters() if value.requires_grad}
    assert {id(value) for value in encoder_group["params"]} == parameters
    assert {id(value) for value in classifier_group["params"]} == {id(c.weight) for c in stage.classifiers}
    # The first step of Adam is as large as the rate.
    before = stage.encoder.state_dict()["trunk.proj"].clone(), stage.classifiers[0].weight.detach().clone()
    take_steps(stage, 0, count=1)
    moved = (stage.encoder.state_dict()["trunk.proj"] - before[0]).abs().median().item()
    assert moved == pytest.approx(1e-4, rel=0.01)
    moved = (stage.classifiers[0].weight.detach() - before[1]).abs().median().item()
    assert moved == pytest.approx(0.02, rel=0.01)


@pytest.mark.parametrize(("frozen", "same"), [("true", True), ("false", False)])
def test_batch_norms_keep_their_statistics_when_asked(frozen, same):
    stage = new_stage("resnet", f"model.frozen_batch_norm={frozen}")
    name = "trunk.layer4.0.bn1.running_mean"
    before = stage.encoder.state_dict()[name].clone()
    take_steps(stage, 0)
    assert torch.equal(stage.encoder.state_dict()[name], before) is same


def test_a_restored_stage_takes_the_same_steps():
    stage = new_stage("vit")
    take_steps(stage, 0)
    kept = {name: value.clone() for name, value in stage.tensors().items()}
    take_steps(stage, 1)
    other = new_stage("vit")
    other.restore(kept)
    take_steps(other, 1)
    expected, found = stage.tensors(), other.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stage2")
    weights = write_weights(folder / "weights.safetensors", "vit")
    return SimpleNamespace(folder=folder, table=write_images(folder / "images"), weights=weights)


def train(small, out, *assignments, validate=False, **job):
    config = small_config("vit", *assignments, weights=small.weights)
    sets = [parse_validation_spec(str(small.table.parent), 25.0)] if validate else []
    return train_stage2(small_job(config, small.table, out, **job), None, sets)


@pytest.fixture(scope="module")
def epochs(small):
    """Checkpoints after 1, 2, 3 and 4 epochs of one run without the text term, which needs no stage 1."""
    found = []
    for count in range(1, 5):
        settings = (f"stage2.epochs={count}", "stage2.text_weight=0")
        last = train(small, small.folder / "no text", *settings, resume=True)
        found.append((read_record(last), read_tensors(last)))
    return found


def test_without_the_text_term_stage_1_is_not_needed(small, epochs):
    assert not (small.folder / "no text" / "stage1").exists()
    lines = metrics(small.folder / "no text" / "stage2")
    assert [line["step"] for line in lines] == list(range(1, 17))
    assert [line["epoch"] for line in lines] == [1] * 4 + [2] * 4 + [3] * 4 + [4] * 4
    assert all("text" not in line and line["loss"] == line["place"] for line in lines)


def test_each_epoch_trains_the_classifier_of_the_next_group(epochs):
    for (_, before), (_, after), group in zip(epochs, epochs[1:], (1, 2, 0), strict=False):
        for other in range(GROUPS):
            name = f"classifiers.{other}.weight"
            assert torch.equal(before[name], after[name]) == (other != group)
    states = [{name for name in tensors if name.startswith("optimizer.classifiers.")} for _, tensors in epochs]
    assert [len({name.split("/")[0] for name in state}) for state in states] == [1, 2, 3, 3]
    assert epochs[0][1]["classifiers.0.weight"].shape == (PLACES // GROUPS, JOINT_DIM)


def test_frozen_layers_are_those_of_the_weights(small, epochs):
    pretrained = load_file(small.weights)
    _, tensors = epochs[-1]
    for name, value in pretrained.items():
        inner = name.removeprefix("visual.")
        if inner.startswith(("conv1.", "ln_pre.", "transformer.resblocks.0.")) and inner != name:
            assert torch.equal(tensors[f"model.trunk.{inner}"], value), name
    assert not torch.equal(tensors["model.trunk.proj"], pretrained["visual.proj"])


def test_the_checkpoint_is_an_encoder(small, epochs):
    encoder = load_encoder_weights(small.folder / "no text" / "stage2" / "last.safetensors")
    with torch.no_grad():
        found = encoder(torch.randn(2, 3, SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))
    record = epochs[-1][0]
    assert record.training["epoch"] == 4 and record.training["config"]["stage2"]["text_weight"] == 0


def test_the_best_encoder_is_that_of_the_highest_recall(small, tmp_path):
    best = train(small, tmp_path, "stage2.epochs=4", "stage2.text_weight=0", validate=True)
    assert best == tmp_path / "stage2" / "best.safetensors"
    lines = [line for line in metrics(tmp_path / "stage2") if line["stage"] == "validation"]
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4]
    recalls = [line["mean recall@1"] for line in lines]
    record = read_record(best)
    assert record.training["epoch"] == 1 + recalls.index(max(recalls))
    assert record.training["recall"]["images"]["recall@1"] == max(recalls)
    assert all(name.startswith("model.") for name in read_tensors(best))


def test_a_finished_run_that_is_continued_with_a_validation_set_names_a_file(small, tmp_path):
    settings = ("stage2.epochs=1", "stage2.text_weight=0")
    last = train(small, tmp_path, *settings)
    again = train(small, tmp_path, *settings, validate=True, resume=True)
    assert last.is_file() and again.is_file()


def test_missing_prompts_are_one_line(small, tmp_path):
    with pytest.raises(ModelError, match=r"prompts.safetensors is not there; run stage 1 first") as error:
        train(small, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "stage2").exists()


def test_descriptors_of_another_dimension_than_the_texts_are_refused(small, tmp_path):
    config = small_config("resnet", "stage1.epochs=1", "model.descriptor_dim=16")
    job = small_job(config, small.table, tmp_path)
    prompts = train_stage1(job)
    with pytest.raises(ConfigError, match="descriptors have 16 dimensions and CLIP's text features 32"):
        train_stage2(job, prompts, [])


def test_a_run_that_could_not_begin_does_not_stand_in_the_way(small, tmp_path):
    """After an error in the settings, the corrected command must work without --force."""
    prompts = train_stage1(small_job(small_config("resnet", "stage1.epochs=1"), small.table, tmp_path))
    wrong = small_config("resnet", "stage2.epochs=1", "model.descriptor_dim=16")
    with pytest.raises(ConfigError, match="16 dimensions"):
        train_stage2(small_job(wrong, small.table, tmp_path), prompts, [])
    right = small_config("resnet", "stage2.epochs=1")
    assert train_stage2(small_job(right, small.table, tmp_path), prompts, []).is_file()
