"""Write commands.md and rules.md from the code that they describe: .venv/bin/python docs/make_pages.py"""

from __future__ import annotations

from pathlib import Path

import click

import hw_targets
from toolchain import rules
from toolchain.cli import cli

HERE = Path(__file__).parent
WIDTH = 110

HEAD = """# Command reference

Made by `docs/make_pages.py` from the help texts of the command; a test keeps the two equal.

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


RULES_HEAD = """# Rules that are checked

Made by `docs/make_pages.py` from `toolchain/rules.py`; a test keeps the two equal. A rule is asked where the
target states its limit. All broken rules are reported at once.

## Rules of a core

| rule | wording | """


RULES_OF_A_PROGRAM = """
## Rules of a program

| rule | wording |
|---|---|"""


def commands() -> str:
    """The text of commands.md."""
    parts = [HEAD]
    settings = cli.context_settings["help_option_names"]
    group = click.Context(cli, info_name="snnc", help_option_names=settings)
    for name, command in cli.commands.items():
        width = {"max_content_width": WIDTH, "terminal_width": WIDTH}
        with click.Context(command, parent=group, info_name=name, **width) as context:
            text = command.get_help(context)
        parts.append(f"## snnc {name}\n\n" + "\n".join(f"    {line}".rstrip() for line in text.splitlines()) + "\n")
    return "\n".join(parts)


def rule_table() -> str:
    """The text of rules.md."""
    targets = [hw_targets.load(name) for name in hw_targets.available()]
    first, others = [t for t in targets if not t.partial], [t for t in targets if t.partial]
    lines = [
        RULES_HEAD + " | ".join(target.name for target in first) + " | other chips |",
        "|---" * (3 + len(first)) + "|",
    ]
    for rule in rules.CORE_RULES:
        limits = [rules.stated_limit(rule, target) for target in first]
        stated = ["-" if limit is None else f"{limit.limit:,} {limit.unit}" for limit in limits]
        found = {target.name: rules.stated_limit(rule, target) for target in others}
        rest = ", ".join(f"{name} {limit.limit:,}" for name, limit in found.items() if limit is not None)
        lines.append(f"| `{rule.__name__}` | {rules.wording(rule)} | " + " | ".join([*stated, rest or "-"]) + " |")
    lines += [RULES_OF_A_PROGRAM]
    lines += [f"| `{rule.__name__}` | {rules.wording(rule)} |" for rule in rules.PROGRAM_RULES]
    return "\n".join(lines) + "\n"


PAGES = {"commands.md": commands, "rules.md": rule_table}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (HERE / name).write_text(page())
