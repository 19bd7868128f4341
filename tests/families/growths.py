"""Growths of a case, derived from its declaration: each size alone, each depth alone, and all that go together.

A size is asked for by the smallest odd steps first, then by what the planner's refusals name, and doubled only where
nothing else will do. Every refusal is kept with its message.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import growformer
from growformer.architecture.declaration import Architecture
from growformer.architecture.exact import names_in
from growformer.errors import ArchitectureError, GrowformerError, RequestError
from growformer.execute.class_check import check_with_class
from growformer.planning.plan import Plan
from tests.families.case import OUTPUT_EPS, SMALL_EPS, Case

INIT = "noise"
"""New values of the size of trained ones, so that one in a wrong place shows."""
TRIES = 14
Request = dict[str, Any]


@dataclass(frozen=True, kw_only=True, eq=False)
class Growth:
    """One request that the planner and the class accept.

    Attributes:
        name: the size field that it is for; ``all``; a name of the case's own.
        request: keyword arguments of ``growformer.plan``: sizes and ``new_layers_at``.
        eps: of the source; small where new post-norm layers are exact only as far as it is.
    """

    name: str
    request: Request
    eps: float = OUTPUT_EPS

    def __str__(self) -> str:
        return self.name

    @property
    def sizes(self) -> Request:
        """The sizes alone."""
        return {name: value for name, value in self.request.items() if name != "new_layers_at"}


@dataclass(frozen=True, kw_only=True)
class Growths:
    """What grows, and what does not.

    Attributes:
        accepted: by name.
        refused: size field -> request -> message, of fields for which nothing was accepted.
        tried: requests that were refused on the way to one that was accepted, with the message.
        omitted: growths that ``all`` could not take in, with the message.
    """

    accepted: Mapping[str, Growth]
    refused: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    tried: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    omitted: Mapping[str, str] = field(default_factory=dict)


def make_plan(case: Case, growth: Growth, **options: Any) -> Plan:
    """Return the plan of a growth of the case's model."""
    return growformer.plan(case.source(growth.eps), **{"init": INIT, **growth.request, **options})


def depth_axes(architecture: Architecture) -> dict[str, str]:
    """Return index axes that number layers -> the config field with their count."""
    found = {}
    for axis in architecture.index_axes:
        names = names_in(architecture.sizes[axis])
        if "layer" in axis and not architecture.size_index(axis) and names and axis not in architecture.fixed:
            found[axis] = names[0]
    return found


@functools.cache
def growths_of(case: Case) -> Growths:
    """Return the growths of a case; derived once."""
    return _Search(case).run()


