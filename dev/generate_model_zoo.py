"""``python dev/generate_model_zoo.py`` measures every configuration and writes MODEL_ZOO.md.

It takes about a quarter of an hour on two CPU cores; ``--only NAME`` prints single rows.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from detectron2.config import CfgNode

from lite_focus_detr import model_zoo
from lite_focus_detr.tools.analyze_model import analyze

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
DOCUMENT = ROOT / "MODEL_ZOO.md"
START, END = "<!-- tables -->\n", "<!-- end of tables -->\n"
#: Height and width of the image that GFLOPs are counted for.
IMAGE_SIZE = (800, 1333)
FOLDERS = {
    "deformable_detr": "Dense encoder: Deformable DETR, DN-Deformable-DETR, DINO",
    "lite_detr": "Lite DETR",
    "focus_detr": "Focus-DETR",
    "focus_detr/ablation": "Focus-DETR, ablations of the paper",
    "sparse_detr": "Sparse DETR",
    "lite_focus_detr": "Lite DETR with selected low-level tokens, of this project",
    "quick_schedules": "Small models for generated shapes and small data sets",
}
ENCODERS = {
    "DeformableDETR": "dense",
    "LiteDETR": "Lite",
    "FocusDETR": "Focus",
    "SparseDETR": "Sparse",
    "LiteFocusDETR": "Lite + Focus",
}
#: Iterations of a nominal epoch in the recipes that count iterations.
EPOCH = 7500
HEADER = (
    "| configuration | backbone | encoder | epochs | GFLOPs | parameters | loads | its AP |\n"
    "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
)


class Published(NamedTuple):
    """What the first comment of a configuration says of a published file; empty where none."""

    file: str
    ap: str


def published(comment: str) -> Published:
    """Read the sentence ``Loads FILE (… AP)`` of a comment; ``its`` is who the file is by."""
    found = re.search(r"\bLoads (.+?)(?: \(([^)]*)\))?(?:[.;](?= |$)| and )", comment)
    if found is None:
        return Published("", "")
    author = re.search(r"^Follows .+? of (\S+?)[.:;,]?(?: |$)", comment)
    file = re.sub("^its ", f"{author[1]}'s " if author else "", found[1])
    if author and author[1] not in file:
        file = f"{author[1]}'s {file}"
    ap = re.search(r"([\d.]+) AP", found[2] or "")
    return Published(re.sub(r"(\S+\.pth)", r"`\1`", file), ap[1] if ap else "")


def first_comment(path: Path) -> str:
    """The comment on top of a file, as one line."""
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines)


def leaves(folder: str) -> list[str]:
    """Names of the configurations in a folder."""
    return [f"{folder}/{path.stem}" for path in sorted((CONFIGS / folder).glob("*.yaml"))]


def row(leaf: str) -> str:
    """Row of a configuration."""
    cfg = model_zoo.get_config(leaf)
    flops, parameters = _costs(*_architecture(leaf, cfg))
    file, ap = published(first_comment(CONFIGS / f"{leaf}.yaml"))
    cells = (
        f"[`{leaf.rpartition('/')[2]}`](configs/{leaf}.yaml)",
        _backbone(cfg),
        ENCODERS.get(cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.META_ARCHITECTURE),
        f"{cfg.SOLVER.EPOCHS or cfg.SOLVER.MAX_ITER / EPOCH:.0f}",
        f"{flops / 1e9:.1f}",
        f"{parameters / 1e6:.1f} M",
        file,
        ap,
    )
    return f"| {' | '.join(cells)} |\n"


def _backbone(cfg: CfgNode) -> str:
    name = cfg.MODEL.BACKBONE.NAME
    if name == "build_resnet_backbone":
        return f"R{cfg.MODEL.RESNETS.DEPTH}"
    if name == "build_timm_backbone":
        return f"`{cfg.MODEL.TIMM.NAME}`"
    return {96: "Swin-T", 128: "Swin-B", 192: "Swin-L"}[cfg.MODEL.SWIN.EMBED_DIM]


def _architecture(leaf: str, cfg: CfgNode) -> tuple[str, str]:
    """A configuration and what its costs depend on: many differ only in their training."""
    model = cfg.MODEL.clone()
    model.WEIGHTS = ""
    detr = model.DETR
    for part in (model.EMA, detr.LOSS, detr.MATCHER, detr.DENOISING, detr.POSITION, model.BACKBONE):
        for key in [k for k in part if k not in ("NAME", "TYPE")]:
            del part[key]
    return model.dump(), leaf


_MEASURED: dict[str, tuple[float, float]] = {}


def _costs(architecture: str, leaf: str) -> tuple[float, float]:
    """Multiply-adds and parameters."""
    if architecture not in _MEASURED:
        measured = analyze(leaf, [], *IMAGE_SIZE, with_activations=False)
        _MEASURED[architecture] = measured.flops["total"], measured.parameters["total"]
    return _MEASURED[architecture]


def tables() -> str:
    """All tables."""
    return "\n".join(
        f"## {title}\n\n`configs/{folder}/`\n\n{HEADER}{''.join(map(row, leaves(folder)))}"
        for folder, title in FOLDERS.items()
    )


def main() -> None:
    """Write the document, or print single rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="such as lite_detr/…")
    args = parser.parse_args()
    if args.only:
        print("".join(map(row, args.only)))  # noqa: T201
        return
    before, _, rest = DOCUMENT.read_text().partition(START)
    _, _, after = rest.partition(END)
    DOCUMENT.write_text(f"{before}{START}\n{tables()}\n{END}{after}")


if __name__ == "__main__":
    main()
