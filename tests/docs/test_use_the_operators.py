"""The examples of docs/use_the_operators.md run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lite_focus_detr.integrations.extension_modules import EXTENSIONS

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "use_the_operators.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENT, re.DOTALL)


@pytest.fixture
def no_stand_ins():
    """Take the stand-ins for extensions away afterwards."""
    yield
    for name in EXTENSIONS:
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("mmcv_extension", "no_stand_ins")
def test_the_examples_run_one_after_the_other(capsys):
    scope = {}
    examples = blocks("python")
    assert len(examples) == 4
    for example in examples:
        exec(example, scope)
    printed = re.search(r"print\(.*\)  # (.*)", DOCUMENT)[1]
    assert capsys.readouterr().out.strip() == printed


def test_the_command_runs_a_script_that_imports_the_extension(tmp_path):
    (command,) = blocks("bash")
    script = tmp_path / "main.py"
    script.write_text("import sys, MultiScaleDeformableAttention\nprint(sys.argv[1:])")
    python, *arguments = command.split()
    assert python == "python"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "['--eval', '--resume', 'checkpoint.pth']\n"
