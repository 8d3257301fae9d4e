"""Trains a checkpoint that this project ships, and packs it with its card.

    python dev/train_small_checkpoint.py lite_focus_dino_cells --data cells
    python dev/train_small_checkpoint.py dino_shapes --seed 7

``--data`` is a folder as ``lite_focus_detr.data.folders`` reads it; without it the data are the
generated shapes. Stopped and started again it goes on. Weights are packed in half precision, and
what the card says has been measured with the packed ones.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model
from detectron2.structures import Instances, pairwise_iou
from torch import Tensor, nn

from lite_focus_detr import model_zoo
from lite_focus_detr.config.download import file_sha256
from lite_focus_detr.config.trained_weights import FOLDER
from lite_focus_detr.data import DetrDatasetMapper, register_datasets
from lite_focus_detr.data.folders import folder_options, read_data_folder
from lite_focus_detr.engine import DetrCheckpointer, DetrTrainer, prepare_run, user_errors
from lite_focus_detr.engine.checkpoint_io import write_checkpoint
from lite_focus_detr.engine.detector_record import RECORD, DetectorRecord, classes_of

logger = logging.getLogger("lite_focus_detr")

ROOT = Path(__file__).resolve().parents[1]
#: The part of the blood cells that lies in the repository; tests evaluate on it.
SAMPLE = ROOT / "examples" / "blood_cells"
#: As many of the generated images are evaluated on by tests.
SAMPLE_SHAPES = 20
COMPARED_IMAGES = 40
START, END = "<!-- numbers -->\n", "<!-- end of numbers -->\n"
#: Detections of this overlap and class are the same.
SAME_BOX = 0.95


class Rounding(NamedTuple):
    """What half precision changes in the detections of some images."""

    detections: int  #: of the threshold or more, before
    lost: int  #: of these, that have no counterpart
    score: float  #: largest change of the score of the others


def configure(args: argparse.Namespace) -> CfgNode:
    """The configuration of the training."""
    output = args.output or f"output/{args.name}"
    options = ["OUTPUT_DIR", output, "SEED", args.seed, "DATALOADER.NUM_WORKERS", 0]
    if args.data is not None:
        options += data_options(args.data, output)
    return model_zoo.get_config(args.name, [str(x) for x in [*options, *args.opts]])


def data_options(folder: str | Path, cache: str) -> list[str]:
    """Keys and values for the data sets of a folder."""
    return folder_options(read_data_folder(folder, cache), folder)


def train(cfg: CfgNode) -> tuple[CfgNode, nn.Module]:
    """Train, or go on; return the configuration with its iterations and the final model."""
    prepare_run(cfg, default_argument_parser().parse_args(["--resume"]))
    trainer = DetrTrainer(cfg)
    trainer.resume_or_load(resume=True)
    trainer.train()
    model = build_model(cfg).eval()
    final = Path(cfg.OUTPUT_DIR) / "model_final.pth"
    DetrCheckpointer(model, cfg=cfg, for_inference=True).load(str(final))
    return trainer.cfg, model


def halve(model: nn.Module) -> dict[str, Tensor]:
    """The weights with parameters in half precision; the buffers, which are small, stay."""
    parameters = {name for name, _ in model.named_parameters()}
    state = model.state_dict()
    return {name: x.half() if name in parameters else x for name, x in state.items()}


def compare(cfg: CfgNode, before: nn.Module, after: nn.Module, threshold: float) -> Rounding:
    """Detections in the first test images with two models."""
    mapper = DetrDatasetMapper(cfg, is_train=False)
    changes = []
    for record in DatasetCatalog.get(cfg.DATASETS.TEST[0])[:COMPARED_IMAGES]:
        inputs = [mapper(record)]
        with torch.inference_mode():
            first, second = (model(inputs)[0]["instances"] for model in (before, after))
        changes += score_changes(first[first.scores >= threshold], second).tolist()
    kept = [change for change in changes if change < torch.inf]
    return Rounding(len(changes), len(changes) - len(kept), max(kept, default=0.0))


def score_changes(first: Instances, second: Instances) -> Tensor:
    """How much the score of each detection changes; infinity if its counterpart is missing."""
    changes = (first.scores[:, None] - second.scores[None]).abs()
    changes[pairwise_iou(first.pred_boxes, second.pred_boxes) < SAME_BOX] = torch.inf
    changes[first.pred_classes[:, None] != second.pred_classes[None]] = torch.inf
    return changes.min(1).values


def pack(cfg: CfgNode, model: nn.Module, path: Path) -> dict[str, Any]:
    """Write the checkpoint with its record and return what its card says."""
    packed, weights = build_model(cfg).eval(), halve(model)
    packed.load_state_dict(weights)
    metrics = DetrTrainer.test(cfg, packed)
    iterations, classes = int(cfg.SOLVER.MAX_ITER), classes_of(cfg, split="TEST")
    record = DetectorRecord(portable(cfg), classes=classes, iteration=lambda: iterations)
    record.note_evaluation(metrics)
    write_checkpoint(str(path), {"model": weights, RECORD: record.state_dict()})
    return {
        **metrics["bbox"],
        "before": DetrTrainer.test(cfg, model)["bbox"]["AP"],
        "rounding": compare(cfg, model, packed, metrics["bbox"]["threshold"]),
        "sample": DetrTrainer.test(sample_config(cfg), packed)["bbox"]["AP"],
    }


def portable(cfg: CfgNode) -> CfgNode:
    """The configuration without what is true only where the training ran."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DEVICE, cfg.OUTPUT_DIR = "cuda", "./output"
    if cfg.DATASETS.COCO:
        cfg.DATASETS.COCO, cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = [], (), ()
    return cfg


