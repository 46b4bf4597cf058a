"""NIR's equations, step by step (forward Euler), in the plainest numpy: what an imported network must equal."""

from __future__ import annotations

import nir
import numpy as np


def evaluate(graph, signal, dt, reset="zero"):
    """Every node's output at every step, and potentials of neurons as `NAME.v`: dict of name -> (steps, *shape).

    signal: (steps, *shape of the input). A node in a loop that is asked for again within a step gives its output of the
    step before. Potentials begin at v_reset, or at 0.
    """
    nodes, reads = {}, {}
    _flatten(graph, "", nodes, reads)
    (source,) = [name for name, node in graph.nodes.items() if isinstance(node, nir.Input)]
    (sink,) = [name for name, node in graph.nodes.items() if isinstance(node, nir.Output)]
    state, past, out = {}, {}, {}
    for t in range(len(signal)):
        now, active = {source: signal[t]}, set()

        def value(name, t=t, now=now, active=active):
            if name in now:
                return now[name]
            if name in active:
                return past[name][-1] if name in past else np.zeros(nodes[name].r.shape)
            if isinstance(nodes[name], nir.Delay) and np.any(nodes[name].delay):
                # Each entry by itself; what is late by no step at all is of now.
                steps = np.rint(np.asarray(nodes[name].delay) / dt).astype(int)
                now[name] = np.zeros(steps.shape)
                for late in np.unique(steps[steps <= t]):
                    sent = [past[other][t - late] if late else value(other) for other in reads[name]]
                    now[name] = np.where(steps == late, sum(sent), now[name])
                return now[name]
            active.add(name)
            x = sum(value(other) for other in reads[name])
            active.discard(name)
            now[name] = step(nodes[name], name, x)
            return now[name]

        def step(node, name, x):
            if hasattr(node, "r"):
                return neuron(node, state, name, x, dt, reset)
            return plain(node, x)

        value(sink)
        for name in sorted(nodes, key=lambda name: not hasattr(nodes[name], "r")):  # loops are entered at neurons
            value(name)
            past.setdefault(name, []).append(now[name])
        for name in state:
            out.setdefault(f"{name}.v", []).append(state[name]["v"])
    out.update(past)
    return {name: np.array(values) for name, values in out.items()}


def _flatten(graph, prefix, nodes, reads):
    inner = {name: node for name, node in graph.nodes.items() if isinstance(node, nir.NIRGraph)}
    for name, node in graph.nodes.items():
        if name not in inner:
            nodes[prefix + name], reads[prefix + name] = node, []
    for name, node in inner.items():
        _flatten(node, f"{prefix}{name}.", nodes, reads)
    end = {
        name: {
            kind: next(f"{prefix}{name}.{k}" for k, n in node.nodes.items() if isinstance(n, kind))
            for kind in (nir.Input, nir.Output)
        }
        for name, node in inner.items()
    }
    for a, b in graph.edges:
        source = end[a][nir.Output] if a in inner else prefix + a
        reads[end[b][nir.Input] if b in inner else prefix + b].append(source)


def neuron(node, state, name, x, dt, reset):
    v_reset = getattr(node, "v_reset", 0.0)
    s = state.setdefault(name, {"v": v_reset + 0.0 * node.r, "i": 0.0 * node.r})
    v = s["v"]
    if hasattr(node, "tau_syn"):
        s["i"] = s["i"] + dt / node.tau_syn * (-s["i"] + node.w_in * x)
        x = s["i"]
    if isinstance(node, (nir.IF, nir.I)):
        v = v + dt * node.r * x
    else:
        tau = node.tau_mem if hasattr(node, "tau_mem") else node.tau
        v = v + dt / tau * (node.v_leak - v + node.r * x)
    if not hasattr(node, "v_threshold"):
        s["v"] = v
        return v
    z = v > node.v_threshold
    s["v"] = np.where(z, v - node.v_threshold if reset == "subtract" else v_reset, v)
    return z.astype(float)


def plain(node, x):
    if isinstance(node, (nir.Input, nir.Output, nir.Delay)):
        return x
    if isinstance(node, nir.Linear):
        return node.weight.astype(float) @ x
    if isinstance(node, nir.Affine):
        return node.weight.astype(float) @ x + node.bias
    if isinstance(node, nir.Scale):
        return node.scale * x
    if isinstance(node, nir.Threshold):
        return (x > node.threshold).astype(float)
    if isinstance(node, nir.Flatten):
        return x.reshape(-1)
    if isinstance(node, (nir.SumPool2d, nir.AvgPool2d)):
        (h, w), s, p = node.kernel_size, node.stride, node.padding
        each = 1.0 / (h * w) if isinstance(node, nir.AvgPool2d) else 1.0
        return np.concatenate(
            [convolve(x[c : c + 1], np.full((1, 1, h, w), each), s, p, (1, 1), 1) for c in range(len(x))]
        )
    if isinstance(node, nir.Conv1d):
        y = convolve(
            x[:, None], node.weight[:, :, None], (1, node.stride), _pad(node, 1), (1, node.dilation), node.groups
        )
        return y[:, 0] + np.reshape(node.bias, (-1, 1))
    y = convolve(x, node.weight, node.stride, _pad(node, 2), node.dilation, node.groups)
    return y + np.reshape(node.bias, (-1, 1, 1))


def _pad(node, axes):
    if isinstance(node.padding, str) and node.padding == "valid":
        return (0, 0)
    if isinstance(node.padding, str):
        spans = [d * (k - 1) for d, k in zip(np.atleast_1d(node.dilation), node.weight.shape[2:], strict=True)]
        pads = [(span // 2, span - span // 2) for span in spans]
        return pads if axes == 2 else [(0, 0), pads[0]]
    return node.padding if axes == 2 else (0, node.padding)


def convolve(x, weight, stride, padding, dilation, groups):
    """The sum for every place, in plain loops."""
    x = np.pad(x.astype(float), ((0, 0), *(tuple(np.broadcast_to(p, 2)) for p in padding)))
    outputs, inner, h, w = weight.shape
    height = (x.shape[1] - dilation[0] * (h - 1) - 1) // stride[0] + 1
    width = (x.shape[2] - dilation[1] * (w - 1) - 1) // stride[1] + 1
    out = np.zeros((outputs, height, width))
    for o in range(outputs):
        first = o // (outputs // groups) * inner
        for i in range(h):
            for j in range(w):
                rows = np.arange(height) * stride[0] + i * dilation[0]
                columns = np.arange(width) * stride[1] + j * dilation[1]
                seen = x[first : first + inner][:, rows][:, :, columns]
                out[o] += np.tensordot(weight[o, :, i, j].astype(float), seen, 1)
    return out
