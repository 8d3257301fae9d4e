"""Detects objects in images and videos of one's own; writes pictures and ``predictions.json``.

    lite-focus-detr demo --weights PATH --input IMAGE_FOLDER_VIDEO_ADDRESS_OR_WEBCAM ... \
        --output FOLDER [--confidence-threshold 0.3] [--top 20] [--save json csv coco] \
        [--config-file NAME_OR_PATH] [--latency 300ms] [--optimize [bfloat16]] \
        [--opts KEY VALUE ...]

Drawn and saved is what has at least the score that was best on the evaluation set, which weights
of this project hold, or else the 20 best of each image. Videos and webcams (``--input 0``, until
Ctrl-C) become videos. ``--latency`` is for encoders that select tokens: their budget is the largest
with which detection in the first image takes at most so long on this machine.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from ..analysis.inspection import detector_name
from ..analysis.latency import fit_budget
from ..data import UnreadableImage, read_image
from ..data.video import VideoReader, VideoWriter, import_av
from ..engine import user_errors
from ..predictor import Predictor
from ..visualization.detections import describe_detections, draw_predictions, keep_best
from ..visualization.style import Caption
from .command_line import (
    add_config_arguments,
    add_optimize_argument,
    inference_config,
    output_errors,
)
from .demo_inputs import Source, find_sources, local_file
from .detection_files import FILES, DetectionFiles
from .output_folder import OutputFolder, unique_names

#: Of an image, where the weights know no threshold.
BEST = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code, 1 if an image or a video could not be read."""
    args = _parser().parse_args(arguments)
    with user_errors():
        cfg = inference_config(args)
        sources = find_sources(args.input)
        if any(source.is_video for source in sources):
            import_av()
        suffixes = [".mp4" if source.is_video else ".png" for source in sources]
        names = unique_names((source.stem for source in sources), suffixes)
        folder = OutputFolder(args.output)
        folder.require_free([*names, *(FILES[kind] for kind in args.save)])
        predictor = Predictor(cfg)
        if args.latency is not None:
            keep_within(predictor, sources[0], args.latency)
        selection = Selection.of(args.confidence_threshold, args.top, predictor.threshold)
    print(predictor.description)
    with output_errors("--output"):
        folder.path.mkdir(parents=True, exist_ok=True)
        detection = Demo(predictor, folder, selection)
        unreadable = detection.run(sources, names)
        detection.finish(args.save)
    return int(unreadable > 0)


@dataclass(frozen=True)
class Selection:
    """Which detections count.

    Args:
        threshold: least score, in [0, 1].
        top: at most so many of an image, the best; None: all.
    """

    threshold: float = 0.0
    top: int | None = None

    @classmethod
    def of(cls, threshold: float | None, top: int | None, known: float | None) -> Selection:
        """What the command line says, or else the threshold that is known, or else the best.

        Raises:
            ValueError: the threshold is none.
        """
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"--confidence-threshold {threshold:g} is not in [0, 1]")
        if top is not None and top < 1:
            raise ValueError(f"--top {top}: give at least 1")
        if threshold is None and top is None:
            return cls(top=BEST) if known is None else cls(known)
        return cls(threshold or 0.0, top)

    def choose(self, instances: Instances) -> Instances:
        """The detections that count, the best first."""
        return keep_best(instances, self.threshold, self.top)

    def describe(self, instances: Instances) -> str:
        """How many of all detections count, and what the best has where none does."""
        if self.top is None:
            return describe_detections(instances, self.threshold)
        scores = self.choose(instances).scores
        if not len(scores):
            return describe_detections(instances, self.threshold)
        return f"the best {len(scores)}, {scores.max():.0%} to {scores.min():.0%}"


