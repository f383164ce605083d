"""The process of one peer: waits blocked on its standard input, answers in lines of JSON.

Started as `python -m progeo_edge.benchmark.peers.worker module:Class`; the first line holds the settings. Each request
is {"do": "time" or "answer", "step": NAME, "items": [NUMBERS]} or {"do": "memory"}. The end of the input ends it.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from progeo_edge.benchmark.memory import own_mb, resident_mb
from progeo_edge.benchmark.peers.peer import Peer, pack, peer_class
from progeo_edge.errors import ProgeoError

Reply = Callable[[Mapping[str, Any]], None]


def main() -> None:
    """Open the peer and answer until the input ends."""
    reply = claim_stdout()
    settings = json.loads(sys.stdin.readline())
    try:
        peer = peer_class(sys.argv[1])(settings)
    except (ImportError, ProgeoError) as error:
        reply({"absent": " ".join(str(error).split())})
        return
    reply({"facts": dict(peer.facts), "steps": list(peer.steps)})
    for line in sys.stdin:
        reply(_carry_out(peer, json.loads(line)))


def claim_stdout() -> Reply:
    """Keep standard output for replies; what libraries print goes to standard error from now on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    # Printed things wait in no buffer, so that the traceback of a peer that fails comes last.
    sys.stdout = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8", errors="replace")

    def reply(content: Mapping[str, Any]) -> None:
        channel.write(json.dumps(content, allow_nan=False) + "\n")
        channel.flush()

    return reply


def _carry_out(peer: Peer, request: Mapping[str, Any]) -> dict[str, Any]:
    if request["do"] == "memory":
        return {"resident_mb": resident_mb(), "own_mb": own_mb()}
    step, items = peer.steps[request["step"]], request["items"]
    if request["do"] == "answer":
        return {"answers": [pack(step(item)) for item in items]}
    return {"times_ms": [_timed_ms(step, item) for item in items]}


def _timed_ms(step: Callable[[int], Any], item: int) -> float:
    started_ns = time.perf_counter_ns()
    step(item)
    return (time.perf_counter_ns() - started_ns) * 1e-6


if __name__ == "__main__":
    main()
