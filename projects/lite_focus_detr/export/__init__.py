"""Detectors for other programs: ONNX files and programs of torch.export.

Files of the dialect ``native`` need ``native_attention.register_native_attention``.
"""

from .comparison import Comparison, format_comparisons
from .detector import DetectorTensors, ImageInput
from .onnx_file import DIALECTS, export_onnx
from .program import export_program

__all__ = [
    "DIALECTS",
    "Comparison",
    "DetectorTensors",
    "ImageInput",
    "export_onnx",
    "export_program",
    "format_comparisons",
]
