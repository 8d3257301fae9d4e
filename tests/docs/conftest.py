"""A folder with everything that the commands of the documents name, on which they run."""

import contextlib
import gzip
import json
import os
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.modeling import build_model
from PIL import Image

from lite_focus_detr import __main__ as program
from lite_focus_detr import model_zoo
from lite_focus_detr.data.shapes import ShapesSpec, draw_dataset
from lite_focus_detr.data.video import VideoWriter
from lite_focus_detr.tools import train

ROOT = Path(__file__).resolve().parents[2]

#: Changes of a configuration that make images, trainings and generated data sets small.
SMALL = {
    "DATALOADER.NUM_WORKERS": 0,
    "DATASETS.SHAPES.NUM_TRAIN": 4,
    "DATASETS.SHAPES.NUM_VAL": 2,
    "DATASETS.SHAPES.IMAGE_SIZE": 64,
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MAX_SIZE_TRAIN": 96,
    "INPUT.MIN_SIZE_TEST": 64,
    "INPUT.MAX_SIZE_TEST": 96,
    "MODEL.DEVICE": "cpu",
    "SOLVER.IMS_PER_BATCH": 2,
    "SOLVER.MAX_ITER": 2,
    "SOLVER.STEPS": "()",
}
#: Changes that make a detector with ResNet-50 narrow; it keeps its layers.
NARROW = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 8,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 16,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NORM_GROUPS": 8,
    "MODEL.DETR.NUM_QUERIES": 20,
    "MODEL.DETR.ENCODER.FFN_DIM": 32,
    "MODEL.DETR.DECODER.FFN_DIM": 32,
}
#: Changes with which transformers still knows the detector.
NARROW_TRANSFORMER = {
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.DETR.EMBED_DIM": 32,
    "MODEL.DETR.NUM_QUERIES": 20,
    "MODEL.DETR.ENCODER.FFN_DIM": 32,
    "MODEL.DETR.DECODER.FFN_DIM": 32,
}

#: Published files, and the names and shapes of their tensors.
PUBLISHED = {
    "checkpoint0033_4scale.pth": "dino_4scale_ideaofficial",
    "r50_s3ex3_50.4.pth": "lite_dino_h3l1_2p1x3",
}


def options(*changes):
    """``KEY VALUE ...`` of changes of a configuration."""
    return [str(word) for group in changes for item in group.items() for word in item]


@pytest.fixture(scope="session")
def small():
    """Changes for all commands, with ResNet-50, and for what goes to and from transformers."""
    groups = {"all": SMALL, "r50": NARROW, "transformers": NARROW_TRANSFORMER}
    return {name: options(changes) for name, changes in groups.items()}


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
    """A folder with data, images and trained weights."""
    folder = tmp_path_factory.mktemp("prepared")
    for name in ("configs", "examples"):
        (folder / name).symlink_to(ROOT / name)
    for name in ("photo.jpg", "photos/first.jpg", "photos/second.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.effect_noise((160, 120), 60).convert("RGB").save(folder / name)
    with VideoWriter(str(folder / "clip.mp4"), Fraction(5)) as video:
        for _ in range(2):
            video.write(np.zeros((48, 64, 3), np.uint8))
    write_coco(folder / "datasets/coco")
    write_cells(folder / "cells")
    with contextlib.chdir(folder):
        train_detectors()
    return folder


def train_detectors():
    """Small ones of three kinds, for two iterations."""
    decoder = ["MODEL.DETR.DECODER.NUM_LAYERS", "1"]
    for name in ("dense", "lite", "focus"):
        config = "dino_shapes" if name == "dense" else f"{name}_dino_shapes"
        arguments = ["--config-file", config, "--output", f"runs/{name}"]
        train.main([*arguments, "--opts", *options(SMALL), *decoder])
        shutil.copy(f"runs/{name}/model_final.pth", f"{name}.pth")
    for place in ("output", "output/demo"):
        Path(place).mkdir(exist_ok=True)
        shutil.copy("dense.pth", f"{place}/model_final.pth")


@pytest.fixture
def workplace(prepared, tmp_path, document):
    """A copy of the folder for one document, with what else it names; its commands write there."""
    folder = shutil.copytree(prepared, tmp_path / "workplace", symlinks=True)
    text = document.read_text()
    with contextlib.chdir(folder):
        if "convert model_final.pth" in text:
            write_hugging_face()
        elif '"model_final.pth"' in text:
            shutil.copy("dense.pth", "model_final.pth")
        if "dino_r50.pth" in text:
            save_random("deformable_detr/dino_r50_12ep", NARROW, "dino_r50.pth")
        for file, manifest in PUBLISHED.items():
            if file in text:
                write_published(manifest, file)
    yield folder
    shutil.rmtree(folder)


def write_published(manifest, file):
    """A file with the tensors of a published one, all zero, in half precision to be small."""
    path = ROOT / f"tests/golden/manifests/{manifest}.json.gz"
    content = json.loads(gzip.decompress(path.read_bytes()))
    tensors = {
        key: torch.zeros(shape, dtype=torch.half) for key, shape in content["tensors"].items()
    }
    tensors |= {key: tensors[same] for key, same in content["aliases"].items()}
    torch.save({"model": tensors}, file)


def save_random(config, changes, file):
    """Weights at random of a configuration, without a record of it."""
    torch.manual_seed(0)
    changes = {**changes, "MODEL.DEVICE": "cpu", "MODEL.WEIGHTS": ""}
    model = build_model(model_zoo.get_config(config, options(changes)))
    torch.save({"model": model.state_dict()}, file)


def write_hugging_face():
    """A detector of detectron2, and the same as transformers saves it."""
    save_random("deformable_detr/deformable_detr_r50_50ep", NARROW_TRANSFORMER, "model_final.pth")
    config = ["--config-file", "deformable_detr_r50_50ep", "--opts", *options(NARROW_TRANSFORMER)]
    program.main(["convert", "model_final.pth", "hf", "--to", "hf", *config])
    os.replace("hf/model.safetensors", "model.safetensors")


def write_coco(folder):
    """Two images with the categories of COCO."""
    categories = [x for x in COCO_CATEGORIES if x["isthing"]]
    boxes = [[8, 8, 30, 20], [30, 20, 24, 40]]
    for split in ("train2017", "val2017"):
        content = {"images": [], "annotations": [], "categories": categories}
        (folder / split).mkdir(parents=True)
        for number, box in enumerate(boxes, 1):
            image = Image.effect_noise((80, 64), 60).convert("RGB")
            image.save(folder / split / f"{number}.jpg")
            size = {"width": 80, "height": 64}
            content["images"].append({"id": number, "file_name": f"{number}.jpg", **size})
            category = categories[number * 7]["id"]
            annotation = {"id": number, "image_id": number, "category_id": category, "iscrowd": 0}
            content["annotations"].append({**annotation, "bbox": box, "area": box[2] * box[3]})
        (folder / "annotations").mkdir(exist_ok=True)
        path = folder / "annotations" / f"instances_{split}.json"
        path.write_text(json.dumps(content))


def write_cells(folder):
    """A data set of three classes in COCO format."""
    for split in ("train", "val"):
        spec = ShapesSpec(split, 4, 64, 0)
        draw_dataset(str(folder / "drawn"), spec)
        shutil.copytree(spec.image_root(str(folder / "drawn")), folder / split)
        (folder / "annotations").mkdir(exist_ok=True)
        shutil.copy(spec.json_file(str(folder / "drawn")), folder / "annotations" / f"{split}.json")
    shutil.rmtree(folder / "drawn")
