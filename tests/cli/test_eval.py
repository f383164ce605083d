from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from progeo_edge.cli.eval import app, main
from progeo_edge.config import SearchConfig
from progeo_edge.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def _scene(seed):
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 255, (8, 12, 3)).astype(np.uint8)
    return cv2.resize(blocks, (120, 80), interpolation=cv2.INTER_CUBIC)


@pytest.fixture
def folder(tmp_path):
    """Five places, each as query and as database image, the queries a little brighter."""
    rows = []
    for place in range(5):
        for side, image in (("q", cv2.convertScaleAbs(_scene(place), beta=15)), ("d", _scene(place))):
            path = tmp_path / side / f"@ {1000 * place} @ 50 @ {place} @.png"
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), image)
        rows.append(f"q/{path.name},d/{path.name},positive")
    (tmp_path / "matches.csv").write_text("query,database,label\n" + "\n".join(rows[:4]) + "\n")
    return tmp_path


def _retrieval(*arguments):
    return CliRunner().invoke(app, ["retrieval", "--encoder", "thumbnail", *map(str, arguments)])


def test_retrieval_over_two_folders(folder):
    record, plot = folder / "out.json", folder / "recall.svg"
    result = _retrieval(
        "--queries", folder / "q", "--database", folder / "d", "--matches", folder / "matches.csv",
        "--json", record, "--plot", plot,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "100.0 [100.0, 100.0]" in result.output
    assert "4 queries, 5 database images; 1 images without a positive left out" in " ".join(result.output.split())
    judged = json.loads(record.read_text())
    assert judged["recall"]["1"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert judged["encoder"]["name"] == "thumbnail"
    assert judged["missed"] == [] and judged["rerank_weight"] is None
    assert judged["encode_ms"]["p50"] > 0
    assert plot.stat().st_size > 0


def test_retrieval_prints_json_alone(folder):
    result = _retrieval("--queries", folder / "q", "--database", folder / "d", "--utm", "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["num_queries"] == 5


def test_retrieval_by_places_and_as_one_recording(folder):
    places = folder / "places.csv"
    names = [f"{side}/@ {1000 * place} @ 50 @ {place} @.png" for place in range(5) for side in "qd"]
    places.write_text("image,place\n" + "\n".join(f"{name},{row // 2}" for row, name in enumerate(names)) + "\n")
    result = _retrieval("--images", folder, "--places", places, "--json", "-")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["recall"]["1"]["value"] == 1.0

    times = folder / "times.csv"
    times.write_text("image,time_s\n" + "\n".join(f"{name},{row}" for row, name in enumerate(names)) + "\n")
    matches = folder / "pairs.csv"
    matches.write_text(f"query,earlier,label\n{names[1]},{names[0]},positive\n{names[5]},{names[0]},positive\n")
    arguments = ["--images", folder, "--matches", matches, "--times", times, "--json", "-"]
    assert json.loads(_retrieval(*arguments).stdout)["num_queries"] == 3
    assert json.loads(_retrieval(*arguments, "--exclude-within-s", 2).stdout)["num_queries"] == 2


def test_reranking_can_be_asked_for(folder):
    arguments = ["--queries", folder / "q", "--database", folder / "d", "--utm", "--rerank", "--json", "-"]
    record = json.loads(_retrieval(*arguments).stdout)
    assert record["rerank_weight"] == SearchConfig().rerank_weight
    assert record["recall"]["1"]["value"] == 1.0
    assert json.loads(_retrieval(*arguments, "--rerank-weight", 1).stdout)["rerank_weight"] == 1.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--queries", "q", "--database", "d"], "0 kinds of labels given; give one of --matches"),
        (["--queries", "q", "--database", "d", "--utm", "--matches", "m"], "2 kinds of labels"),
        (["--queries", "q", "--utm"], "name --queries DIR and --database DIR"),
        (["--images", "i", "--queries", "q", "--utm"], "leave out --queries"),
        (["--images", "i", "--utm"], "in place of --images"),
        (["--queries", "q", "--database", "d", "--places", "p"], "give --images DIR"),
        (["--queries", "q", "--database", "d", "--utm", "--exclude-within-s", "5"], "use them with --images"),
    ],
)
def test_arguments_that_do_not_fit_together(arguments, message):
    with pytest.raises(ConfigError, match=message):
        CliRunner().invoke(app, ["retrieval", *arguments], catch_exceptions=False)


def _run_folder(folder):
    out = folder / "run"
    out.mkdir()
    records, closures = [], []
    for row in range(8):
        candidates = []
        if row >= 4:
            reference = row - 4 if row != 6 else 0
            candidates = [
                {"reference_id": reference, "reference": f"{reference}.jpg", "similarity": 0.9 - 0.01 * row,
                 "rerank_score": 0.8, "probability": None, "status": "ACCEPTED", "num_inliers": 60 - row}
            ]  # fmt: skip
            closures.append({"query_id": row, "reference_id": reference, "query": f"{row}.jpg",
                             "reference": f"{reference}.jpg", "similarity": 0.9, "num_inliers": 60 - row})  # fmt: skip
        records.append({"query_id": row, "query": f"{row}.jpg", "stamp_ns": row * 10**10, "status": "ACCEPTED",
                        "candidates": candidates, "timings_ms": {}})  # fmt: skip
    (out / "candidates.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    (out / "closures.jsonl").write_text("".join(json.dumps(record) + "\n" for record in closures))
    matches = folder / "loops.csv"
    matches.write_text("query,earlier,label\n" + "".join(f"{row}.jpg,{row - 4}.jpg,positive\n" for row in range(4, 8)))
    return out, matches


def test_loops_are_judged(tmp_path):
    out, matches = _run_folder(tmp_path)
    record, plot = tmp_path / "loops.json", tmp_path / "curves.png"
    result = CliRunner().invoke(
        app, ["loops", str(out), "--matches", str(matches), "--json", str(record), "--plot", str(plot)]
    )
    assert result.exit_code == 0, result.output
    assert "8 keyframes, 4 revisits in 1 events" in result.output
    assert "false: 6.jpg -> 0.jpg, similarity 0.900, 54 inliers" in result.output
    judged = json.loads(record.read_text())
    assert judged["accepted"]["precision"]["value"] == 0.75
    assert judged["accepted"]["recall"]["value"] == 0.75
    assert set(judged["curves"]) == {"similarity", "rerank_score", "num_inliers"}
    # Right 0.86, 0.85, wrong 0.84, right 0.83.
    assert judged["curves"]["similarity"]["average_precision"]["value"] == pytest.approx((1 + 1 + 0.75) / 4)
    assert judged["curves"]["similarity"]["recall_at_100_precision"]["threshold"] == pytest.approx(0.85)
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_known_errors_are_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys):
    out, matches = _run_folder(tmp_path)
    for arguments, message in (
        ([str(tmp_path), "--matches", str(matches)], "holds no candidates.jsonl"),
        ([str(out), "--matches", str(tmp_path / "none.csv")], "cannot be read"),
        ([str(out), "--matches", str(matches), "--plot", "curves.gif"], "ends in '.gif'"),
        ([str(out), "--matches", str(matches), "--json", str(tmp_path / "no" / "x.json")], "choose another --json"),
    ):
        monkeypatch.setattr(sys, "argv", ["progeo-eval", "loops", *arguments])
        with pytest.raises(SystemExit) as stop:
            main()
        error = capsys.readouterr().err
        assert stop.value.code == 2
        assert message in error and error.startswith("error: ") and error.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["retrieval"], ["loops"]])
def test_help_shows_examples_and_imports_nothing_heavy(command):
    code = (
        "import sys; from progeo_edge.cli.eval import app; sys.argv = ['progeo-eval', *sys.argv[1:], '--help']\n"
        "try: app()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'matplotlib', 'hnswlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Examples" in done.stdout and "--matches" in done.stdout
