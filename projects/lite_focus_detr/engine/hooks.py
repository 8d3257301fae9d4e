"""Training hooks that detectron2 does not have."""

from __future__ import annotations

from detectron2.engine import HookBase
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMAHook(HookBase):
    """Keeps an exponential moving average of a model's weights.

    After step t the average is ``decay * average + (1 - decay) * weights``; it starts from the
    weights before the first step. Buffers are copied.
    """

    def __init__(self, *, model: nn.Module, decay: float) -> None:
        """Make the average of a model.

        Args:
            model: the model that is trained, without a wrapper for several processes.
            decay: weight of the past, in [0, 1].
        """
        self.model = model
        update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(model, multi_avg_fn=update)
        self.average.requires_grad_(False)

    def before_train(self) -> None:
        """Start from the loaded weights, unless an average was resumed."""
        if self.average.n_averaged == 0:
            self.average.update_parameters(self.model)

    def after_step(self) -> None:
        """Move the average towards the weights of this step."""
        self.average.update_parameters(self.model)
