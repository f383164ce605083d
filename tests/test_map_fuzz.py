"""Damaged files and killed writers, in processes of their own: a crash or a hang fails the test, not the test run."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from tests.map_samples import SPEC, content_hash, keyframe, plain, sample_map

ROOT = Path(__file__).parent.parent
NUM_DAMAGED = 400
NUM_KILLS = 30
PAGE = 4096
TIMEOUT_S = 20.0

READ_ALL = """
import json, sys
from pathlib import Path
from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from tests.map_samples import content_hash
for line in sys.stdin:
    case = json.loads(line)
    try:
        with MapStore.open(Path(case["path"]), read_only=case["read_only"]) as store:
            answer = content_hash(store)
    except MapError as error:
        answer = "MapError"
    print(answer, flush=True)
"""

ADD_FOREVER = """
import sys
from pathlib import Path
from progeo_edge.map_store import MapStore
from progeo_edge.types import Status
from tests.map_samples import closure, keyframe
with MapStore.open(Path(sys.argv[1])) as store:
    session = store.begin_session("run", camera=None, config_yaml="")
    while True:
        id = store.next_keyframe_id()
        closures = [closure(id, id - 1)] if id else []
        store.add_keyframe(keyframe(id, session), status=Status.NO_CANDIDATE, closures=closures)
        print(id, flush=True)
"""


class ReadingProcess:
    """A process that opens and reads maps, started again when a map kills it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def read(self, path: Path, *, read_only: bool) -> str:
        """Hash of the content, "MapError", "crash" or "hang"."""
        if self._process is None or self._process.poll() is not None:
            command = [sys.executable, "-c", READ_ALL]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps({"path": str(path), "read_only": read_only}), file=self._process.stdin, flush=True)
        watchdog = threading.Timer(TIMEOUT_S, self._process.kill)
        watchdog.start()
        answer = self._process.stdout.readline().strip()
        hung = not watchdog.is_alive()
        watchdog.cancel()
        watchdog.join()
        return answer or ("hang" if hung else "crash")

    def close(self) -> None:
        if self._process is not None:
            self._process.communicate()


def _damage(content: bytes, rng: random.Random) -> tuple[str, bytes]:
    data = bytearray(content)
    kind = rng.choice(["bit", "bits", "zeroed page", "zeroed half page", "swapped pages", "truncated", "noise"])
    page = rng.randrange(len(data) // PAGE) * PAGE
    if kind == "bit":
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == "bits":
        # Near the start of a page, where its structure is, rather than its content.
        for _ in range(rng.randrange(1, 8)):
            data[page + rng.randrange(64)] ^= 1 << rng.randrange(8)
    elif kind == "zeroed page":
        data[page : page + PAGE] = bytes(PAGE)
    elif kind == "zeroed half page":
        data[page + PAGE // 2 : page + PAGE] = bytes(PAGE // 2)
    elif kind == "swapped pages":
        other = rng.randrange(len(data) // PAGE) * PAGE
        data[page : page + PAGE], data[other : other + PAGE] = data[other : other + PAGE], data[page : page + PAGE]
    elif kind == "truncated":
        del data[rng.choice([page, rng.randrange(len(data))]) :]
    else:
        at = rng.randrange(len(data) - 256)
        data[at : at + 256] = rng.randbytes(256)
    return kind, bytes(data)


@pytest.mark.parametrize("read_only", [True, False])
def test_damaged_maps_are_refused_or_unchanged(tmp_path, read_only):
    original = sample_map(tmp_path / "original.progeo", 30)
    with MapStore.open(original, read_only=True) as store:
        expected = content_hash(store)
    content = original.read_bytes()
    rng = random.Random(20 + read_only)
    answers: dict[str, list[str]] = {}
    process = ReadingProcess()
    for number in range(NUM_DAMAGED // 2):
        kind, damaged = _damage(content, rng)
        path = tmp_path / f"{number}.progeo"
        path.write_bytes(damaged)
        answer = process.read(path, read_only=read_only)
        assert answer in ("MapError", expected), f"case {number}: {kind} gives {answer}"
        answers.setdefault(kind, []).append("refused" if answer == "MapError" else "unchanged")
        for file in tmp_path.glob(f"{number}.progeo*"):
            file.unlink()
    process.close()
    counts = {kind: (len(found), found.count("refused")) for kind, found in sorted(answers.items())}
    assert len(counts) == 7 and all(refused > 0 for _, refused in counts.values())


def test_every_page_is_checked(tmp_path):
    original = sample_map(tmp_path / "original.progeo", 30)
    content = original.read_bytes()
    process = ReadingProcess()
    for page in range(0, len(content), PAGE):
        path = tmp_path / f"{page}.progeo"
        path.write_bytes(content[:page] + bytes(PAGE) + content[page + PAGE :])
        assert process.read(path, read_only=True) == "MapError", f"page {page // PAGE} may be zeroed"
    process.close()


def test_killed_writer_loses_nothing_acknowledged(tmp_path):
    path = tmp_path / "m.progeo"
    MapStore.create(path, SPEC).close()
    rng = random.Random(5)
    acknowledged = -1
    for _ in range(NUM_KILLS):
        acknowledged = max(acknowledged, _kill_while_writing(path, rng.uniform(0, 0.04)))
        with MapStore.open(path) as store:
            stored = [info.id for info in store.infos()]
            assert stored == list(range(len(stored))) and len(stored) in (acknowledged + 1, acknowledged + 2)
            ids, _ = store.descriptors()
            assert ids.tolist() == stored
            assert [(c.query_id, c.reference_id) for c in store.closures()] == [(id, id - 1) for id in stored[1:]]
    assert acknowledged > NUM_KILLS
    with MapStore.open(path) as store:
        for id in stored[::5]:
            kept = store.keyframe(id)
            made = keyframe(id, kept.session)
            assert plain(kept.T_odom_base) == plain(made.T_odom_base)
            assert plain(kept.appearance) == plain(made.appearance)
        store.add_keyframe(keyframe(len(stored), 0), status=Status.NO_CANDIDATE)


def _kill_while_writing(path: Path, after_s: float) -> int:
    """Start a writer, kill it some time after its first keyframe, and return the last id it acknowledged."""
    command = [sys.executable, "-c", ADD_FOREVER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        last = int(process.stdout.readline())
        time.sleep(after_s)
        process.kill()
        lines = process.stdout.read().splitlines(keepends=True)
    return max([last, *(int(line) for line in lines if line.endswith("\n"))])
