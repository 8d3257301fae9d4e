"""The renamed tensors of a file while a conversion works on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import torch
from torch import Tensor


@dataclasses.dataclass
class Draft:
    """Tensors under our names, and the account of the keys that they come from.

    Attributes:
        tensors: our name -> tensor.
        sources: our name -> key of the file; several names may have one source.
        unused: key of the file -> reason.
        notes: sentences for the user.
    """

    tensors: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    sources: dict[str, str] = dataclasses.field(default_factory=dict)
    unused: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def renamed(cls, state_dict: Mapping[str, Tensor], rename: Callable[[str], str]) -> Draft:
        """Rename a state dict and keep one of the keys that get the same name.

        Raises:
            ValueError: two keys with one name hold different values.
        """
        draft = cls()
        for key, tensor in state_dict.items():
            name = rename(key)
            if name not in draft.tensors:
                draft.tensors[name], draft.sources[name] = tensor, key
                continue
            first = draft.sources[name]
            if not torch.equal(tensor, draft.tensors[name]):
                raise ValueError(
                    f"{first} and {key} are two names of one tensor ({name}), but their values "
                    "differ in this file; it is damaged or of another model, download it again"
                )
            draft.unused[key] = f"alias of {first}"
        return draft

    def move(self, name: str, new_name: str) -> None:
        """Give a tensor another name."""
        self.tensors[new_name] = self.tensors.pop(name)
        self.sources[new_name] = self.sources.pop(name)

    def copy(self, name: str, new_name: str) -> None:
        """Let the source of a tensor fill a second name."""
        self.tensors[new_name], self.sources[new_name] = self.tensors[name], self.sources[name]

    def drop(self, name: str, reason: str) -> None:
        """Leave a tensor out, and say why."""
        del self.tensors[name]
        self.unused[self.sources.pop(name)] = reason

    def names(self, prefix: str) -> list[str]:
        """Names that start with ``prefix``."""
        return [name for name in self.tensors if name.startswith(prefix)]

    def used(self) -> dict[str, tuple[str, ...]]:
        """Key of the file -> names that it fills."""
        used: dict[str, tuple[str, ...]] = {}
        for name, key in self.sources.items():
            used[key] = (*used.get(key, ()), name)
        return used
