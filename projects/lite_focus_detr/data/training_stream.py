"""The endless stream of training samples: what it gives depends on a seed and a position only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from detectron2.data import DatasetFromList
from torch.utils.data import IterableDataset, get_worker_info

from .epoch_order import EpochOrder, Integers
from .seeding import seeded_generators

Record = dict[str, Any]

# Told apart from the other uses of one seed.
_AUGMENTATION = 3
# A mapper that leaves out more than this in a row has a reason that no other image mends.
_MOST_LEFT_OUT = 1000


class StreamStart(NamedTuple):
    """Where a stream begins: at positions that were left over, then with all from one on."""

    leftovers: tuple[int, ...] = ()
    following: int = 0


@dataclass(frozen=True)
class BatchLayout:
    """How the samples of a stream become batches.

    Args:
        batch_size: images of a batch of one process.
        world_size: processes, which take turns at the positions.
        grouped: a batch has wide images only or others only.
    """

    batch_size: int
    world_size: int = 1
    grouped: bool = False


class TrainingStream(IterableDataset[Record]):
    """Mapped samples of a data set, shuffled anew each epoch, without end.

    The samples, their order, their augmentation and so the batches are functions of the seed and
    of how many batches were taken before. They do not depend on the number of loader workers.
    """

    def __init__(
        self,
        records: list[Record],
        mapper: Callable[[Record], Record | None],
        *,
        order: EpochOrder,
        layout: BatchLayout,
        rank: int = 0,
    ) -> None:
        """Begin at the first position.

        Args:
            records: of the data set, with ``width`` and ``height`` in pixels where batches are
                grouped.
            mapper: makes a sample of a record; None leaves it out, and the next image of the same
                orientation takes its place.
            order: of the images; its seed is that of the augmentation as well.
            layout: of the batches.
            rank: of this process.

        Raises:
            ValueError: batches are grouped and a record has no size.
        """
        self.mapper = mapper
        self.order = order
        self.layout = layout
        self.rank = rank
        self.start = StreamStart()
        #: Batches that each process had taken since the start when this stream was set up.
        self.taken = 0
        self._wide = _wide_images(records, grouped=layout.grouped)
        self._records = DatasetFromList(records, copy=False)

    def __iter__(self) -> Iterator[Record]:
        """Samples of this process or, in a loader worker, its share of them."""
        for position in self.positions():
            yield self._sample(position)

    def positions(self) -> Iterator[int]:
        """Positions of the samples that come next, in a loader worker its share of them."""
        drawn, leftovers = self._replay(self.layout, self.rank)
        rest = (self._position(self.layout, self.rank, i) for i in itertools.count(drawn))
        positions = itertools.chain(leftovers.tolist(), rest)
        worker = get_worker_info()
        if worker is None:
            return positions
        # The loader asks its workers in turn: for single samples where it makes the groups itself,
        # else for batches.
        chunk = 1 if self.layout.grouped else self.layout.batch_size
        return (
            position
            for index, position in enumerate(positions)
            if index // chunk % worker.num_workers == worker.id
        )

    def state_dict(self, taken: int) -> dict[str, Any]:
        """What the samples that follow are a function of.

        Args:
            taken: batches that each process has taken since the start; the stream does not know
                how many of those that it gave wait in a loader.
        """
        return {
            "seed": self.order.seed,
            "num_images": self.order.num_images,
            "leftovers": list(self.start.leftovers),
            "following": self.start.following,
            "taken": taken,
            "layout": asdict(self.layout),
        }

    def load_state_dict(self, state: dict[str, Any]) -> list[str]:
        """Go on where another stream has stopped.

        Args:
            state: of ``state_dict``; its seed is taken over.

        Returns:
            what differs from that stream. With none of it the samples that follow are those that
            would have followed there; otherwise they are those that it has not given yet, in
            other batches, or, with another data set, as many images are passed over.
        """
        layout = BatchLayout(**state["layout"])
        self.order = self.order.with_seed(state["seed"])
        self.start = StreamStart(tuple(state["leftovers"]), state["following"])
        self.taken = state["taken"]
        differences = [
            f"{name} {getattr(layout, key)} to {getattr(self.layout, key)}"
            for key, name in _LAYOUT_NAMES.items()
            if getattr(layout, key) != getattr(self.layout, key)
        ]
        if state["num_images"] != self.order.num_images:
            differences.append(f"images {state['num_images']} to {self.order.num_images}")
            images = self.taken * layout.batch_size * layout.world_size
            self.start = StreamStart(following=self.start.following + images)
            self.taken = 0
        elif differences:
            self.start = self._remaining(layout)
            self.taken = 0
        return differences

    def _remaining(self, layout: BatchLayout) -> StreamStart:
        """Start of a stream of all that processes with that layout have not taken."""
        if self.taken == 0:
            return self.start
        drawn, leftovers = zip(
            *(self._replay(layout, rank) for rank in range(layout.world_size)), strict=True
        )
        # Grouping makes some processes draw more than others.
        most = max(drawn)
        behind = [
            self._position(layout, rank, index)
            for rank in range(layout.world_size)
            for index in range(drawn[rank], most)
        ]
        passed = layout.world_size * most
        untouched = self.start.leftovers[passed:]
        remaining = [*itertools.chain(*(part.tolist() for part in leftovers)), *behind, *untouched]
        following = self.start.following + max(0, passed - len(self.start.leftovers))
        return StreamStart(tuple(sorted(remaining)), following)

    def _replay(self, layout: BatchLayout, rank: int) -> tuple[int, Integers]:
        """Repeat the grouping of the batches that a process has taken.

        Returns:
            number of positions that it has drawn, and those that wait for a batch to be full.
        """
        size = layout.batch_size
        if self.taken == 0:
            return 0, np.empty(0, dtype=np.int64)
        if not layout.grouped:
            return self.taken * size, np.empty(0, dtype=np.int64)
        # At most one batch less one image waits in the other group.
        positions = self._positions(layout, rank, (self.taken + 1) * size)
        wide = self._wide[self.order(positions)]
        full = np.cumsum(wide) // size + np.cumsum(~wide) // size
        drawn = int(np.searchsorted(full, self.taken)) + 1
        waiting = []
        for group in (wide[:drawn], ~wide[:drawn]):
            (members,) = group.nonzero()
            waiting.append(members[len(members) // size * size :])
        return drawn, positions[np.sort(np.concatenate(waiting))]

    def _positions(self, layout: BatchLayout, rank: int, number: int) -> Integers:
        """The first positions of a process since the start."""
        indices = rank + layout.world_size * np.arange(number)
        leftovers = np.asarray(self.start.leftovers, dtype=np.int64)
        positions = self.start.following + indices - len(leftovers)
        early = indices < len(leftovers)
        positions[early] = leftovers[indices[early]]
        return positions

    def _position(self, layout: BatchLayout, rank: int, index: int) -> int:
        index = rank + layout.world_size * index
        leftovers = self.start.leftovers
        if index < len(leftovers):
            return leftovers[index]
        return self.start.following + index - len(leftovers)

    def _sample(self, position: int) -> Record:
        with seeded_generators(self.order.seed, _AUGMENTATION, position):
            for image in self._candidates(position):
                sample = self.mapper(self._records[image])
                if sample is not None:
                    return sample
        raise RuntimeError(
            f"none of {_MOST_LEFT_OUT} images of DATASETS.TRAIN in a row could be used"
        )

    def _candidates(self, position: int) -> Iterator[int]:
        """The image at a position, and those that would take its place."""
        (image,) = self.order([position])
        yield int(image)
        for other in itertools.islice(itertools.count(position + 1), _MOST_LEFT_OUT):
            (candidate,) = self.order([other])
            if self._wide[candidate] == self._wide[image]:
                yield int(candidate)


_LAYOUT_NAMES = {
    "batch_size": "images per process",
    "world_size": "processes",
    "grouped": "grouping by aspect ratio",
}


def _wide_images(records: list[Record], *, grouped: bool) -> npt.NDArray[np.bool_]:
    try:
        return np.array([record["width"] > record["height"] for record in records])
    except KeyError as error:
        if grouped:
            raise ValueError(
                f"a record of DATASETS.TRAIN has no {error.args[0]}, which "
                "DATALOADER.ASPECT_RATIO_GROUPING needs; add it or set the key to False"
            ) from error
        return np.zeros(len(records), dtype=np.bool_)
