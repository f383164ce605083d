from __future__ import annotations

import hashlib
import json
import random
import struct

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from progeo_edge.errors import ModelError
from progeo_train.checkpoint_file import (
    CheckpointRecord,
    load_encoder_weights,
    model_sha256,
    model_tensors,
    read_checkpoint,
    read_record,
    read_tensors,
    write_checkpoint,
)
from progeo_train.optimizer_state import optimizer_tensors, restore_optimizer
from tests.train.tiny_models import tiny_encoder

TRAINING = {"stage": 2, "epoch": 3, "metrics": {"recall@1": 0.7512345678901234}, "config": {"a": [1, None, "x"]}}


@pytest.fixture(scope="module")
def encoder():
    return tiny_encoder()


@pytest.fixture
def path(tmp_path, encoder):
    """A checkpoint of a tiny encoder with a little training state."""
    tensors = model_tensors(encoder) | {
        "classifier.0.weight": torch.randn(3, 4),
        "classifier.1.weight": torch.randn(5, 4),
        "random.torch": torch.get_rng_state(),
    }
    record = CheckpointRecord(name="tiny", encoder=encoder.spec, training=TRAINING)
    write_checkpoint(tmp_path / "last.safetensors", record, tensors)
    return tmp_path / "last.safetensors"


def rewrite(path, change):
    """Change the JSON header of a safetensors file without touching the tensors."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    change(header["__metadata__"])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def with_record(**changes):
    """Change fields of the record, and its checksum with them, as a program of another version would."""

    def change(metadata):
        record = json.loads(metadata["progeo"]) | changes
        metadata["progeo"] = json.dumps(record)
        metadata["progeo_sha256"] = hashlib.sha256(metadata["progeo"].encode()).hexdigest()

    return change


def test_record_and_tensors_come_back_exactly(tmp_path, encoder):
    tensors = {
        "half": torch.randn(3, 4).half(),
        "brain": torch.randn(2, 2).bfloat16(),
        "whole": torch.arange(5),
        "step": torch.tensor(17.0),
        "empty": torch.zeros(0, 3),
        "flags": torch.tensor([True, False]),
    }
    record = CheckpointRecord(kind="model", name="n", encoder=encoder.spec, training=TRAINING)
    written = write_checkpoint(tmp_path / "a.safetensors", record, tensors)
    found, read = read_checkpoint(tmp_path / "a.safetensors")
    assert found == written == read_record(tmp_path / "a.safetensors")
    assert found.training == TRAINING and found.encoder == encoder.spec
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_a_prefix_selects_and_is_taken_off(path):
    assert read_tensors(path, "classifier.1.").keys() == {"weight"}
    assert read_tensors(path, "classifier.").keys() == {"0.weight", "1.weight"}
    assert read_tensors(path, "nothing.") == {}


def test_views_and_shared_memory_are_written_as_they_look(tmp_path):
    base = torch.randn(6, 4)
    tensors = {"transposed": base.T, "row": base[2], "same": base, "again": base, "strided": base[::2, 1:3]}
    write_checkpoint(tmp_path / "a.safetensors", CheckpointRecord(), tensors)
    read = read_tensors(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        assert torch.equal(read[name], tensor)
    read["same"].zero_()
    assert torch.equal(read_tensors(tmp_path / "a.safetensors")["same"], base)


def test_the_encoder_computes_the_same(path, encoder):
    images = torch.randn(2, 3, 64, 64)
    loaded = load_encoder_weights(path)
    assert not loaded.training
    with torch.inference_mode():
        assert torch.equal(loaded(images), encoder(images))


def test_one_identity_per_weights_and_spec(tmp_path, path, encoder):
    best = tmp_path / "best.safetensors"
    reordered = dict(reversed(model_tensors(encoder).items()))
    write_checkpoint(best, CheckpointRecord(kind="model", encoder=encoder.spec), reordered)
    assert model_sha256(best) == model_sha256(path)

    def identity(change=None, spec=encoder.spec):
        tensors = model_tensors(encoder)
        if change:
            change(tensors)
        return write_checkpoint(best, CheckpointRecord(encoder=spec), tensors).model_sha256

    def nudge(tensors):
        tensors["model.head.gem.p"] = torch.nextafter(tensors["model.head.gem.p"], torch.tensor(9.0))

    def reshape(tensors):
        tensors["model.head.gem.p"] = tensors["model.head.gem.p"].reshape(1, 1)

    def retype(tensors):
        tensors["model.head.gem.p"] = tensors["model.head.gem.p"].view(torch.int32)

    def rename(tensors):
        tensors["model.head.gem.q"] = tensors.pop("model.head.gem.p")

    other_spec = encoder.spec.model_copy(update={"mean": (0.5, 0.5, 0.5)})
    identities = [identity(change) for change in (None, nudge, reshape, retype, rename)] + [identity(None, other_spec)]
    assert len(set(identities)) == len(identities)
    assert identities[0] == model_sha256(path)


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    before = path.read_bytes()

    def fail(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr("progeo_train.checkpoint_file.save_file", fail)
    with pytest.raises(ModelError, match="cannot be written: No space left"):
        write_checkpoint(path, CheckpointRecord(), {})
    assert path.read_bytes() == before and [item.name for item in path.parent.iterdir()] == [path.name]


def test_unusable_places_to_write_are_one_line(tmp_path):
    with pytest.raises(ModelError, match=r"must end in \.safetensors"):
        write_checkpoint(tmp_path / "a.pth", CheckpointRecord(), {})
    with pytest.raises(ModelError, match="cannot be written"):
        write_checkpoint(tmp_path / "none" / "a.safetensors", CheckpointRecord(), {})


def test_no_file_no_checkpoint(tmp_path):
    with pytest.raises(ModelError, match="is not there"):
        read_record(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(1)}, foreign)
    with pytest.raises(ModelError, match="no checkpoint of progeo-train"):
        read_record(foreign)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_with_the_way_to_import_it(tmp_path, zipped):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(1)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ModelError, match=r"is a pickle.*progeo-train import-checkpoint"):
        read_record(path)


def test_a_newer_schema_and_wrong_fields_are_refused(path):
    rewrite(path, with_record(schema_version=2, invented=True))
    with pytest.raises(ModelError, match="schema 2, this version reads up to 1; upgrade"):
        read_record(path)
    rewrite(path, with_record(schema_version=1))
    with pytest.raises(ModelError, match="record's invented is wrong"):
        read_record(path)


def test_an_edited_record_is_noticed(path):
    rewrite(path, lambda metadata: metadata.update(progeo=metadata["progeo"].replace("0.485", "0.585")))
    with pytest.raises(ModelError, match="does not match its checksum"):
        read_record(path)


def test_another_backbone_is_named(path):
    assert load_encoder_weights(path, architecture="tiny_resnet").spec.architecture == "tiny_resnet"
    with pytest.raises(ModelError, match=r"is of backbone tiny_resnet, not RN50; set model\.backbone=tiny_resnet"):
        load_encoder_weights(path, architecture="RN50")


def test_prompts_alone_are_no_encoder(tmp_path):
    write_checkpoint(tmp_path / "p.safetensors", CheckpointRecord(), {"prompts.0": torch.zeros(2, 4, 8)})
    with pytest.raises(ModelError, match="holds no encoder"):
        load_encoder_weights(tmp_path / "p.safetensors")


def test_tensors_that_do_not_fit_are_named(tmp_path, encoder):
    tensors = model_tensors(encoder)
    tensors["model.extra"] = torch.zeros(1)
    tensors["model.head.linear.bias"] = torch.zeros(3)
    del tensors["model.trunk.conv1.weight"]
    write_checkpoint(tmp_path / "a.safetensors", CheckpointRecord(encoder=encoder.spec), tensors)
    with pytest.raises(ModelError) as caught:
        load_encoder_weights(tmp_path / "a.safetensors")
    message = str(caught.value)
    assert "misses trunk.conv1.weight" in message and "unknown extra" in message
    assert "head.linear.bias has shape (3,), expected (32,)" in message


def test_damage_anywhere_is_noticed(path):
    """Cut short, lengthened, or with flipped bits: a ModelError, or exactly what was written; nothing else."""
    whole = path.read_bytes()
    (header_length,) = struct.unpack("<Q", whole[:8])
    expected = read_checkpoint(path)
    rng = random.Random(1)
    damaged = [whole[:size] for size in (0, 1, 7, 8, 9, 8 + header_length, len(whole) - 1)]
    damaged += [whole[: rng.randrange(len(whole))] for _ in range(40)]
    damaged += [whole + b"\0", whole[8:], whole[::-1]]
    places = [*range(10), *(rng.randrange(8 + header_length) for _ in range(250))]
    places += [rng.randrange(8 + header_length, len(whole)) for _ in range(60)]
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        try:
            record, tensors = read_checkpoint(path)
        except ModelError as error:
            assert "\n" not in str(error)
            refused += 1
            continue
        assert record == expected[0] and tensors.keys() == expected[1].keys()
        assert all(torch.equal(tensors[name], tensor) for name, tensor in expected[1].items())
    # Only a byte of padding, or a bit that turns one spelling of JSON into another, may go unnoticed.
    assert refused >= len(damaged) - 3


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.Linear(2, 2))


def adam(model):
    groups = [{"params": list(model[0].parameters()), "lr": 1e-2}, {"params": list(model[1:].parameters()), "lr": 1e-1}]
    return torch.optim.Adam(groups)


def train(model, optimizer, steps):
    """The third layer is never used, so Adam has no state for it."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model[1](model[0](torch.ones(1, 4))).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def names_of(model):
    return [name for name, _ in model.named_parameters()]


