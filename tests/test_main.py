"""The command ``lite-focus-detr``: its list, and how it finds the tools."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lite_focus_detr import __main__ as command
from lite_focus_detr import __version__
from lite_focus_detr.tools import check_env

PACKAGE = Path(command.__file__).parent


def test_help_has_a_line_for_every_tool_that_is_there(capsys):
    assert command.main(["--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = dict(line.split(maxsplit=1) for line in lines if line.startswith("  "))
    there = [
        name
        for name, module in command.COMMANDS.items()
        if (PACKAGE / f"tools/{module}.py").is_file() or (PACKAGE / f"tools/{module}").is_dir()
    ]
    assert list(listed) == there
    assert {"train", "eval", "demo", "convert", "export", "analyze", "env"} <= set(there)
    assert listed["demo"].startswith("Detects objects in images")
    assert len(listed) + 5 == len(lines)


def test_help_needs_neither_pytorch_nor_detectron2():
    blocked = "import sys; sys.modules['torch'] = sys.modules['detectron2'] = None; "
    program = blocked + "from lite_focus_detr.__main__ import main; sys.exit(main(['--help']))"
    path = {"PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "commands:" in done.stdout


def test_a_command_gets_its_options_and_returns_its_status(monkeypatch):
    given = []
    monkeypatch.setattr(check_env, "main", lambda arguments: given.append(arguments) or 5)
    assert command.main(["env", "--verbose", "x"]) == 5
    assert given == [["--verbose", "x"]]


def test_mistakes_and_the_version(capsys):
    assert command.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: 'trian' is no command; there are train, ")
    assert command.main([]) == 2
    assert command.main(["--version"]) == 0
    assert capsys.readouterr().out.endswith(f"{__version__}\n")


@pytest.mark.parametrize("name", command.find_modules())
def test_every_tool_shows_its_options(name, capsys):
    with pytest.raises(SystemExit) as end:
        command.main([name, "--help"])
    assert end.value.code == 0
    assert "usage: " in capsys.readouterr().out
