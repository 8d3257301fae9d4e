"""The extension in processes that a script starts."""

import subprocess
import sys

import pytest

SPAWNING = """
import torch.multiprocessing as multiprocessing
import MultiScaleDeformableAttention

def work(index):
    print(index, MultiScaleDeformableAttention.ms_deform_attn_backward.__name__)

if __name__ == "__main__":
    multiprocessing.start_processes(work, nprocs=1, start_method="{method}")
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_processes_that_a_script_starts_see_the_extension(tmp_path, method):
    (tmp_path / "train.py").write_text(SPAWNING.format(method=method))
    command = [sys.executable, "-m", "lite_focus_detr.integrations.shim", "train.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout == "0 ms_deform_attn_backward\n", done.stderr
