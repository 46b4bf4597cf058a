"""Makes the .net files beside it and what Lava does with them; the tests need only the files.

Run with Python 3.10 where lava-dl 0.6.0, lava-nc 0.10.0 and torch are installed:

    python make.py [NAME ...]   writes NAME.net by slayer's export_hdf5, and NAME.npz; of `unread` all of unread/

NAME.npz: `inputs` (steps, input neurons) and `outputs` (steps, output neurons), both 0 or 1, in the order of numbering
(channel, row, column). Outputs are what netx.hdf5.Network sends in Lava's simulation with tag fixed_pt; step t of the
output is that of input step t, the steps that layers take being removed. `potentials` are those of the last neurons at
the end. `slayer` is what slayer's own forward pass computes, a step later for each layer; where there is no entry
`outputs`, netx has no such layer. `averages` are what slayer's Average block sends for the same spikes, added up over
all steps.

unread/: files of layers that we refuse, and in answers.json what slayer's export and netx answered to each.
"""

import json
import os
import sys
import tempfile
from pathlib import Path

import h5py
import lava.lib.dl.slayer as slayer
import numpy as np
import torch
from lava.lib.dl.netx import hdf5
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc.io.sink import RingBuffer as Sink
from lava.proc.io.source import RingBuffer as Source

HERE = Path(__file__).parent
STEPS = 24
CUBA = {"threshold": 1.0, "current_decay": 0.3, "voltage_decay": 0.05}
FAST = {"threshold": 0.8, "current_decay": 1.0, "voltage_decay": 0.2}
B = slayer.block.cuba


class Net(torch.nn.Module):
    def __init__(self, *blocks):
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x

    def export(self, path):
        with h5py.File(path, "w") as file:
            layers = file.create_group("layer")
            for k, block in enumerate(self.blocks):
                block.export_hdf5(layers.create_group(f"{k}"))


def networks():
    """Name -> (network, shape of the input (channels, height, width) or (n,))."""
    yield "dense", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Dense(FAST, 20, 6, weight_scale=3)), (12,)
    each = {**CUBA, "shared_param": False, "current_decay": [0.2, 0.9], "voltage_decay": [0.01, 0.4]}
    yield "decays", Net(B.Dense(each, 12, 16, weight_scale=3), B.Dense(FAST, 16, 5, weight_scale=3)), (12,)
    yield "delays", Net(B.Dense(CUBA, 12, 14, weight_scale=3, delay=True), B.Dense(FAST, 14, 5, weight_scale=3)), (12,)
    yield "recurrent", Net(B.Recurrent({**CUBA}, 12, 14, weight_scale=3), B.Dense(FAST, 14, 5, weight_scale=3)), (12,)
    yield (
        "conv",
        Net(
            B.Input(delay_shift=False),
            B.Conv(CUBA, 2, 4, 3, padding=1, stride=(2, 1), weight_scale=4),
            B.Conv(FAST, 4, 6, (3, 2), dilation=(1, 2), groups=2, weight_scale=4),
            B.Flatten(),
            B.Dense(FAST, 6 * 3 * 4, 5, weight_scale=2),
        ),
        (2, 9, 6),
    )
    yield (
        "pool",
        Net(
            B.Input(delay_shift=False),
            B.Conv(CUBA, 2, 3, 3, padding=1, weight_scale=4),
            B.Pool(FAST, 2, weight_scale=2),
            B.Flatten(),
            B.Dense(FAST, 3 * 4 * 3, 5, weight_scale=2),
        ),
        (2, 8, 6),
    )
    yield "readout", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Affine(CUBA, 20, 4, weight_scale=3)), (12,)
    yield "synapse_delays", Net(B.Dense(CUBA, 12, 14, weight_scale=3), B.Dense(FAST, 14, 5, weight_scale=3)), (12,)
    yield (
        "conv_decays",
        Net(
            B.Input(delay_shift=False),
            B.Conv({**each}, 2, 4, 3, weight_scale=4),
            B.Flatten(),
            B.Dense(FAST, 4 * 3 * 4, 5, weight_scale=2),
        ),
        (2, 5, 6),
    )
    yield "sums", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Affine(CUBA, 20, 4, dynamics=False)), (12,)
    yield (
        "biases",
        Net(
            B.Input(delay_shift=False),
            B.Conv(CUBA, 1, 3, 3, weight_scale=3),
            B.Flatten(),
            B.Dense(FAST, 3 * 3 * 2, 5, weight_scale=2),
        ),
        (1, 5, 4),
    )
    yield "signs", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Dense(FAST, 20, 6, weight_scale=3)), (12,)
    yield "votes", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Affine(CUBA, 20, 5, dynamics=False)), (12,)
    yield (
        "loops",
        Net(
            B.Recurrent({**CUBA}, 12, 14, weight_scale=3),
            B.Dense(CUBA, 14, 10, weight_scale=3, delay=True),
            B.Recurrent({**FAST}, 10, 5, weight_scale=3),
        ),
        (12,),
    )


