"""``python dev/recipe_tables.py`` writes the settings of the recipes into docs/recipes.md."""

from __future__ import annotations

import sys
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path

from detectron2.config import CfgNode

from lite_focus_detr import model_zoo

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "recipes.md"
START, END = "<!-- tables -->\n", "<!-- end of tables -->\n"
FOLDERS = ("deformable_detr", "lite_detr", "focus_detr", "sparse_detr", "lite_focus_detr")

#: Recipes, and the leaves that have them.
RECIPES = {
    "Deformable DETR": (
        "deformable_detr_*",
        "lite_deformable_detr_*",
        "focus_deformable_detr_*",
        "lite_focus_deformable_detr_*",
    ),
    "Sparse DETR": ("sparse_deformable_detr_*",),
    "DINO": ("dino_r50_36ep", "dino_r101_36ep"),
    "Lite-DINO": ("lite_dino_*", "lite_focus_dino_*"),
    "DN-Deformable-DETR, detrex": ("dn_*", "focus_dn_*", "sparse_dn_*"),
    "DINO, detrex": ("dino_r50_12ep", "dino_r50_24ep", "dino_swin_tiny_36ep"),
    "Focus-DETR": ("focus_dino_*", "sparse_dino_*"),
}

#: What stands in a cell of the first table whose leaves differ.
BY_LEAF = "*by leaf*"


def _length(cfg: CfgNode) -> str:
    epochs = cfg.SOLVER.EPOCHS
    return f"{epochs} epochs" if epochs else f"{cfg.SOLVER.MAX_ITER:,} iterations"


def _drops(cfg: CfgNode) -> str:
    steps = cfg.SOLVER.STEP_EPOCHS if cfg.SOLVER.EPOCHS else cfg.SOLVER.STEPS
    return " and ".join(f"{step:,}" for step in steps)


def _frozen(cfg: CfgNode) -> str:
    if _is_swin(cfg):
        return {-1: "nothing"}[cfg.MODEL.SWIN.FREEZE_AT]
    return {1: "stem", 2: "stem, first stage"}[cfg.MODEL.BACKBONE.FREEZE_AT]


def _is_swin(cfg: CfgNode) -> bool:
    return bool(cfg.MODEL.BACKBONE.NAME == "build_swin_backbone")


def _denoising(cfg: CfgNode) -> str:
    kind = cfg.MODEL.DETR.DENOISING
    if kind.TYPE == "none":
        return "none"
    unit = "boxes" if kind.TYPE == "contrastive" else "groups"
    return f"{kind.TYPE}, {kind.NUM} {unit}, at most {kind.MAX_QUERIES} queries"


def _noise(cfg: CfgNode) -> str:
    kind = cfg.MODEL.DETR.DENOISING
    return "none" if kind.TYPE == "none" else f"{kind.LABEL_NOISE:g}, {kind.BOX_NOISE:g}"


def _crop(cfg: CfgNode) -> str:
    return f"{list(cfg.INPUT.CROP.SIZE)} in half of the images" if cfg.INPUT.CROP.ENABLED else "no"


def _of_parts(cfg: CfgNode, key: str) -> str:
    """A key of encoder and decoder, once if they agree."""
    values = [cfg.MODEL.DETR.ENCODER[key], cfg.MODEL.DETR.DECODER[key]]
    return ", ".join(f"{value:g}" for value in dict.fromkeys(values))


def _row(cfg: CfgNode, *keys: str) -> str:
    return ", ".join(f"{cfg[key]:g}" for key in keys)


