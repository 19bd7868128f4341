"""What the keys of a distributed checkpoint stand for: parameters, optimizer state, groups of parameters, and the rest.

A training script nests its state as it likes, and DCP keeps for every key where it stood:

    ("model", "layers.0.mlp.weight")                         parameters
    ("optim", "state", "layers.0.mlp.weight", "exp_avg")     what get_state_dict gives
    ("optimizer", "state.layers.0.mlp.weight.exp_avg")       the same, flattened
    ("optim", "param_groups", 0, "params")                   names of parameters
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from growformer.architecture.declaration import Architecture
from growformer.architecture.source import match_names
from growformer.errors import SourceError
from growformer.storage.dcp import DcpFolder, KeyPath


@dataclass(frozen=True, slots=True)
class OfParameter:
    """One key that belongs to a parameter.

    Attributes:
        key: in the checkpoint.
        path: where it stood.
        name: of the parameter.
        what: name of the slot or the option.
    """

    key: str
    path: KeyPath
    name: str
    what: str

    def of(self, name: str) -> KeyPath:
        """Return where the same of another parameter stands."""
        return tuple(self._renamed(part, name) for part in self.path)

    def _renamed(self, part: str | int, name: str) -> str | int:
        if part == self.name:
            return name
        if isinstance(part, str) and part.endswith(f".{self.name}.{self.what}"):
            return f"{part.removesuffix(f'{self.name}.{self.what}')}{name}.{self.what}"
        return part


@dataclass(slots=True)
class DcpLayout:
    """The keys of a checkpoint, sorted.

    Attributes:
        models: where a set of parameters stood -> name -> key; the model comes first, others are averages of it.
        slots: name of a parameter -> its optimizer state.
        options: name of a parameter -> options of its group, where they are kept one by one.
        groups: keys of lists of parameters' names.
        others: keys of all else.
    """

    models: dict[KeyPath, dict[str, str]] = field(default_factory=dict)
    slots: dict[str, list[OfParameter]] = field(default_factory=lambda: defaultdict(list))
    options: dict[str, list[OfParameter]] = field(default_factory=lambda: defaultdict(list))
    groups: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def model(self) -> dict[str, str]:
        """Names of the model's tensors -> their keys."""
        return next(iter(self.models.values()))


def key_of(path: Iterable[str | int]) -> str:
    """Return the key that DCP gives to what stands at a path."""
    return ".".join(map(str, path))


def sort_keys(architecture: Architecture, folder: DcpFolder) -> DcpLayout:
    """Return what the keys of a checkpoint stand for.

    Raises:
        SourceError: none of them are parameters of the architecture.
    """
    together: dict[KeyPath, dict[str, str]] = defaultdict(dict)
    for key in folder.tensors:
        path = folder.paths[key]
        together[path[:-1]][str(path[-1])] = key
    known = {
        where: sum(template is not None for template in match_names(architecture, names).values())
        for where, names in together.items()
    }
    best = max(known, key=lambda where: known[where], default=())
    if not known.get(best):
        kinds = ", ".join(sorted({key_of(where) or "the top" for where in together})[:5])
        raise SourceError(
            f"{folder.path}: no tensor in it is a parameter of {architecture.name}; tensors are under {kinds}"
        )
    model = together[best]
    found = DcpLayout({best: model})
    shapes = {name: folder.tensors[key].shape for name, key in model.items()}
    for where, names in together.items():
        alike = {name: folder.tensors[key].shape for name, key in names.items() if folder.tensors[key].shape}
        if where != best and alike and alike.items() <= shapes.items():
            found.models[where] = {name: names[name] for name in alike}
    taken = {key for names in found.models.values() for key in names.values()}
    for key in (*folder.tensors, *folder.blobs):
        if key not in taken:
            _sort(found, model, key, folder)
    return found


def _sort(found: DcpLayout, model: Mapping[str, str], key: str, folder: DcpFolder) -> None:
    path = folder.paths[key]
    text = key_of(path)
    before, _, what = text.rpartition(".")
    name = _parameter_in(before, model)
    if name is not None:
        entry = OfParameter(key, path, name, what)
        container = before.removesuffix(name)
        if key in folder.blobs and container.endswith("param_groups."):
            found.options[name].append(entry)
            return
        if container.endswith("state.") or key in folder.tensors:
            found.slots[name].append(entry)
            return
    if key in folder.blobs and what == "params" and "param_groups" in path:
        found.groups.append(key)
    else:
        found.others.append(key)


def _parameter_in(text: str, model: Mapping[str, str]) -> str | None:
    """Return the longest name of a parameter that a text ends with."""
    while text:
        if text in model:
            return text
        _, _, text = text.partition(".")
    return None


__all__ = ["DcpLayout", "OfParameter", "key_of", "sort_keys"]
