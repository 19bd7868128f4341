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
from growformer.architecture.source import spelled
from growformer.verification.declared import Declared
from growformer.verification.live import Live, Weights

Module = torch.nn.Module


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module that arrows declare, and what it would be given: the vector, and with it who is asked."""

    module: Module
    given: tuple[torch.Tensor, ...]

    def is_like(self, other: Call) -> bool:
        """Tell whether another call is of the same vector, bit by bit."""
        (ours, *_), (theirs, *_) = self.given, other.given
        return self.module is other.module and ours.shape == theirs.shape and torch.equal(ours, theirs)


class Flow:
    """Changes the writers of every space one by one, while those that read it are given what they were given before.

    Packed weights (experts) are one call of the module that holds them, if all that do not read what it makes itself
    read one vector. Weights that the class uses without calling a module (bare vectors) are passed through: what reads
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
            if not written & {*self.architecture.outputs} and not written & self._readable:
                continue  # a router's choice, say
            reached = self._reached(written, called)
            readers = {space: self._modules_of(self.declared.readers(space) & called) for space in reached}
            every = {module for modules in readers.values() for module in modules}
            instances = list(self._instances(owner))
            noticed: set[Module] = set()
            here = ""
            for index in (*instances[:1], *instances[1:][-1:]):
                changed = self._changed(owner, index, weights, generator)
                bare = None if arrow.gain or changed else self._module(owner, index)
                if not changed and sum(call.module is bare for call in before) != 1:  # or it norms other vectors too
                    continue
                here = here or f"{owner.format(**index)} writes {_list(written)}"
                after = self._calls({**weights, **changed}, inputs, replay=before, to=every, disturbed=bare)
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

    @cached_property
    def _readable(self) -> set[str]:
        """Spaces that something reads, in this model or, a head say, in another one that is declared likewise."""
        sources = {space for arrow in self.live.declared.arrows.values() for space in spaces_in(arrow.source)}
        return sources | {space for space in self.architecture.spaces if self.declared.is_read(space)}

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
        self,
        weights: Weights,
        inputs: Weights,
        *,
        replay: Iterable[Call] = (),
        to: Collection[Module] = (),
        disturbed: Module | None = None,
    ) -> list[Call]:
        """Run the model; return the calls of declared modules.

        Args:
            weights: of every tensor.
            inputs: of the model.
            replay: calls of another run.
            to: modules that are given what they were given in that run.
            disturbed: a module without weights whose output is changed instead.
        """
        calls: list[Call] = []
        recorded: dict[Module, list[tuple[torch.Tensor, ...]]] = {module: [] for module in to}
        for call in replay:
            if call.module in recorded:
                recorded[call.module].append(call.given)

        def notice(module: Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            given = tuple(v.clone() for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
            if not given or not given[0].is_floating_point():
                return None
            calls.append(Call(module, given))
            left = recorded.get(module)
            instead = iter([v.clone() for v in (left.pop(0) if left else given)])  # sums depend on where vectors lie
            put = [next(instead) if isinstance(v, torch.Tensor) else v for v in args]
            return tuple(put), {n: next(instead) if isinstance(v, torch.Tensor) else v for n, v in kwargs.items()}

        with contextlib.ExitStack() as stack:
            for module in self._modules:
                stack.callback(module.register_forward_pre_hook(notice, with_kwargs=True).remove)
            if disturbed is not None:
                stack.callback(disturbed.register_forward_hook(_disturb).remove)
            self.live.run(weights, inputs)
        return calls

    @cached_property
    def _modules(self) -> dict[Module, tuple[str, ...]]:
        """Every module of the model that is declared -> its arrows that read what it is given."""
        found: dict[Module, tuple[str, ...]] = {}
        for owner in self.declared.arrows:
            for index in self._instances(owner):
                module = self._module(owner, index)
                if module is not None and owner not in found.get(module, ()):
                    found[module] = (*found.get(module, ()), owner)
        return {module: read for module in found if (read := self._given(module, found))}

    def _given(self, module: Module, known: Mapping[Module, tuple[str, ...]]) -> tuple[str, ...]:
        """Return those of a module's arrows that read what it is given; none: they would have to be given several."""
        owners = known[module]
        if len(owners) == 1:
            return owners
        arrows = {owner: self.declared.arrows[owner] for owner in owners}
        made = {name for part in module.modules() for name in known.get(part, ())}
        inside = {space for name in made for space in spaces_in(self.declared.arrows[name].target)}
        given = {owner: spaces for owner, a in arrows.items() if not (spaces := {*spaces_in(a.source)}) & inside}
        return tuple(given) if len({frozenset(spaces) for spaces in given.values()}) == 1 else ()

    def _instances(self, owner: str) -> Iterator[dict[str, int]]:
        stand_in = TensorSpec(owner, owner, "weight", (), tuple(re.findall(r"\{(\w+)\}", owner)))
        yield from self.architecture.instances_of(stand_in, self.declared.config)

    def _module(self, owner: str, index: Mapping[str, int]) -> Module | None:
        """Return the module that bears an arrow's name, or holds its weights among others; None: its class has none."""
        arrow = self.declared.arrows[owner]
        if arrow.bare or arrow.kind == "embedding":
            return None
        if not arrow.gain:  # without weights, by which others are found
            return self.paths.get(spelled(self.architecture, self.live.source, owner, index))
        for spec in (s for s in self.architecture.tensors.values() if s.owner == owner):
            info = self.live.source.tensors.get(spec.name(index))
            stored = self.live.stored.get(spec.name(index), "") if info is None else info.stored
            packed = info is not None and info.piece is not None
            found = self.paths.get(stored.rpartition(".")[0] if packed else stored.removesuffix(f".{spec.part}"))
            if stored and isinstance(found, Module):
                return found
        return None


def _disturb(_module: Module, _args: object, output: torch.Tensor) -> torch.Tensor:
    return output + 0.3 * torch.arange(output.shape[-1], dtype=output.dtype).cos()


def _list(names: Iterable[str]) -> str:
    return " and ".join(sorted(names))


__all__ = ["Flow"]