@dataclass
class Demo:
    """Detects in images and videos, and counts.

    Args:
        predictor: the detector.
        folder: for the pictures; exists.
        selection: which detections are drawn and saved.
    """

    predictor: Predictor
    folder: OutputFolder
    selection: Selection
    images: int = 0
    objects: int = 0
    seconds: float = 0.0  #: of detection alone
    start: float = field(default_factory=time.perf_counter)

    def __post_init__(self) -> None:
        self.files = DetectionFiles(
            self.predictor.class_names, self.predictor.description.category_ids
        )

    def run(self, sources: Sequence[Source], names: Sequence[str]) -> int:
        """Write a picture or a video for each source; a name that cannot be read is told.

        Args:
            sources: what to detect in.
            names: of the files to write.

        Returns:
            the number of sources that could not be read.
        """
        unreadable = 0
        for source, name in zip(sources, names, strict=True):
            try:
                (self._video if source.is_video else self._image)(source, name)
            except UnreadableImage as error:
                print(error, file=sys.stderr)
                unreadable += 1
            except KeyboardInterrupt:
                print("stopped", file=sys.stderr)
                self.folder.note([name])
                break
            self.folder.note([name])
        return unreadable

    def finish(self, kinds: Sequence[str]) -> None:
        """Write what was found, and say how long it took."""
        saved = self.files.write(self.folder.path, kinds)
        self.folder.note(saved)
        if self.images:
            total = self.images / (time.perf_counter() - self.start)
            print(
                f"{_count(self.images, 'image')}, {_count(self.objects, 'object')}, {total:.3g} "
                f"images per second; detection alone {self.images / self.seconds:.3g}"
            )
        print(f"{', '.join(['pictures', *saved])} in {self.folder.path}")

    def _image(self, source: Source, name: str) -> None:
        with local_file(source) as path:
            image = read_image(path, "RGB")
            instances = self._detect(path)
        chosen = self._count_and_save(instances, source.place)
        found = self.selection.describe(instances)
        details = f"{detector_name(self.predictor.model)} · {Path(source.place).name} · {found}"
        caption = Caption("detections", details)
        picture = draw_predictions(image, chosen, self.predictor.metadata, caption)
        path_of_picture = self.folder.path / name
        Image.fromarray(picture).save(path_of_picture)
        print(f"{path_of_picture}: {found}")

    def _video(self, source: Source, name: str) -> None:
        path, frames, found, start = self.folder.path / name, 0, 0, time.perf_counter()
        with VideoReader(source.place) as video, VideoWriter(str(path), video.rate) as writer:
            try:
                for frame in tqdm(video, name, video.count or None, disable=None, leave=False):
                    instances = self._detect(frame.image)
                    place = {"frame": frame.number, "seconds": round(frame.seconds, 3)}
                    chosen = self._count_and_save(instances, source.place, **place)
                    image = frame.image[..., ::-1].copy()
                    writer.write(draw_predictions(image, chosen, self.predictor.metadata))
                    frames, found = frames + 1, found + len(chosen)
            finally:
                rate = frames / (time.perf_counter() - start)
                counts = f"{_count(frames, 'frame')}, {_count(found, 'object')}"
                print(f"{path}: {counts}, {rate:.3g} frames per second")

    def _detect(self, image: Any) -> Instances:
        start = time.perf_counter()
        instances = self.predictor(image)
        self.seconds += time.perf_counter() - start
        return instances

    def _count_and_save(self, instances: Instances, place: str, **frame: float) -> Instances:
        chosen = self.selection.choose(instances)
        self.files.add(chosen, place, **frame)
        self.images += 1
        self.objects += len(chosen)
        return chosen


def keep_within(predictor: Predictor, source: Source, limit: float) -> None:
    """Choose the budget with which detection in an image takes at most ``limit`` seconds.

    Raises:
        ValueError: the encoder updates all tokens, or the image cannot be read.
    """
    try:
        with _first_image(source) as image:
            measured = fit_budget(predictor.model, lambda: predictor(image), limit)
    except RuntimeError as error:
        raise ValueError(f"--latency: {error}") from error
    for keep_ratio, seconds in measured.items():
        print(f"Keep ratio {keep_ratio:g} takes {1e3 * seconds:.0f} ms")
    keep_ratio, seconds = list(measured.items())[-1]
    if seconds > limit:
        print(
            f"No keep ratio takes at most {1e3 * limit:.0f} ms: going on with the smallest, "
            f"{keep_ratio:g}"
        )


@contextmanager
def _first_image(source: Source) -> Iterator[Any]:
    if not source.is_video:
        with local_file(source) as path:
            yield path
        return
    with VideoReader(source.place) as video:
        frame = next(iter(video), None)
        if frame is None:
            raise ValueError(f"--latency: {source.place} has no frame")
        yield frame.image


def parse_latency(text: str) -> float:
    """Seconds of ``300ms`` or ``0.3s``.

    Raises:
        argparse.ArgumentTypeError: it is neither.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)(ms|s)", text.strip())
    if match is None or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time such as 300ms or 0.3s")
    return float(match[1]) / (1e3 if match[2] == "ms" else 1)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'s' * (number != 1)}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lite-focus-detr demo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--input",
        nargs="+",
        required=True,
        metavar="INPUT",
        help="images, folders of images, addresses of images, videos, or the number of a webcam",
    )
    parser.add_argument("--output", required=True, help="folder for pictures and predictions")
    parser.add_argument(
        "--confidence-threshold",
        type=float,
        metavar="SCORE",
        help=f"by default that of the weights, or else --top {BEST}",
    )
    parser.add_argument("--top", type=int, metavar="COUNT", help="at most so many in an image")
    parser.add_argument(
        "--save", nargs="+", choices=FILES, default=["json"], help="files of the detections"
    )
    parser.add_argument(
        "--latency", type=parse_latency, metavar="300ms", help="choose the budget by the time"
    )
    add_optimize_argument(parser)
    add_config_arguments(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
