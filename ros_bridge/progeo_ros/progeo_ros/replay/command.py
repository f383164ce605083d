"""progeo-replay: a bag in, the topics of the node out, without ROS."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from progeo_edge.cli.console import console, new_app, progress, run_app

if TYPE_CHECKING:
    from progeo_ros.replay.run import ReplaySummary

HELP = """
Run a ROS 1 or ROS 2 bag through the node, without ROS.

Writes what the node would publish (loop closures, candidates with reasons, keyframes, descriptors, diagnostics ...)
into an mcap file, which Foxglove, RViz and `ros2 bag play` open, and the map beside it.

**Examples**

    progeo-replay drive.bag --out drive.mcap
    progeo-replay drive/ --out drive.mcap --with-inputs --topic image=/front/image_raw --topic odom=/odom
    progeo-replay tuesday/ --out tuesday.mcap --map monday.progeo --params progeo.yaml --set profile=balanced
"""

app = new_app(HELP)


@app.command(help=HELP)
def replay(
    bag: Annotated[Path, typer.Argument(help="a .bag, .mcap or .db3 file, or the folder of a ROS 2 bag")],
    out: Annotated[Path, typer.Option("--out", "-o", help="mcap file to write; the map goes beside it, as .progeo")],
    params: Annotated[Path | None, typer.Option(help="ROS parameter file, as the node takes it")] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", help="one setting, as section.name=value")] = None,
    topics: Annotated[
        list[str] | None,
        typer.Option("--topic", help="NAME=/topic/of/the/bag; by default topics are found by their type"),
    ] = None,
    existing_map: Annotated[
        Path | None, typer.Option("--map", help="known map to recognise places of; it is copied, never changed")
    ] = None,
    with_inputs: Annotated[bool, typer.Option("--with-inputs", help="write what was read too")] = False,
    force: Annotated[bool, typer.Option("--force", help="replace an earlier replay")] = False,
) -> None:
    """Read the settings, replay, and say what was found."""
    _check_rosbags()
    from progeo_ros.replay.run import run_replay
    from progeo_ros.replay.settings import load_settings
    from progeo_ros.replay.topics import implied_settings, read_remaps

    remaps = read_remaps(topics or ())
    assignments = [*implied_settings(remaps), *(settings or ())]
    if existing_map is not None:
        assignments.append(f"map.path={existing_map}")
    node_config, config = load_settings(params, assignments)
    with progress("images") as bar:
        task = bar.add_task("replaying", total=None)
        summary = run_replay(
            bag,
            out,
            node_config,
            config,
            remaps=remaps,
            with_inputs=with_inputs,
            force=force,
            on_image=lambda total: bar.update(task, total=total, advance=1),
        )
    print_summary(summary)


def _check_rosbags() -> None:
    """Colcon does not install what only the replay needs."""
    from progeo_edge.errors import SourceError

    try:
        import rosbags  # noqa: F401
    except ImportError as error:
        raise SourceError("reading and writing bags without ROS needs: pip install 'progeo-edge[bags]'") from error


def print_summary(summary: ReplaySummary) -> None:
    """What was found, why not more, and where it lies."""
    from rich.markup import escape

    stdout = console()
    stdout.print(
        f"[bold]{summary.num_closures}[/bold] loop closures in {summary.num_keyframes} keyframes of "
        f"{summary.num_images} images, from {escape(summary.image_topic)}"
    )
    for note in summary.notes:
        stdout.print(f"[yellow]{escape(note)}[/yellow]")
    if summary.reasons:
        stdout.print("no closure because: " + ", ".join(f"{name} {n}" for name, n in summary.reasons))
    for topic, count in sorted(summary.topics.items()):
        stdout.print(f"  {escape(topic)}  {count}")
    stdout.print(f"written to {', '.join(escape(str(path)) for path in summary.written)}")


def main() -> None:
    """Entry point of `progeo-replay`."""
    run_app(app)


if __name__ == "__main__":
    main()