def sample_config(cfg: CfgNode) -> CfgNode:
    """The configuration of the evaluation that tests repeat."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = f"{cfg.OUTPUT_DIR}/sample"
    if cfg.DATASETS.COCO:
        cfg.merge_from_list(data_options(SAMPLE, cfg.OUTPUT_DIR))
    cfg.DATASETS.SHAPES.NUM_VAL = SAMPLE_SHAPES
    register_datasets(cfg)
    return cfg


def write_card(path: Path, cfg: CfgNode, facts: Mapping[str, Any]) -> None:
    """Write the numbers into the card beside a checkpoint; all else in it is kept."""
    rounding = facts["rounding"]
    per_class = [f"{k.removeprefix('AP-')} {v:.1f}" for k, v in facts.items() if "AP-" in k]
    rows = {
        "file": f"`{path.name}`, {path.stat().st_size:,} bytes",
        "SHA-256": f"`{file_sha256(str(path))}`",
        "training": f"{cfg.SOLVER.MAX_ITER} iterations of {cfg.SOLVER.IMS_PER_BATCH} images, "
        f"seed {cfg.SEED}",
        "AP, AP50, AP75": ", ".join(f"{facts[key]:.1f}" for key in ("AP", "AP50", "AP75")),
        "AP by class": ", ".join(per_class),
        "best threshold": f"{facts['threshold']:.2f}, F1 {facts['F1']:.1f}",
        "AP on the sample": f"{facts['sample']:.2f}",
        "AP before rounding to half precision": f"{facts['before']:.1f}",
        "detections that rounding changes": f"{rounding.lost} of {rounding.detections} in "
        f"{COMPARED_IMAGES} images; scores by at most {rounding.score:.3f}",
    }
    table = "".join(f"| {name} | {value} |\n" for name, value in rows.items())
    card = path.with_suffix(".md")
    text = card.read_text() if card.is_file() else f"# {path.stem}\n\n{START}{END}"
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    card.write_text(f"{before}{START}\n| | |\n| --- | --- |\n{table}\n{END}{after}")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="of a configuration")
    parser.add_argument("--data", metavar="FOLDER", help="the data set")
    parser.add_argument("--output", metavar="FOLDER", help="of the training; output/NAME")
    parser.add_argument("--checkpoints", type=Path, default=FOLDER)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args(arguments)


def main() -> None:
    """Train and pack."""
    args = parse()
    with user_errors():
        cfg = configure(args)
        cfg, model = train(cfg)
    args.checkpoints.mkdir(exist_ok=True)
    path = args.checkpoints / f"{args.name}.pth"
    facts = pack(cfg, model, path)
    write_card(path, cfg, facts)
    logger.info("%s: %s", path, facts)


if __name__ == "__main__":
    main()
