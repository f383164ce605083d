"""Runs a module of this package in a process of its own, because what it calls can crash or never end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from progeo_export.errors import ExportError


def run_module(module: str, *arguments: str, work: str, timeout_s: float, remedy: str) -> None:
    """Run `python -m module arguments` to its end; what it prints is kept for the message.

    Args:
        module: Dotted name, of this package.
        arguments: Its command line.
        work: What is done, for messages ("INT8 quantisation").
        timeout_s: The process is ended after this time.
        remedy: What a user can do when it fails.

    Raises:
        ExportError: the process failed, crashed or took too long.
    """
    packages = str(Path(__file__).parents[1])
    search = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments],
            env={**os.environ, "PYTHONPATH": search},
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"{work} took longer than {timeout_s:g} s; use fewer images") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        raise ExportError(
            f"{work} failed with {_exit_in_words(done.returncode)}: {lines[-1] if lines else 'no message'}; {remedy}"
        )


def _exit_in_words(code: int) -> str:
    if code < 0:
        return f"exit code {code} ({signal.Signals(-code).name}: it crashed)"
    return f"exit code {code}"
