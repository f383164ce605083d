"""The real TensorRT bindings without TensorRT: wheels from the package index over a stub of its C libraries.

A binding only needs a handful of C symbols to be imported; the stub's give null pointers, so classes, enumerations and
signatures can be looked at, and nothing can run. The wheels are proprietary: they are downloaded into a temporary
folder and never kept in the project.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

WHEELS = {
    "8.6.1": "tensorrt_bindings",
    "10.3.0": "tensorrt_cu12_bindings",
    "10.13.3.9": "tensorrt_cu12_bindings",
    "10.16.1.11": "tensorrt_cu12_bindings",
    "11.0.0.114": "tensorrt_cu12_bindings",
    "11.4.0.106": "tensorrt_cu13_bindings",
}
"""Version -> distribution. 8.6.1 has no wheels for Python 3.12."""

_PYTHONS = ((3, 10), (3, 11), (3, 12))
_DOWNLOAD_TIMEOUT_S = 40
_SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL getPluginRegistry "
    "getBuilderPluginRegistry initLibNvInferPlugins createNvOnnxParser_INTERNAL createNvOnnxParserRefitter_INTERNAL "
    "getNvOnnxParserVersion _ZN11nvuffparser15createUffParserEv _ZN14nvcaffeparser117createCaffeParserEv "
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi _ZN14nvcaffeparser123shutdownProtobufLibraryEv"
)
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser", "nvparsers")


class Unavailable(Exception):
    """The real bindings cannot be had here; the text says why."""


@dataclass(frozen=True)
class Bindings:
    """One version, unpacked.

    Attributes:
        version: Of TensorRT.
        python: Interpreter that its wheel is for.
        folder: Folder to put on `sys.path`.
        libraries: Folder for LD_LIBRARY_PATH.
    """

    version: str
    python: str
    folder: Path
    libraries: Path

    def run(self, program: str, question: object) -> object:
        """Run a program with the bindings as `tensorrt`; both sides are JSON, on standard input and output."""
        start = (
            f"import sys; sys.path.insert(0, {str(self.folder)!r}); "
            "import tensorrt_bindings; sys.modules['tensorrt'] = tensorrt_bindings\n"
        )
        done = subprocess.run(
            [self.python, "-I", "-c", start + program],
            input=json.dumps(question),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, "LD_LIBRARY_PATH": str(self.libraries)},
        )
        if done.returncode != 0:
            raise AssertionError(f"bindings {self.version} failed: {done.stderr[-2000:]}")
        return json.loads(done.stdout)


def collect(folder: Path) -> dict[str, Bindings | Unavailable]:
    """Download and unpack every version at once; what cannot be had is an `Unavailable` in its place."""
    try:
        libraries = build_stubs(folder / "stubs")
        pip = _find_pip()
    except Unavailable as error:
        return dict.fromkeys(WHEELS, error)
    with ThreadPoolExecutor(len(WHEELS)) as pool:
        jobs = {version: pool.submit(_fetch, pip, version, folder, libraries) for version in WHEELS}
        return {version: job.result() for version, job in jobs.items()}


def build_stubs(folder: Path) -> Path:
    """Compile one stub and link it under the names of the libraries of TensorRT 8, 10 and 11."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise Unavailable("there is no C compiler for the stub of libnvinfer")
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS.split()))
    for library in _LIBRARIES:
        for major in (8, 10, 11):
            name = f"lib{library}.so.{major}"
            command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(folder / name), str(source)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode != 0:
                raise Unavailable(f"the stub of libnvinfer does not compile: {done.stderr[-300:]}")
    return folder


def _fetch(pip: list[str], version: str, folder: Path, libraries: Path) -> Bindings | Unavailable:
    reasons = []
    for python, numbers in _interpreters():
        target = folder / version
        command = [*pip, "download", "--quiet", "--disable-pip-version-check", "--retries", "0", "--timeout", "15"]
        command += ["--no-deps", "--only-binary", ":all:", "--python-version", "".join(map(str, numbers))]
        command += ["--implementation", "cp", "--abi", "none", "--dest", str(target)]
        command += [word for glibc in (17, 27, 28, 31, 34) for word in ("--platform", f"manylinux_2_{glibc}_x86_64")]
        command.append(f"{WHEELS[version]}=={version}")
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_DOWNLOAD_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired:
            return Unavailable(f"the wheel {command[-1]} did not arrive within {_DOWNLOAD_TIMEOUT_S} s")
        wheels = sorted(target.glob("*.whl"))
        if done.returncode == 0 and wheels:
            with zipfile.ZipFile(wheels[0]) as archive:
                archive.extractall(target)
            return Bindings(version, python, target, libraries)
        lines = [line for line in done.stderr.splitlines() if "ERROR" in line]
        reasons.append(f"Python {'.'.join(map(str, numbers))}: {lines[-1] if lines else 'no wheel'}")
    return Unavailable(f"{WHEELS[version]}=={version} cannot be downloaded ({'; '.join(reasons)})")


def _find_pip() -> list[str]:
    """pip of this environment, or of the Python that the environment was made from."""
    base = getattr(sys, "_base_executable", sys.executable)
    for command in ([sys.executable, "-m", "pip"], [base, "-m", "pip"], ["pip3"]):
        try:
            done = subprocess.run([*command, "--version"], capture_output=True, timeout=30, check=False)
        except OSError:
            continue
        if done.returncode == 0:
            return command
    raise Unavailable("there is no pip to download the bindings with")


@functools.cache
def _interpreters() -> list[tuple[str, tuple[int, int]]]:
    """Pythons that wheels exist for, this one first."""
    found = {sys.version_info[:2]: sys.executable}
    for numbers in _PYTHONS:
        for path in _candidates(".".join(map(str, numbers))):
            if numbers not in found and _is_python(path, numbers):
                found[numbers] = path
    return [(path, numbers) for numbers, path in found.items() if numbers in _PYTHONS]


def _candidates(version: str) -> Iterator[str]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield on_path
    yield from map(str, sorted((Path.home() / ".pyenv/versions").glob(f"{version}.*/bin/python{version}")))


def _is_python(path: str, numbers: tuple[int, int]) -> bool:
    program = "import sys; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([path, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    except OSError:
        return False
    return done.stdout.split() == [str(number) for number in numbers]