class _Search:
    """Tries requests until the planner and the class accept one."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.architecture = case.architecture
        self.sizes = self.architecture.resolve_config(case.source().config.to_dict())  # type: ignore[union-attr,operator]
        self.depths = depth_axes(self.architecture)
        self.refused: dict[str, dict[str, str]] = {}
        self.tried: dict[str, dict[str, str]] = {}
        self.omitted: dict[str, str] = {}
        self.accepted: dict[str, Growth] = {}

    def run(self) -> Growths:
        """Return everything that was found."""
        own = {**self.case.growths}
        for name in self.architecture.size_fields():
            if name not in own and name not in self.depths.values() and name in self.sizes:
                self._search(name, self._candidates(name))
        for axis, name in self.depths.items():
            if name not in own:
                self._search(name, self._deeper(axis, name))
        for name, request in own.items():
            if request is not None and name != "all":
                self._accept(name, dict(request))
        if "all" not in own:
            self._combine()
        elif own["all"] is not None:
            self._accept("all", dict(own["all"]))
        return Growths(accepted=self.accepted, refused=self.refused, tried=self.tried, omitted=self.omitted)

    def _accept(self, name: str, request: Request) -> None:
        plan = self._plan(request)
        self.accepted[name] = Growth(name=name, request=request, eps=_eps(plan))

    def _plan(self, request: Request) -> Plan:
        plan = growformer.plan(self.case.source(), init=INIT, **request)
        if all(plan.target_sizes.get(n) == v for n, v in self.sizes.items() if n in self.architecture.size_fields()):
            raise RequestError(f"{request} changes nothing")
        check_with_class(plan, dict(plan.target_config))
        return plan

    def _search(self, name: str, candidates: list[Request], start: Request | None = None) -> Growth | None:
        queue, seen, messages = list(candidates), [], {}
        while queue and len(seen) < TRIES:
            request = queue.pop(0)
            if request in seen:
                continue
            seen.append(request)
            try:
                plan = self._plan(_merge(start or {}, request))
            except (GrowformerError, ArithmeticError) as error:
                if isinstance(error, ArchitectureError):
                    raise
                messages[_shown(request)] = str(error)
                # What a refusal names comes before larger steps.
                queue[0:0] = [r for r in self._suggested(name, request, str(error)) if r not in seen]
                continue
            growth = Growth(name=name, request=_merge(start or {}, request), eps=_eps(plan))
            if start is None:
                self.accepted[name] = growth
                if messages:
                    self.tried[name] = messages
            return growth
        if start is None:
            self.refused[name] = messages
        else:
            self.omitted[name] = next(iter(messages.values()), "nothing to try")
        return None

    def _candidates(self, name: str) -> list[Request]:
        before = self.sizes[name]
        if isinstance(before, list):
            changed = [v + 2 * i + 5 if isinstance(v, int) else v for i, v in enumerate(before)]
            return [{name: changed}, {name: [v * 2 if isinstance(v, int) else v for v in before]}]
        if not isinstance(before, int) or isinstance(before, bool):
            return []
        half = [before * 3 // 2] if before % 2 == 0 and before > 2 else []
        near = [before + 1, before + 2] if before < 8 else [before + 5, before + 6, before + 1, before + 2]
        steps = [*(v for v in near if v != 2 * before), *half, before + 4, 2 * before, 3 * before, 4 * before]
        return [{name: value} for value in dict.fromkeys(steps)]

    def _suggested(self, name: str, request: Request, message: str) -> list[Request]:
        """Return the requests that a refusal names: other values, and other fields to ask for as well."""
        found: list[Request] = []
        known = self.architecture.size_fields()
        pairs = [(n, int(v)) for n, v in re.findall(r"([\w.]+)\s?=\s?(\d+)", message.split(": ", 1)[-1]) if n in known]
        asked = re.search(r"ask for (.+?)(?:;|$)", message)
        if asked:
            together = {n: int(v) for n, v in re.findall(r"([\w.]+)=(\d+)", asked.group(1)) if n in known}
            found.append({**request, **together})
        if "Complete the request with" in message:
            found += [{**request, n: v} for n, v in pairs if n != name and v > self.sizes.get(n, 0)]
        for numbers in re.findall(r"[Nn]earest[^:]*: ([\d, ]+)", message):
            values = [int(v) for v in re.findall(r"\d+", numbers)]
            fields = re.findall(r"[Nn]earest ([\w.]+):", message) or [name]
            field_name = fields[-1] if fields[-1] in known else name
            before = self.sizes.get(field_name)
            found += [{**request, field_name: v} for v in values if isinstance(before, int) and v > before]
        return [r for r in found if r != request]

    def _deeper(self, axis: str, name: str) -> list[Request]:
        before = self.sizes.get(name)
        if not isinstance(before, int):
            return []

        def at(where: Any) -> Any:
            return where if len(self.depths) == 1 else {axis: where}

        requests = [
            {name: before + 2, "new_layers_at": at([1, before + 1])},
            {name: before + 3, "new_layers_at": at("interleave")},
            {name: before + 2, "new_layers_at": at("end")},
            {name: before + 1, "new_layers_at": at("end")},
            {name: before + 1, "new_layers_at": at([1])},
        ]
        requests += [{name: k * before, "new_layers_at": at("interleave")} for k in (2, 3)]
        return requests

    def _combine(self) -> None:
        """Take in one growth after another, and let sizes that no longer fit move on."""
        together: Growth | None = None
        for name, growth in list(self.accepted.items()):
            if together is None:
                together = Growth(name="all", request=growth.request, eps=growth.eps)
                continue
            more = [growth.request]
            if name in self.depths.values():
                axis = next(a for a, n in self.depths.items() if n == name)
                more += self._deeper(axis, name)
            else:
                more += self._candidates(name)
            found = self._search(name, more, start=together.request)
            if found is not None:
                together = Growth(name="all", request=found.request, eps=min(found.eps, growth.eps, together.eps))
        if together is not None:
            self.accepted["all"] = together


def _eps(plan: Plan) -> float:
    return SMALL_EPS if any("eps / (2 variance)" in note for note in plan.notes) else OUTPUT_EPS


def _merge(first: Request, second: Request) -> Request:
    """Return both requests: the larger of two sizes, the places of both depths."""
    merged = {**first, **second}
    for name in first.keys() & second.keys():
        a, b = first[name], second[name]
        if isinstance(a, int) and isinstance(b, int):
            merged[name] = max(a, b)
        elif isinstance(a, dict) and isinstance(b, dict):
            merged[name] = {**a, **b}
    return merged


def _shown(request: Request) -> str:
    return ", ".join(f"{name}={value}" for name, value in request.items())
