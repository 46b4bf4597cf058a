"""Steps per second of a convolutional network of Lava's own processes alone. Runs in an interpreter that has Lava.

    python lava_stock.py LAYERS STEPS

LAYERS is JSON: {"input": [x, y, channels], "layers": [{"kind": "conv" or "pool" or "dense", ...}]}. Lava's convolution
flips its kernel and orders maps as (x, y, channel), so this network is not the same one: it has the same shapes, which
is all that its speed depends on. Prints the seconds of STEPS steps, after as many that are not counted.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.io.source import RingBuffer
from lava.proc.lif.process import LIF


def main() -> None:
    network, steps = json.loads(sys.argv[1]), int(sys.argv[2])
    random = np.random.default_rng(0)
    shape = tuple(network["input"])
    source = RingBuffer(data=(random.random((*shape, 8)) < network["activity"]).astype(np.int32))
    port, last = source.s_out, source
    for layer in network["layers"]:
        synapses: Any
        if layer["kind"] == "dense":
            weights = random.integers(-20, 20, (layer["channels"], int(np.prod(shape))))
            synapses = Dense(weights=weights)
            port = port.flatten() if len(shape) == 3 else port
            shape = (layer["channels"],)
        else:
            pool = layer["kind"] == "pool"
            groups = shape[2] if pool else 1
            channels, size = (shape[2], 2) if pool else (layer["channels"], 3)
            weights = random.integers(-20, 20, (channels, size, size, shape[2] // groups))
            synapses = Conv(
                weight=weights, input_shape=shape, padding=0 if pool else 1, stride=2 if pool else 1, groups=groups
            )
            shape = tuple(synapses.output_shape)
        neurons = LIF(shape=shape, vth=100, du=4095, dv=2048)
        port.connect(synapses.s_in)
        synapses.a_out.connect(neurons.a_in)
        port, last = neurons.s_out, neurons
    config = Loihi2SimCfg(select_tag="fixed_pt")
    last.run(condition=RunSteps(steps), run_cfg=config)
    began = time.perf_counter()
    last.run(condition=RunSteps(steps), run_cfg=config)
    print(time.perf_counter() - began)
    last.stop()


if __name__ == "__main__":
    main()
