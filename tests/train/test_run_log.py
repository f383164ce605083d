"""metrics.jsonl and TensorBoard of a run that is killed and continued; timers and bars."""

from __future__ import annotations

import json
import logging
import math

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from progeo_train import run_log
from progeo_train.run_log import METRICS_NAME, TENSORBOARD_NAME, Log, RunLog, SilentLog, training_progress


def lines(folder):
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]


def report(log: Log, steps):
    for step in steps:
        log.scalars("stage2", step, {"loss": 1 / step})


def events(folder):
    found = EventAccumulator(str(folder / TENSORBOARD_NAME))
    found.Reload()
    return found


def test_lines_are_on_the_disk_at_once(tmp_path):
    log = RunLog(tmp_path)
    log.start_at(0)
    log.scalars("stage2", 5, {"loss": 2.5, "epoch": 1})
    assert lines(tmp_path) == [{"stage": "stage2", "step": 5, "loss": 2.5, "epoch": 1}]
    log.close()


def test_a_continued_run_leaves_the_file_of_an_uninterrupted_one(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder, starts in ((whole, [(0, range(1, 9))]), (killed, [(0, range(1, 7)), (4, range(5, 9))])):
        folder.mkdir()
        for first, steps in starts:
            log = RunLog(folder)
            log.start_at(first)
            report(log, steps)
            log.close()
    assert (whole / METRICS_NAME).read_bytes() == (killed / METRICS_NAME).read_bytes()
    scalars = events(killed).Scalars("stage2/loss")
    assert [event.step for event in scalars] == list(range(1, 9))
    assert [event.value for event in scalars] == pytest.approx([1 / step for step in range(1, 9)])


@pytest.mark.parametrize("tail", ['{"stage": "stage2", "st', "[]", '"', "\xff"])
def test_a_torn_last_line_is_dropped(tmp_path, tail, caplog):
    log = RunLog(tmp_path)
    log.start_at(0)
    report(log, [1, 2])
    log.close()
    with (tmp_path / METRICS_NAME).open("ab") as file:
        file.write(tail.encode("latin-1"))
    with caplog.at_level(logging.WARNING):
        log.start_at(2)
    assert "line 3" in caplog.text
    report(log, [3])
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_whole_last_line_without_its_end_is_kept(tmp_path):
    (tmp_path / METRICS_NAME).write_text('{"stage": "stage2", "step": 1}')
    log = RunLog(tmp_path)
    log.start_at(1)
    report(log, [2])
    log.close()
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_a_fresh_start_forgets_everything(tmp_path):
    log = RunLog(tmp_path)
    report(log, [1, 2])
    log.start_at(0)
    assert lines(tmp_path) == []
    log.close()


def test_what_is_not_finite_is_null(tmp_path):
    log = RunLog(tmp_path)
    log.scalars("stage2", 1, {"loss": math.nan, "place": math.inf})
    log.close()
    assert lines(tmp_path) == [{"stage": "stage2", "step": 1, "loss": None, "place": None}]


def test_pictures_reach_tensorboard(tmp_path):
    log = RunLog(tmp_path)
    log.picture("worst/0", 3, np.full((4, 6, 3), 9, np.uint8))
    log.close()
    (event,) = events(tmp_path).Images("worst/0")
    assert (event.step, event.height, event.width) == (3, 4, 6)


def test_the_silent_log_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log: Log = SilentLog()
    log.start_at(0)
    report(log, [1])
    log.picture("worst/0", 1, np.zeros((2, 2, 3), np.uint8))
    log.close()
    assert not list(tmp_path.iterdir())


def test_only_the_first_process_shows_a_bar(monkeypatch):
    from rich.progress import Progress

    monkeypatch.setattr(run_log, "progress", lambda unit: Progress(disable=False))
    assert not training_progress().disable
    assert training_progress(shown=False).disable
