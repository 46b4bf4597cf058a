"""The command as a user meets it: what it prints, what it refuses, with which exit code and in which words."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from networks import checkpoint, write_checkpoint

from toolchain import cli

torch = pytest.importorskip("torch")


class Command:
    """Runs snnc in this process; keeps what it printed."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        self.capsys.readouterr()
        code = cli.run([str(a) for a in arguments])
        self.out, self.err = self.capsys.readouterr()
        return code

    def refused(self, *arguments: object, code: int = 1, says: tuple[str, ...]) -> None:
        assert self(*arguments) == code, self.out + self.err
        for words in says:
            assert words in self.err, self.err
        assert "Traceback" not in self.err


@pytest.fixture
def snnc(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "model.pt")


@pytest.fixture(scope="module")
def build(model: Path) -> Path:
    path = model.parent / "build"
    assert cli.run(["compile", str(model), "--target", "loihi", "-o", str(path), "--emit-images"]) == 0
    return path


# ---------------------------------------------------------------------------------------- what works


def test_compile_prints_numbered_steps_and_writes_the_files(snnc, model, tmp_path):
    assert snnc("compile", model, "--target", "loihi", "-o", tmp_path / "b") == 0
    assert "[ 1/11] check the graph" in snnc.out
    assert "estimate, executed on nothing" in snnc.out
    names = {p.name for p in (tmp_path / "b").iterdir()}
    assert names == {
        "build.json",
        "graph.onnx",
        "mapping.json",
        "per_core.csv",
        "program.onnx",
        "report.html",
        "report.json",
        "target.json",
    }


def test_compile_twice_gives_the_same_bytes(snnc, model, build, tmp_path):
    assert snnc("compile", model, "--target", "loihi", "-o", tmp_path / "b", "--emit-images") == 0
    for path in sorted(p for p in build.rglob("*") if p.is_file()):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(build)).read_bytes(), path.name


def test_a_training_folder_and_graph_onnx_compile_like_the_model(snnc, model, build, tmp_path):
    program = (build / "program.onnx").read_bytes()
    assert snnc("compile", model.parent, "--target", "loihi", "-o", tmp_path / "folder") == 0
    assert snnc("compile", build / "graph.onnx", "--target", "loihi", "-o", tmp_path / "graph") == 0
    assert (tmp_path / "folder" / "program.onnx").read_bytes() == program
    assert (tmp_path / "graph" / "program.onnx").read_bytes() == program


def test_report_in_its_four_forms(snnc, build):
    assert snnc("report", build) == 0
    assert "fc1" in snnc.out
    assert snnc("report", build, "--json") == 0
    assert json.loads(snnc.out)["build_hash"] == json.loads((build / "build.json").read_text())["hash"][:12]
    assert snnc("report", build, "--csv") == 0
    assert len(snnc.out.splitlines()) == 1 + len(json.loads((build / "mapping.json").read_text())["cores"])
    assert snnc("report", build, "--html") == 0
    assert snnc.out.lstrip().lower().startswith("<!doctype html>")
    snnc.refused("report", build, "--html", "--csv", code=2, says=("choose one",))


def test_inspect(snnc, build):
    assert snnc("inspect", build, "--core", 0) == 0
    assert "1,024" in snnc.out
    assert snnc("inspect", build, "--layer", "fc1") == 0
    assert "vth" in snnc.out
    assert snnc("inspect", build, "--why", "fc1") == 0
    assert "fc1" in snnc.out
    snnc.refused("inspect", build, "--layer", "fc11", says=("fc11", "did you mean 'fc1'"))
    snnc.refused("inspect", build, "--core", 99, says=("99",))
    snnc.refused("inspect", build, code=2, says=("choose one of --core, --layer, --neuron and --why",))


def test_targets(snnc):
    assert snnc("targets") == 0
    assert "loihi" in snnc.out
    assert "loihi2" in snnc.out
    assert snnc("targets", "loihi") == 0
    assert "1024" in snnc.out
    assert "D18" in snnc.out


def test_simulate_saves_the_spikes_that_it_counts(snnc, build, tmp_path):
    spikes = tmp_path / "spikes.npz"
    assert snnc("simulate", build, "--samples", 20, "--save-spikes", spikes, "--json") == 0
    figures = json.loads(snnc.out)
    saved = np.load(spikes)
    assert set(saved.files) == {"input", "fc1", "fc2"}
    assert saved["fc2"].shape == (20, 8, 10)
    assert figures["spikes_per_sample"]["fc1"] == pytest.approx(saved["fc1"].sum() / 20)
    assert figures["samples"] == 20
    assert snnc("simulate", build, "--samples", 20) == 0
    assert "20 test samples" in snnc.out


