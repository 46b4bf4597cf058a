"""A sweep file with its recipe, small enough to train in a second."""

from pathlib import Path

RECIPE = """
name = "small"
[data]
dataset = "digits"
[network]
hidden = [24]
steps = 2
[train]
epochs = 2
[quantise]
aware = {aware}
[method]
name = "grad-r"
connectivity = 0.3
"""


def write(folder: Path, text: str, *, aware: bool = True) -> Path:
    (folder / "small.toml").write_text(RECIPE.format(aware=str(aware).lower()))
    path = folder / "sweep.toml"
    path.write_text('recipe = "small.toml"\n' + text)
    return path
