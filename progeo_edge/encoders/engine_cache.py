"""Engines on disk: `engines/<key>.plan` as TensorRT wrote it, and `<key>.json` beside it that says what it is.

An engine only fits the TensorRT version, the GPU and the graph that it was built from, so all of these are in its key.
A plan is used when its sidecar states the same key and the plan's own sha256: a truncated or altered file never reaches
TensorRT, which may crash on one.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from progeo_edge import atomic
from progeo_edge.bundle import ENGINES_FOLDER

_log = logging.getLogger(__name__)

_FORMAT = 1
_POLL_S = 0.2


class EngineKey:
    """What an engine was made from; two engines of one key are interchangeable.

    Args:
        fields: JSON values: hash of the graph, TensorRT version, GPU, options.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields: dict[str, Any] = json.loads(json.dumps(dict(fields), sort_keys=True))
        text = json.dumps({"format": _FORMAT, **self.fields}, sort_keys=True)
        self.name = hashlib.sha256(text.encode()).hexdigest()[:32]


class EngineCache:
    """The engines of one bundle.

    Reads from the bundle's own folder and from the user's; writes to the first that can be written to.

    Args:
        bundle: Folder of the bundle.
    """

    def __init__(self, bundle: Path) -> None:
        own, users = bundle / ENGINES_FOLDER, user_cache_folder() / ENGINES_FOLDER
        self._folders = [own, users]
        self.folder = next((folder for folder in self._folders if _is_writable(folder)), None)
        if self.folder is None:
            _log.warning("neither %s nor %s can be written to; an engine that is built will be lost", own, users)
        elif self.folder == users:
            _log.info("%s cannot be written to; engines are kept in %s", own, users)

    def load(self, key: EngineKey) -> bytes | None:
        """The plan of `key`, or None; a damaged one is removed, and the log says why. Call it while holding `lock`."""
        for folder in self._folders:
            path = folder / f"{key.name}.plan"
            if not path.is_file():
                continue
            try:
                plan = path.read_bytes()
                problem = _check(plan, path.with_suffix(".json"), key)
            except OSError as error:
                problem = f"it cannot be read: {error}"
            if problem is None:
                return plan
            self.remove(key, problem)
        return None

    def why_none(self, key: EngineKey) -> str:
        """Why there is no engine of `key`, for people: after an update there may be one of the version before."""
        for sidecar in (path for folder in self._folders for path in sorted(folder.glob("*.json"))):
            kept = _stated_key(sidecar)
            if kept.get("onnx_sha256") != key.fields.get("onnx_sha256") or kept == key.fields:
                continue
            maker = f"TensorRT {kept.get('tensorrt')} on {kept.get('device')}"
            same_maker = all(kept.get(name) == key.fields.get(name) for name in ("tensorrt", "device"))
            return "there is only one with other options" if same_maker else f"there is only one by {maker}"
        return "there is none"

    def store(self, key: EngineKey, plan: bytes, record: Mapping[str, Any]) -> Path | None:
        """Write a checked plan and its sidecar, each wholly or not at all, and return the plan's path.

        Args:
            key: Of the engine.
            plan: Written as it is, so that trtexec can read it.
            record: Figures of the golden run and other facts, for people.

        Returns:
            None when no folder can be written to, or the disk is full; the log says so.
        """
        if self.folder is None:
            return None
        path = self.folder / f"{key.name}.plan"
        sidecar = {"key": key.fields, "plan_sha256": hashlib.sha256(plan).hexdigest(), "record": dict(record)}
        try:
            atomic.write_bytes(path, plan)
            # Last: until it states this plan's hash, the plan does not count.
            atomic.write_text(path.with_suffix(".json"), json.dumps(sidecar, indent=2, sort_keys=True) + "\n")
        except OSError as error:
            _log.warning("engine %s cannot be kept: %s; it will be built again at the next start", path, error)
            return None
        return path

    def remove(self, key: EngineKey, reason: str) -> None:
        """Delete an engine that must not be used, and say why."""
        for folder in self._folders:
            path = folder / f"{key.name}.plan"
            if not path.exists():
                continue
            try:
                path.unlink()
                path.with_suffix(".json").unlink(missing_ok=True)
                _log.warning("engine %s was removed: %s", path, reason)
            except OSError as error:
                _log.warning("engine %s is not used: %s (it cannot be removed: %s)", path, reason, error)

    @contextmanager
    def lock(self, key: EngineKey) -> Iterator[None]:
        """Hold the right to build `key`; another process that builds it is waited for.

        The lock belongs to the open file, so it ends with the process, however that ends.
        """
        if self.folder is None:
            yield
            return
        path = self.folder / f"{key.name}.lock"
        descriptor = _acquire(path)
        try:
            yield
        finally:
            if descriptor is not None:
                os.close(descriptor)

    def load_timing(self, name: str) -> bytes | None:
        """The timing cache `name`, or None."""
        for folder in self._folders:
            try:
                return (folder / name).read_bytes()
            except OSError:
                continue
        return None

    def store_timing(self, name: str, data: bytes) -> None:
        """Keep a timing cache; failing to is only worth a line in the log."""
        if self.folder is None:
            return
        try:
            atomic.write_bytes(self.folder / name, data)
        except OSError as error:
            _log.info("timing cache %s was not kept: %s", self.folder / name, error)


def timing_name(tensorrt_version: str, compute_capability: tuple[int, int]) -> str:
    """File name of the timing cache for one TensorRT on one kind of GPU."""
    version = re.sub(r"[^0-9A-Za-z.]", "_", tensorrt_version)
    return f"timing-{version}-sm{compute_capability[0]}{compute_capability[1]}.cache"


def user_cache_folder() -> Path:
    """Folder of this program in the user's cache: $XDG_CACHE_HOME/progeo-edge, or ~/.cache/progeo-edge."""
    stated = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(stated) if Path(stated).is_absolute() else Path.home() / ".cache"
    return base / "progeo-edge"


def _check(plan: bytes, sidecar: Path, key: EngineKey) -> str | None:
    """Why a plan must not be used, or None."""
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return f"{sidecar.name} is missing beside it"
    except (OSError, ValueError, RecursionError) as error:
        return f"{sidecar.name} cannot be read: {error}"
    if not isinstance(values, dict) or values.get("key") != key.fields:
        return f"{sidecar.name} says that it was built from something else"
    if values.get("plan_sha256") != hashlib.sha256(plan).hexdigest():
        return f"it was truncated or altered: its content is not the one that {sidecar.name} states"
    return None


def _stated_key(sidecar: Path) -> dict[str, Any]:
    """The key in a sidecar; empty where it cannot be read."""
    try:
        values = json.loads(sidecar.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    key = values.get("key") if isinstance(values, dict) else None
    return key if isinstance(key, dict) else {}


def _is_writable(folder: Path) -> bool:
    """Whether files can really be made there; permission bits do not tell of a read-only mount."""
    trial = folder / f".trial-{os.getpid()}-{time.monotonic_ns()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial.touch()
        trial.unlink()
    except OSError:
        return False
    return True


def _acquire(path: Path) -> int | None:
    """Wait for the lock and return its open file; None where the file system has no locks, or no room for the file."""
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not _try_lock(descriptor):
            _log.info("another process builds this engine; waiting for it (%s)", path)
            while not _try_lock(descriptor):
                time.sleep(_POLL_S)
    except OSError as error:
        _log.warning("lock %s cannot be taken: %s; two processes may build the same engine", path, error)
        if descriptor is not None:
            os.close(descriptor)
        return None
    except BaseException:
        if descriptor is not None:
            os.close(descriptor)
        raise
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
