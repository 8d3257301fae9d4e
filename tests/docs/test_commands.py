"""Every command and every line of Python of the documents runs, in a small way, in its order."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from detectron2.engine import default_argument_parser

from lite_focus_detr import __main__ as program
from lite_focus_detr import model_zoo
from lite_focus_detr.tools.benchmark import measure, models, operators
from lite_focus_detr.tools.command_line import add_weights_arguments

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(path for path in sorted(ROOT.glob("*.md")) if path.name != "CHANGELOG.md"),
    *(ROOT / "configs").glob("*.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]

#: What does not run here, by its beginning, and where it is tried.
ELSEWHERE = {
    "make dev": ".ci/run",
    "make test": ".ci/run",
    "make lint": ".ci/run",
    "make demo": "tests/docs/test_first_run.py",
    ".venv/bin/": "Makefile",
    "pip install": "tests/test_packaging.py",
    "torchrun": "tests/engine/test_launch.py",
    "srun": "tests/engine/test_launch.py",
    "python -m lite_focus_detr.integrations.shim": "tests/docs/test_use_the_operators.py",
    "lite-focus-detr convert lateral_dino.pth": "tests/docs/test_write_a_converter.py",
    "torch.ops.load_library": "tests/export/test_program.py",
    "torch._inductor.aoti_compile_and_package": "tests/export/test_cpp_example.py",
    "make -C examples/cpp": "tests/export/test_cpp_example.py",
    "examples/cpp/detect": "tests/export/test_cpp_example.py",
}
#: Documents whose Python does not run here, and where it does.
PYTHON_ELSEWHERE = {
    "README.md": "tests/docs/test_readme.py",
    "docs/use_the_operators.md": "tests/docs/test_use_the_operators.py",
    "docs/write_a_converter.md": "tests/docs/test_write_a_converter.py",
    "docs/write_an_encoder.md": "tests/extending/test_out_of_tree_encoder.py",
}
#: Commands that another document has word for word, and that take long.
TWICE = {
    ("README.md", "lite-focus-detr export"): "docs/export.md",
    ("README.md", "lite-focus-detr sparsify"): "docs/budgets.md",
}

#: What makes a command short, behind its own options.
SHORTER = {
    "analyze": ["--image-size", "64", "96"],
    "benchmark op": ["--rounds", "1"],
    "benchmark encoder": ["--rounds", "1", "--image-size", "64", "96", "--native-only"],
    "benchmark model": ["--rounds", "1", "--image-size", "64", "96", "--native-only"],
    "compare": ["--rounds", "1"],
    "page": ["--port", "0", "--rounds", "1"],
    "sparsify": ["--iterations", "2", "--fine-tune", "2"],
}
#: Files that have the tensors of published ones, so that nothing about them can be narrow.
PUBLISHED = {"checkpoint0033_4scale.pth", "r50_s3ex3_50.4.pth"}
#: Commands without ``--opts``.
WITHOUT_OPTIONS = {"benchmark op", "check", "env"}


def name_of(document):
    """Its path below the root."""
    return document.relative_to(ROOT).as_posix()


def steps_of(document):
    """Commands, as lists of words, and blocks of Python, as text, in the order of the document."""
    for language, block in re.findall(
        r"^```(\w+)\n(.*?)^```", document.read_text(), flags=re.DOTALL | re.MULTILINE
    ):
        if language == "python":
            yield block
        elif language in ("bash", "sh", "shell", "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield words


def runs_elsewhere(document, step):
    """Where a command or a block of Python is tried, if not here."""
    name = name_of(document)
    if isinstance(step, str) and name in PYTHON_ELSEWHERE:
        return PYTHON_ELSEWHERE[name]
    text = step if isinstance(step, str) else " ".join(step)
    places = {
        **ELSEWHERE,
        **{text: place for (where, text), place in TWICE.items() if where == name},
    }
    return next((place for start, place in places.items() if text.startswith(start)), None)


def split_command(words):
    """The name of a command of this project, and the words behind it."""
    if words[:2] == ["python", "-m"]:
        module = words[2].removeprefix("lite_focus_detr.tools.")
        names = {module: name for name, module in program.COMMANDS.items()}
        return names.get(module, module), words[3:]
    return words[1], words[2:]


def shorten(name, arguments, small):
    """Arguments with which a command is done in a moment."""
    command = f"{name} {arguments[0]}" if name == "benchmark" else name
    arguments = [*arguments, *SHORTER.get(command, [])]
    if name == "train_net.py" and "--num-gpus" in arguments:
        arguments[arguments.index("--num-gpus") + 1] = "1"
    if command in WITHOUT_OPTIONS:
        return arguments
    changes = small["all"] if name != "convert" else []
    if "deformable_detr_r50_50ep" in arguments:
        changes = [*changes, *small["transformers"]]
    elif not PUBLISHED.intersection(arguments) and is_of_resnet50(command, arguments):
        changes = [*changes, *small["r50"]]
    if name == "train_net.py":
        # The published backbone would be downloaded.
        start = [] if {"MODEL.WEIGHTS", "--weights"} & {*arguments} else ["MODEL.WEIGHTS", ""]
        return [*arguments, *start, *changes]
    if not changes or "--opts" in arguments:
        return [*arguments, *changes]
    return [*arguments, "--opts", *changes]


def is_of_resnet50(command, arguments):
    """Whether its detectors have this backbone, by their names or without any."""
    configs = [word for word in arguments if "_r50_" in word]
    without_names = command in ("analyze", "benchmark encoder", "benchmark model")
    return bool(configs) or (without_names and "--weights" not in arguments)


def run(words, small):
    """Run a command as the shell would; returns its exit status."""
    # Nothing is asked of the network.
    name, arguments = split_command([word for word in words if "://" not in word])
    arguments = shorten(name, arguments, small)
    try:
        if name == "train_net.py":
            parser = default_argument_parser()
            add_weights_arguments(parser)
            status = importlib.import_module("train_net").main(parser.parse_args(arguments))
        elif name in program.COMMANDS:
            status = program.main([name, *arguments])
        else:
            status = importlib.import_module(f"lite_focus_detr.tools.{name}").main(arguments)
    except SystemExit as end:
        status = end.code
    return status if isinstance(status, (int, str)) else 0


@pytest.fixture
def small_benchmarks(monkeypatch):
    """Measure on few tokens, in this process."""
    monkeypatch.setattr(operators, "SHAPES", ((8, 12), (4, 6), (2, 3), (1, 2)))
    monkeypatch.setattr(operators, "QUERIES", {"encoder": 128, "decoder": 20})
    for module in (measure, models):
        monkeypatch.setattr(module, "peak_memories", lambda make, _: dict.fromkeys(make()))


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_nothing_is_left_out_without_a_place_that_tries_it(document):
    known = ("python train_net.py", "python -m lite_focus_detr.tools.", "lite-focus-detr ")
    for step in steps_of(document):
        place = runs_elsewhere(document, step)
        if place is None:
            assert isinstance(step, str) or " ".join(step).startswith(known), step
        else:
            assert (ROOT / place).is_file(), place


def test_everything_that_is_left_out_is_in_a_document():
    everything = {
        (name_of(document), step if isinstance(step, str) else " ".join(step))
        for document in DOCUMENTS
        for step in steps_of(document)
    }
    for start in ELSEWHERE:
        assert any(text.startswith(start) for _, text in everything), start
    for (document, start), other in TWICE.items():
        (text,) = (text for name, text in everything if name == document and start in text)
        assert (other, text) in everything


@pytest.mark.usefixtures("small_benchmarks")
@pytest.mark.parametrize(
    "document",
    [path for path in DOCUMENTS if any(not runs_elsewhere(path, x) for x in steps_of(path))],
    ids=name_of,
)
def test_a_document_runs(workplace, small, monkeypatch, document):
    monkeypatch.chdir(workplace)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setattr("gradio.Blocks.block_thread", lambda page: page.close())
    names = {"model": model_zoo.get("focus_dino_shapes", device="cpu")}
    for step in steps_of(document):
        if runs_elsewhere(document, step):
            continue
        if isinstance(step, str):
            exec(step, names)
        else:
            status = run(step, small)
            # `check` ends with 1 where it has found something.
            assert status == 0 or (status == 1 and "check" in step), step
