from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from progeo_edge.cli import map as map_command
from progeo_edge.cli.console import new_app, print_error, progress, run_app
from progeo_edge.errors import MapError
from progeo_edge.map_store import MapStore
from tests.map_samples import sample_map

ROOT = Path(__file__).parent.parent.parent


def run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["progeo-map", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as exit:
        map_command.main()
    captured = capsys.readouterr()
    return int(exit.value.code or 0), captured.out, captured.err


@pytest.fixture
def command(capsys, monkeypatch):
    return lambda *arguments: run(capsys, monkeypatch, *arguments)


def test_info_says_what_is_in_a_map(command, tmp_path):
    path = sample_map(tmp_path / "m.progeo", 20)
    code, out, err = command("info", path)
    assert (code, err) == (0, "")
    for text in ("sample, 16 x float16", "20 (15 NO_CANDIDATE, 5 ACCEPTED)", "3 METRIC", "integrity  ok", "drive"):
        assert text in out
    code, out, _ = command("info", path, "--json", "--no-check")
    facts = json.loads(out)
    assert code == 0 and facts["num_keyframes"] == 20 and facts["integrity"] == "not checked"
    assert facts["tables"]["thumbnails"]["rows"] == 20 and facts["tables"]["descriptors"]["bytes"] >= 20 * 32
    assert facts["closures_by_pose_kind"] == {"METRIC": 3, "NOT_VERIFIED": 2}
    assert facts["sessions"][0]["calibrated"] is True and facts["file_bytes"] == path.stat().st_size


def test_info_of_a_damaged_map_fails(command, tmp_path):
    path = sample_map(tmp_path / "m.progeo", 20)
    with MapStore.open(path) as store:
        blob = store.record(3).parts["features"]
    path.write_bytes(path.read_bytes().replace(blob[50:60], bytes(10)))
    code, out, err = command("info", path)
    assert code == 2 and "features of keyframe 3 does not match its checksum" in out
    assert err.startswith("error: ") and "progeo-map salvage" in err and err.count("\n") == 1
    code, out, _ = command("info", path, "--json")
    assert code == 2 and "features of keyframe 3" in json.loads(out)["integrity"][0]
    code, out, _ = command("salvage", path, "-o", tmp_path / "s.progeo")
    assert code == 0 and "lost: features of keyframe 3" in out and "20 keyframes" in out


def test_merge_prune_and_export(command, tmp_path):
    a, b = sample_map(tmp_path / "a.progeo", 8, seed=1), sample_map(tmp_path / "b.progeo", 9, seed=2)
    merged, small = tmp_path / "merged.progeo", tmp_path / "small.progeo"
    assert command("merge", a, b, "-o", merged)[:2] == (0, f"{merged}: 17 keyframes of 2 maps\n")
    assert command("prune", merged, "--keep", 12, "-o", small)[:2] == (0, f"{small}: 12 of 17 keyframes kept\n")
    code, out, _ = command("prune", merged, "--older-than", "1h", "--keep", 10, "-o", small, "--force")
    assert code == 0 and "10 of 17 keyframes kept" in out
    code, out, _ = command("export", small, "-o", tmp_path / "out")
    assert code == 0 and "10 keyframes exported" in out
    assert len((tmp_path / "out" / "keyframes.csv").read_text().splitlines()) == 11


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("info", "missing.progeo"), "does not exist"),
        (("prune", "m.progeo", "-o", "x.progeo"), "--keep N"),
        (("prune", "m.progeo", "-o", "x.progeo", "--older-than", "3 moons"), "'3 moons' is no age"),
        (("prune", "m.progeo", "-o", "m.progeo", "--keep", "4"), "exists already"),
        (("merge", "m.progeo", "-o", "x.progeo"), "at least two"),
        (("export", "m.progeo", "-o", "."), "other files than an export"),
    ],
)
def test_user_errors_are_one_line_and_exit_2(command, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    sample_map(Path("m.progeo"), 4)
    code, out, err = command(*arguments)
    assert code == 2 and out == ""
    assert err.startswith("error: ") and message in err and err.count("\n") == 1
    assert [file.name for file in tmp_path.iterdir()] == ["m.progeo"]


def test_help_teaches_without_loading_the_library():
    code = "import sys; from progeo_edge.cli import map; sys.argv = ['progeo-map', '--help']\ntry: map.main()\n"
    code += "finally: print([m for m in ('numpy', 'cv2', 'sqlite3') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stdout.endswith("[]\n")
    assert "progeo-map merge monday.progeo tuesday.progeo -o week.progeo" in done.stdout
    for name in ("info", "merge", "prune", "export", "salvage"):
        result = CliRunner().invoke(map_command.app, [name, "--help"])
        assert result.exit_code == 0 and "--" in result.output


# The console that all commands share


def _app_that_raises(error: BaseException) -> typer.Typer:
    app = new_app("help")

    @app.command()
    def fail() -> None:
        raise error

    return app


def _run_failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> int:
    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(SystemExit) as exit:
        run_app(_app_that_raises(error))
    assert isinstance(exit.value.code, int)
    return exit.value.code


def test_known_errors_become_one_line(capsys, monkeypatch):
    assert _run_failing(monkeypatch, MapError("a [bold]value[/bold]\n is " + "long " * 50)) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: a [bold]value[/bold] is long long") and err.count("\n") == 1


def test_interruption_exits_130(monkeypatch):
    assert _run_failing(monkeypatch, KeyboardInterrupt()) == 130


def test_unknown_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fail"])
    with pytest.raises(ZeroDivisionError):
        run_app(_app_that_raises(ZeroDivisionError("a bug")))


def test_errors_are_red_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_error("value")
    assert "\x1b[31m" in capsys.readouterr().err


def test_progress_is_silent_without_a_terminal(capsys):
    with progress() as bar:
        task = bar.add_task("reading", total=3)
        bar.advance(task)
    assert capsys.readouterr() == ("", "")


def test_progress_shows_count_rate_and_time_left_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with progress("keyframes") as bar:
        task = bar.add_task("reading", total=4)
        for _ in range(3):
            bar.advance(task)
    out, err = capsys.readouterr()
    assert out == "" and "reading" in err and "3/4" in err and "keyframes/s" in err
