"""A .nir file as nested dictionaries, whatever is in it.

The package `nir` reads a file of any shape that it claims; so the tree is walked by `hdf5_tree`, which is careful.
"""

from __future__ import annotations

import os

from toolchain.formats.hdf5_tree import Tree, read_hdf5


def read_tree(path: str | os.PathLike[str]) -> tuple[str, Tree]:
    """The version of nir that wrote the file ("unknown" in files that do not say), and the entries of its root node.

    Raises:
        SnncError: missing, empty, damaged, cut off, of another format, or claiming more than it holds.
    """
    tree, version = read_hdf5(path, ("node", "version"), "what nir.write writes", "write the file again with nir.write")
    return "unknown" if version is None else str(version)[:40], tree
