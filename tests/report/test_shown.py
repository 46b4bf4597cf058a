"""What a user sees: text, page and picture say what the facts say, at any size, and escape what they show."""

from __future__ import annotations

import dataclasses
import io
import json
import re
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import jsonschema
import pytest
from mapped import Mapped, mapped_program, random_program
from rich.console import Console
from small_maps import map_network
from small_targets import small_target

from toolchain import report
from toolchain.errors import Diagnostic, SnncError, Violation
from toolchain.pipeline import Options, compile_graph
from toolchain.report.text import brief

SVG = "{http://www.w3.org/2000/svg}"


def text_of(facts, width=100, **options):
    out = io.StringIO()
    report.render_text(facts, Console(file=out, width=width), **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def done() -> Mapped:
    return mapped_program(random_program((784, 800, 10), 0.4))


@pytest.fixture(scope="module")
def facts(done):
    dense = mapped_program(report.dense_program(done.program)).mapping
    facts = done.report(
        diagnostics=[Diagnostic("QNT001", "fc1", "weights <rounded>", 3, "error 0.1 %")],
        steps=[("quantise weights", None, "to 8 bits")],
        before=done.program,
        build_hash="0123abcd",
        dense_alternative=dense,
    )
    return {**facts, "energy": report.energy(facts, done.target, {"pixels": 800.0, "fc1": 300.0})}


@pytest.fixture(scope="module")
def part(facts) -> str:
    """The slice on core 1, as it is shown: fc1[0:...]."""
    (s,) = facts["cores"][1]["slices"]
    return f"fc1{s['region']}"


@pytest.fixture(scope="module")
def many(done):
    """10,000 cores on 79 chips: thirty layers, of which one core in 50 holds two, and no two cores are equal."""
    _, full, *_ = done.mapping.cores
    (s,) = full.slices
    cores = []
    for k in range(10_000):
        names = [f"conv{k // 333}", *([f"pool{k // 333}"] if k % 50 == 0 else [])]
        slices = tuple(dataclasses.replace(s, population=name) for name in names)
        usage = dataclasses.replace(full.usage, compartments=200 + k % 7, output_axons=k % 100, crossing_axons=k % 3)
        cores.append(dataclasses.replace(full, index=k, chip=k // 128, slices=slices, usage=usage))
    cores[7000] = dataclasses.replace(cores[7000], usage=dataclasses.replace(full.usage, compartments=1000))
    mapping = dataclasses.replace(done.mapping, cores=tuple(cores))
    return report.build_report(done.program, mapping, done.limits, done.target)


class TestText:
    def test_the_summary_comes_first_and_says_what_the_figures_rest_on(self, facts):
        first, second = text_of(facts).splitlines()[:2]
        assert f"random on loihi: {len(facts['cores'])} cores of 1 chip" in first
        assert "estimate, executed on nothing" in second
        assert "build 0123abcd" in second

    def test_layers_cores_and_reasons_are_there(self, facts, part):
        text = text_of(facts, 120)
        words = facts["layers"][1]["fullest_core"]["resources"]["synapse memory"]
        assert re.search(rf"fc1 +linear \+ LIF +784 -> 800 .* {words['used']:,}/{words['limit']:,} 99", text)
        assert facts["layers"][1]["why"]["sentence"] in " ".join(text.split())
        n = facts["cores"][1]["usage"]["compartments"]
        assert "core by core" not in text
        assert re.search(rf"1 +{re.escape(part)} +{n}/1024 +784/4096", text)
        assert "published rule" in text
        assert "estimate, not measured" in text
        assert "QNT001" in text
        assert "weights <rounded>" in text
        assert "learning configuration" in text
        assert "all equal" in text

    @pytest.mark.parametrize("width", [80, 100, 120])
    def test_no_line_is_wider_than_the_console_and_no_figure_is_cut(self, facts, width):
        text = text_of(facts, width)
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        assert "784/1024" in text or "794/1024" in text

    def test_it_is_plain_where_the_output_is_no_terminal(self, facts):
        assert text_of(facts).isascii()

    def test_ten_thousand_cores_stay_readable(self, many):
        text = text_of(many, 120)
        assert "10,000 cores by the layers that they hold" in text
        assert re.search(r"^326: 1-332 in 7 runs +conv0 +200..206 \(203\)", text, re.MULTILINE)
        assert "more groups, see --json" in text
        assert "core by core: --csv" in text
        assert len(text.splitlines()) < 150
        assert "..." not in text_of(many, 80).split("chips")[0]

    def test_the_fullest_core_of_a_group_is_named(self, many):
        group = next(g for g in many["core_groups"] if [7000, 7000] in g["cores"])
        assert group["fullest_core"] == 7000
        assert group["resources"]["compartments"]["most"] == 1000
        assert group["slices"] == {"conv21": 1, "pool21": 1}

    def test_chips_are_told_one_by_one_where_there_are_several(self, many, facts):
        text = text_of(many, 120)
        crossing = sum(k % 3 for k in range(128))
        axons = sum(k % 100 for k in range(128))
        words = rf"^ +0 +128 100 % +[\d,]+ +[\d,.]+ +{axons:,} +{crossing} {100 * crossing / axons:.1f} %  conv0, pool0"
        assert re.search(words, text, re.MULTILINE), text
        assert "63 more chips" in text
        assert "to other chips" not in text_of(facts, 120)

    def test_broken_rules_and_wrong_sums_stand_out(self, facts):
        broken = {
            **facts,
            "fits": False,
            "violations": [
                {
                    "rule": "synapse memory",
                    "where": "core [1]",
                    "value": 17080,
                    "limit": 16383,
                    "unit": "words",
                    "source": "NXTF",
                    "remedy": "--bits 6",
                }
            ],
            "checks": [{"name": "words", "left": 1, "right": 2, "equal": False}],
        }
        text = text_of(broken)
        for part in ("DOES NOT FIT", "core [1]", "17,080 words", "16,383", "--bits 6", "FAULT", "words 1 != 2"):
            assert part in text

    def test_an_overfull_resource_is_marked_without_colour(self, facts):
        core = facts["cores"][1]
        over = {"used": 1100, "limit": 1024, "percent": 107.42}
        cores = [{**core, "resources": {**core["resources"], "compartments": over}}]
        assert "1100/1024!" in text_of({**facts, "cores": cores})

    @pytest.mark.parametrize("coding", ["rate", "graded", "current"])
    def test_every_coding_can_be_shown(self, coding):
        target = "loihi2" if coding == "graded" else "loihi"
        shown = mapped_program(random_program((30, 20, 5), 0.5, coding=coding), target)
        text = text_of(shown.report())
        assert f"{coding} input" in text
        report.render_html(shown.report())

    def test_a_network_without_synapses_can_be_shown(self):
        empty = mapped_program(random_program((4, 3, 2), 0.0)).report()
        assert empty["totals"]["bits_per_synapse"] is None
        assert "0 synapses" in text_of(empty)
        report.render_html(empty)


class Page(HTMLParser):
    """Collects what a page refers to, its headings, and whether its tags are balanced."""

    VOID = frozenset({"meta", "br", "hr", "img", "link", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.links += [value for key, value in attrs if key in {"src", "href", "action"}]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page_of(facts) -> Page:
    page = Page()
    page.feed(report.render_html(facts))
    page.close()
    return page


class TestPage:
    def test_it_is_balanced_and_needs_nothing_from_elsewhere(self, facts):
        page = page_of(facts)
        assert not page.open
        assert not page.links
        assert not {"script", "link", "iframe", "img"} & set(page.tags)
        assert "url(" not in report.render_html(facts)
        assert "@import" not in report.render_html(facts)

    def test_it_says_what_the_facts_say(self, facts, part):
        words = " ".join(" ".join(page_of(facts).text).split())
        for expected in (
            "estimate, executed on nothing",
            "0123abcd",
            part,
            "published rule",
            "estimate, not measured",
        ):
            assert expected in words
        assert facts["layers"][1]["why"]["sentence"] in words
        assert f"{facts['layers'][1]['memory']['words']:,}" in words
        assert all(line in words for line in facts["not_modelled"])

    def test_tables_have_header_cells_with_a_scope(self, facts):
        html = report.render_html(facts)
        heads = re.findall(r"<thead>.*?</thead>", html, re.DOTALL)
        assert heads
        assert all('scope="col"' in head and "<th>" not in head for head in heads)

    def test_names_are_escaped(self, facts):
        evil = "<script>alert(1)</script>&"
        layers = [{**facts["layers"][0], "name": evil}, *facts["layers"][1:]]
        slices = [{**facts["cores"][0]["slices"][0], "population": evil}]
        cores = [{**facts["cores"][0], "slices": slices}, *facts["cores"][1:]]
        html = report.render_html({**facts, "name": evil, "layers": layers, "cores": cores})
        assert "<script" not in html
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&amp;" in html

    def test_ten_thousand_cores_make_a_page_of_bearable_size(self, many):
        html = report.render_html(many)
        assert len(html) < 500_000
        assert page_of(many).links == ["per_core.csv"]
        assert "7000" in html

    def test_a_few_hundred_cores_are_listed_one_by_one(self, many):
        html = report.render_html({**many, "cores": many["cores"][:256]})
        assert "per_core.csv" not in html
        assert '<th scope="row">255</th>' in html


def map_on_small_cores() -> Mapped:
    """A network of maps on cores of 48 compartments: every map of any size is cut."""
    target = small_target(compartments_per_core=48)
    state = compile_graph(map_network(), target, Options(chips=8))
    return Mapped(state.program, target, state.mapping)


@pytest.fixture(scope="module")
def cut():
    done = map_on_small_cores()
    return done.report(before=done.program)


def render_words(facts) -> str:
    return " ".join(" ".join(page_of(facts).text).split())


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (67_712, "67.7 k"),
        (999_499, "999 k"),
        (999_501, "1 M"),
        (1_048_576, "1.05 M"),
        (973_057_584, "973 M"),
        (2 * 10**9, "2 G"),
    ],
)
def test_counts_in_a_few_figures(n: int, text: str) -> None:
    assert brief(n) == text


class TestMaps:
    """A network with every kind of layer, in all forms."""

    def test_the_text(self, cut):
        text = text_of(cut, 120)
        assert re.search(
            r"conv1 +conv 3x3 \+ LIF +2x8x8 -> 4x8x8 +9\d.\d % +\d,\d\d\d +\d\d +8 +\d+ +[\d.]+ % +compartments", text
        )
        assert re.search(r"pool +max pool 2x2 \(OR\) +4x8x8 -> 4x4x4", text)
        assert "deep    depthwise conv 3x3 +" in text
        assert "from " in text.split("layers")[0]
        assert "all equal" in text
        assert not any(not check["equal"] for check in cut["checks"])

    def test_the_page_and_the_table(self, cut):
        words = render_words(cut)
        assert "2x8x8 → 4x8x8" in words
        assert "kernels are shared" in words
        region = cut["cores"][-1]["slices"][0]
        assert f"{region['population']}{region['region']}" in report.to_csv(cut)

    def test_every_neuron_is_found_where_it_is(self):
        done = map_on_small_cores()
        for core in done.mapping.cores:
            for s in core.slices:
                for number in s.region.neurons()[[0, -1]].tolist():
                    out = io.StringIO()
                    shown = report.inspect_neuron(done.program, done.mapping, f"{s.population}:{number}")
                    Console(file=out, width=120).print(shown)
                    assert f"on core {core.index} of chip {core.chip}, in {s}." in out.getvalue()
        place = report.inspect_neuron(done.program, done.mapping, "conv1:3,7,0")
        out = io.StringIO()
        Console(file=out, width=120).print(place)
        assert "conv1[3, 7, 0] is neuron 248 of 256" in out.getvalue()
        with pytest.raises(SnncError, match="conv1 has no such neuron") as caught:
            report.inspect_neuron(done.program, done.mapping, "conv1:4,0,0")
        assert "channel,row,column up to 3,7,7" in str(caught.value)

    def test_messages_and_where_they_go(self, cut):
        found = cut["traffic"]
        assert found["messages"] == found["within_core"] + found["within_chip"] + found["between_chips"]
        assert found["messages"] == sum(each["messages"] for each in found["populations"].values())
        text = " ".join(text_of(cut, 120).split())
        assert f"messages {found['messages']:,} when every neuron fires once: " in text
        assert f"{found['messages']:,} when every neuron fires once" in render_words(cut)

    def test_a_recurrent_connection_is_no_input_of_its_own(self, cut):
        assert "4x4x4 -> 12 " in text_of(cut, 120)

    def test_stored_weights_and_synapses(self, cut):
        layer = next(x for x in cut["layers"] if x["name"] == "conv1")
        kernel = map_on_small_cores().program.connections[0].synapses.connectivity
        assert (layer["stored_weights"], layer["synapses"]) == (kernel.n_weights, kernel.unroll()[0].n_synapses)
        assert layer["connected_percent"] == round(100 * layer["synapses"] / kernel.full.unroll()[0].n_synapses, 4)
        assert layer["connections"][0]["synapses"] == layer["synapses"] > layer["stored_weights"]
        assert layer["shape"] == [4, 8, 8]
        deep = next(x for x in cut["layers"] if x["name"] == "deep")
        assert deep["own"]["synapses"] == deep["own"]["neurons"] == 64
        hidden = next(x for x in cut["layers"] if x["name"] == "hidden")
        assert [(c["delay"], c["chip_delay"]) for c in hidden["connections"]] == [(0, 1), (1, 1)]
        jsonschema.Draft202012Validator(report.schema()).validate(json.loads(report.to_json(cut)))


class TestPicture:
    def test_the_svg_has_a_cell_for_each_core_of_the_chip_and_the_slices_as_text(self, facts, part, tmp_path):
        report.mapping_picture(facts, tmp_path / "mapping.svg")
        root = ElementTree.parse(tmp_path / "mapping.svg").getroot()
        titles = [each.text for each in root.iter(f"{SVG}title")]
        assert titles.count("core not used") == 128 - len(facts["cores"])
        share = facts["cores"][1]["resources"]["synapse memory"]["percent"]
        assert f"core 1: {part}; memory {share:g} %" in titles
        texts = [each.text for each in root.iter(f"{SVG}text")]
        assert {"core 0", "pixels[0:784]", part} <= set(texts)

    def test_maps_that_are_cut_show_their_boxes_and_cores(self, tmp_path):
        done = map_on_small_cores()
        facts = done.report()
        report.mapping_picture(facts, tmp_path / "maps.svg")
        root = ElementTree.parse(tmp_path / "maps.svg").getroot()
        texts = [each.text for each in root.iter(f"{SVG}text")]
        assert "conv1  4 x 8 x 8" in texts
        titles = " ".join(each.text for each in root.iter(f"{SVG}title"))
        for core in facts["cores"]:
            for s in core["slices"]:
                if s["population"] == "conv1":
                    assert f"conv1{s['region']}: core {core['core']}" in titles
        assert "maps that are cut" in render_words(facts)

    def test_darker_is_fuller(self):
        from toolchain.report.drawing import OVER, shade

        light = [int(shade(percent)[1:3], 16) for percent in range(0, 101, 10)]
        assert light == sorted(light, reverse=True)
        assert len(set(light)) == len(light)
        assert shade(100.1) == OVER

    def test_png_and_pdf(self, facts, tmp_path):
        pytest.importorskip("matplotlib")
        report.mapping_picture(facts, tmp_path / "a.png")
        report.mapping_picture({**facts, "name": "costs $5 and $6"}, tmp_path / "b.pdf")
        assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
        assert (tmp_path / "b.pdf").read_bytes().startswith(b"%PDF")

    def test_without_matplotlib_the_extra_is_named(self, facts, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        with pytest.raises(SnncError, match="matplotlib") as caught:
            report.mapping_picture(facts, tmp_path / "a.png")
        assert "snnc[plot]" in str(caught.value)
        assert not list(tmp_path.iterdir())
        report.mapping_picture(facts, tmp_path / "a.svg")

    def test_other_kinds_are_refused(self, facts, tmp_path):
        with pytest.raises(SnncError, match="unknown kind of picture") as caught:
            report.mapping_picture(facts, tmp_path / "a.gif")
        assert ".svg, .png, .pdf" in str(caught.value)

    def test_many_cores_and_chips(self, many, tmp_path):
        report.mapping_picture(many, tmp_path / "many.svg")
        text = (tmp_path / "many.svg").read_text()
        assert "and 71 more chips" in text
        assert len(text) < 1_000_000


def test_ten_thousand_cores_in_every_form(many):
    """As text, table and JSON they stay whole, and of a size that can be handled."""
    written = report.to_json(many)
    assert json.loads(written) == many
    assert len(written) < 30_000_000
    assert written.count("\n") < 12_000  # a line for each core
    assert report.to_csv(many).count("\n") == 10_001


def test_two_violations_keep_their_order(done):
    violations = [Violation(f"rule {k}", "here", 2, 1, "things", "S") for k in range(2)]
    assert [v["rule"] for v in done.report(violations=violations)["violations"]] == ["rule 0", "rule 1"]