def unread():
    """Name -> (network, shape of the input) of what we refuse."""
    sdnn = {"threshold": 0.1, "activation": torch.nn.functional.relu}
    entry = B.Input(delay_shift=False)
    yield "average", Net(B.Dense(CUBA, 12, 20, weight_scale=3), B.Average(5)), (12,)
    yield "convT", Net(entry, B.ConvT(CUBA, 2, 3, 3, stride=2, weight_scale=3)), (2, 4, 4)
    yield "unpool", Net(entry, B.Unpool(CUBA, 2, weight_scale=3)), (2, 4, 4)
    yield "kwta", Net(B.KWTA(CUBA, 12, 6, 3)), (12,)
    yield "conv_delays", Net(entry, B.Conv(CUBA, 2, 3, 3, weight_scale=3, delay=True)), (2, 4, 4)
    yield "recurrent_delays", Net(B.Recurrent({**CUBA}, 12, 14, weight_scale=3, delay=True)), (12,)
    yield "sigma_delta", Net(slayer.block.sigma_delta.Dense(sdnn, 12, 6)), (12,)


def changed(name, path):
    """What slayer writes seldom or never and netx reads: whole biases, weights of one sign, delays of each synapse."""
    with h5py.File(path, "a") as file:
        if name == "synapse_delays":
            random = np.random.default_rng(5)
            file["layer/0/delay"] = random.integers(0, 6, 12).astype(np.float32)
            file["layer/1/delay"] = random.integers(0, 6, (5, 14)).astype(np.float32)
        if name == "biases":
            file["layer/1/bias"] = np.array([7, -12, 20], np.float32)
            file["layer/3/bias"] = np.array([3, -9, 15, 0, 1], np.float32)
        if name == "signs":
            file["layer/0/weight"][:] = np.abs(file["layer/0/weight"][:])
            file["layer/1/weight"][:] = -np.abs(file["layer/1/weight"][:]) - 2
            file["layer/1/weight"][0, 0] = -255
            file["layer/1/bias"] = np.array([400, 300, 250, 200, 150, 100], np.float32)
        if name == "votes":
            file["layer/1/weight"][:] = np.repeat(np.eye(5, dtype=np.float32), 4, axis=1)


