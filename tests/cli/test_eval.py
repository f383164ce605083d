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
from progeo_edge.outputs import write_tum
from progeo_edge.pose_graph import trajectory_error
from tests.evaluation.test_judged_trajectory import two_laps, write_run
from tests.small_world import LIGHT, two_passes, write_images

SWEPT = "verification.min_inliers_uncalibrated"
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


def test_a_run_is_judged_by_true_poses_against_a_promise(tmp_path):
    out, _ = _run_folder(tmp_path)
    truth, page, record = tmp_path / "truth.csv", tmp_path / "judged.html", tmp_path / "judged.json"
    # Places 100 m apart, driven twice.
    truth.write_text("image,x_m,y_m,yaw_rad\n" + "".join(f"{row}.jpg,{100 * (row % 4)},0,0\n" for row in range(8)))
    result = CliRunner().invoke(
        app,
        ["loops", str(out), "--truth", str(truth), "--promise", "60", "--html", str(page), "--json", str(record)],
    )
    assert result.exit_code == 0, result.output
    said = " ".join(result.output.split())
    assert "false: 6.jpg -> 0.jpg" in said
    # One keyframe in 70 s.
    assert "false accepts before geometry: 51.4 [1.3, 287] per hour, 1 keyframes in 0.02 hours" in said
    assert "promised 60 per hour: not contradicted" in said
    judged = json.loads(record.read_text())
    assert judged["false_per_hour"]["false_accepts"] == [
        {"query": "6.jpg", "reference": "0.jpg", "similarity": pytest.approx(0.84), "probability": None}
    ]
    html = page.read_text()
    assert html.count("<svg") == 2 and "6.jpg" in html and "False accepts per hour" in html
    assert "http" not in html.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")


def test_labels_or_poses_but_not_both(tmp_path):
    out, matches = _run_folder(tmp_path)
    for arguments, message in (
        ([], "one of --matches CSV and --truth POSES is needed, and none was given"),
        (["--matches", str(matches), "--truth", str(matches)], "both were given"),
    ):
        with pytest.raises(ConfigError, match=message):
            CliRunner().invoke(app, ["loops", str(out), *arguments], catch_exceptions=False)


def test_a_trajectory_is_judged(tmp_path):
    truth, odometry = two_laps()
    run = write_run(tmp_path / "run", odometry, [])
    poses = tmp_path / "truth.tum"
    write_tum(poses, truth, {i: i * 10**9 for i in truth})
    page, plot, record = (tmp_path / name for name in ("t.html", "t.png", "t.json"))
    arguments = [
        *("trajectory", str(run), "--truth", str(poses), "--tum", str(tmp_path / "tum")),
        *("--html", str(page), "--plot", str(plot), "--json", str(record)),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "the run has no closure with a pose" in result.output
    assert f"evo_ape tum {tmp_path}/tum/truth.tum {tmp_path}/tum/odometry.tum --align" in result.output
    judged = json.loads(record.read_text())
    assert judged["odometry"]["ate_m"]["rmse"] == pytest.approx(trajectory_error(odometry, truth).rmse_m)
    assert page.read_text().count("<svg") == 2
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_profiles_are_compared(tmp_path):
    frames, poses_by_stamp = two_passes()
    images = write_images(tmp_path / "images", frames)
    stamps = tmp_path / "times.txt"
    stamps.write_text("".join(f"{frame.stamp_ns * 1e-9:.9f}\n" for frame in frames))
    truth = tmp_path / "truth.csv"
    rows = [(f"{i:03d}.png", poses_by_stamp[frame.stamp_ns]) for i, frame in enumerate(frames)]
    truth.write_text("image,x_m,y_m,yaw_rad\n" + "".join(f"{n},{T[0, 3]},{T[1, 3]},0\n" for n, T in rows))
    page, record, plot = (tmp_path / name for name in ("p.html", "p.json", "p.svg"))
    arguments = [
        *("profiles", str(images), "--stamps", str(stamps), "--truth", str(truth), "--out", str(tmp_path / "out")),
        *("--radius-m", "3", "--neutral-m", "6", "--encoder", "thumbnail", "--profile", "conservative"),
        *("--profile", "recall", "--sweep", f"{SWEPT}=20,500"),
        *("--html", str(page), "--json", str(record), "--plot", str(plot)),
        *(part for setting in (*LIGHT, "exclusion.keyframes=3") for part in ("--set", setting)),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    judged = json.loads(record.read_text())["variants"]
    names = [one["name"] for one in judged]
    assert names == [
        "conservative",
        "recall",
        f"{SWEPT}=20",
        f"{SWEPT}=500",
    ]
    assert [one["is_profile"] for one in judged] == [True, True, False, False]
    assert all((tmp_path / "out" / name.replace("=", "_") / "report.html").is_file() for name in names)
    by_name = {one["name"]: one for one in judged}
    assert by_name["recall"]["accepted"]["num_closures"] > 0
    assert by_name[f"{SWEPT}=500"]["accepted"]["num_closures"] == 0
    assert by_name[f"{SWEPT}=20"]["config"]["verification"]["min_inliers_uncalibrated"] == 20
    assert any(one["on_front"] for one in judged)
    assert "Recall against false closures" in page.read_text() and "min_inliers_uncalibrated=500" in plot.read_text()


@pytest.mark.parametrize("command", [[], ["retrieval"], ["loops"], ["trajectory"], ["profiles"]])
def test_help_shows_examples_and_imports_nothing_heavy(command):
    code = (
        "import sys; from progeo_edge.cli.eval import app; sys.argv = ['progeo-eval', *sys.argv[1:], '--help']\n"
        "try: app()\nexcept SystemExit: pass\n"
        "heavy = {'numpy', 'cv2', 'matplotlib', 'hnswlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, cwd=ROOT, check=True)
    assert "Examples" in done.stdout and ("--truth" in done.stdout or "--matches" in done.stdout)
