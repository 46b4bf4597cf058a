"""The loops of the fast simulator, compiled by numba; they release Python's lock.

Layout. A chunk of S samples over T steps is T * S *lanes*, step after step: sample s at step t is lane t * S + s. What
a population sent is uint8, one row a neuron and one column a lane, and one more row of zeros, which is what places
outside of a map send. Sums have the same shape without that row. So a delay of d steps is a shift by d * S lanes, and
the inner loops run over lanes side by side in memory, several in one instruction.

Geometry. All synapses are those of a kernel over a map; listed synapses are a kernel of 1 x 1 over a map of one place,
whose channels are the neurons. A `geometry` is int64: source channels, height, width; target channels, height, width;
kernel height, width; stride y, x; padding top, left; dilation y, x.

Numbers. Sums are integers of 16, 32 or 64 bits whose additions wrap around; the final sums are proved to fit
(plan.py), and then what happens on the way does not matter. The neurons' states fit 32 bits: see `advance`.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

compiled: Any = numba.njit(cache=True, nogil=True)

BLOCK = 32
"""Lanes whose sums `rows` keeps at a time."""
COUNTED = 16
"""Neurons whose spikes are counted before they are added to the table, which has neurons side by side."""


@compiled
def _reads(place, step, first, size, spread, extent, out):  # type: ignore[no-untyped-def]
    """The source rows (or columns) that each kernel row reads at a target row, or -1 outside."""
    for k in range(size):
        at = place * step - first + k * spread
        out[k] = at if 0 <= at < extent else -1


@compiled
def gather(acc, fresh, to, sent, begin, end, geometry, ptr, taps, weights, first, last):  # type: ignore[no-untyped-def]
    """Add to the targets `first` to `last` what the lanes `begin` to `end` bring, in the lanes from `to` on.

    fresh: those sums have not been set, and start from 0. Targets are numbered place by place here, then by channel.
    ptr, taps, weights: the kernel's entries by output channel, a tap being (channel * kernel height + row) * kernel
    width + column; every list filled up to a multiple of four with entries of weight 0, of one tap more than there are.
    """
    _, height, width, outputs, v_size, w_size, rows, columns = geometry[:8]
    sy, sx, top, left, dy, dx = geometry[8:]
    nowhere = len(sent) - 1
    source = np.full(geometry[0] * rows * columns + 1, nowhere, np.int64)  # row of `sent` that each tap reads
    ys, xs = np.empty(rows, np.int64), np.empty(columns, np.int64)
    n = end - begin
    place = -1
    for target in range(first, last):
        if target // outputs != place:
            place = target // outputs
            _reads(place // w_size, sy, top, rows, dy, height, ys)
            _reads(place % w_size, sx, left, columns, dx, width, xs)
            tap = 0
            for c in range(geometry[0]):
                for y in ys:
                    for x in xs:
                        source[tap] = (c * height + y) * width + x if y >= 0 and x >= 0 else nowhere
                        tap += 1
        o = target % outputs
        sums = acc[o * v_size * w_size + place, to : to + n]
        if fresh:
            sums[:] = 0
        k, stop = ptr[o], ptr[o + 1]
        # The sums are read and written once for four synapses.
        while k < stop:
            s0, s1 = sent[source[taps[k]], begin:end], sent[source[taps[k + 1]], begin:end]
            s2, s3 = sent[source[taps[k + 2]], begin:end], sent[source[taps[k + 3]], begin:end]
            w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
            for lane in range(n):
                sums[lane] += w0 * s0[lane] + w1 * s1[lane] + w2 * s2[lane] + w3 * s3[lane]
            k += 4


@compiled
def _arrives(at, step, first, size, spread, extent, out):  # type: ignore[no-untyped-def]
    """The target rows (or columns) at which each kernel row reads a source row, or -1 where it does not."""
    for k in range(size):
        place = at + first - k * spread
        out[k] = place // step if place >= 0 and place % step == 0 and place // step < extent else -1


@compiled
def events(acc, to, sent, begin, end, geometry, ptr, outputs, weights):  # type: ignore[no-untyped-def]
    """Deliver one by one what was sent in the lanes `begin` to `end`, to the lanes from `to` on.

    ptr, outputs, weights: the kernel's entries by tap.
    """
    channels, height, width, _, v_size, w_size, rows, columns = geometry[:8]
    sy, sx, top, left, dy, dx = geometry[8:]
    vs, ws = np.empty(rows, np.int64), np.empty(columns, np.int64)
    active = np.empty(end - begin, np.int64)
    for neuron in range(channels * height * width):
        lanes = sent[neuron, begin:end]
        n = 0
        for lane in range(end - begin):
            active[n] = lane
            n += lanes[lane] != 0
        if n == 0:
            continue
        place = neuron % (height * width)
        _arrives(place // width, sy, top, rows, dy, v_size, vs)
        _arrives(place % width, sx, left, columns, dx, w_size, ws)
        tap = neuron // (height * width) * rows * columns
        for v in vs:
            for w in ws:
                if v >= 0 and w >= 0:
                    for k in range(ptr[tap], ptr[tap + 1]):
                        sums, weight = acc[(outputs[k] * v_size + v) * w_size + w], weights[k]
                        for j in range(n):
                            sums[to + active[j]] += weight * lanes[active[j]]
                tap += 1


@compiled
def _add_rows(sums, active, n, at, many, weights, first):  # type: ignore[no-untyped-def]
    """Add `many` weights from `first` on to the sums of each active lane, from `at` on."""
    row = weights[first : first + many]
    for k in range(n):
        own = sums[active[k], at : at + many]
        for o in range(many):
            own[o] += row[o]


@compiled
def rows(acc, to, sent, begin, end, geometry, kernel):  # type: ignore[no-untyped-def]
    """The same for spikes without payload: the weights of a tap to all output channels are added as one row.

    Where a kernel moves by one place at a time and has no gaps, the rows of a source and kernel row lie side by side in
    the sums, from the last column to the first, and are added as one.

    kernel: (taps / columns, columns * output channels), zero where no synapse is; columns from the last to the first.
    """
    channels, height, width, n_out, v_size, w_size, n_rows, columns = geometry[:8]
    sy, sx, top, left, dy, dx = geometry[8:]
    vs, ws = np.empty(n_rows, np.int64), np.empty(columns, np.int64)
    places = v_size * w_size
    # A cache line more than it takes: rows a power of two apart would push each other out of the cache.
    sums = np.empty((BLOCK, places * n_out + 32), acc.dtype)
    active = np.empty(BLOCK, np.int64)
    together = sx == 1 and dx == 1
    for start in range(begin, end, BLOCK):
        block = min(BLOCK, end - start)
        sums[:block] = 0
        # Place by place, so that the sums about a place stay in the cache for all channels.
        for place in range(height * width):
            _arrives(place // width, sy, top, n_rows, dy, v_size, vs)
            _arrives(place % width, sx, left, columns, dx, w_size, ws)
            for channel in range(channels):
                lanes = sent[channel * height * width + place, start : start + block]
                n = 0
                for lane in range(block):
                    active[n] = lane
                    n += lanes[lane] != 0
                if n == 0:
                    continue
                for i in range(n_rows):
                    if vs[i] < 0:
                        continue
                    j = 0
                    while j < columns:
                        if ws[j] < 0:
                            j += 1
                            continue
                        last = j
                        while together and last + 1 < columns and ws[last + 1] >= 0:
                            last += 1
                        at, many = (vs[i] * w_size + ws[last]) * n_out, (last + 1 - j) * n_out
                        from_ = (columns - 1 - last) * n_out
                        _add_rows(sums, active, n, at, many, kernel[channel * n_rows + i], from_)
                        j = last + 1
        for place in range(places):
            for o in range(n_out):
                into = acc[o * places + place, to + start - begin : to + start - begin + block]
                for lane in range(block):
                    into[lane] += sums[lane, place * n_out + o]


@compiled
def _add_counts(counted, counts, first, last):  # type: ignore[no-untyped-def]
    """Add what the neurons `first` to `last` fired to the table (samples, size), and forget it; how many it was."""
    total = 0
    for s in range(len(counts)):
        row = counts[s, first:last]
        for k in range(last - first):
            row[k] += counted[k, s]
            total += counted[k, s]
    counted[:] = 0
    return total


@compiled
def _periods(threshold, steps, period, often):  # type: ignore[no-untyped-def]
    """In every how many steps a rate input of each value fires, and how often that is in all.

    A potential that grows by x passes the threshold first with the step k = threshold // x + 1, and starts from 0
    again. A k above `steps`, which never comes, is kept as steps + 1.
    """
    for x in range(len(period)):
        k = min(threshold // x + 1, steps + 1) if x else steps + 1
        period[x], often[x] = k, steps // k


@compiled
def rate(values, channels, thresholds, sent, counts):  # type: ignore[no-untyped-def]
    """What rate inputs send, and how often; how many spikes there were. values: uint8 (samples, entries).

    A neuron counts down to its next spike (`_periods`), in the type of the counts. That holds `steps`; a period of
    one more may wrap to 0, from where so many steps do not come back to 0.
    """
    samples, size = len(values), len(channels)
    steps = sent.shape[1] // max(samples, 1)
    total = 0
    period, often = np.empty(256, counts.dtype), np.empty(256, counts.dtype)
    periods, left = np.empty((COUNTED, samples), counts.dtype), np.empty(samples, counts.dtype)
    i = 0
    while i < size:
        threshold, last = thresholds[i], i + 1
        while last < size and last < i + COUNTED and thresholds[last] == threshold:
            last += 1
        if i == 0 or threshold != thresholds[i - 1]:
            _periods(threshold, steps, period, often)
        fired = 0
        read = channels[i:last]
        for s in range(samples):
            row, own = values[s], counts[s, i:last]
            for k in range(len(read)):
                x = row[read[k]]
                periods[k, s] = period[x]
                own[k] = often[x]
                fired += often[x]
        total += fired
        if fired == 0:
            sent[i:last] = 0
        else:
            for k in range(len(read)):
                _count_down(periods[k], left, sent[i + k])
        i = last
    return total


@compiled
def _count_down(period, left, out):  # type: ignore[no-untyped-def]
    """A spike whenever the period has passed, for all samples side by side, step after step."""
    samples, kind = len(period), period.dtype.type
    left[:] = period
    for start in range(0, len(out), samples):
        now = out[start : start + samples]
        for s in range(samples):
            x = kind(left[s] - kind(1))
            left[s] = period[s] if x == kind(0) else x
            now[s] = x == kind(0)


@compiled
def _decayed(x, kept):  # type: ignore[no-untyped-def]
    """trunc(x * kept / 4096) within 32 bits: with |x| = 4096 * high + low it is high * kept + (low * kept >> 12)."""
    magnitude = np.int32(abs(x))
    high, low = np.int32(magnitude >> 12), np.int32(magnitude & 4095)
    rest = np.int32(np.int32(low * kept) >> 12)
    rounded = np.int32(np.int32(high * kept) + rest)
    return np.int32(-rounded) if x < 0 else rounded


@compiled
def _decayed_once(x, factor, shift):  # type: ignore[no-untyped-def]
    """trunc(x * factor / 2**shift) within 32 bits, for |x| < 2**23 and a factor below 2**8."""
    product = np.int32(x * factor)
    # A shift rounds down; what is negative is first raised by one less than the divisor. (`& 31` tells the compiler
    # that 32 bits are enough.)
    up = np.int32(np.int32(product >> 31) & np.int32((1 << (shift & 31)) - 1))
    return np.int32(np.int32(product + up) >> (shift & 31))


@compiled
def _wrapped(x):  # type: ignore[no-untyped-def]
    """`arithmetic.wrap24`."""
    half, full = np.int32(1 << 23), np.int32(1 << 24)
    x = np.int32(x - full) if x > half else x
    return np.int32(x + full) if x <= -half else x


@compiled
def _clipped(x):  # type: ignore[no-untyped-def]
    """`arithmetic.clip`."""
    return min(max(x, np.int32(1 - (1 << 23))), np.int32((1 << 23) - 1))


@compiled
def _usual(acc, times, shift, neuron, vs, sent, fired):  # type: ignore[no-untyped-def]
    """Steps of a neuron that keeps nothing of u, never waits, and whose current never wraps. See `advance`.

    neuron: what it keeps of v (of 4096), threshold, and what a spike leaves of v as off and mask in (v - off) & mask.
    """
    stride, samples, begin, end = times
    keep, threshold, off, mask, bias = neuron
    factor, divisor = keep, 12
    while factor and factor % 2 == 0:
        factor, divisor = np.int32(factor >> 1), divisor - 1
    for t in range(begin, end):
        a, out = acc[t * stride : t * stride + samples], sent[t * samples : (t + 1) * samples]
        if factor < 256:
            for s in range(samples):
                now = np.int32(np.int32(a[s]) << (shift & 31))
                x = _clipped(np.int32(np.int32(_decayed_once(vs[s], factor, divisor) + now) + bias))
                spike = x > threshold
                vs[s] = np.int32(np.int32(x - off) & mask) if spike else x
                out[s] = spike
                fired[s] += spike
        else:
            for s in range(samples):
                now = np.int32(np.int32(a[s]) << (shift & 31))
                x = _clipped(np.int32(np.int32(_decayed(vs[s], keep) + now) + bias))
                spike = x > threshold
                vs[s] = np.int32(np.int32(x - off) & mask) if spike else x
                out[s] = spike
                fired[s] += spike


@compiled
def _any(acc, times, shift, keep_u, neuron, refractory, us, vs, waits, sent, fired):  # type: ignore[no-untyped-def]
    """The same for a neuron of any kind."""
    stride, samples, begin, end = times
    keep, threshold, off, mask, bias = neuron
    for t in range(begin, end):
        a, out = acc[t * stride : t * stride + samples], sent[t * samples : (t + 1) * samples]
        for s in range(samples):
            us[s] = _wrapped(np.int32(_decayed(us[s], keep_u) + np.int32(np.int32(a[s]) << (shift & 31))))
        for s in range(samples):
            x = _clipped(np.int32(np.int32(_decayed(vs[s], keep) + us[s]) + bias))
            x = np.int32(0) if waits[s] > 0 else x
            spike = x > threshold
            vs[s] = np.int32(np.int32(x - off) & mask) if spike else x
            waits[s] = refractory if spike else max(waits[s] - 1, 0)
            out[s] = spike
            fired[s] += spike


@compiled
def advance(  # type: ignore[no-untyped-def]
    acc,
    stride,
    shift,
    samples,
    begin,
    end,
    registers,
    wraps,
    subtract,
    refractory,
    kept,
    u,
    v,
    wait,
    sent,
    counts,
    first,
    last,
):
    """Steps `begin` to `end` of the neurons `first` to `last`: state, spikes and counts; how many spikes there were.

    The rule is that of `Compartments.step`. Where |a| is at most 2**18 (plan.py proves it), |a << 6| is at most 2**24,
    so that |u| and |v| stay within 2**23 from step to step and no number on the way reaches 2**26: 32 bits hold all.

    acc: sums; step t of sample s in lane t * stride + s (a stride of 0: the same at every step), to be shifted left by
    `shift`.  registers: int32 (4, size): what a step keeps of u and of v (of 4096), threshold << 6, bias.
    wraps: whether |a << 6| may reach 2**23.  kept: whether the state is read from and left in u, v, wait (size,
    samples), or starts from 0 and is forgotten.
    counts: (samples, size).
    """
    total = 0
    rooms = np.empty(samples, np.int32), np.empty(samples, np.int32), np.empty(samples, np.int8)
    counted = np.zeros((COUNTED, samples), counts.dtype)
    for i in range(first, last):
        keep_u, keep_v, threshold, bias = registers[0, i], registers[1, i], registers[2, i], registers[3, i]
        us, vs, waits = (u[i], v[i], wait[i]) if kept else rooms
        if not kept:
            us[:] = 0
            vs[:] = 0
            waits[:] = 0
        many = (i - first) % COUNTED + 1
        times = (stride, samples, begin, end)
        neuron = (keep_v, threshold, threshold if subtract else np.int32(0), np.int32(-1 if subtract else 0), bias)
        if keep_u == 0 and refractory == 0 and not wraps:
            _usual(acc[i], times, shift, neuron, vs, sent[i], counted[many - 1])
        else:
            _any(acc[i], times, shift, keep_u, neuron, refractory, us, vs, waits, sent[i], counted[many - 1])
        if many == COUNTED or i == last - 1:
            total += _add_counts(counted, counts, i + 1 - many, i + 1)
    return total
