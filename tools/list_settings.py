"""Writes the pages of settings from the classes that hold them.

python tools/list_settings.py > docs/config.md
python tools/list_settings.py train > docs/training_config.md
"""

from __future__ import annotations

import sys

import yaml
from pydantic import BaseModel

from progeo_edge.config import PROFILES, Config
from progeo_train.config import TrainConfig

HEAD = """# Settings

Made by `tools/list_settings.py`; the reasons for the values are in [pipeline.md](pipeline.md). The same dotted names
work in Python (`Config`), in the YAML file (`--config`) and on the command line (`--set search.top_k=10`). Unknown
names are refused. The effective settings of a run are written into `config.yaml`, into the map and into the report.
"""

TRAINING_HEAD = """# Settings of the training

Made by `tools/list_settings.py train`; [training.md](training.md) explains the method. The same dotted names work in
the YAML file and on the command line (`--set stage2.epochs=8`). Unknown names are refused. The effective settings are
written beside the checkpoints and into them. Defaults are the published ones of ProGEO.
"""


def settings_page() -> str:
    """The whole page as Markdown."""
    parts = [HEAD]
    for name, section in Config():
        if isinstance(section, BaseModel):
            parts.append(_section(name, section))
    parts.append("## Profiles\n\nWhat each changes against the values above; anything you set yourself wins.\n")
    for name, changes in PROFILES.items():
        text = yaml.safe_dump(changes, sort_keys=False).rstrip() if changes else "# the values above"
        parts.append(f"### {name}\n\n```yaml\n{text}\n```\n")
    return "\n".join(parts)


def training_settings_page() -> str:
    """The page of the training as Markdown."""
    parts = [TRAINING_HEAD]
    parts += [_section(name, section) for name, section in TrainConfig() if isinstance(section, BaseModel)]
    return "\n".join(parts)


def _section(name: str, section: BaseModel) -> str:
    lines = [
        f"## {name}",
        "",
        f"{(type(section).__doc__ or '').strip()}",
        "",
        "| name | default | meaning |",
        "|---|---|---|",
    ]
    for key, field in type(section).model_fields.items():
        lines.append(f"| `{name}.{key}` | {getattr(section, key)} | {field.description or ''} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(training_settings_page() if sys.argv[1:] == ["train"] else settings_page())
