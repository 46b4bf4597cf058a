"""Sweeps: every point of a grid trained, compiled and simulated, on a Dask cluster; what is there is not done again."""

from toolchain.sweep.plan import Point, Sweep, load
from toolchain.sweep.table import Configuration, configurations, pareto

__all__ = ["Configuration", "Point", "Sweep", "configurations", "load", "pareto"]
