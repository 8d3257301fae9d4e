"""Detectors as programs of torch.export."""

from __future__ import annotations

import torch
from torch.export import Dim, ExportedProgram

from ..modeling.meta_arch import DetectionTransformer
from .detector import ImageInput, TensorDetector


def export_program(
    model: DetectionTransformer, image_input: ImageInput | None = None
) -> ExportedProgram:
    """Trace the inference of a detector; batch, height and width of the images stay dynamic.

    The program is a function of the images; its results are the fields of
    :class:`DetectorTensors`. Where the
    native operators are available it calls them as ``torch.ops.lite_focus_detr``, so that it needs
    their library, ``lite_focus_detr/ops/_cpu.so``, but nothing else of this package.

    Args:
        model: the detector; it is not changed.
        image_input: how the program takes images, which the caller resizes; by default float32
            (B, 3, H, W).

    Returns:
        the program, for images with sides of at least two cells of the coarsest level.

    Raises:
        ValueError: the backbone is a Swin Transformer, whose windows are not traced for all sizes,
            or ``image_input`` says that the program resizes.
    """
    image_input = image_input or ImageInput()
    if image_input.resize is not None:
        raise ValueError("programs of torch.export do not resize images, ONNX files do")
    _require_traceable(model)
    detector = TensorDetector(model, image_input)
    smallest = detector.smallest_side
    # All sizes differ, so that none is taken for another. All maps have odd sides: compilers take
    # the rounding of pooled sizes from the example, and that of even sides is wrong for odd ones.
    sides = (smallest * 2 + 1, smallest * 3 + 1)
    images = torch.zeros(2, 3, *sides, device=model.device)
    height, width = (Dim(name, min=smallest) for name in ("height", "width"))
    dynamic = {2: height, 3: width} if image_input.layout == "chw" else {1: height, 2: width}
    training, fast_path = model.training, torch.backends.mha.get_fastpath_enabled()
    try:
        detector.eval()
        # The fused operator of nn.MultiheadAttention, which neither ONNX nor inductor know.
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad():
            program = torch.export.export(
                detector,
                (detector.encode(images),),
                dynamic_shapes=({0: Dim("batch"), **dynamic},),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        model.train(training)
    _remove_assumptions(program)
    return program


def _require_traceable(model: DetectionTransformer) -> None:
    names = sorted({type(module).__name__ for module in model.backbone.modules()})
    windowed = [name for name in names if "swin" in name.lower()]
    if windowed:
        raise ValueError(
            f"the backbone has a {windowed[0]}, which cannot be exported: the padding of its "
            "windows depends on the size of the image; take a detector with another backbone"
        )


def _remove_assumptions(program: ExportedProgram) -> None:
    """Remove what the trace asserts of the example's size, such as odd sides of pooled maps: no
    operation depends on it, and other sizes are as right; see the sides of the example."""
    for node in program.graph.nodes:
        if node.target is torch.ops.aten._assert_scalar.default:
            program.graph.erase_node(node)
    program.graph.eliminate_dead_code()
    program.graph_module.recompile()
