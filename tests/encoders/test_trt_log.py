"""What of TensorRT's log reaches the error of a call that only gave False or None."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from progeo_edge.encoders.trt_log import captured, logger_of
from tests.encoders.fake_cuda import FakeCuda
from tests.encoders.fake_tensorrt import FakeTensorRT, install

Logged = list[tuple[str, str]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Called with the name of a severity and a text, as TensorRT calls its logger."""
    trt = install(monkeypatch, FakeTensorRT(FakeCuda()))
    logger = logger_of(trt)
    return lambda severity, text: logger.log(trt.ILogger.Severity[severity], text)


@pytest.mark.parametrize(
    ("lines", "summary"),
    [
        ([], "it logged no reason"),
        ([("INFO", "a"), ("VERBOSE", "b")], "it logged no reason"),
        ([("WARNING", "a"), ("INFO", "b")], "TensorRT says: a"),
        ([("WARNING", "a"), ("ERROR", "b"), ("INTERNAL_ERROR", "c"), ("WARNING", "d")], "TensorRT says: b | c"),
        ([("ERROR", "two\n  lines ")], "TensorRT says: two lines"),
        ([("ERROR", str(number)) for number in range(9)], "TensorRT says: 3 | 4 | 5 | 6 | 7 | 8"),
        ([("ERROR", "lost"), *[("WARNING", str(number)) for number in range(200)]], "TensorRT says: 194 | 195 | "),
    ],
)
def test_errors_come_first_then_warnings_and_nothing_else(lines: Logged, summary: str, log: Any) -> None:
    log("ERROR", "before")
    with captured() as outer, captured() as inner:
        for severity, text in lines:
            log(severity, text)
    log("ERROR", "after")
    assert outer.summary() == inner.summary() and outer.summary().startswith(summary)
    assert str(outer.fail("no engine", "try again")) == f"no engine; {outer.summary()}; try again"


def test_lines_are_passed_on_with_their_weight(log: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="progeo_edge")
    for severity in ("INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"):
        log(severity, severity.lower())
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "TensorRT: internal_error"),
        ("WARNING", "TensorRT: error"),
        ("INFO", "TensorRT: warning"),
        ("DEBUG", "TensorRT: info"),
        ("DEBUG", "TensorRT: verbose"),
    ]
