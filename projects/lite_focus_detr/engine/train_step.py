"""One optimiser step: gradient accumulation, mixed precision, clipping, several processes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from detectron2.config import CfgNode
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel

from ..modeling.criterion import average_num_boxes
from .nonfinite import NonFiniteError, broken_state, write_report
from .optimizer import FULL_MODEL
from .resume import load_optimizer_state, parameter_names

Batch = list[dict[str, Any]]

# The loss scale halves with each: one that starts at 65,536 is then below 1.
MAX_SKIPPED_STEPS = 20


class TrainStep(SimpleTrainer):
    """A ``SimpleTrainer`` whose step may take several batches and lower precision.

    The gradient of ``accumulation_steps`` batches on any number of processes is that of one large
    batch on one process: all of them share one normaliser of the losses.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        data_loader: Iterable[Batch],
        optimizer: torch.optim.Optimizer,
        accumulation_steps: int = 1,
        amp_dtype: torch.dtype | None = None,
        max_grad_norm: float | None = None,
        norm_type: float = 2.0,
        report_dir: str = "",
    ) -> None:
        """Set up the step.

        Args:
            model: called as ``model(batch, num_boxes=...)``, returns a dict of weighted losses.
            data_loader: yields detectron2 batches.
            optimizer: updates the parameters of ``model``.
            accumulation_steps: batches of one step.
            amp_dtype: type of the autocast region; ``torch.float16`` also scales the loss; None
                trains in full precision.
            max_grad_norm: bound of the norm of all gradients together; None does not clip.
            norm_type: order of that norm.
            report_dir: folder of the report that a step leaves which is not finite; empty writes
                none.

        Raises:
            ValueError: float16 is asked for on the CPU.
        """
        super().__init__(model, data_loader, optimizer)
        self.accumulation_steps = accumulation_steps
        self.amp_dtype = amp_dtype
        self.max_grad_norm = max_grad_norm
        self.norm_type = norm_type
        self.report_dir = report_dir
        #: Called in a step, between waiting for the batches and computing.
        self.when_data_is_here: Callable[[], object] = lambda: None
        self._skipped_steps = 0
        self.device = next(model.parameters()).device
        if amp_dtype is torch.float16 and self.device.type == "cpu":
            raise ValueError(
                "SOLVER.AMP.DTYPE float16 needs a GPU; on the CPU set SOLVER.AMP.DTYPE bfloat16"
            )
        self.grad_scaler = GradScaler(self.device.type, enabled=amp_dtype is torch.float16)

    def run_step(self) -> None:
        """Fetch the batches of a step, accumulate their gradients and update the weights.

        Raises:
            NonFiniteError: a loss or the gradient is not finite, or the loss scaler has skipped
                too many steps in a row; raised by every process, and the weights are those of the
                step before.
        """
        start = time.perf_counter()
        batches = [next(self._data_loader_iter) for _ in range(self.accumulation_steps)]
        data_time = time.perf_counter() - start
        self.when_data_is_here()

        self.optimizer.zero_grad()
        losses = self._accumulate_gradients(batches)
        self.after_backward()
        self._require_finite(losses, batches)
        self._write_metrics(losses, data_time)
        self._update(losses, batches)

    def _accumulate_gradients(self, batches: list[Batch]) -> dict[str, Tensor]:
        """Return the losses of the whole step, on the CPU."""
        counts = [len(image["instances"]) for batch in batches for image in batch]
        num_boxes = average_num_boxes(counts, self.device, steps=len(batches))
        shares = []
        for index, batch in enumerate(batches):
            last = index == len(batches) - 1
            # Gradients travel between the processes once, with the last batch.
            with nullcontext() if last else self._no_sync():
                with torch.autocast(
                    self.device.type, dtype=self.amp_dtype, enabled=self.amp_dtype is not None
                ):
                    losses = self.model(batch, num_boxes=num_boxes)
                share = torch.stack(list(losses.values())) / len(batches)
                torch.autograd.backward(self.grad_scaler.scale(share.sum()))
            shares.append(share.detach())
        # One transfer instead of one per loss.
        return dict(zip(losses, torch.stack(shares).sum(0).cpu(), strict=True))

    def _no_sync(self) -> AbstractContextManager[None]:
        if isinstance(self.model, DistributedDataParallel):
            context: AbstractContextManager[None] = self.model.no_sync()
            return context
        return nullcontext()

    def _require_finite(self, losses: dict[str, Tensor], batches: list[Batch]) -> None:
        finite = torch.stack(list(losses.values())).isfinite().all().float()
        if comm.get_world_size() > 1:
            finite = finite.to(self.device)
            dist.all_reduce(finite, op=dist.ReduceOp.MIN)
        if not finite.item():
            self._stop("a loss is not finite", losses, batches)

    def _update(self, losses: dict[str, Tensor], batches: list[Batch]) -> None:
        self.grad_scaler.unscale_(self.optimizer)
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients, self.norm_type)
        finite = bool(norm.isfinite())
        self._skipped_steps = 0 if finite else self._skipped_steps + 1
        # With loss scaling an overflow is expected now and then, and the scaler skips it.
        if not finite and not self.grad_scaler.is_enabled():
            self._stop("the gradient is not finite", losses, batches)
        if self._skipped_steps == MAX_SKIPPED_STEPS:
            reason = f"the loss scaler has skipped {MAX_SKIPPED_STEPS} steps in a row"
            self._stop(reason, losses, batches)
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def require_finite_state(self) -> None:
        """Check the weights and the state of the optimiser, to be called before they are saved.

        Raises:
            NonFiniteError: some are not finite, in any process; raised by every process.
        """
        broken = comm.all_gather(broken_state(self._unwrapped_model(), self.optimizer))
        found = sorted({name for names in broken for name in names})
        if found:
            ranks = ", ".join(str(rank) for rank, names in enumerate(broken) if names)
            place = f" of rank {ranks}" if len(broken) > 1 else ""
            text = f"{len(found)} tensors{place} are not finite ({', '.join(found[:5])})"
            self._stop(text, {}, [])

    def _stop(self, reason: str, losses: dict[str, Tensor], batches: list[Batch]) -> NoReturn:
        """End the training, in all processes at once."""
        here = {
            "rank": comm.get_rank(),
            "losses": {name: value.item() for name, value in losses.items()},
            "images": [image.get("file_name") for batch in batches for image in batch],
        }
        processes, model = comm.all_gather(here), self._unwrapped_model()
        report = ""
        if self.report_dir and comm.is_main_process():
            details = (processes, model, self.optimizer)
            report = write_report(self.report_dir, self.iter, reason, *details)
        finite = not broken_state(model, self.optimizer)
        # One message, whichever process shows it.
        (report, _), *_ = ends = comm.all_gather((report, finite))
        weights = "the weights are still finite: " if all(end[1] for end in ends) else ""
        raise NonFiniteError(
            f"{reason} at iteration {self.iter}: {processes}; {weights}look at these images, lower "
            "SOLVER.BASE_LR or train without SOLVER.AMP.ENABLED; earlier checkpoints are intact"
            + (f", {report} has the details" if report else "")
        )

    def _unwrapped_model(self) -> nn.Module:
        wrapped = isinstance(self.model, DistributedDataParallel)
        model: nn.Module = self.model.module if wrapped else self.model
        return model

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the optimiser and, with float16, of the loss scale."""
        state: dict[str, Any] = super().state_dict()
        state["parameters"] = self._parameter_names()
        if self.grad_scaler.is_enabled():
            state["grad_scaler"] = self.grad_scaler.state_dict()
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what ``state_dict`` returned; a missing loss scale starts anew.

        What the configuration sets, learning rates and the like, stays as it is configured.
        """
        names = self._parameter_names()
        saved = state_dict.get("parameters", names)
        load_optimizer_state(self.optimizer, state_dict["optimizer"], saved, names)
        self.iter = state_dict["iteration"]
        if self.grad_scaler.is_enabled() and "grad_scaler" in state_dict:
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])

    def _parameter_names(self) -> list[str]:
        return parameter_names(self.optimizer, self._unwrapped_model())


def build_train_step(
    cfg: CfgNode, model: nn.Module, data_loader: Iterable[Batch], optimizer: torch.optim.Optimizer
) -> TrainStep:
    """The step that a configuration asks for.

    Args:
        cfg: complete configuration.
        model: possibly wrapped for several processes.
        data_loader: endless.
        optimizer: of the parameters of ``model``.
    """
    solver = cfg.SOLVER
    clip = solver.CLIP_GRADIENTS
    full_model = clip.ENABLED and clip.CLIP_TYPE == FULL_MODEL
    return TrainStep(
        model=model,
        data_loader=data_loader,
        optimizer=optimizer,
        accumulation_steps=solver.ACCUMULATION_STEPS,
        amp_dtype=getattr(torch, solver.AMP.DTYPE) if solver.AMP.ENABLED else None,
        max_grad_norm=clip.CLIP_VALUE if full_model else None,
        norm_type=clip.NORM_TYPE,
        report_dir=cfg.OUTPUT_DIR,
    )
