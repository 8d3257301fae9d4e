"""From a trained dense detector to one with a sparse encoder, in minutes.

    lite-focus-detr sparsify --weights dense.pth [--config-file NAME_OR_PATH] \
        --encoder focus|sparse|lite|lite_focus --output FOLDER [--keep-ratio 0.3] \
        [--iterations 600] [--fine-tune 0] [--without-labels] [--opts KEY VALUE ...]

The detector of the configuration, with any host and weights of this project or published ones, gets
the encoder. Everything stays as it was trained but what the encoder adds: the scores that select
tokens, for focus and sparse the shortcuts of the other tokens, for lite and lite_focus the small
feed-forward part of the low levels. The shortcuts are fitted to the dense encoder in closed form,
the rest is trained on ``DATASETS.TRAIN``, and with --fine-tune the whole detector afterwards;
--without-labels takes the detections of the dense detector there for the ground truth. AP on
``DATASETS.TEST`` before and after, and that of other keep ratios, goes to sparsify.md in the
folder; the weights to model_final.pth in its folders ``added`` and ``fine_tuned``. A fine-tuning
after which the AP is lower is not taken: sparsify.md and the last line name the weights to use.
"""

from __future__ import annotations

import argparse
import logging
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase, default_argument_parser
from detectron2.utils.logger import setup_logger
from torch import nn

from .. import model_zoo
from ..config import validate_config
from ..data import DetrDatasetMapper
from ..engine import RUN_ERRORS, BudgetHook, DetrTrainer, prepare_run, user_errors
from ..engine.resume import changed_options
from ..modeling import DetectionTransformer
from ..modeling.encoder.selective import SelectiveEncoder
from ..modeling.encoder.shortcuts import LinearShortcuts, fitting
from ..modeling.encoder.sparse import SparseEncoder
from .command_line import add_config_arguments, config_of, options_with_weights
from .detected_labels import detect_labels
from .pareto import measure_budgets, table

# Under ``python -m`` the name of this module is not its own.
logger = logging.getLogger("lite_focus_detr.tools.sparsify")

ARCHITECTURES = {
    "focus": "FocusDETR",
    "sparse": "SparseDETR",
    "lite": "LiteDETR",
    "lite_focus": "LiteFocusDETR",
}
WITH_SHORTCUTS = ("focus", "sparse")
KEEP_RATIOS = (0.1, 0.2, 0.3, 0.5, 1.0)
#: Of detections in place of labels.
LEAST_SCORE = 0.3
#: Modules that an encoder adds to the dense one.
ADDED = ("scorer", "linear12", "linear22", "norm22", "aux_heads")
#: Training images that shortcuts are fitted to.
FITTED_IMAGES = 100
#: Learning rates relative to BASE_LR, the best on blood cells: of the scores that shortcuts go
#: with, of 1 to 10 along a cosine, and of the fine-tuning, of 0.1 to 1.
SCORES_RATE, FINE_TUNING_RATE = 5.0, 0.3


