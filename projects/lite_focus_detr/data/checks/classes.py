"""Classes that cannot be learned or evaluated well."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from .findings import Finding, Level
from .splits import Split

#: Objects of a class in the training split below which there is a warning.
FEW_OBJECTS = 10
#: How many times more objects the most frequent class has than the rarest before it is noted.
IMBALANCE = 10


def check_classes(splits: Sequence[Split]) -> Iterator[Finding]:
    """What the numbers of objects of the classes say.

    Args:
        splits: with the same categories, the training split first.
    """
    train = splits[0]
    names = [str(category["name"]) for category in train.categories]
    repeated = [name for name, count in Counter(names).items() if count > 1]
    if repeated:
        yield Finding.of(Level.WARNING, "classes", "classes with the same name", repeated)
    if not sum(train.counts):
        yield Finding(Level.ERROR, "classes", f"no object in {train.name}: nothing to learn", 1)
        return
    for split in splits[1:]:
        if not sum(split.counts):
            text = f"no object in {split.name}: its AP is not a number"
            yield Finding(Level.WARNING, "classes", text, 1)
    yield from _check_presence(names, splits)
    yield from _check_balance(names, train)


def _check_presence(names: Sequence[str], splits: Sequence[Split]) -> Iterator[Finding]:
    train, *others = splits
    present = {
        split.name: {name for name, count in zip(names, split.counts, strict=True) if count}
        for split in splits
    }
    learned = present[train.name]
    groups = {"classes without any object": set(names) - set().union(*present.values())}
    for split in others:
        asked = present[split.name]
        text = f"classes with objects in {split.name}, but not in {train.name}"
        groups[f"{text}: they cannot be learned"] = asked - learned
        text = f"classes with objects in {train.name}, but not in {split.name}"
        groups[f"{text}: their AP is not a number"] = learned - asked
    for text, found in groups.items():
        if found:
            yield Finding.of(Level.WARNING, "classes", text, filter(found.__contains__, names))


def _check_balance(names: Sequence[str], train: Split) -> Iterator[Finding]:
    counts: Mapping[str, int] = {
        name: count for name, count in zip(names, train.counts, strict=True) if count
    }
    few = [f"{name} {count}" for name, count in counts.items() if count < FEW_OBJECTS]
    if few:
        text = f"classes with less than {FEW_OBJECTS} objects in {train.name}"
        yield Finding.of(Level.WARNING, "classes", text, few)
    ranked = sorted(counts, key=lambda name: -counts[name])
    most, least = ranked[0], ranked[-1]
    ratio = counts[most] / counts[least]
    if ratio >= IMBALANCE:
        text = f"the most frequent class has {ratio:.0f} times the objects of the rarest"
        examples = (f"{most} {counts[most]}", f"{least} {counts[least]}")
        yield Finding(Level.NOTE, "classes", text, 1, examples)