def test_a_place_for_spikes_is_checked_before_the_work(snnc, build, tmp_path, monkeypatch):
    from toolchain.backends import fast

    def never(*_, **__):
        raise AssertionError("simulated for nothing")

    monkeypatch.setattr(fast, "run", never)
    snnc.refused("simulate", build, "--save-spikes", tmp_path / "no" / "s.npz", says=("could not write", "s.npz"))
    snnc.refused("simulate", build, "--save-spikes", tmp_path, code=2, says=("is a directory",))
    assert not list(tmp_path.iterdir())


def test_where_a_neuron_is(snnc, build):
    assert snnc("inspect", build, "--neuron", "fc1:3") == 0
    assert "fc1[3] is neuron 3 of" in snnc.out
    assert "on core 0 of chip 0" in snnc.out
    for wrong in ("fc1:999", "fc1:", "fc1:1,2", "fc1:x"):
        snnc.refused("inspect", build, "--neuron", wrong, says=("fc1 has no such neuron", "0 to "))
    snnc.refused("inspect", build, "--neuron", "fc9:1", says=("no layer 'fc9'",))


def test_verify_without_lava(snnc, build):
    assert snnc("verify", build, "--samples", 30, "--without-lava", "--json") == 0
    rows = json.loads(snnc.out)
    assert [row["name"] for row in rows] == ["float", "quantised", "reference", "fast", "onnx"]
    assert rows[0]["agreement"] is None
    assert all(0 <= row["accuracy"] <= 1 for row in rows)


@pytest.mark.lava
@pytest.mark.slow
def test_verify_and_simulate_with_lava(snnc, build, lava):
    assert snnc("verify", build, "--samples", 10) == 0, snnc.err
    assert "lava" in snnc.out
    assert snnc("simulate", build, "--samples", 10, "--json") == 0
    reference = json.loads(snnc.out)
    assert snnc("simulate", build, "--samples", 10, "--backend", "lava", "--json") == 0, snnc.err
    lava = json.loads(snnc.out)
    assert lava["spikes_per_sample"] == reference["spikes_per_sample"]
    assert lava["notes"] == []
    options = ("--samples", 10, "--backend", "lava", "--lava-processes", "batched")
    assert snnc("simulate", build, *options, "--json") == 0, snnc.err
    batched = json.loads(snnc.out)
    assert batched["spikes_per_sample"] == reference["spikes_per_sample"]
    assert "LAV002" in batched["notes"][0]
    assert "8 also by stock processes" in batched["notes"][0]


def test_check_answers_before_training(snnc):
    assert snnc("check", "digits.toml", "--target", "loihi", "--connectivity", 0.1) == 0
    assert "untrained" in snnc.out
    assert snnc("check", "mnist_mlp.toml", "--target", "loihi2", "--connectivity", 0.05) == 0
    assert "fitted" in snnc.out


def test_doctor_says_what_there_is(snnc):
    snnc("doctor")
    assert "torch" in snnc.out
    assert "lava" in snnc.out.lower()


# ---------------------------------------------------------------------------------------- what is refused


def test_unknown_names_get_the_nearest(snnc, model, build, tmp_path):
    snnc.refused("targts", code=2, says=("did you mean 'targets'",))
    snnc.refused("targets", "lohi", code=2, says=("lohi", "did you mean 'loihi'"))
    snnc.refused("compile", model, "--target", "lohi", "-o", tmp_path / "b", code=2, says=("did you mean 'loihi'",))
    snnc.refused("simulate", build, "--backend", "lva", code=2, says=("did you mean 'lava'",))
    snnc.refused("simulate", build, "--lava-processes", "stock", code=2, says=("is for the back end lava",))
    snnc.refused(
        *("simulate", build, "--backend", "lava", "--lava-processes", "stok"), code=2, says=("did you mean 'stock'",)
    )
    snnc.refused(
        "compile", model, "--target", "loihi", "--cost-model", "nxft", "-o", tmp_path / "b", code=2, says=("'nxtf'",)
    )
    assert not (tmp_path / "b").exists()


def test_output_that_exists(snnc, model, build, tmp_path):
    before = sorted((p.name, p.read_bytes()) for p in build.rglob("*") if p.is_file())
    snnc.refused("compile", model, "--target", "loihi", "-o", build, says=("exists already", "--force"))
    assert before == sorted((p.name, p.read_bytes()) for p in build.rglob("*") if p.is_file())
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.txt").write_text("years of work")
    snnc.refused("compile", model, "--target", "loihi", "-o", home, "--force", says=("not a build",))
    assert (home / "thesis.txt").read_text() == "years of work"


def test_force_replaces_a_build(snnc, model, tmp_path):
    out = tmp_path / "b"
    assert snnc("compile", model, "--target", "loihi", "-o", out) == 0
    first = json.loads((out / "build.json").read_text())["hash"]
    assert snnc("compile", model, "--target", "loihi", "--bits", 4, "-o", out, "--force") == 0
    assert json.loads((out / "build.json").read_text())["hash"] != first


