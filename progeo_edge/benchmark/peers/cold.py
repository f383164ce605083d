"""One cold start: a fresh process imports, loads and gives its first descriptor, and says how long each took.

Started as `python -m progeo_edge.benchmark.peers.cold module:Class SETTINGS.json`. The parent times the whole from
outside, the start of the interpreter included.
"""

import sys
import time


def main() -> None:
    """Import, load, describe; one line of JSON on what was standard output."""
    started = time.perf_counter()
    import json
    from pathlib import Path

    from progeo_edge.benchmark.peers.peer import peer_class
    from progeo_edge.benchmark.peers.worker import claim_stdout
    from progeo_edge.errors import ProgeoError

    reply = claim_stdout()
    settings = json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    try:
        opener = peer_class(sys.argv[1])
        opener.import_libraries(settings)
        imported = time.perf_counter()
        peer = opener(settings)
        loaded = time.perf_counter()
        peer.steps["descriptor"](0)
    except (ImportError, ProgeoError) as error:
        reply({"absent": " ".join(str(error).split())})
        return
    done = time.perf_counter()
    parts = {"import": imported - started, "load": loaded - imported, "first": done - loaded}
    reply({"parts_ms": {name: 1e3 * seconds for name, seconds in parts.items()}})


if __name__ == "__main__":
    main()
