"""snnc: from a trained spiking network to the cores of a neuromorphic chip."""

__version__ = "0.1.0"
