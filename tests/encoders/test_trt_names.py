"""Every name of TensorRT that the runtime uses, and every member of the fake, exists in the real bindings.

The wheels are downloaded when the test runs; without a network, pip or a C compiler it is skipped with that reason.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import progeo_edge.encoders
from tests.encoders import fake_tensorrt
from tests.encoders.fake_cuda import FakeCuda
from tests.encoders.trt_stubs import WHEELS, Bindings, Unavailable, collect

FOLDER = Path(progeo_edge.encoders.__file__).parent
FILES = ("tensorrt.py", "engine_build.py", "engine_session.py", "build_progress.py", "trt_log.py")

ONLY_IN: dict[str, tuple[int, ...]] = {
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED": (10, 11),
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": (8, 10),
    "IProgressMonitor": (10, 11),
    "IProgressMonitor.__init__": (10, 11),
}
"""Names that are behind one of the branches on the version; every other one must be in all versions."""

METHODS: dict[str, tuple[str, tuple[int, ...]]] = {
    name: (uses, majors)
    for majors, table in (
        (
            (8, 10, 11),
            {
                "Builder": "create_network create_optimization_profile create_builder_config build_serialized_network",
                "INetworkDefinition": "num_inputs num_outputs num_layers get_input get_output get_layer",
                "ITensor": "name shape dtype",
                "ILayer": "name num_outputs get_output",
                "OnnxParser": "parse_from_file num_errors get_error",
                "ParserError": "desc",
                "IOptimizationProfile": "set_shape",
                "IBuilderConfig": "clear_flag set_flag set_memory_pool_limit add_optimization_profile "
                "create_timing_cache set_timing_cache get_timing_cache builder_optimization_level",
                "ITimingCache": "serialize",
                "Runtime": "deserialize_cuda_engine",
                "ICudaEngine": "num_io_tensors get_tensor_name get_tensor_mode get_tensor_dtype get_tensor_shape "
                "get_tensor_profile_shape create_execution_context",
                "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3",
                "ILogger": "log",
            },
        ),
        ((8,), {"BuilderFlag": "FP16 INT8 OBEY_PRECISION_CONSTRAINTS", "ILayer ": "precision set_output_type"}),
        ((10, 11), {"IProgressMonitor": "phase_start step_complete phase_finish"}),
        ((10, 11), {"IBuilderConfig ": "progress_monitor", "ICudaEngine ": "device_memory_size_v2"}),
        ((8,), {"ICudaEngine  ": "device_memory_size"}),
    )
    for name, uses in table.items()
}
"""Class (blanks make a second entry) -> members that are used of it, and the major versions that must have them."""


def names_in_code() -> set[str]:
    """Every `trt.X.Y...` in the runtime's files."""
    found = set()
    for file in FILES:
        for node in ast.walk(ast.parse((FOLDER / file).read_text(encoding="utf-8"))):
            parts: list[str] = []
            while isinstance(node, ast.Attribute):
                parts.append(node.attr)
                node = node.value
            if parts and isinstance(node, ast.Name) and node.id == "trt":
                found.add(".".join(reversed(parts)))
    return found


def names_for(version: str) -> list[str]:
    major = int(version.split(".")[0])
    used = {name for name in names_in_code() if major in ONLY_IN.get(name, (8, 10, 11))}
    for kind, (members, majors) in METHODS.items():
        if major in majors:
            used |= {f"{kind.strip()}.{member}" for member in members.split()}
    return sorted(used)


_PROGRAM = """
import json

def find(path):
    value = tensorrt_bindings
    for part in path.split("."):
        value = getattr(value, part, None) if value is not None else None
    return value

class Logger(tensorrt_bindings.ILogger):
    def __init__(self):
        tensorrt_bindings.ILogger.__init__(self)
    def log(self, severity, msg):
        pass

refused = []
for kind in (tensorrt_bindings.Builder, tensorrt_bindings.Runtime):
    try:
        kind(Logger())
    except Exception as error:
        refused.append(type(error).__name__)
question = json.load(sys.stdin)
found = {path: find(path) for path in question}
docs = {path: [callable(value), value.__doc__ or ""] for path, value in found.items() if value is not None}
print(json.dumps({"version": tensorrt_bindings.__version__, "refused": refused, "docs": docs}))
"""
"""Asks for everything at once: one process per version."""


@dataclass(frozen=True)
class Answer:
    """What the real bindings of one version say.

    Attributes:
        version: Of TensorRT.
        docs: Dotted name -> whether it can be called, and its docstring; names that do not exist are missing.
        refused: Exceptions of Builder and Runtime on null pointers.
    """

    version: str
    docs: dict[str, tuple[bool, str]]
    refused: list[str]

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def missing(self, names: Iterable[str]) -> list[str]:
        return [name for name in names if name not in self.docs]


OLD = ("ICudaEngine.num_bindings", "BuilderFlag.FP16", "Builder.build_serialized_network")


