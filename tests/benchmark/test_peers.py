from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from progeo_edge.benchmark.memory import own_mb
from progeo_edge.benchmark.peers.peer import pack, peer_class, unpack
from progeo_edge.benchmark.peers.process import PeerGoneError, PeerProcess, last_words
from progeo_edge.benchmark.versus.comparison import Comparison
from progeo_edge.benchmark.versus.interleaving import Contender, Pace, answers_of, measure, opened, rotated
from progeo_edge.errors import InputError
from tests.benchmark.fake_peers import HERE

SLEEPER = f"{HERE}:Sleeper"


def quiet(_: str) -> None:
    """Nobody is told."""


def test_a_peer_answers_from_its_own_process_although_it_prints():
    peer = PeerProcess(SLEEPER, {"ms": 5}, threads=3)
    try:
        assert peer.facts == {"threads": 3, "omp": "3"} and peer.steps == ("work",)
        times_ms = peer.times_ms("work", [0, 1, 2])
        assert len(times_ms) == 3 and min(times_ms) >= 5
        answers = peer.answers("work", [7, 8])
        np.testing.assert_array_equal(answers, [[7, 7.5], [8, 8.5]])
        assert answers[0].dtype == np.float32
        memory = peer.memory()
        assert set(memory) == {"resident_mb", "own_mb"}
    finally:
        peer.close()
        peer.close()


@pytest.mark.parametrize(
    ("broken", "said"),
    [("absent", "it is not for this machine$"), ("opening", "ended with code 1: ValueError: cannot open")],
)
def test_a_peer_that_does_not_open_says_why(broken: str, said: str):
    with pytest.raises(PeerGoneError, match=said):
        PeerProcess(SLEEPER, {"broken": broken}, threads=1)


def test_a_peer_that_is_not_ready_in_time_is_given_up_and_ended():
    with pytest.raises(PeerGoneError, match="no answer in 1 s"):
        PeerProcess(SLEEPER, {"broken": "slow"}, threads=1, ready_timeout_s=1.0)


def test_a_module_that_is_not_there_is_absent():
    with pytest.raises(PeerGoneError, match="No module named 'no_such_package'"):
        PeerProcess("no_such_package.peers:Peer", {}, threads=1)


@pytest.mark.parametrize(("target", "said"), [("json", "not of the form"), ("json:Nothing", "has no 'Nothing'")])
def test_a_target_that_names_no_class(target: str, said: str):
    with pytest.raises(InputError, match=said):
        peer_class(target)


@pytest.mark.parametrize("value", [np.arange(6, dtype=np.int64).reshape(2, 3), np.float32(2.5), np.zeros((0, 4), "u1")])
def test_arrays_survive_the_pipe(value: np.ndarray):
    back = unpack(pack(value))
    np.testing.assert_array_equal(back, value)
    assert back.dtype == np.asarray(value).dtype and back.shape == np.asarray(value).shape


def test_no_object_crosses_the_pipe():
    with pytest.raises(TypeError, match="array of numbers"):
        pack(np.array([object()]))


def test_the_line_that_names_the_error_is_told():
    assert last_words(1, "Traceback\nValueError: wrong\n    with details\n") == (
        "its process ended with code 1: ValueError: wrong"
    )
    assert last_words(-9, "") == "its process ended with code -9"


def test_a_slower_contender_takes_as_many_times_as_long_and_the_absent_are_listed():
    contenders = [
        Contender("ours", SLEEPER, {"ms": 4}, is_ours=True),
        Contender("slow", SLEEPER, {"ms": 20}),
        Contender("gone", SLEEPER, {"broken": "absent"}),
        Contender("dies", SLEEPER, {"broken": "dies", "at": 3}),
    ]
    told: list[str] = []
    with opened(contenders, threads=1, absent={"other": "not installed"}, progress=told.append) as entered:
        rows = measure(entered, "work", Pace(rounds=3, block=2, warm_up=2), progress=told.append, pause_s=0)
        assert answers_of(entered, "slow", "work", [1]) is not None
        comparison = Comparison("sleeping", "here", tuple(rows), dict(entered.absent))
        processes = [peer._process for peer in entered.peers.values()]
    assert [row.name for row in rows] == ["ours", "slow"]
    assert all(row.time_ms.count == 6 and len(row.round_medians_ms) == 3 for row in rows)
    assert comparison.ours is rows[0] and comparison.absent.keys() == {"other", "gone", "dies"}
    assert "ValueError: cannot work" in comparison.absent["dies"]
    ratio = comparison.times_ours(rows[1])
    quotients = np.divide(rows[1].round_medians_ms, rows[0].round_medians_ms)
    assert ratio is not None and ratio.median == pytest.approx(np.median(quotients)) and ratio.num_rounds == 3
    assert rows[1].time_ms.min >= 20 and comparison.as_json()["rows"][1]["times_ours"]["high"] == max(quotients)
    assert all(process.poll() is not None for process in processes)
    assert "opened gone" in told and "work, round 3" in told


def test_everybody_begins_and_everybody_has_other_neighbours():
    orders = [rotated("abc", number) for number in range(6)]
    assert sorted("".join(order) for order in orders) == ["abc", "acb", "bac", "bca", "cab", "cba"]
    assert rotated([], 3) == []


def test_own_memory_of_a_process_grows_with_what_it_holds():
    """In one of its own: here other tests' memory may be given back meanwhile."""
    if own_mb() is None:
        pytest.skip("this system has no /proc/self/status")
    code = (
        "import numpy as np; from progeo_edge.benchmark.memory import own_mb, resident_mb; "
        "whole, before = resident_mb(), own_mb(); held = np.ones(30_000_000, np.uint8); print(whole, before, own_mb())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, before, after = (float(word) for word in done.stdout.split())
    assert 5 < before < whole
    assert 25 < after - before < 40