def test_a_restored_optimizer_steps_as_the_old_one(tmp_path):
    model = network()
    optimizer = adam(model)
    train(model, optimizer, 3)
    state = optimizer_tensors(optimizer, names_of(model))
    assert {name.rpartition("/")[2] for name in state} == {"exp_avg", "exp_avg_sq", "step"}
    assert not any(name.startswith("2.") for name in state) and len(state) == 12
    tensors = {f"optimizer.{name}": value for name, value in state.items()}
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, CheckpointRecord(), tensors | {f"net.{n}": v for n, v in model.state_dict().items()})

    fresh = network(seed=9)
    fresh.load_state_dict(read_tensors(path, "net."))
    other = adam(fresh)
    restore_optimizer(other, names_of(fresh), read_tensors(path, "optimizer."))
    assert train(fresh, other, 4) == train(model, optimizer, 4)


def test_restoring_replaces_what_was_there():
    model = network()
    optimizer = adam(model)
    train(model, optimizer, 3)
    restore_optimizer(optimizer, names_of(model), {})
    assert optimizer_tensors(optimizer, names_of(model)) == {}


def test_optimizer_state_that_does_not_fit_is_named():
    model = network()
    optimizer = adam(model)
    train(model, optimizer, 1)
    names = names_of(model)
    state = optimizer_tensors(optimizer, names)
    before = {name: value.clone() for name, value in state.items()}
    with pytest.raises(ModelError, match="state of other, which this run does not train"):
        restore_optimizer(optimizer, names, state | {"other/step": torch.tensor(1.0)})
    with pytest.raises(ModelError, match=r"0\.weight/exp_avg has shape \(9, 9\), expected \(3, 4\)"):
        restore_optimizer(optimizer, names, state | {"0.weight/exp_avg": torch.zeros(9, 9)})
    with pytest.raises(ModelError, match=r"of 0\.bias misses exp_avg_sq"):
        restore_optimizer(optimizer, names, {n: v for n, v in state.items() if n != "0.bias/exp_avg_sq"})
    with pytest.raises(ModelError, match="has 6 parameters; got 5 different names"):
        optimizer_tensors(optimizer, names[1:])
    assert all(torch.equal(value, before[name]) for name, value in optimizer_tensors(optimizer, names).items())