def test_models_that_are_none(snnc, tmp_path):
    out = ("--target", "loihi", "-o", tmp_path / "b")
    snnc.refused("compile", tmp_path / "no.pt", *out, says=("no such file",))
    (tmp_path / "empty.pt").touch()
    snnc.refused("compile", tmp_path / "empty.pt", *out, says=("empty",))
    (tmp_path / "text.pt").write_text("hello")
    snnc.refused("compile", tmp_path / "text.pt", *out, says=("text.pt",))
    assert not (tmp_path / "b").exists()


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickled_module_is_refused_and_nothing_runs(snnc, tmp_path):
    trap = tmp_path / "it-ran"
    (tmp_path / "m.pt").write_bytes(pickle.dumps(Hostile(trap)))
    snnc.refused("compile", tmp_path / "m.pt", "--target", "loihi", "-o", tmp_path / "b", says=("not a checkpoint",))
    torch.save({"a": Hostile(trap)}, tmp_path / "t.pt")
    snnc.refused("compile", tmp_path / "t.pt", "--target", "loihi", "-o", tmp_path / "b", says=("--trust",))
    assert not trap.exists()


def test_damaged_models(snnc, tmp_path):
    def compile_changed(says: tuple[str, ...], change) -> None:
        content = checkpoint()
        change(content)
        torch.save(content, tmp_path / "m.pt")
        snnc.refused("compile", tmp_path / "m.pt", "--target", "loihi", "-o", tmp_path / "b", says=says)
        assert not (tmp_path / "b").exists()

    def put_nan(content) -> None:
        content["layers"][0]["mask"][3, 4] = True
        content["layers"][0]["weight"][3, 4] = float("nan")

    compile_changed(("newer",), lambda c: c.update(version=99))
    compile_changed(("fc1", "NaN"), put_nan)
    compile_changed(("fc2", "chain"), lambda c: c["layers"][0].update(checkpoint((64, 31, 10))["layers"][0]))
    compile_changed(("fc1", "reset"), lambda c: c["layers"][0]["neuron"].update(reset="subtract"))


def test_graded_inputs_on_a_chip_with_binary_spikes(snnc, tmp_path):
    source = {"size": 64, "coding": "graded", "scale": 1 / 255, "offset": 0.0}
    write_checkpoint(tmp_path / "m.pt", input=source)
    snnc.refused(
        "compile", tmp_path / "m.pt", "--target", "loihi", "-o", tmp_path / "b", says=("payload", "loihi2", "rate")
    )
    assert snnc("compile", tmp_path / "m.pt", "--target", "loihi2", "-o", tmp_path / "b") == 0
    assert snnc("simulate", tmp_path / "b", "--samples", 5) == 0


def test_current_inputs_leave_the_first_synapses_on_the_host(snnc, tmp_path):
    source = {"size": 64, "coding": "current", "scale": 1 / 255, "offset": 0.0}
    write_checkpoint(tmp_path / "m.pt", input=source)
    assert snnc("compile", tmp_path / "m.pt", "--target", "loihi", "-o", tmp_path / "b") == 0
    assert "host" in snnc.out
    assert snnc("verify", tmp_path / "b", "--samples", 20, "--without-lava") == 0


def test_what_does_not_fit_gets_a_remedy_that_works(snnc, tmp_path):
    import hw_targets

    target = hw_targets.load("loihi").to_dict()
    target["limits"]["cores_per_chip"]["value"] = 1
    target["limits"]["synapse_words_per_core"]["value"] = 1500
    target["name"] = "tiny"
    import tomli_w

    (tmp_path / "tiny.toml").write_text(tomli_w.dumps(target))
    write_checkpoint(tmp_path / "m.pt", sizes=(64, 300, 10), connectivity=0.6)
    out = tmp_path / "b"
    snnc.refused(
        "compile", tmp_path / "m.pt", "--target", tmp_path / "tiny.toml", "-o", out, says=("cores of 1 chip", "--chips")
    )
    assert not out.exists()
    chips = snnc.err.split("--chips ")[1].split()[0]
    assert snnc("compile", tmp_path / "m.pt", "--target", tmp_path / "tiny.toml", "--chips", chips, "-o", out) == 0, (
        snnc.err
    )


def test_boards(snnc, model, tmp_path):
    import hw_targets

    board = next(s for s in hw_targets.load("loihi").systems if s.chips > 1)
    common = ("compile", model, "--target", "loihi", "-o", tmp_path / "b")
    assert snnc(*common, "--board", board.name) == 0
    assert json.loads((tmp_path / "b" / "build.json").read_text())["options"]["board"] == board.name
    snnc.refused(*common, "--force", "--board", "none", code=2, says=("no board 'none'", board.name))
    snnc.refused(*common, "--force", "--board", board.name, "--chips", 2, code=2, says=("choose one of",))


