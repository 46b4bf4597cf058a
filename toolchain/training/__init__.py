"""Training of sparse spiking networks in the arithmetic of the chip. `loop.train` is the entrance."""
