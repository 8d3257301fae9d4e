"""The tensors of a file under our names, while a conversion works on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


@dataclasses.dataclass
class RenamedWeights:
    """Tensors under our names, and the account of the keys that they come from.

    Attributes:
        tensors: our name -> tensor.
        sources: our name -> keys of the file; several names may have one source, a joined tensor
            has several, one that the file does not need has none.
        unused: key of the file -> reason.
        notes: sentences for the user.
        warnings: likewise, of what may not be what the user wants.
    """

    tensors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    sources: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def from_state_dict(
        cls, state_dict: Mapping[str, Tensor], rename: Callable[[str], str]
    ) -> RenamedWeights:
        """Rename a state dict and keep one of the keys that get the same name.

        Args:
            state_dict: weights of a file; not changed.
            rename: our name of a key.

        Raises:
            ValueError: two keys with one name hold different values.
        """
        weights = cls()
        for key, tensor in state_dict.items():
            weights._add(rename(key), tensor, (key,))
        return weights

    def merge(self, name: str, into: str, remedy: str | None = None) -> None:
        """Give a tensor another name, which may be that of the same tensor.

        Args:
            name: the present name.
            into: the name it gets; if a tensor has it already, the two must be equal.
            remedy: what to do if they are not; None: get another file.

        Raises:
            ValueError: the two tensors differ.
        """
        self._add(into, self.tensors.pop(name), self.sources.pop(name), remedy)

    def copy(self, name: str, new_name: str) -> None:
        """Let the source of a tensor fill a second name."""
        self.tensors[new_name], self.sources[new_name] = self.tensors[name], self.sources[name]

    def drop(self, name: str, reason: str) -> None:
        """Leave a tensor out, and say why."""
        del self.tensors[name]
        self.unused.update(dict.fromkeys(self.sources.pop(name), reason))

    def join(self, parts: list[str], name: str) -> None:
        """Concatenate the rows of tensors, which keep no name of their own, under a new name."""
        self.tensors[name] = torch.cat([self.tensors.pop(part) for part in parts])
        self.sources[name] = tuple(key for part in parts for key in self.sources.pop(part))

    def add_zeros(self, name: str, like: str) -> None:
        """Add a tensor of zeros, of the size of another one, for which the file needs none."""
        self.tensors[name], self.sources[name] = torch.zeros_like(self.tensors[like]), ()

    def names(self, prefix: str) -> list[str]:
        """Names that start with ``prefix``."""
        return [name for name in self.tensors if name.startswith(prefix)]

    def used(self) -> dict[str, tuple[str, ...]]:
        """Key of the file -> names that it fills."""
        used: dict[str, tuple[str, ...]] = {}
        for name, keys in self.sources.items():
            for key in keys:
                used[key] = (*used.get(key, ()), name)
        return used

    def _add(
        self, name: str, tensor: Tensor, keys: tuple[str, ...], remedy: str | None = None
    ) -> None:
        if name not in self.tensors:
            self.tensors[name], self.sources[name] = tensor, keys
            return
        first, key = (" and ".join(x) for x in (self.sources[name], keys))
        if not torch.equal(tensor, self.tensors[name]):
            remedy = remedy or "it is damaged or of another model: download it again"
            raise ValueError(
                f"{first} and {key} are two names of one tensor ({name}), but their values differ "
                f"in this file; {remedy}"
            )
        self.unused.update(dict.fromkeys(keys, f"alias of {first}"))