def test_searches(snnc, model, tmp_path):
    common = ("compile", model, "--target", "loihi", "-o", tmp_path / "b")
    assert snnc(*common, "--search", "nxtf", "--one-layer-per-core") == 0
    options = json.loads((tmp_path / "b" / "build.json").read_text())["options"]
    assert (options["search"], options["share_cores"]) == ("nxtf", False)
    snnc.refused(*common, "--force", "--search", "nxft", code=2, says=("no search 'nxft'", "did you mean 'nxtf'"))


def test_bits_that_the_chip_does_not_have(snnc, model, tmp_path):
    snnc.refused(
        "compile", model, "--target", "loihi", "--bits", 7, "-o", tmp_path / "b", says=("weights", "7", "--bits 8")
    )


def test_a_changed_build_is_not_believed(snnc, build, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(build, copy)
    (copy / "program.onnx").write_bytes((copy / "program.onnx").read_bytes()[:-1])
    snnc.refused("simulate", copy, "--samples", 3, says=("program.onnx", "compile again"))
    (copy / "build.json").unlink()
    snnc.refused("report", copy, says=("not a build folder",))
    snnc.refused("report", tmp_path / "nothing", says=("no such folder",))


def test_more_samples_than_there_are(snnc, build):
    snnc.refused("simulate", build, "--samples", 100000, code=2, says=("360",))


def test_recipes(snnc, tmp_path):
    (tmp_path / "r.toml").write_text("[train]\nepoch = 3\n")
    snnc.refused("train", tmp_path / "r.toml", "-o", tmp_path / "run", says=("epoch", "did you mean 'epochs'"))
    snnc.refused("train", tmp_path / "none.toml", "-o", tmp_path / "run", says=("no recipe",))
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there(snnc, tmp_path):
    snnc.refused(
        "train", "mnist_mlp.toml", "--data", tmp_path, "-o", tmp_path / "run", says=("train-images-idx3-ubyte",)
    )
    snnc.refused("train", "mnist_mlp.toml", "-o", tmp_path / "run", says=("--data",))
    assert not (tmp_path / "run").exists()


SMALL = """
name = "small"
[data]
dataset = "digits"
[network]
hidden = [16]
steps = 2
[train]
epochs = 1
"""


def test_training_from_the_command_to_the_pictures(snnc, tmp_path):
    recipe, run = tmp_path / "small.toml", tmp_path / "run"
    recipe.write_text(SMALL)
    train = ("train", recipe, "-o", run, "--surrogate", "fast-sigmoid", "--method", "set", "--connectivity", 0.3)
    assert snnc(*train, "--surrogate-slope", 5) == 0, snnc.err
    resolved = (run / "recipe.toml").read_text()
    for line in ('surrogate = "fast-sigmoid"', "slope = 5.0", 'name = "set"', "connectivity = 0.3"):
        assert line in resolved, resolved

    assert snnc("train", run / "recipe.toml", "-o", run, "--resume", "--epochs", 3) == 0, snnc.err
    assert "TRN004" in snnc.out + snnc.err
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 4
    assert snnc("plot", run, "-o", tmp_path / "pictures") == 0, snnc.err
    assert sorted(path.suffix for path in (tmp_path / "pictures").iterdir()) == [".png"] * 3


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--surrogate", "arctan"), ("surrogate", "did you mean 'arctangent'")),
        (("--surrogate-slope", "steep"), ("--surrogate-slope", "steep")),
        (("--surrogate-slope", "-1"), ("slope", "-1")),
        (("--surrogate-slope", "auto"), ("comparing hidden layers", "one hidden layer")),
        (("--device", "tpu"), ("--device", "tpu")),
        (("--epochs", "0"), ("epochs", "0")),
        (("--checkpoint-every", "-1"), ("--checkpoint-every",)),
    ],
)
def test_options_of_training_that_are_refused(snnc, tmp_path, options, says):
    (tmp_path / "small.toml").write_text(SMALL)
    assert snnc("train", tmp_path / "small.toml", "-o", tmp_path / "run", *options) in (1, 2)
    for words in says:
        assert words in snnc.err, snnc.err
    assert not (tmp_path / "run").exists()


def test_targets_need_no_torch():
    code = "import sys; sys.modules['torch'] = None\nfrom toolchain import cli; sys.exit(cli.run(['targets', 'loihi']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compartments" in done.stdout


def test_a_reader_that_leaves_is_no_error(build):
    done = subprocess.run(
        f"{sys.executable} -m toolchain.cli report {build} --json | head -c 10",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
