"""Image files with something wrong, through ``train_net.py``."""

import re
import signal

import numpy as np
import pytest
from PIL import Image

from lite_focus_detr.data import dataset_mapper


def images(expected):
    return pytest.mark.fault(area="images", expected=expected)


def cut(path, part):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])


def as_jpeg(path):
    """The picture as a JPEG file; its name stays."""
    Image.open(path).save(path, format="JPEG")


def replace(path, content):
    path.write_bytes(content)


def make_folder(path):
    path.unlink()
    path.mkdir()


def make_link(path, target):
    path.unlink()
    path.symlink_to(target)


def save_values(path, values):
    Image.fromarray(values).save(path, format="TIFF")


def turn(path):
    """As a camera stores an upright picture: lying, with a tag."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (64, 48)).save(path, format="JPEG", exif=exif)


#: Seen in the header: before the model is built.
BAD_HEADERS = {
    "an empty file": (lambda path: replace(path, b""), "cannot read image .*: cannot identify"),
    "text": (lambda path: replace(path, b"hello"), "cannot read image .*: cannot identify"),
    "HTML of a failed download": (
        lambda path: replace(path, b"<html>404</html>"),
        "cannot read image .*: cannot identify",
    ),
    "a file of zeros": (lambda path: replace(path, bytes(5000)), "cannot read image .* identify"),
    "a header without an image": (lambda path: cut(path, 0.001), "cannot read image .*"),
    "a missing file": (lambda path: path.unlink(), "does not exist"),
    "a folder": (make_folder, "does not exist"),
    "a broken link": (lambda path: make_link(path, "gone.png"), "does not exist"),
    "a link to itself": (lambda path: make_link(path, path.name), "does not exist"),
    "a picture of another size": (
        lambda path: Image.new("RGB", (32, 32)).save(path),
        "is 32 x 32 pixels, but its data set says 64 x 64; correct the size",
    ),
    "a picture of 20,000 x 20,000 pixels": (
        lambda path: Image.new("1", (20_000, 20_000)).save(path),
        "cannot read image .*decompression bomb",
    ),
}


@images("refused")
@pytest.mark.parametrize("use", ["train", "test"])
@pytest.mark.parametrize("fault", BAD_HEADERS)
def test_what_the_header_shows_is_refused_before_the_model_is_built(
    train, coco, tmp_path, fault, use
):
    damage, pattern = BAD_HEADERS[fault]
    damage(coco.image_root / "3.png")
    coco.save()
    sets = {"train": "shapes_train", "test": "shapes_val", use: "mine"}
    finished = train(*coco.options(**sets))
    line = finished.refusal()
    assert re.search(
        f"1 of the 4 images of data set mine .*images/3.png.*{pattern}|{pattern}", line
    )
    assert "3.png" in line
    assert "Model:" not in finished.output
    assert not list((tmp_path / "out").glob("*.pth"))


@images("refused")
@pytest.mark.parametrize("faults", [5, 7])
def test_of_many_faults_the_first_five_are_shown_with_the_number_of_all(train, coco, faults):
    coco.images = [
        {**coco.images[n % 4], "id": n, "file_name": f"{n % 4 + 1}.png"} for n in range(1, 11)
    ]
    for image in coco.images[:faults]:
        image["width"] = 65
    line = train(*coco.save()).refusal()
    assert f"{faults} of the 10 images of data set mine cannot be used" in line
    assert line.count("is 64 x 64 pixels, but its data set says 65 x 64") == 5
    assert line.endswith("and 2 more") == (faults == 7)


@images("refused")
def test_a_picture_that_its_exif_tag_turns_is_explained(train, coco):
    turn(coco.image_root / "2.png")
    coco.images[1].update(width=64, height=48)
    line = train(*coco.save()).refusal()
    assert "2.png is 48 x 64 pixels, but its data set says 64 x 48: its EXIF tag turns it" in line


@images("refused")
def test_swapped_width_and_height_are_explained(train, coco):
    Image.new("RGB", (64, 48)).save(coco.image_root / "2.png")
    coco.images[1].update(width=48, height=64)
    line = train(*coco.save()).refusal()
    assert (
        "2.png is 64 x 48 pixels, but its data set says 48 x 64: width and height are swap" in line
    )


@images("survived")
def test_a_picture_that_its_exif_tag_turns_trains_upright(train, coco):
    turn(coco.image_root / "2.png")
    coco.images[1].update(width=48, height=64)
    train(*coco.save()).succeeded()


#: Only seen when the pixels are read.
BAD_PIXELS = {
    "a truncated PNG": lambda path: cut(path, 0.6),
    "a truncated JPEG": lambda path: (as_jpeg(path), cut(path, 0.6)),
    "a PNG with a flipped bit": lambda path: path.write_bytes(
        (content := bytearray(path.read_bytes()))[:3000]
        + bytes([content[3000] ^ 1])
        + content[3001:]
    ),
    "integers of 32 bits": lambda path: save_values(
        path, np.linspace(0, 2**31 - 1, 4096).astype(np.int32).reshape(64, 64)
    ),
    "integers of 32 bits that hold 16": lambda path: save_values(
        path, np.arange(4096, dtype=np.int32).reshape(64, 64)
    ),
    "floats from 0 to 255": lambda path: save_values(
        path, np.linspace(0, 255, 4096, dtype=np.float32).reshape(64, 64)
    ),
    "floats with a NaN": lambda path: save_values(path, np.full((64, 64), np.nan, np.float32)),
}
LONG = ("SOLVER.MAX_ITER", "6", "SOLVER.CHECKPOINT_PERIOD", "1")


@images("stopped")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("fault", BAD_PIXELS)
def test_pixels_that_cannot_be_read_stop_the_training_with_the_path_and_the_image_id(
    train, coco, tmp_path, fault, workers
):
    BAD_PIXELS[fault](coco.image_root / "3.png")
    finished = train(*coco.save(), *LONG, "DATALOADER.NUM_WORKERS", workers)
    line = finished.refusal()
    assert re.match(rf"error: cannot read image {coco.image_root}/3.png: .* \(image id 3\)$", line)
    saved = list((tmp_path / "out").glob("model_*.pth"))
    assert bool(saved) == (tmp_path / "out/last_checkpoint").exists()


@images("stopped")
@pytest.mark.parametrize("workers", [0, 1])
def test_a_test_image_that_cannot_be_read_stops_the_evaluation_after_the_weights_are_saved(
    train, coco, tmp_path, workers
):
    cut(coco.image_root / "3.png", 0.6)
    coco.save()
    sets = coco.options(train="shapes_train")
    line = train(*sets, "DATALOADER.NUM_WORKERS", workers).refusal()
    assert re.match(rf"error: cannot read image {coco.image_root}/3.png: .* \(image id 3\)$", line)
    assert (tmp_path / "out/model_final.pth").exists()


SKIP = ("INPUT.SKIP_UNREADABLE", "True")
SKIPPED = {
    "a truncated PNG": BAD_PIXELS["a truncated PNG"],
    "integers of 32 bits": BAD_PIXELS["integers of 32 bits"],
    **{name: BAD_HEADERS[name][0] for name in ("an empty file", "text", "a missing file")},
    "a picture of another size": BAD_HEADERS["a picture of another size"][0],
}


@images("repaired")
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("fault", SKIPPED)
def test_an_unreadable_image_is_replaced_and_counted_when_that_is_asked_for(
    train, coco, tmp_path, fault, workers
):
    SKIPPED[fault](coco.image_root / "3.png")
    coco.save()
    options = (*coco.options(test="shapes_val"), *SKIP, *LONG)
    finished = train(*options, "DATALOADER.NUM_WORKERS", workers).succeeded()
    said = r"/3.png.*INPUT.SKIP_UNREADABLE: another image takes its place \(1 skipped\)"
    assert 1 <= len(re.findall(said, finished.output)) <= max(1, workers)
    assert (tmp_path / "out/model_final.pth").exists()


@images("refused")
def test_more_than_one_in_a_hundred_missing_files_are_refused_also_then(train, coco):
    for number in (2, 3):
        (coco.image_root / f"{number}.png").unlink()
    coco.save()
    line = train(*coco.options(test="shapes_val"), *SKIP).refusal()
    assert "2 of the 4 images of data set mine cannot be used" in line


@images("stopped")
def test_more_than_one_in_a_hundred_unreadable_images_stop_the_training_also_then(train, coco):
    for number in (2, 3):
        cut(coco.image_root / f"{number}.png", 0.6)
    coco.save()
    line = train(*coco.options(test="shapes_val"), *SKIP, *LONG).refusal()
    assert re.search(r"cannot read image .*; it is number 2, and .* accepts 1 of DATASETS.TR", line)


@images("refused")
def test_a_missing_test_image_is_never_skipped(train, coco):
    (coco.image_root / "3.png").unlink()
    coco.save()
    line = train(*coco.options(train="shapes_train"), *SKIP).refusal()
    assert "3.png does not exist" in line


DEATHS = {
    "killed, as when the memory is full": signal.SIGKILL,
    "by a segmentation fault": signal.SIGSEGV,
    "terminated": signal.SIGTERM,
}


@images("stopped")
@pytest.mark.parametrize("fault", DEATHS)
def test_a_worker_that_dies_names_the_image_that_it_was_reading(train, coco, monkeypatch, fault):
    read_image = dataset_mapper.read_image

    def deadly_read(path, image_format):
        if path.endswith("3.png"):
            signal.raise_signal(DEATHS[fault])
        return read_image(path, image_format)

    monkeypatch.setattr(dataset_mapper, "read_image", deadly_read)
    line = train(*coco.save(), *LONG, "DATALOADER.NUM_WORKERS", 1).refusal()
    assert f"a process that loads data died while it read {coco.image_root}/3.png (proc" in line
    assert "lower DATALOADER.NUM_WORKERS" in line


KINDS = {
    "gray": ("L", "PNG"),
    "gray with transparency": ("LA", "PNG"),
    "palette": ("P", "GIF"),
    "transparency": ("RGBA", "PNG"),
    "CMYK": ("CMYK", "JPEG"),
    "black and white": ("1", "PNG"),
    "YCbCr": ("YCbCr", "JPEG"),
    "Lab": ("LAB", "TIFF"),
    "WebP": ("RGB", "WEBP"),
    "bitmap": ("RGB", "BMP"),
}


@images("survived")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_picture_trains(train, coco, kind):
    mode, file_format = KINDS[kind]
    for number in range(1, 5):
        path = coco.image_root / f"{number}.png"
        picture = Image.open(path).convert("RGB")
        if mode == "LAB":
            picture = Image.merge("LAB", picture.split())
        picture.convert(mode).save(path, format=file_format) if mode != "LAB" else picture.save(
            path, format=file_format
        )
    train(*coco.save()).succeeded()


@images("survived")
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 400), (400, 1), (40, 2000), (31, 33)], ids=lambda size: f"{size}"
)
def test_pictures_of_extreme_sizes_train(train, coco, size):
    for image in coco.images:
        Image.new("RGB", size, "red").save(coco.image_root / image["file_name"])
        image.update(width=size[0], height=size[1])
    for annotation in coco.annotations:
        annotation["bbox"] = [0, 0, *size]
    train(*coco.save(), "INPUT.MAX_SIZE_TRAIN", 400, "INPUT.MAX_SIZE_TEST", 400).succeeded()
