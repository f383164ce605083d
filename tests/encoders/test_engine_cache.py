from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from progeo_edge import atomic
from progeo_edge.encoders import cuda, engine_cache
from progeo_edge.encoders.engine_cache import EngineCache, EngineKey, timing_name, user_cache_folder
from progeo_edge.encoders.tensorrt import TensorRTEncoder
from progeo_edge.errors import ModelError
from tests.encoders.tensorrt_bundle import write_golden_bundle
from tests.encoders.trt_fixtures import Machine, make_machine, open_and_close, plans
from tests.tiny_encoder import edit_manifest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    return make_machine(monkeypatch, tmp_path / "user-cache")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_golden_bundle(tmp_path / "bundle")


def test_an_engine_is_built_once_and_says_what_it_is(machine: Machine, bundle: Path):
    open_and_close(bundle, precision="fp32")
    open_and_close(bundle, precision="fp32", build=False)
    assert len(machine.trt.builds) == 1
    (plan,) = plans(bundle)
    assert plan.read_bytes().startswith(b"FAKEPLAN"), "nothing in front of the plan, so that trtexec can read it"
    sidecar = json.loads(plan.with_suffix(".json").read_text())
    assert sidecar["key"]["tensorrt"] == "10.3.0" and sidecar["key"]["device"] == "Fake Orin"
    assert sidecar["key"]["compute_capability"] == [8, 7] and sidecar["key"]["options"]["max_batch"] == 8
    assert sidecar["record"]["golden"]["min_cosine"] > 0.999


def test_everything_that_changes_an_engine_is_in_its_key(machine: Machine, bundle: Path):
    open_and_close(bundle, precision="fp32")
    open_and_close(bundle, precision="fp16")
    open_and_close(bundle, precision="fp32", max_batch=4)
    open_and_close(bundle, precision="fp32", optimization_level=1)
    machine.cuda.name = "Fake Thor"
    for capability in ((8, 7), (11, 0)):
        machine.cuda.capability = capability
        cuda.open_once.cache_clear()
        open_and_close(bundle, precision="fp32")
    machine.install("11.4.0.106")
    open_and_close(bundle, precision="fp32")
    assert len(plans(bundle)) == 7


def test_what_flags_and_islands_make_of_one_graph_is_in_the_key(machine: Machine, tmp_path: Path):
    """Before strong typing, FP32 and FP16 engines come from the same file."""
    machine.install("8.6.1")
    bundle = write_golden_bundle(tmp_path / "named", name_nodes=True, manifest={"islands": ["node/norm"]})
    open_and_close(bundle, precision="fp32")
    open_and_close(bundle, precision="fp16")
    edit_manifest(bundle, lambda values: values.update(islands=["node/norm", "node/projected"]))
    open_and_close(bundle, precision="fp16")
    assert len(plans(bundle)) == len(machine.trt.builds) == 3


def test_external_tensors_are_in_the_key(machine: Machine, tmp_path: Path):
    bundle = write_golden_bundle(tmp_path / "external", precisions=("fp32",), external_data=True)
    open_and_close(bundle)
    weights = bundle / "weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1  # the last digit of one weight
    weights.write_bytes(data)
    edit_manifest(bundle, lambda values: values["files"].update({"weights.bin": hashlib.sha256(data).hexdigest()}))
    open_and_close(bundle)
    assert len(machine.trt.builds) == 2


def test_without_leave_to_build_it_says_how(machine: Machine, bundle: Path):
    with pytest.raises(ModelError, match=r"no usable fp16 engine .*: there is none; .* progeo-export .* --fp16"):
        TensorRTEncoder(bundle, None, False)
    assert not machine.trt.builds


def test_engines_of_others_explain_why_there_is_none(machine: Machine, bundle: Path, tmp_path: Path):
    open_and_close(bundle, precision="fp32", max_batch=4)
    with pytest.raises(ModelError, match=r"no usable fp16 engine .*: there is none; build"):
        TensorRTEncoder(bundle, "fp16", build=False)  # that engine is of another graph
    with pytest.raises(ModelError, match=r"no usable fp32 engine .*: there is only one with other options; build"):
        TensorRTEncoder(bundle, "fp32", build=False)
    whole = plans(bundle)[0].read_bytes()
    plans(bundle)[0].unlink()
    with pytest.raises(ModelError, match=r"no usable fp32 engine .*: there is none; build"):
        TensorRTEncoder(bundle, "fp32", build=False, max_batch=4)  # its own sidecar explains nothing
    next((bundle / "engines").glob("*.json")).with_suffix(".plan").write_bytes(whole)
    machine.cuda.name = "Fake Thor"
    cuda.open_once.cache_clear()
    with pytest.raises(ModelError, match=r"on Fake Thor: there is only one by TensorRT 10\.3\.0 on Fake Orin; build"):
        TensorRTEncoder(bundle, "fp32", build=False)
    for damage in ("{", "[]", '{"key": []}'):
        plans(bundle)[0].with_suffix(".json").write_text(damage)
        with pytest.raises(ModelError, match="on Fake Thor: there is none; build"):
            TensorRTEncoder(bundle, "fp32", build=False)