class KeepEvaluation(HookBase):
    """Keeps modules in evaluation mode, whose statistics and dropout are those of the weights."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """
        Args:
            modules: that are not trained.
        """
        self.modules = modules

    def before_step(self) -> None:
        """Undo what an evaluation or the start of the training has set."""
        for module in self.modules:
            module.eval()


class AddedPartsTrainer(DetrTrainer):
    """Makes a dense detector sparse: trains what the encoder adds, every other tensor stays."""

    def __init__(self, cfg: CfgNode, dense: DetectionTransformer) -> None:
        """
        Args:
            cfg: of the sparse detector.
            dense: from which it starts.
        """
        self.dense = dense
        super().__init__(cfg)

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """Build the detector with everything else frozen."""
        model: DetectionTransformer = super().build_model(cfg)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(is_added(name, model))
        return model

    def build_hooks(self) -> list[HookBase]:
        """Return the hooks of a training, and one for what is frozen."""
        model = self.checkpointer.model
        frozen = [
            module
            for module in model.modules()
            if not any(p.requires_grad for p in module.parameters())
        ]
        hooks = [KeepEvaluation(frozen), *super().build_hooks()]
        if isinstance(model.encoder, SparseEncoder):
            # With all tokens it is the dense detector, whose decoder the scores learn from.
            hooks.insert(0, BudgetHook(model=model, smallest=1.0, largest=1.0))
        return hooks

    def resume_or_load(self, resume: bool = True) -> None:
        """Go on with the last checkpoint, or start from the dense detector.

        Raises:
            ValueError: the checkpoint began with another dense detector.
        """
        model, dense = self.checkpointer.model, self.dense.state_dict()
        if resume and self.checkpointer.has_checkpoint():
            super().resume_or_load(resume=True)
            trained = model.state_dict()
            if any(not torch.equal(tensor, trained[name]) for name, tensor in dense.items()):
                raise ValueError(
                    f"{self.cfg.OUTPUT_DIR} has the training of another dense detector; choose "
                    "another folder"
                )
        else:
            model.load_state_dict(dense, strict=False)

    def evaluate(self) -> dict[str, Any]:
        """Fit the shortcuts, if there are any, to the tokens that will take them, and evaluate."""
        encoder = self.checkpointer.model.encoder
        if isinstance(encoder, SelectiveEncoder) and encoder.shortcuts is not None:
            self.fit_shortcuts(encoder, encoder.shortcuts)
        return super().evaluate()

    def train(self) -> Any:
        """Train, and save what the evaluation at the end has fitted."""
        results = super().train()
        self.save("model_final")
        return results

    def fit_shortcuts(self, encoder: SelectiveEncoder, shortcuts: LinearShortcuts) -> None:
        """Fit to what the dense detector does to ``FITTED_IMAGES`` of the training, as large as
        those of an evaluation."""
        dense, head = self.dense.eval(), self.checkpointer.model.proposal_head
        names, mapper = self.cfg.DATASETS.TRAIN, DetrDatasetMapper(self.cfg, is_train=False)
        records = [record for name in names for record in DatasetCatalog.get(name)]
        if self.cfg.INPUT.SKIP_UNREADABLE:
            mapper.skip_unreadable(len(records))
        sample = random.Random(0).sample(records, min(FITTED_IMAGES, len(records)))
        layers = dense.encoder.layers
        assert isinstance(layers, nn.ModuleList)
        skipped = partial(encoder.skipped_tokens, proposal_head=head)
        with fitting(list(layers), shortcuts, skipped), torch.inference_mode():
            for inputs in filter(None, map(mapper, sample)):
                dense([inputs])
        logger.info("The shortcuts are fitted to images of the training")


def is_added(name: str, model: DetectionTransformer) -> bool:
    """Whether a parameter is none of the dense detector's.

    A dense detector without proposals has no projection of tokens for the scores.
    """
    projects = not hasattr(model.proposal_head, "bbox_embed") and "proposal_head.enc_" in name
    return projects or any(part in name.split(".") for part in ADDED)


def sparse_config(cfg: CfgNode, encoder: str, keep_ratio: float) -> CfgNode:
    """The configuration of a dense detector with another encoder.

    Args:
        cfg: of the dense detector.
        encoder: one of ``ARCHITECTURES``.
        keep_ratio: mean share of the tokens that are updated; ``lite`` has none.

    Raises:
        ValueError: the detector is not dense, or its encoder cannot be replaced so.
    """
    if cfg.MODEL.META_ARCHITECTURE != "DeformableDETR":
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}; only the dense encoder of "
            "DeformableDETR can be made sparse"
        )
    if not 0 < keep_ratio <= 1:
        raise ValueError(f"--keep-ratio is {keep_ratio}; it must lie in (0, 1]")
    cfg = cfg.clone()
    cfg.defrost()
    model, layers = cfg.MODEL, cfg.MODEL.DETR.ENCODER.NUM_LAYERS
    model.META_ARCHITECTURE = ARCHITECTURES[encoder]
    model.LITE.NUM_BLOCKS = max(1, layers // 2) if layers % 2 == 0 else layers
    model.LITE.NUM_HIGH_LEVELS = min(2, model.DETR.NUM_LEVELS)
    model.LITE_FOCUS.KEEP_RATIOS = [float(keep_ratio)] * model.LITE.NUM_BLOCKS
    model.FOCUS.KEEP_RATIOS = [float(keep_ratio)] * layers
    # The layers were trained to attend to what they have updated, and without dual attention.
    model.FOCUS.VALUE = "updated"
    model.FOCUS.OBJECT_TOKENS = model.LITE_FOCUS.OBJECT_TOKENS = 0
    model.SPARSE.KEEP_RATIO = float(keep_ratio)
    model.SPARSE.OBJECT_TOKENS, model.SPARSE.AUX_HEADS = 0, False
    model.SPARSE.TARGET, model.SPARSE.SCORER_KERNEL_SIZE = "attention", 3
    model.FOCUS.SHORTCUTS = model.SPARSE.SHORTCUTS = encoder in WITH_SHORTCUTS
    validate_config(cfg)
    return cfg


def stage_config(cfg: CfgNode, folder: Path, iterations: int, rate: float) -> CfgNode:
    """The configuration of one of the trainings: of ``iterations``, at ``rate`` times BASE_LR."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.OUTPUT_DIR = str(folder)
    cfg.SOLVER.EPOCHS, cfg.SOLVER.MAX_ITER = 0, iterations
    cfg.SOLVER.STEPS = (iterations * 5 // 6,) if iterations > 1 else ()
    cfg.SOLVER.BASE_LR = cfg.SOLVER.BASE_LR * rate
    cfg.MODEL.EMA.ENABLED = False
    return cfg


def added_config(cfg: CfgNode, encoder: str, folder: Path, iterations: int) -> CfgNode:
    """The configuration of the training of what ``encoder`` adds, from that of the sparse detector,
    for :class:`AddedPartsTrainer`."""
    has_shortcuts = encoder in WITH_SHORTCUTS
    cfg = stage_config(cfg, folder, iterations, SCORES_RATE if has_shortcuts else 1.0)
    cfg.SOLVER.KEEP_RATIO_RANGE = []
    if has_shortcuts:
        cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupCosineLR"
        # They are fitted at the end; before, an AP says nothing.
        cfg.TEST.EVAL_PERIOD = cfg.SOLVER.PATIENCE = 0
    return cfg


def check_iterations(added: int, fine_tune: int) -> None:
    """Raise a ValueError if there are too few iterations of either training."""
    for name, number, least in (("iterations", added, 1), ("fine-tune", fine_tune, 0)):
        if number < least:
            raise ValueError(f"--{name} is {number}; it must be at least {least}")


def require_same(cfg: CfgNode) -> None:
    """Raise a ValueError if the folder of a training has one of other settings."""
    path = Path(cfg.OUTPUT_DIR) / "config.yaml"
    if not path.is_file():
        return
    sections, elsewhere = ("MODEL", "SOLVER", "INPUT", "DATASETS"), ("WEIGHTS", "DEVICE")
    for key, (before, now) in changed_options(path.read_text(), cfg).items():
        section, _, name = key.partition(".")
        if section in sections and name not in elsewhere:
            raise ValueError(
                f"{cfg.OUTPUT_DIR} has a training with {key} {before}, now it is {now}; choose "
                "another --output, or remove that folder"
            )


def load_dense(cfg: CfgNode) -> DetectionTransformer:
    """Load the dense detector.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError("--weights is missing: the file of a trained dense detector")
    dense = DetrTrainer.load_model(cfg)
    assert isinstance(dense, DetectionTransformer)
    return dense


def evaluate_dense(cfg: CfgNode, dense: DetectionTransformer) -> float:
    """The AP that the sparse detector is compared with.

    Raises:
        ValueError: there is none.
    """
    ap = float(DetrTrainer.test(cfg, dense)["bbox"]["AP"])
    if math.isnan(ap):
        raise ValueError(
            f"the dense detector has no AP on {cfg.DATASETS.TEST[0]}, where it finds nothing or "
            "nothing is to be found"
        )
    return ap


def require_no_other_start(output: Path) -> None:
    """Raise a ValueError if there is a fine-tuning of which the start is gone."""
    start, fine_tuned = output / "added/model_final.pth", output / "fine_tuned"
    if (fine_tuned / "last_checkpoint").is_file() and not start.is_file():
        raise ValueError(
            f"{fine_tuned} has a training that began with another {start}; choose another "
            "--output, or remove that folder"
        )


def train(
    cfg: CfgNode, trainer: Callable[[CfgNode], DetrTrainer]
) -> tuple[DetectionTransformer, float]:
    """Train, or go on with, one of the two trainings.

    Returns:
        the detector and its AP.
    """
    with user_errors():
        require_same(cfg)
        prepare_run(cfg, default_argument_parser().parse_args([]))
        training = trainer(cfg)
        training.resume_or_load(resume=training.checkpointer.has_checkpoint())
    with user_errors(*RUN_ERRORS):
        training.train()
    ap, _ = training.storage.latest()["bbox/AP"]
    return training.checkpointer.model, float(ap)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command. Exits with one line on stderr if something of the user's is wrong."""
    args = _parser().parse_args(arguments)
    setup_logger(name="lite_focus_detr")
    output = Path(args.output)
    with user_errors():
        check_iterations(args.iterations, args.fine_tune)
        dense_cfg = model_zoo.get_config(config_of(args), options_with_weights(args))
        if len(dense_cfg.DATASETS.TEST) != 1:
            raise ValueError("DATASETS.TEST must name one data set, to compare the AP on")
        cfg = sparse_config(dense_cfg, args.encoder, args.keep_ratio)
        cfg.OUTPUT_DIR = str(output)
        dense_cfg.OUTPUT_DIR = str(output / "dense")
        prepare_run(dense_cfg, default_argument_parser().parse_args([]))
        if args.fine_tune:
            require_no_other_start(output)
        dense = load_dense(dense_cfg)
    with user_errors(ValueError, *RUN_ERRORS):
        ap = evaluate_dense(dense_cfg, dense)
    rows = [f"dense: {ap:.1f} AP"]
    if args.without_labels:
        with user_errors():
            cfg = detect_labels(cfg, dense, output, LEAST_SCORE)
    added_cfg = added_config(cfg, args.encoder, output / "added", args.iterations)
    model, ap = train(added_cfg, partial(AddedPartsTrainer, dense=dense))
    weights = output / "added/model_final.pth"
    rows.append(f"{args.encoder}, {args.iterations} iterations of what it adds: {ap:.1f} AP")
    if args.fine_tune:
        fine_cfg = stage_config(cfg, output / "fine_tuned", args.fine_tune, FINE_TUNING_RATE)
        fine_cfg.MODEL.WEIGHTS = str(weights)
        fine_tuned, fine_ap = train(fine_cfg, DetrTrainer)
        rows.append(f"{args.encoder}, {args.fine_tune} iterations of everything: {fine_ap:.1f} AP")
        # On little data it may cost more than it brings.
        if fine_ap >= ap:
            model, weights = fine_tuned, output / "fine_tuned/model_final.pth"
    rows.append(f"weights to use: {weights.relative_to(output)}")
    report = "\n".join(f"- {row}" for row in rows) + "\n"
    if model.encoder.keep_ratios:
        with user_errors(*RUN_ERRORS):
            report += f"\n{table(measure_budgets(cfg, model, KEEP_RATIOS))}\n"
    (output / "sparsify.md").write_text(report)
    print(f"\n{report}\nThe weights are {weights}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr sparsify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--encoder", choices=sorted(ARCHITECTURES), required=True)
    parser.add_argument("--output", required=True, help="folder of weights and report")
    parser.add_argument("--keep-ratio", type=float, default=0.3, help="default %(default)s")
    parser.add_argument(
        "--iterations", type=int, default=600, help="of what the encoder adds; default %(default)s"
    )
    parser.add_argument(
        "--fine-tune", type=int, default=0, help="iterations of everything; default none"
    )
    parser.add_argument(
        "--without-labels", action="store_true", help="learn from what the dense detector finds"
    )
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    main()