def _question(version: str) -> list[str]:
    members = [f"{kind}.{member}" for kind, member, _ in members_of_the_fake(version)]
    return sorted(
        {*names_for(version), *ONLY_IN, *OLD, *members, *enumerations_of_the_fake(version), *LACKS},
    )


def _ask(bindings: Bindings | Unavailable, question: list[str]) -> Answer | Unavailable:
    if isinstance(bindings, Unavailable):
        return bindings
    answer: Any = bindings.run(_PROGRAM, question)
    assert answer["version"] == bindings.version
    return Answer(answer["version"], answer["docs"], answer["refused"])


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer | Unavailable]:
    found = collect(tmp_path_factory.mktemp("tensorrt"))
    # Outside the pool: CPython 3.11 fails when two threads parse source at a time.
    questions = [_question(version) for version in found]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(found, pool.map(_ask, found.values(), questions), strict=True))


@pytest.fixture(params=list(WHEELS))
def real(request: pytest.FixtureRequest, answers: dict[str, Answer | Unavailable]) -> Answer:
    found = answers[request.param]
    if isinstance(found, Unavailable):
        pytest.skip(f"real bindings of TensorRT {request.param}: {found}")
    return found


def test_every_name_in_the_code_exists(real: Answer):
    names = names_for(real.version)
    assert len(names) > 50
    assert real.missing(names) == []


def test_a_name_that_does_not_exist_is_found(real: Answer):
    assert real.missing(OLD) == {8: [], 10: [OLD[0]], 11: [OLD[0], OLD[1]]}[real.major]


def test_branches_are_where_the_versions_differ(real: Answer):
    assert real.missing(sorted(ONLY_IN)) == sorted(name for name, majors in ONLY_IN.items() if real.major not in majors)


def test_null_pointers_are_type_errors(real: Answer):
    assert real.refused == ["TypeError", "TypeError"]


def members_of_the_fake(version: str) -> list[tuple[str, str, list[str] | None]]:
    """(class, member, names of its parameters or None for a property) of everything public in the fake."""
    trt = fake_tensorrt.make(fake_tensorrt.FakeTensorRT(FakeCuda(), version))
    private = {"read", "typed"}  # the fake's own
    found: list[tuple[str, str, list[str] | None]] = []
    for name, kind in vars(trt).items():
        if not isinstance(kind, type) or hasattr(kind, "__members__"):
            continue
        for member, value in vars(kind).items():
            if member.startswith("_") or member in private or isinstance(value, type):
                continue
            parameters = list(inspect.signature(value).parameters)[1:] if inspect.isfunction(value) else None
            found.append((name, member, parameters))
    return found


def enumerations_of_the_fake(version: str) -> list[str]:
    trt: Any = fake_tensorrt.make(fake_tensorrt.FakeTensorRT(FakeCuda(), version))
    enumerations = {name: kind for name, kind in vars(trt).items() if hasattr(kind, "__members__")}
    enumerations["ILogger.Severity"] = trt.ILogger.Severity
    return [f"{name}.{member}" for name, kind in enumerations.items() for member in kind.__members__]


def test_every_member_of_the_fake_is_in_the_real_bindings(real: Answer):
    members = members_of_the_fake(real.version)
    assert len(members) > 30
    for kind, member, parameters in members:
        name = f"{kind}.{member}"
        assert name in real.docs, f"{name} is not in {real.version}"
        is_callable, text = real.docs[name]
        assert is_callable == (parameters is not None), name
        if parameters is not None:
            assert _accepts(member, parameters, text), f"{name}{parameters}: {text}"


def _accepts(member: str, parameters: list[str], text: str) -> bool:
    """Whether one of the overloads in a docstring starts with these parameters; any others must have defaults."""
    for line in re.findall(rf"{member}\(self: [^,)]*(.*)\) ->", text):
        stated = re.findall(r", (\w+): [^,=]*(?:\[[^\]]*\])?[^,=]*(=)?", line)
        names = [name for name, _ in stated]
        if names[: len(parameters)] == parameters and all(default for _, default in stated[len(parameters) :]):
            return True
    return False


def test_enumerations_of_the_fake_are_in_the_real_bindings(real: Answer):
    names = enumerations_of_the_fake(real.version)
    assert len(names) > 15
    assert real.missing(names) == []


LACKS = (
    "BuilderFlag.FP16",
    "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "NetworkDefinitionCreationFlag.EXPLICIT_BATCH",
    "IProgressMonitor",
    "ILayer.set_output_type",
)


def test_the_fake_lacks_what_the_version_lacks(real: Answer):
    trt = fake_tensorrt.make(fake_tensorrt.FakeTensorRT(FakeCuda(), real.version))
    for name in LACKS:
        value: Any = trt
        for part in name.split("."):
            value = getattr(value, part, None)
        assert (value is None) == bool(real.missing([name])), name
