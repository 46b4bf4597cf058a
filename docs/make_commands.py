"""Write commands.md from the help texts of the command itself: .venv/bin/python docs/make_commands.py"""

from __future__ import annotations

from pathlib import Path

import click

from toolchain.cli import cli

PAGE = Path(__file__).parent / "commands.md"
WIDTH = 110

HEAD = """# Command reference

Made by `docs/make_commands.py` from the help texts of the command; a test keeps the two equal.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | refused: the network does not fit, the file is damaged, the data is missing |
| 2 | the command was called wrongly |
| 3 | an outside tool failed: Lava is missing, died, or passed its deadline |
| 130 | stopped by the user; what can be continued was saved |

Errors go to standard error: what was refused, where, what was found, what is allowed, and what to do.
`--debug` before the command shows a traceback as well. Files and folders appear whole or not at all.
"""


def page() -> str:
    """The text of commands.md."""
    parts = [HEAD]
    for name, command in cli.commands.items():
        with click.Context(command, info_name=f"snnc {name}", max_content_width=WIDTH, terminal_width=WIDTH) as context:
            text = command.get_help(context)
        parts.append(f"## snnc {name}\n\n" + "\n".join(f"    {line}".rstrip() for line in text.splitlines()) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(page())
