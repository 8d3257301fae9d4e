"""What a detector does with one image: what it finds, keeps and samples, and how long it takes."""

from __future__ import annotations

from ..modeling import DetectionTransformer
from ..modeling.attention import KeyAwareAttention


def detector_name(model: DetectionTransformer) -> str:
    """Architecture of a detector and what its encoder does, such as ``FocusDETR, keep ratio 0.3``.

    The keep ratio is the mean over layers or blocks.
    """
    parts = [type(model).__name__]
    if any(isinstance(module, KeyAwareAttention) for module in model.encoder.modules()):
        parts.append("key-aware")
    ratios = model.encoder.keep_ratios
    if ratios:
        parts.append(f"keep ratio {sum(ratios) / len(ratios):.2g}")
    return ", ".join(parts)