def _truncate(plan: Path) -> None:
    plan.write_bytes(plan.read_bytes()[:-100])


def _flip_a_bit(plan: Path) -> None:
    data = bytearray(plan.read_bytes())
    data[len(data) // 2] ^= 4
    plan.write_bytes(bytes(data))


def _drop_sidecar(plan: Path) -> None:
    plan.with_suffix(".json").unlink()


def _break_sidecar(plan: Path) -> None:
    plan.with_suffix(".json").write_text('{"key": ')


def _other_key(plan: Path) -> None:
    sidecar = plan.with_suffix(".json")
    values = json.loads(sidecar.read_text())
    values["key"]["device"] = "Orin Nano"
    sidecar.write_text(json.dumps(values))


DAMAGES = [
    (_truncate, "truncated or altered"),
    (_flip_a_bit, "truncated or altered"),
    (lambda plan: plan.write_bytes(b""), "truncated or altered"),
    (_drop_sidecar, "is missing beside it"),
    (_break_sidecar, "cannot be read"),
    (_other_key, "built from something else"),
]


@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_a_damaged_engine_is_removed_and_built_again(
    damage: Callable[[Path], object], words: str, machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    open_and_close(bundle)
    (plan,) = plans(bundle)
    whole = plan.read_bytes()
    damage(plan)
    open_and_close(bundle)
    assert len(machine.trt.builds) == 2
    assert f"engine {plan} was removed:" in caplog.text and words in caplog.text
    assert plan.read_bytes() == whole
    machine.assert_all_freed()


def test_a_damaged_engine_without_leave_to_build_is_an_error(machine: Machine, bundle: Path):
    open_and_close(bundle)
    _truncate(plans(bundle)[0])
    with pytest.raises(ModelError, match="no usable fp16 engine"):
        TensorRTEncoder(bundle, build=False)


def _forge(plan: Path, data: bytes) -> None:
    """Give a plan another content, with a sidecar that agrees with it."""
    plan.write_bytes(data)
    sidecar = plan.with_suffix(".json")
    values = json.loads(sidecar.read_text())
    values["plan_sha256"] = hashlib.sha256(data).hexdigest()
    sidecar.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda data: data.replace(b'"version": "10.3.0"', b'"version": "10.16.1"'), "Version tag does not match"),
        (lambda data: data[: len(data) // 2], "checksum failed"),
        (lambda data: b"garbage", "checksum failed"),
        (lambda data: data.replace(b"[8, 48, 64, 3]", b"[4, 48, 64, 3]"), "expected .* to \\(8, 48, 64, 3\\)"),
    ],
    ids=["other version", "truncated", "garbage", "other profile"],
)
def test_a_plan_that_tensorrt_does_not_take_is_removed_and_built_again(
    edit: Callable[[bytes], bytes], words: str, machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    open_and_close(bundle)
    (plan,) = plans(bundle)
    forged = edit(plan.read_bytes())
    _forge(plan, forged)
    with pytest.raises(ModelError, match=words):
        TensorRTEncoder(bundle, build=False)
    _rebuild_sidecar_and_plan(machine, bundle, plan, forged)
    assert "was removed" in caplog.text
    machine.assert_all_freed()


def _rebuild_sidecar_and_plan(machine: Machine, bundle: Path, plan: Path, forged: bytes) -> None:
    assert not plan.exists() and not plan.with_suffix(".json").exists(), "what cannot be used is not kept"
    open_and_close(bundle)
    _forge(plan, forged)
    open_and_close(bundle)
    assert len(machine.trt.builds) == 3 and plan.read_bytes() != forged


def test_a_cached_engine_that_computes_wrongly_today_is_removed(
    machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    open_and_close(bundle)
    machine.trt.miscompile_at_load = 0.3
    with pytest.raises(ModelError, match="does not give the descriptors that the bundle was exported with"):
        TensorRTEncoder(bundle, build=False)
    assert plans(bundle) == [] and "was removed" in caplog.text
    machine.assert_all_freed()


def _forbid(monkeypatch: pytest.MonkeyPatch, *folders: Path) -> None:
    """Make folders unwritable also for root, who may run the tests."""
    real = engine_cache._is_writable

    def is_writable(folder: Path) -> bool:
        return not any(folder.is_relative_to(item) for item in folders) and real(folder)

    monkeypatch.setattr(engine_cache, "_is_writable", is_writable)


def test_a_read_only_bundle_keeps_its_engines_with_the_user(
    machine: Machine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO)
    _forbid(monkeypatch, bundle)
    open_and_close(bundle)
    open_and_close(bundle)
    users = tmp_path / "user-cache" / "progeo-edge" / "engines"
    assert len(list(users.glob("*.plan"))) == 1 and plans(bundle) == [] and len(machine.trt.builds) == 1
    assert f"cannot be written to; engines are kept in {users}" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_permission_bits_make_a_folder_read_only(bundle: Path, machine: Machine):
    bundle.chmod(stat.S_IRUSR | stat.S_IXUSR)
    assert EngineCache(bundle).folder == user_cache_folder() / "engines"
    bundle.chmod(0o700)


def test_a_file_in_the_way_of_the_folder(machine: Machine, bundle: Path):
    (bundle / "engines").write_text("in the way")
    assert EngineCache(bundle).folder == user_cache_folder() / "engines"
    open_and_close(bundle)


def test_a_read_only_bundle_with_engines_is_used_as_it_is(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch
):
    open_and_close(bundle)
    _forbid(monkeypatch, bundle)
    open_and_close(bundle, build=False)


def test_nowhere_to_write_still_works(
    machine: Machine, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    _forbid(monkeypatch, tmp_path)
    open_and_close(bundle)
    open_and_close(bundle)
    assert len(machine.trt.builds) == 2 and "an engine that is built will be lost" in caplog.text


def test_a_full_disk_costs_the_cache_not_the_run(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(atomic, "write_bytes", full)
    open_and_close(bundle)
    assert "cannot be kept: [Errno 28]" in caplog.text and plans(bundle) == []
    assert "timing-10.3.0-sm87.cache was not kept: [Errno 28]" in caplog.text
    assert [path.suffix for path in (bundle / "engines").iterdir()] == [".lock"]


def test_a_file_system_without_locks(
    machine: Machine, bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    open_and_close(bundle)
    assert "cannot be taken: [Errno 37] No locks available" in caplog.text and len(plans(bundle)) == 1


def test_the_timing_cache_is_kept_used_and_ignored_when_damaged(
    machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture
):
    path = bundle / "engines" / timing_name("10.3.0", (8, 7))
    open_and_close(bundle, max_batch=2)
    assert path.read_bytes() == b"TIMING 10.3.0 +"
    open_and_close(bundle, max_batch=3)
    assert path.read_bytes() == b"TIMING 10.3.0 ++" and "timing cache" not in caplog.text
    path.write_bytes(b"rubbish")
    open_and_close(bundle, max_batch=4)
    assert "timing cache is damaged or of another TensorRT; it is ignored" in caplog.text
    assert path.read_bytes() == b"TIMING 10.3.0 +"


def test_timing_caches_are_kept_apart_by_version_and_gpu(machine: Machine, bundle: Path):
    open_and_close(bundle)
    machine.install("10.13.3.9")
    open_and_close(bundle)
    machine.cuda.capability = (11, 0)
    cuda.open_once.cache_clear()
    open_and_close(bundle)
    assert sorted(path.name for path in (bundle / "engines").glob("timing*")) == [
        "timing-10.13.3.9-sm110.cache",
        "timing-10.13.3.9-sm87.cache",
        "timing-10.3.0-sm87.cache",
    ]


@pytest.mark.parametrize("call", ["create_timing_cache", "set_timing_cache"])
def test_no_timing_cache_at_all(call: str, machine: Machine, bundle: Path, caplog: pytest.LogCaptureFixture):
    machine.trt.fail_at = {call}
    open_and_close(bundle)
    assert "gives no timing cache" in caplog.text


def test_keys_do_not_depend_on_order_and_the_user_folder_on_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    assert EngineKey({"a": 1, "b": (2, 3)}).name == EngineKey({"b": [2, 3], "a": 1}).name
    assert EngineKey({"a": 1}).name != EngineKey({"a": 2}).name
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert user_cache_folder() == Path.home() / ".cache" / "progeo-edge"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert user_cache_folder() == tmp_path / "progeo-edge"


_CHILD = """
import logging, sys, time
from pathlib import Path
import pytest
from tests.encoders import trt_fixtures
from progeo_edge.encoders import tensorrt

logging.basicConfig(level=logging.INFO)
machine = trt_fixtures.make_machine(pytest.MonkeyPatch(), Path(sys.argv[2]))
build = tensorrt.build_plan

def slow_build(*arguments, **options):
    time.sleep(1.0)
    return build(*arguments, **options)

tensorrt.build_plan = slow_build
print("ready", flush=True)
sys.stdin.readline()
encoder = tensorrt.TensorRTEncoder(Path(sys.argv[1]))
print("builds", len(machine.trt.builds), float(encoder.encode(trt_fixtures.frames(1))[0, 0]), flush=True)
"""


def test_two_processes_that_start_together_build_once(bundle: Path, tmp_path: Path):
    command = [sys.executable, "-c", _CHILD, str(bundle), str(tmp_path / "user-cache")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    children = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=tmp_path, env=environment)
        for _ in range(2)
    ]
    for child in children:
        assert child.stdout is not None and child.stdout.readline() == "ready\n"
    finished = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("go\n")
        child.stdin.flush()
    for child in children:
        out, err = child.communicate(timeout=60)
        assert child.returncode == 0, err
        finished.append((out.split(), err))
    assert sorted(words[1] for words, _ in finished) == ["0", "1"]
    assert finished[0][0][2] == finished[1][0][2]
    assert sum("another process builds this engine; waiting for it" in err for _, err in finished) == 1
    assert len(plans(bundle)) == 1
