"""Trains the tiny detector on the same images with any number of processes.

    python distributed_worker.py --num-gpus PROCESSES --dist-url auto OUTPUT

``OUTPUT`` becomes a file of the weights at the start and after three steps, for each of ``CASES``.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import torch
from detectron2.engine import default_argument_parser
from detectron2.engine.defaults import create_ddp_model
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from lite_focus_detr.config import load_config
from lite_focus_detr.engine import TrainStep, run

TINY = str(Path(__file__).with_name("tiny.yaml"))
REFINE = ["MODEL.DETR.BOX_REFINE", "True"]
TWO_STAGE = [*REFINE, "MODEL.DETR.QUERY_SELECTION", "two_stage"]
# Options, boxes of the four images of a step, batches that a process accumulates.
CASES = {
    "boxes everywhere": (REFINE, (2, 1, 3, 1), 1),
    "no box on the second process": (REFINE, (2, 1, 0, 0), 1),
    "one box in all": (REFINE, (0, 0, 1, 0), 1),
    "no box at all": (REFINE, (0, 0, 0, 0), 1),
    "two-stage": (TWO_STAGE, (2, 1, 0, 0), 1),
    "accumulated": (REFINE, (2, 1, 0, 3), 2),
}
# Its noise differs between processes, so that it can only be seen to run.
DENOISING = [*REFINE, "MODEL.DETR.QUERY_SELECTION", "mixed"]
DENOISING += ["MODEL.DETR.DENOISING.TYPE", "contrastive", "MODEL.DETR.DECODER.FINAL_NORM", "True"]
STEPS = 3


def make_image(seed: int, num_boxes: int) -> dict:
    generator = torch.Generator().manual_seed(seed)
    corner = 32 * torch.rand(num_boxes, 2, generator=generator)
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.cat((corner, corner + 20), dim=1))
    instances.gt_classes = torch.randint(3, (num_boxes,), generator=generator)
    return {
        "image": torch.randint(0, 256, (3, 64, 64), generator=generator),
        "instances": instances,
    }


def batches(step: int, num_boxes: tuple[int, ...], accumulation: int) -> list[list[dict]]:
    """The images of this process: its share of each batch that the step accumulates."""
    images = [make_image(10 * step + index, count) for index, count in enumerate(num_boxes)]
    share = len(images) // accumulation // comm.get_world_size()
    first = share * comm.get_rank()
    per_batch = len(images) // accumulation
    starts = range(first, len(images), per_batch)
    return [images[start : start + share] for start in starts]


def train(options: list[str], num_boxes: tuple[int, ...], accumulation: int) -> torch.Tensor:
    torch.manual_seed(0)
    model = build_model(load_config(TINY, options)).double()
    start = torch.nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    data = [batch for step in range(STEPS) for batch in batches(step, num_boxes, accumulation)]
    trainer = TrainStep(
        model=create_ddp_model(model, broadcast_buffers=False, device_ids=None),
        data_loader=data,
        optimizer=optimizer,
        accumulation_steps=accumulation,
        max_grad_norm=0.1,
    )
    with EventStorage():
        for trainer.iter in range(STEPS):
            trainer.run_step()
    return torch.stack((start, torch.nn.utils.parameters_to_vector(model.parameters()).detach()))


def stop_together(output: str) -> None:
    """A loss that is not finite on one process only; each leaves what it raised."""

    class Broken(torch.nn.Linear):
        def forward(self, batch, num_boxes):
            scale = float("nan") if comm.get_rank() else 1.0
            return {"loss": scale * self.weight.sum()}

    model = create_ddp_model(Broken(1, 1, bias=False), device_ids=None)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    data = [[{"instances": [], "file_name": f"rank{comm.get_rank()}.jpg"}]]
    try:
        TrainStep(model=model, data_loader=data, optimizer=optimizer).run_step()
    except FloatingPointError as error:
        Path(f"{output}.error{comm.get_rank()}").write_text(str(error))


def main(args: argparse.Namespace) -> None:
    (output,) = args.opts
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    weights = {name: train(*case) for name, case in CASES.items()}
    weights["denoising"] = train(DENOISING, (2, 1, 0, 0), 1)
    if comm.is_main_process():
        torch.save(weights, output)
    if comm.get_world_size() > 1:
        stop_together(output)


if __name__ == "__main__":
    run(main, default_argument_parser().parse_args())