def main():
    for number, (name, net, shape) in enumerate(networks()):
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            continue
        torch.manual_seed(number)
        random = np.random.default_rng(number)
        for block in net.blocks:
            for synapse in ("synapse", "input_synapse", "recurrent_synapse"):
                if hasattr(block, synapse):
                    torch.nn.init.normal_(getattr(block, synapse).weight, 0.1, 0.35)
                    if synapse == "synapse" and isinstance(block, B.Pool):
                        torch.nn.init.constant_(block.synapse.weight, 0.6)
        inputs = (random.random((STEPS, int(np.prod(shape)))) < 0.3).astype(np.uint8)
        x = torch.from_numpy(inputs.T.reshape(1, *shape, STEPS).astype(np.float32))
        with torch.no_grad():
            net(x)
            for block in net.blocks:
                if getattr(block, "delay", None) is not None:
                    block.delay.delay.data = torch.from_numpy(random.integers(0, 6, block.delay.delay.shape)).float()
                if hasattr(block, "spike_state"):
                    block.spike_state.zero_(), block.neuron.current_state.zero_(), block.neuron.voltage_state.zero_()
            sent = net(x)
        net.export(HERE / f"{name}.net")
        changed(name, HERE / f"{name}.net")
        record = {"inputs": inputs}
        if name not in ("biases", "signs", "sums", "votes", "synapse_delays", "conv_decays"):
            record["slayer"] = sent.reshape(-1, STEPS).numpy().T
        if name == "votes":
            # A step more, as slayer sends a step late.
            spikes = net.blocks[0](torch.nn.functional.pad(x, (0, 1)))
            record["averages"] = B.Average(5)(spikes).detach().sum(-1).reshape(-1).numpy()
        try:
            outputs, potentials = simulate(HERE / f"{name}.net", inputs, shape)
            record |= {"outputs": outputs.astype(np.uint8), "potentials": potentials}
        except NotImplementedError as error:
            print(f"{name}: netx: {error!r}")
        np.savez_compressed(HERE / f"{name}.npz", **record)
        print(name, {key: (value.shape, float(value.mean())) for key, value in record.items()})


def answers():
    """Writes unread/: each file as far as slayer got, and what became of it."""
    folder = HERE / "unread"
    folder.mkdir(exist_ok=True)
    found = {}
    for number, (name, net, shape) in enumerate(unread()):
        torch.manual_seed(number)
        inputs = (np.random.default_rng(number).random((STEPS, int(np.prod(shape)))) < 0.3).astype(np.uint8)
        with torch.no_grad():
            net(torch.from_numpy(inputs.T.reshape(1, *shape, STEPS).astype(np.float32)))
        if getattr(net.blocks[-1], "delay", None) is not None:
            net.blocks[-1].delay.delay.data += 2.0
        path = folder / f"{name}.net"
        found[name] = {"slayer": answer(net.export, path), "netx": answer(simulate, path, inputs, shape)}
        if name == "conv_delays":
            # Whether netx reads them: the same with no delay. It keeps files open, so the other is another file.
            with tempfile.TemporaryDirectory() as other:
                net.blocks[-1].delay.delay.data.zero_()
                net.export(Path(other) / path.name)
                late, at_once = (simulate(file, inputs, shape)[0] for file in (path, Path(other) / path.name))
            assert at_once.any()
            found[name]["delays"] = "left out" if np.array_equal(late, at_once) else "read"
        print(name, found[name])
    (folder / "answers.json").write_text(json.dumps(found, indent=1) + "\n")


def answer(act, *arguments):
    try:
        act(*arguments)
    except Exception as error:  # whatever it is, it is the answer
        return f"{type(error).__name__}: {' '.join(str(error).split())}"[:90]
    return "done"


def simulate(path, inputs, shape):
    # An offset of 1, so that a layer's state is cleared as the first input reaches it: each connection takes a step.
    options = {"input_shape": shape[::-1]} if len(shape) == 3 else {}
    network = hdf5.Network(net_config=str(path), reset_interval=1000, reset_offset=1, **options)
    lag = len(network.layers)
    rows = np.zeros((STEPS + lag, inputs.shape[1]), np.int32)
    rows[:STEPS] = inputs
    # netx orders maps as (x, y, channel).
    data = rows.reshape(-1, *shape).transpose(*range(len(shape), 0, -1), 0)
    source, sink = Source(data=data), Sink(shape=network.out.shape, buffer=len(rows))
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    source.create_runtime(run_cfg=Loihi2SimCfg(select_tag="fixed_pt"))
    try:
        source.run(condition=RunSteps(len(rows)))
        found = sink.data.get()
        neurons = network.layers[-1].neuron
        potentials = neurons.v.get() if hasattr(neurons, "v") else None
    finally:
        source.stop()
    found = found.transpose(-1, *range(found.ndim - 2, -1, -1)).reshape(len(rows), -1)
    print(path.stem, "lag", lag, "first step", np.flatnonzero(found.any(1))[:3])
    return found[lag : lag + STEPS], potentials


if __name__ == "__main__":
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    main()
    if len(sys.argv) == 1 or "unread" in sys.argv:
        answers()
