"""The command that runs scripts of published repositories."""

import subprocess
import sys

import pytest

from lite_focus_detr.integrations.shim import main

SCRIPT = """
import sys
import MultiScaleDeformableAttention
from beside import NAME
if __name__ == "__main__":
    print(sys.argv, MultiScaleDeformableAttention.ms_deform_attn_forward.__name__, NAME)
"""


def test_a_script_sees_its_arguments_its_folder_and_the_extension(tmp_path):
    script = tmp_path / "folder" / "train.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    (script.parent / "beside.py").write_text("NAME = 'found'")
    command = [sys.executable, "-m", "lite_focus_detr.integrations.shim"]
    arguments = ["folder/train.py", "--lr", "0.1", "-h"]
    done = subprocess.run(
        [*command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.stderr == ""
    assert done.stdout == f"{arguments} ms_deform_attn_forward found\n"


def test_a_script_that_is_not_there_is_one_line(capsys):
    with pytest.raises(SystemExit):
        main(["missing.py"])
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: there is no script missing.py")
