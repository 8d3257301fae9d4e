"""Names that other people's code may import."""

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from lite_focus_detr.modeling import DetectorOutputs

OPERATORS = (
    "multi_scale_deformable_attention",
    "key_aware_deformable_attention",
    "fused_deformable_attention",
    "fused_key_aware_deformable_attention",
)
CONTRACT = {
    "lite_focus_detr": (
        "Predictor",
        "add_lite_focus_detr_config",
        "model_zoo",
        "modeling",
        "ops",
    ),
    "lite_focus_detr.model_zoo": ("get_config_file", "get_config", "get_weights_file", "get"),
    "lite_focus_detr.ops": (*OPERATORS, "backend", "reference"),
    "lite_focus_detr.ops.reference": OPERATORS,
    "lite_focus_detr.converters": ("convert_state_dict",),
    "lite_focus_detr.integrations": ("accelerate", "install_shims"),
    "lite_focus_detr.engine": ("DetrCheckpointer",),
    "lite_focus_detr.modeling": ("DetectionTransformer",),
    "lite_focus_detr.modeling.encoder": (
        "ENCODER_REGISTRY",
        "Encoder",
        "EncoderLayer",
        "EncoderOutput",
        "TokenQueries",
        "TokenSelection",
    ),
}


@pytest.mark.parametrize("module", CONTRACT)
def test_public_names_can_be_imported(module):
    missing = [name for name in CONTRACT[module] if not hasattr(import_module(module), name)]
    assert missing == []


@pytest.mark.parametrize("name", ["DeformableDETR", "LiteDETR", "FocusDETR", "SparseDETR"])
def test_detectors_are_registered_by_name(name):
    assert META_ARCH_REGISTRY.get(name).__name__ == name


def test_what_a_detector_predicts_has_its_fields():
    assert set(DetectorOutputs._fields) >= {
        "pred_logits",
        "pred_boxes",
        "aux_outputs",
        "proposal_outputs",
        "proposal_indices",
        "memory",
        "padding_mask",
        "tokens",
        "encoder",
        "denoising",
        "denoising_outputs",
        "sampling",
    }


#: Refuses every import of what is not PyTorch's or Python's own.
BLOCK = """
import sys
import torch
class Block:
    def find_spec(self, name, path=None, target=None):
        package = name.partition(".")[0]
        if package not in {"lite_focus_detr", *sys.stdlib_module_names, *before}:
            raise ModuleNotFoundError(f"No module named {package!r}", name=package)
before = {name.partition(".")[0] for name in sys.modules}
sys.meta_path.insert(0, Block())
"""


def run_with_torch_alone(code):
    projects = str(Path(import_module("lite_focus_detr").__file__).parents[1])
    return subprocess.run(
        [sys.executable, "-c", BLOCK + code],
        env={**os.environ, "PYTHONPATH": projects},
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "line", ["from lite_focus_detr import ops", "import lite_focus_detr.ops as ops"]
)
def test_the_operators_need_nothing_but_pytorch(line):
    code = """
value = torch.arange(4.0).view(1, 4, 1, 1).requires_grad_()
locations = torch.full((1, 1, 1, 1, 1, 2), 0.5)
weights = torch.ones(1, 1, 1, 1, 1)
output = ops.multi_scale_deformable_attention(value, [(2, 2)], locations, weights)
output.backward()
print(output.item(), value.grad.flatten().tolist())
"""
    done = run_with_torch_alone(line + code)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "1.5 [0.25, 0.25, 0.25, 0.25]\n"


def test_the_integrations_need_nothing_but_pytorch():
    code = """
from lite_focus_detr.integrations import accelerate, install_shims
accelerate(torch.nn.Linear(1, 1))
"""
    last = run_with_torch_alone(code).stderr.splitlines()[-1]
    assert last.startswith("ValueError: Linear has no multi-scale deformable attention")


@pytest.mark.parametrize("module", ["lite_focus_detr", "lite_focus_detr.engine"])
def test_importing_loads_nothing_that_only_some_runs_need(module):
    rarely_needed = ("timm", "matplotlib.pyplot", "tensorboard", "scipy.optimize", "onnx")
    code = (
        f"import sys, detectron2.modeling\nbefore = set(sys.modules)\nimport {module}\n"
        f"print(*(set(sys.modules) - before) & set({rarely_needed!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", ["add_lite_focus_detr_config", "model_zoo", "Predictor"])
def test_what_needs_detectron2_says_so_where_it_is_missing(name):
    code = f"sys.modules['detectron2'] = None\nfrom lite_focus_detr import {name}"
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"lite_focus_detr.{name} needs detectron2, which is not installed" in done.stderr


def test_names_that_do_not_exist_are_attribute_errors():
    package = import_module("lite_focus_detr")
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018
    assert set(CONTRACT["lite_focus_detr"]) <= set(dir(package))


def test_adding_the_configuration_registers_the_detectors():
    code = """
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
import lite_focus_detr
lite_focus_detr.add_lite_focus_detr_config(get_cfg())
print(META_ARCH_REGISTRY.get("LiteDETR").__module__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "lite_focus_detr.modeling.meta_arch\n", done.stderr
