#!/usr/bin/env python3
"""Export every encoder on every family in every dialect and print how far it is from PyTorch.

    python dev/export_matrix.py [NAME ...] > docs/export_matrix.md

The models have two encoder and two decoder layers, a small backbone and random weights; what of
them is exported is the same as in the published sizes. Exit code 1 if an export is refused.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
import openvino
import torch
from detectron2.modeling import build_model
from tabulate import tabulate

from lite_focus_detr import model_zoo
from lite_focus_detr.export import DIALECTS, ImageInput, export_program
from lite_focus_detr.export.conversion import convert_program
from lite_focus_detr.export.detector import TensorDetector
from lite_focus_detr.export.onnx_file import write_checked
from lite_focus_detr.export.runtime import start_session

#: One for each encoder, with each attention of Lite DETR, and host.
CONFIGS = (
    "deformable_detr/deformable_detr_r50_50ep",
    "deformable_detr/dn_deformable_detr_r50_50ep",
    "deformable_detr/dino_r50_36ep",
    "lite_detr/lite_deformable_detr_h3l1_2p1x3_r50_50ep",
    "lite_detr/lite_dino_h3l1_2p1x3_r50_36ep",
    "lite_detr/lite_dino_h3l1_2p1x3_plain_r50_36ep",
    "focus_detr/focus_deformable_detr_two_stage_r50_50ep",
    "focus_detr/focus_dn_deformable_detr_r50_50ep",
    "focus_detr/focus_dino_r50_36ep",
    "lite_focus_detr/lite_focus_dino_h2l2_2p1x3_keep30_r50_36ep",
    "sparse_detr/sparse_deformable_detr_two_stage_r50_50ep",
    "sparse_detr/sparse_dn_deformable_detr_r50_50ep",
    "sparse_detr/sparse_dino_r50_36ep",
)
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.WEIGHTS": "",
    "MODEL.BACKBONE.NAME": "build_timm_backbone",
    "MODEL.TIMM.NAME": "test_resnet",
    "MODEL.DETR.EMBED_DIM": "64",
    "MODEL.DETR.NUM_HEADS": "4",
    "MODEL.DETR.NORM_GROUPS": "8",
    "MODEL.DETR.NUM_QUERIES": "30",
    "MODEL.DETR.ENCODER.NUM_LAYERS": "2",
    "MODEL.DETR.DECODER.NUM_LAYERS": "2",
    "MODEL.LITE.NUM_BLOCKS": "1",
    "MODEL.FOCUS.KEEP_RATIOS": "[0.5, 0.3]",
    "MODEL.LITE_FOCUS.KEEP_RATIOS": "[0.5]",
}


def make_detector(name: str) -> TensorDetector:
    """A detector of a small form of a configuration, which attends everywhere and finds objects."""
    cfg = model_zoo.get_config(name, [x for item in SMALL.items() for x in item])
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    for key, parameter in model.named_parameters():
        if parameter.dim() > 1 and not key.startswith("backbone"):
            parameter.data += torch.randn_like(parameter) * 0.02
        if "class_embed" in key and key.endswith("bias"):
            parameter.data.zero_()
    return TensorDetector(model, ImageInput())


def openvino_deviation(path: Path) -> float:
    """Largest deviation of the scores between OpenVINO and ONNX Runtime on one image."""
    images = np.random.default_rng(0).uniform(0, 255, (1, 3, 150, 210)).astype(np.float32)
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected = start_session(str(path)).run(["scores"], {"images": images})[0]
    return float(np.abs(compiled(images)["scores"] - expected).max())


def rows_of(name: str) -> list[tuple[object, ...]]:
    """A row for each dialect."""
    detector = make_detector(name)
    traced = convert_program(export_program(detector.model))
    rows = []
    for dialect in DIALECTS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            try:
                found = write_checked(traced.clone(), detector, path, dialect)
            except ValueError as error:
                sys.stderr.write(f"{name} {dialect}: {error}\n")
                rows.append((name, dialect, "refused"))
                continue
            worst = [max(x[i] for x in found) for i in range(1, 5)]
            agreement = min(x.agreement for x in found)
            count = sum(x.detections for x in found)
            other = "" if dialect == "native" else f"{openvino_deviation(path):.1e}"
            figures = [f"{x:.1e}" for x in worst]
            rows.append((name, dialect, *figures, f"{agreement:.0%} of {count}", other))
            sys.stderr.write(f"{name} {dialect}\n")
    return rows


def main() -> int:
    """Print the table."""
    rows = [row for name in sys.argv[1:] or CONFIGS for row in rows_of(name)]
    headers = ("configuration", "dialect", "logits", "boxes", "choices", "scores")
    headers += ("detections that agree", "OpenVINO")
    sys.stdout.write("# Exports of every encoder on every family\n\n")
    sys.stdout.write(
        "Largest deviation of ONNX Runtime from PyTorch in six batches (three sizes, one and two "
        "images), and of the scores in OpenVINO from those in ONNX Runtime; small models with "
        "random weights. Printed by `python dev/export_matrix.py`, which `make test-all` runs.\n\n"
    )
    sys.stdout.write(tabulate(rows, headers, tablefmt="pipe", disable_numparse=True) + "\n")
    return int(any(row[2] == "refused" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
