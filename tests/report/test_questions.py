"""`snnc inspect` and `snnc targets`: the numbers shown are those of the program, the mapping and the target file."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from mapped import mapped_program, random_program
from rich.console import Console

import hw_targets
from toolchain import report
from toolchain.errors import SnncError


def shown(renderable, width=120) -> str:
    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    return out.getvalue()


@pytest.fixture(scope="module")
def done():
    return mapped_program(random_program((784, 800, 10), 0.4))


def ask(question, done, *rest):
    return shown(question(done.program, done.mapping, done.limits, *rest))


class TestCore:
    def test_every_resource_with_limit_and_source(self, done):
        text = ask(report.inspect_core, done, 1)
        for limit in done.limits(done.mapping.cores[1].usage):
            line = rf"{limit.rule} +{limit.value:,} +{limit.limit:,} +\S+ % +{limit.unit} +{re.escape(limit.source)}"
            assert re.search(line, text), limit

    def test_slices_formats_and_the_longest_list(self, done):
        text = ask(report.inspect_core, done, 1)
        core = done.mapping.cores[1]
        (s,) = core.slices
        cost = s.costs["fc1_synapses"]
        assert str(s) in text
        for name, n in cost.axons_by_combination().items():
            assert re.search(rf"{name} +{n:,} +{cost.words_by_combination()[name]:,}", text)
        assert f"largest list: {cost.words_per_axon.max()} words" in text
        lists = done.program.connections[0].synapses.connectivity
        inside = (lists.targets >= s.start) & (lists.targets < s.stop)
        fan_out = np.bincount(lists.sources[inside], minlength=784)
        assert f"longest axon: {fan_out.max()} synapses, pixels[{fan_out.argmax()}] onto {s}" in text
        assert text.count("mixed") == len(core.usage.formats)

    def test_the_longest_axon_of_a_dense_layer_reaches_every_neuron(self):
        dense = mapped_program(random_program((5, 3), 1.0, coding="graded"), "loihi2")
        assert "longest axon: 3 synapses, pixels[0] onto fc1[0:3]" in ask(report.inspect_core, dense, 0)

    def test_a_core_of_inputs_alone(self):
        text = ask(report.inspect_core, mapped_program(random_program((1000, 100), 0.3)), 0)
        assert "pixels[0:1000]" in text
        assert "no synapse list ends here" in text

    @pytest.mark.parametrize("beyond", [-1, 1, 1000])
    def test_unknown_core(self, done, beyond):
        last = len(done.mapping.cores) - 1
        with pytest.raises(SnncError, match="no core") as caught:
            ask(report.inspect_core, done, beyond if beyond < 0 else last + beyond)
        assert f"0 to {last}" in str(caught.value)


class TestLayer:
    def test_registers_fans_and_histogram(self, done):
        text = ask(report.inspect_layer, done, "fc1")
        synapses = done.program.connections[0].synapses
        fan_in = synapses.connectivity.fan_in
        assert re.search(r"du +4096", text)
        assert re.search(r"vth +500 .*32,000", text)
        assert re.search(rf"fan-in of a neuron +{fan_in.min()} +{fan_in.mean():.1f} +{fan_in.max()}", text)
        first = int(((synapses.mantissa >= -128) & (synapses.mantissa <= -113)).sum())
        assert re.search(rf"-128 +-113 +{first:,} +#+", text)
        bins = [int(n.replace(",", "")) for n in re.findall(r"^ *-?\d+ +-?\d+ +([\d,]+) +#", text, re.MULTILINE)]
        assert sum(bins) == synapses.connectivity.n_synapses
        assert all(str(each) in text for each in done.mapping.slices_of("fc1"))

    @pytest.mark.parametrize("width", [80, 120])
    def test_it_fits_the_console(self, done, width):
        for renderable in (
            report.inspect_layer(done.program, done.mapping, done.limits, "fc1"),
            report.inspect_core(done.program, done.mapping, done.limits, 0),
        ):
            assert max(map(len, shown(renderable, width).splitlines())) <= width

    def test_a_connection_stands_for_its_layer(self, done):
        assert ask(report.inspect_layer, done, "fc2_synapses") == ask(report.inspect_layer, done, "fc2")

    def test_the_input(self, done):
        text = ask(report.inspect_layer, done, "pixels")
        assert "rate input, on chip, 784 neurons" in text
        assert "threshold 254" in text

    def test_an_input_off_the_chip_and_empty_layers(self):
        done = mapped_program(random_program((6, 4, 2), 0.0, coding="current"))
        assert "on no core" in ask(report.inspect_layer, done, "pixels")
        text = ask(report.inspect_layer, done, "fc1")
        assert "computed on the host" in text
        assert "no synapses" in text

    def test_unknown_layers_are_refused_with_the_nearest(self, done):
        for question in (report.inspect_layer, report.why):
            with pytest.raises(SnncError, match="no layer 'fc11'") as caught:
                ask(question, done, "fc11")
            assert "did you mean 'fc1'" in str(caught.value)


class TestWhy:
    def test_the_numbers_and_the_source(self, done):
        text = " ".join(ask(report.why, done, "fc1").split())
        reason = next(reason for reason in done.mapping.reasons if reason.population == "fc1")
        worst = reason.broken[0]
        assert f"fc1 takes {len(done.mapping.cores_of('fc1'))} cores" in text
        assert (
            f"the fullest of {reason.fewer} slices would need {worst.value:,} words of {worst.limit:,} allowed" in text
        )
        assert worst.source in text
        assert "bound by synapse memory" in text

    def test_shared_cores_are_named(self, done):
        assert "It shares cores with pixels." in ask(report.why, done, "fc2")
        assert "one slice" in ask(report.why, done, "fc2")

    def test_a_layer_on_no_core(self):
        done = mapped_program(random_program((6, 4, 2), 0.5, coding="current"))
        assert "takes no core: it is a current input, on host" in ask(report.why, done, "pixels")


class TestTargets:
    def test_the_table_has_every_target(self):
        text = shown(report.target_table([hw_targets.load(name) for name in hw_targets.available()]))
        assert all(name in text for name in hw_targets.available())
        assert "fitted" in text

    @pytest.mark.parametrize("name", hw_targets.available())
    @pytest.mark.parametrize("width", [80, 140])
    def test_every_number_with_its_source_and_mark(self, name, width):
        target = hw_targets.load(name)
        text = shown(report.target_view(target), width)
        assert max(map(len, text.splitlines())) <= width
        words = re.sub(r"\s+", "", text)
        for _, key, limit in target.rows():
            assert key.replace("_", "") in words, key
            assert re.sub(r"\s", "", limit.unit) in words
        for line in target.not_modelled:
            assert re.sub(r"\s", "", line) in words
        assert all(system.title.replace(" ", "") in words for system in target.systems)
        assert all(model in text for model in target.energy)

    def test_disagreements_are_shown(self):
        text = " ".join(shown(report.target_view(hw_targets.load("loihi")), 200).split())
        assert re.search(r"synapse words per core 16,383 words NXTF; read D18 says 16,384", text)
