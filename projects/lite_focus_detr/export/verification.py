"""Comparison of an exported model, as ONNX Runtime runs it, with the detector it was made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import onnx_ir as ir
import onnxruntime
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .comparison import THRESHOLD, TOLERANCE, Comparison
from .detector import DetectorTensors, TensorDetector
from .runtime import start_session


class ReplayedChoices(TorchFunctionMode):
    """Every ``topk`` takes the indices that it is given: which of two equal scores is first is left
    to the runtime. ``deficit`` is by how much the scores at these indices miss the best ones."""

    def __init__(self, indices: Iterable[Tensor]) -> None:
        """
        Args:
            indices: of each call of ``topk``, in order.
        """
        super().__init__()
        self.indices = list(indices)
        self.deficit = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        best = func(*args, **(kwargs or {}))
        if func not in (torch.topk, Tensor.topk):
            return best
        if not self.indices or self.indices[0].shape != best.indices.shape:
            raise ValueError("the exported model does not choose as many tokens as the detector")
        indices = self.indices.pop(0)
        values = args[0].gather(-1, indices)
        missing = torch.where(values == best.values, 0.0, (best.values - values).abs())
        self.deficit = max(self.deficit, float(missing.max()))
        return torch.return_types.topk((values, indices))


def compare(
    model: ir.Model, detector: TensorDetector, batches: Iterable[Tensor]
) -> list[Comparison]:
    """Run the exported model and the detector.

    Args:
        model: with the outputs of :class:`DetectorTensors`; it is not changed.
        detector: what it was exported from, in evaluation mode, on the CPU.
        batches: images as both take them.

    Raises:
        ValueError: the exported model chooses other numbers of tokens.
    """
    session = start_session(ir.to_proto(_observe_choices(model)).SerializeToString())
    return [_compare_batch(session, detector, images) for images in batches]


def _observe_choices(model: ir.Model) -> ir.Model:
    """A copy whose further outputs are the indices of every TopK, in order."""
    observed = model.clone()
    for node in observed.graph:
        if node.op_type == "TopK":
            observed.graph.outputs.append(node.outputs[1])
    return observed


def _compare_batch(
    session: onnxruntime.InferenceSession, detector: TensorDetector, images: Tensor
) -> Comparison:
    results = session.run(None, {"images": images.numpy()})
    count = len(DetectorTensors._fields)
    found = DetectorTensors(*(torch.from_numpy(x) for x in results[:count]))
    chosen = [torch.from_numpy(x) for x in results[count:]]
    with torch.no_grad(), ReplayedChoices(chosen) as replay:
        expected = DetectorTensors(*detector(images))
    wanted = expected.scores > THRESHOLD
    reach = TOLERANCE * max(images.shape[1:])
    near = ((found.boxes - expected.boxes).abs() <= reach).all(-1)
    agreed = near & (found.labels == expected.labels)
    return Comparison(
        tuple(images.shape),
        _deviation(found.pred_logits, expected.pred_logits),
        _deviation(found.pred_boxes, expected.pred_boxes),
        replay.deficit,
        _deviation(found.scores, expected.scores),
        1.0 if not wanted.any() else float(agreed[wanted].float().mean()),
        int(wanted.sum()),
    )


def _deviation(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())