#: Rows of the first table.
SETTINGS: dict[str, Callable[[CfgNode], str]] = {
    "length": _length,
    "rate drops to a tenth after": _drops,
    "warm-up, iterations": lambda cfg: f"{cfg.SOLVER.WARMUP_ITERS:,}",
    "batch": lambda cfg: str(cfg.SOLVER.IMS_PER_BATCH),
    "learning rate": lambda cfg: f"{cfg.SOLVER.BASE_LR:g}",
    "… of backbone, of sampling layers, relative": lambda cfg: _row(
        cfg.SOLVER, "BACKBONE_MULTIPLIER", "SAMPLING_MULTIPLIER"
    ),
    "weight decay, of norms": lambda cfg: _row(cfg.SOLVER, "WEIGHT_DECAY", "WEIGHT_DECAY_NORM"),
    "largest gradient norm": lambda cfg: f"{cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE:g}",
    "EMA decay, if `MODEL.EMA.ENABLED`": lambda cfg: f"{cfg.MODEL.EMA.DECAY:g}",
    "initial weights": lambda cfg: f"`{Path(cfg.MODEL.WEIGHTS).stem}`",
    "frozen": _frozen,
    "drop path": lambda cfg: f"{cfg.MODEL.SWIN.DROP_PATH_RATE:g}" if _is_swin(cfg) else "none",
    "queries": lambda cfg: str(cfg.MODEL.DETR.NUM_QUERIES),
    "layers of encoder and decoder": lambda cfg: _of_parts(cfg, "NUM_LAYERS"),
    "feed-forward channels": lambda cfg: _of_parts(cfg, "FFN_DIM"),
    "dropout": lambda cfg: _of_parts(cfg, "DROPOUT"),
    "position: temperature, offset": lambda cfg: _row(
        cfg.MODEL.DETR.POSITION, "TEMPERATURE", "OFFSET"
    ),
    "eps of the inverse sigmoid": lambda cfg: f"{cfg.MODEL.DETR.INVERSE_SIGMOID_EPS:g}",
    "denoising": _denoising,
    "label noise, box noise": _noise,
    "loss weights: class, L1, GIoU": lambda cfg: _row(
        cfg.MODEL.DETR.LOSS, "CLASS_WEIGHT", "BOX_WEIGHT", "GIOU_WEIGHT"
    ),
    "matching costs: class, L1, GIoU": lambda cfg: _row(
        cfg.MODEL.DETR.MATCHER, "CLASS_COST", "BOX_COST", "GIOU_COST"
    ),
    "eps of the GIoU loss": lambda cfg: f"{cfg.MODEL.DETR.LOSS.GIOU_EPS:g}",
    "images without boxes": lambda cfg: (
        "left out" if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS else "stay"
    ),
    "grouped by aspect ratio": lambda cfg: "yes" if cfg.DATALOADER.ASPECT_RATIO_GROUPING else "no",
    "short sides, longest side": lambda cfg: (
        f"{min(cfg.INPUT.MIN_SIZE_TRAIN)} … {max(cfg.INPUT.MIN_SIZE_TRAIN)}, "
        f"{cfg.INPUT.MAX_SIZE_TRAIN}"
    ),
    "random crop": _crop,
    "rounding of resized sides": lambda cfg: cfg.INPUT.RESIZE_ROUNDING,
    "detections": lambda cfg: str(cfg.TEST.DETECTIONS_PER_IMAGE),
}


def leaves() -> dict[str, list[str]]:
    """Leaves of each recipe, without the ablations, which have the recipe of their base.

    Raises:
        ValueError: a leaf belongs to no recipe, or to several.
    """
    found: dict[str, list[str]] = {recipe: [] for recipe in RECIPES}
    for folder in FOLDERS:
        for path in sorted((ROOT / "configs" / folder).glob("*.yaml")):
            recipes = [
                recipe
                for recipe, patterns in RECIPES.items()
                if any(fnmatch(path.stem, pattern) for pattern in patterns)
            ]
            if len(recipes) != 1:
                raise ValueError(f"{path.name} must match one entry of RECIPES, not {recipes}")
            found[recipes[0]].append(path.stem)
    return found


def tables() -> str:
    """The settings of each recipe, and those in which its leaves differ, as two tables."""
    cfgs = {
        recipe: {name: model_zoo.get_config(name) for name in names}
        for recipe, names in leaves().items()
    }
    options = {
        title: [{read(cfg) for cfg in recipe.values()} for recipe in cfgs.values()]
        for title, read in SETTINGS.items()
    }
    varying = [title for title, sets in options.items() if max(map(len, sets)) > 1]
    first = [["", *RECIPES], *([title, *map(_cell, sets)] for title, sets in options.items())]
    second = [["leaves", *varying]]
    for recipe in cfgs.values():
        second += _rows(recipe, varying)
    return _markdown(first) + "\n" + _markdown(second)


def _cell(values: set[str]) -> str:
    return min(values) if len(values) == 1 else BY_LEAF


def _rows(cfgs: dict[str, CfgNode], titles: list[str]) -> list[list[str]]:
    """Leaves of one recipe and these settings; leaves with the same ones share a row."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for name, cfg in cfgs.items():
        rows.setdefault(tuple(SETTINGS[title](cfg) for title in titles), []).append(f"`{name}`")
    return [[", ".join(names), *values] for values, names in rows.items()]


def _markdown(rows: list[list[str]]) -> str:
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def update(document: str) -> str:
    """The document with the tables of the configurations between its two marks."""
    before, rest = document.split(START)
    return before + START + "\n" + tables() + "\n" + END + rest.split(END)[1]


if __name__ == "__main__":
    DOCUMENT.write_text(update(DOCUMENT.read_text()))
    sys.stdout.write(f"{DOCUMENT.relative_to(ROOT)} is up to date\n")
