"""Follows a change of one weight through a model: those that are said to read what it writes, and no others, notice it.

Vectors that a norm joins, such as the residual stream before and behind it, follow every change of coordinates
together. Which of them a weight reads shows where a change of their writers arrives.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from growformer.architecture.declaration import TensorSpec, spaces_in
from growformer.verification.declared import Declared
from growformer.verification.live import Live, Weights

Module = torch.nn.Module


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module that arrows declare, and the vector that it would be given."""

    module: Module
    given: torch.Tensor

    def is_like(self, other: Call) -> bool:
        """Tell whether another call is the same, bit by bit."""
        same = self.module is other.module and self.given.shape == other.given.shape
        return same and torch.equal(self.given, other.given)


class Flow:
    """Changes the writers of every space one by one, while those that read it are given what they were given before.

    Weights that the class uses without calling a module (packed experts, bare vectors) are passed through: what reads
    their target counts as reading their source.

    Args:
        declared: the declaration under test.
        live: the model.
    """

    def __init__(self, declared: Declared, live: Live) -> None:
        self.declared, self.live = declared, live
        self.architecture = declared.architecture
        self.paths = dict(live.model.named_modules())

    def problems(self, weights: Weights, inputs: Weights) -> Iterator[str]:
        """Yield the writers whose change something else notices, or nothing at all.

        Args:
            weights: of every tensor; they stay as they are.
            inputs: of the model.
        """
        before = self._calls(weights, inputs)
        called = {name for call in before for name in self._modules[call.module]}
        generator = torch.Generator().manual_seed(1)
        for owner, arrow in self.declared.arrows.items():
            written = {*spaces_in(arrow.target)}
            if not written & {*self.architecture.outputs} and not any(map(self.declared.is_read, written)):
                continue  # a router's choice, say
            reached = self._reached(written, called)
            readers = {space: self._modules_of(self.declared.readers(space) & called) for space in reached}
            every = {module for modules in readers.values() for module in modules}
            instances = list(self._instances(owner))
            noticed: set[Module] = set()
            here = ""
            for index in (*instances[:1], *instances[1:][-1:]):
                changed = self._changed(owner, index, weights, generator)
                if not changed:
                    continue
                here = here or f"{owner.format(**index)} writes {_list(written)}"
                after = self._calls({**weights, **changed}, inputs, replay=before, to=every)
                found = [one.module for one, other in zip(before, after, strict=False) if not one.is_like(other)]
                noticed |= {*found}
                others = [module for module in found if module not in (self._module(owner, index), *every)]
                if others:
                    names = self._modules[others[0]]
                    read = {s for name in names for s in spaces_in(self.declared.arrows[name].source)}
                    yield f"{here}, but {_list(names)}, which reads {_list(read)}, notices a change of it"
            if here and every and not noticed and not reached & {*self.architecture.outputs}:
                yield f"{here}, but nothing that reads this notices a change of it"
                continue
            own = self._modules_of({owner})
            for space in sorted(self._entered(written)) if here else ():
                if self.declared.readers(space) <= called and readers[space] - own and not readers[space] & noticed:
                    where = "" if space in written else f", which enters {space}"
                    yield f"{here}{where}, but nothing that reads {space} notices a change of it"

    def _entered(self, written: Collection[str]) -> set[str]:
        """Return spaces that have readers which must notice what is written: the same, and those it always enters.

        What norms write again and again enters another space in the end alone, or in between.
        """
        arrows = self.declared.arrows.values()
        norms = [space for a in arrows if a.kind == "norm" for space in spaces_in(a.target)]
        found, pending = {*written}, [space for space in written if norms.count(space) < 2]
        while pending:
            here = pending.pop()
            more = {add.target for add in self.declared.adds if add.source == here and add.when is None} - found
            pending += more
            found |= more
        return found - {*self.architecture.outputs}

    def _modules_of(self, arrows: Collection[str]) -> set[Module]:
        return {module for module, names in self._modules.items() if {*arrows} & {*names}}

    def _changed(self, owner: str, index: Mapping[str, int], weights: Weights, generator: torch.Generator) -> Weights:
        specs = [s for s in self.declared.specs if s.owner == owner and s.template not in self.declared.unused]
        return {
            name: weights[name] + 0.3 * torch.randn(weights[name].shape, generator=generator, dtype=torch.float64)
            for name in (spec.name(index) for spec in specs)
            if name in weights
        }

    def _reached(self, spaces: Collection[str], called: Collection[str]) -> set[str]:
        """Return spaces with those that they enter by other ways than a call."""
        found, pending = {*spaces}, [*spaces]
        while pending:
            here = pending.pop()
            more = {add.target for add in self.declared.adds if add.source == here}
            for c in self.declared.attention:
                if here in (*c.queries, *c.keys, c.value, *c.per_head):
                    more |= {space for space in (c.output, c.maps) if space is not None}
            for name in self.declared.readers(here) - {*called}:
                more |= {*spaces_in(self.declared.arrows[name].target)}
            pending += more - found
            found |= more
        return found

    def _calls(
        self, weights: Weights, inputs: Weights, *, replay: Iterable[Call] = (), to: Collection[Module] = ()
    ) -> list[Call]:
        """Run the model; return the calls of declared modules, some of which get what they got in another run."""
        calls: list[Call] = []
        recorded: dict[Module, list[torch.Tensor]] = {module: [] for module in to}
        for call in replay:
            if call.module in recorded:
                recorded[call.module].append(call.given)

        def notice(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = next((v for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor)), None)
            if given is None or not given.is_floating_point():
                return None
            calls.append(Call(module, given.clone()))
            left = recorded.get(module)
            instead = (left.pop(0) if left else given).clone()  # always a copy: sums depend on where vectors lie
            put = [instead if v is given else v for v in args]
            return tuple(put), {name: instead if v is given else v for name, v in kwargs.items()}

        with contextlib.ExitStack() as stack:
            for module in self._modules:
                stack.callback(module.register_forward_pre_hook(notice, with_kwargs=True).remove)
            self.live.run(weights, inputs)
        return calls

    @cached_property
    def _modules(self) -> dict[Module, tuple[str, ...]]:
        """Every module of the model that is declared -> its arrows."""
        found: dict[Module, tuple[str, ...]] = {}
        for owner in self.declared.arrows:
            for index in self._instances(owner):
                module = self._module(owner, index)
                if module is not None and owner not in found.get(module, ()):
                    found[module] = (*found.get(module, ()), owner)
        return found

    def _instances(self, owner: str) -> Iterator[dict[str, int]]:
        stand_in = TensorSpec(owner, owner, "weight", (), tuple(re.findall(r"\{(\w+)\}", owner)))
        yield from self.architecture.instances_of(stand_in, self.declared.config)

    def _module(self, owner: str, index: Mapping[str, int]) -> Module | None:
        """Return the module that bears an arrow's name; None: its class has none, or one for several arrows."""
        arrow = self.declared.arrows[owner]
        if arrow.bare or not arrow.gain or arrow.kind == "embedding":
            return None
        for spec in (s for s in self.architecture.tensors.values() if s.owner == owner):
            info = self.live.source.tensors.get(spec.name(index))
            if info is None or info.piece is None:
                stored = self.live.stored.get(spec.name(index), "") if info is None else info.stored
                found = self.paths.get(stored.removesuffix(f".{spec.part}")) if stored else None
                if isinstance(found, Module):
                    return found
        return None


def _list(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


__all__ = ["Flow"]
