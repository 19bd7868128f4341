"""Two oracles that test a declaration against the model's own class. They use no growth code.

``shapes`` builds the class without storage at sizes that differ in one config field: the arrows must predict every
shape, and which tensors exist, share storage, change and stay. ``equivariance`` runs the class with random weights and
changes coordinates (see ``symmetries``), because shapes can see neither memory order nor which of two spaces of one
size a weight reads.

What neither can see, as no weight carries it: the scale of the attention scores, the value of an epsilon that is a
constant of the class, and facts that concern training alone (``std``). Outputs of grown models show the first two.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from growformer.architecture.declaration import Architecture, Config
from growformer.architecture.exact import names_in
from growformer.architecture.source import SourceInfo, describe, stored_name
from growformer.errors import ArchitectureError, SourceError
from growformer.verification.norms import norm_problems
from growformer.verification.symmetries import Change, Experiment, Experiments

MakeModel = Callable[[dict[str, Any]], torch.nn.Module]
"""Config -> the model in eval mode; called on the meta device as well."""
MakeInputs = Callable[[Config], Mapping[str, torch.Tensor]]
"""Config -> keyword arguments of the model's forward."""

TOLERANCE = 1e-4
"""Largest change, relative to the largest output, that still counts as none.

The model runs in float64, but norms, softmax and rotary angles are computed in float32 by most classes; summing in
another order moves them by 1e-7 to 1e-6. What a wrong declaration changes is of the order of the output.
"""

_FREQUENCIES = re.compile(r"(.*\.)?(original_)?inv_freq")


def check_declaration(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    make_inputs: MakeInputs,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> list[str]:
    """Return everything in which a declaration disagrees with the model's class; an empty list means none.

    Equivariance is tested once the shapes agree; for a size field that changes no shape (GPT-2's ``n_head``), at its
    other value as well.

    Args:
        architecture: the declaration.
        config: a small config. Sizes pairwise different, several heads and layers, every optional bias present and
            epsilons of about 0.1, so that nothing is tested in vain.
        make_model: config -> model.
        make_inputs: config -> keyword arguments of its forward.
        variants: of ``check_shapes``.
        options: of ``check_equivariance``.
    """
    return list(iterate_problems(architecture, config, make_model, make_inputs, variants=variants, **options))


def iterate_problems(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    make_inputs: MakeInputs,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    **options: Any,
) -> Iterator[str]:
    """Yield what ``check_declaration`` returns, as it is found."""
    wrong_shapes = False
    silent: list[Config] = []
    for problem in _shape_problems(architecture, config, make_model, variants or {}, silent):
        wrong_shapes = True
        yield problem
    if wrong_shapes:
        return
    no_change: Config = {}
    for changed in (no_change, *silent):
        where = f" with {_named(changed)}" if changed else ""
        for problem in _equivariance_problems(architecture, {**config, **changed}, make_model, make_inputs, **options):
            yield f"equivariance{where}: {problem}"


def check_shapes(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    *,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[str]:
    """Return in which shapes, names and ties a declaration disagrees with the model's class.

    The class is built on the meta device under the config, and once more for every size field and every other number
    in the config, with another value in that field alone; also with every flag turned around that decides over a bias,
    a tensor or ties.

    Args:
        architecture: the declaration.
        config: a small config.
        make_model: config -> model.
        variants: size field that the class does not let vary alone -> the fields to change instead.
    """
    return list(_shape_problems(architecture, config, make_model, variants or {}, []))


def check_equivariance(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    make_inputs: MakeInputs,
    *,
    lookups: Mapping[str, str] | None = None,
    ordered: Collection[str] = (),
    unused: Collection[str] = (),
    seed: int = 0,
) -> list[str]:
    """Return the changes of coordinates that the model's outputs do not follow as the declaration promises.

    All parameters are random. The model runs in float64; see ``TOLERANCE``.

    Args:
        architecture: the declaration.
        config: a small config.
        make_model: config -> model; its weights do not matter, and are not changed.
        make_inputs: config -> keyword arguments of its forward.
        lookups: axis of an embedding's rows -> the input that selects them; ``vocab`` and ``input_ids`` if left out.
            Rows that no input selects are not permuted.
        ordered: axes whose coordinates the class itself tells apart (the start and the end in question answering).
        unused: templates of parameters that the class has and does not use.
        seed: of weights and permutations.
    """
    found = _equivariance_problems(
        architecture, config, make_model, make_inputs, lookups=lookups, ordered=ordered,
        unused=unused, seed=seed,
    )  # fmt: skip
    return [f"equivariance: {problem}" for problem in found]


# Shapes


def _shape_problems(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    variants: Mapping[str, Mapping[str, Any]],
    silent: list[Config],
) -> Iterator[str]:
    """Yield problems; append to ``silent`` the changes that change no shape."""
    try:
        base = _build(make_model, config)
        resolved = architecture.resolve_config(config)
        found = list(_disagreements(architecture, config, base))
    except ArchitectureError as error:
        yield f"shapes: {error}"
        return
    yield from (f"shapes: {problem}" for problem in found)
    if found:
        return
    declared = _size_fields(architecture)
    others = [name for name, value in config.items() if name not in declared and any(_others(value))]
    for name in (*declared, *others):
        value = resolved.get(name)
        candidates = [variants[name]] if name in variants else [{name: other} for other in _others(value)]
        changed, model = _first_legal(architecture, config, make_model, candidates)
        if model is None and name in others:
            continue
        if model is None:
            yield f"shapes: no legal value of {name} other than {value!r} is found{changed}"
            continue
        for problem in _disagreements(architecture, {**config, **changed}, model):
            yield f"shapes with {_named(changed)} instead of {value}: {problem}"
        if name in declared and _shapes(model) == _shapes(base):
            silent.append(changed)
    for name in _flags(architecture):
        changed = {name: not resolved.get(name)}
        for problem in _disagreements(architecture, {**config, **changed}, _build(make_model, {**config, **changed})):
            yield f"shapes with {_named(changed)}: {problem}"


def _others(value: Any) -> Iterator[Any]:
    """Yield other values of a size, larger ones first; of a (nested) list, lists with another last entry."""
    if isinstance(value, (list, tuple)) and value:
        yield from ([*value[:-1], other] for other in _others(value[-1]))
    elif isinstance(value, int) and not isinstance(value, bool):
        yield from range(value + 1, 2 * value + 2)
        yield from range(value - 1, 0, -1)


def _first_legal(
    architecture: Architecture, config: Config, make_model: MakeModel, candidates: Iterable[Config]
) -> tuple[Any, torch.nn.Module | None]:
    """Return the first change that is legal and the model that has it; or why there is none, and None."""
    reason = ""
    for changed in candidates:
        try:
            _check_sizes(architecture, {**config, **changed})
            return changed, _build(make_model, {**config, **changed})
        except Exception as error:  # a class may refuse a size in any way it likes
            reason = f"; {_named(changed)}: {error}"
    return reason, None


def _named(changed: Config) -> str:
    return ", ".join(f"{name} = {value}" for name, value in changed.items())


def _disagreements(architecture: Architecture, config: Config, model: torch.nn.Module) -> Iterator[str]:
    aliases = _aliases(architecture, model)
    try:
        source = describe(architecture, config, _shapes(model), aliases=aliases)
    except (SourceError, ArchitectureError) as error:
        yield str(error)
        return
    owners = {architecture.tensors[template].owner for template in source.templates}
    for spec in architecture.tensors.values():
        there = spec.template in source.templates or any(_is_stored_as(architecture, spec.template, a) for a in aliases)
        if spec.owner in owners and not there and architecture.exists(spec, architecture.resolve_config(config)):
            yield f"the class has no {spec.template}"
    names: dict[int, set[str]] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(id(tensor), set()).add(name)
    shared = {frozenset(group) for group in names.values() if len(group) > 1}
    resolved = architecture.resolve_config(config)
    declared = set()
    if architecture.tie_field is None or resolved.get(architecture.tie_field):
        declared = {frozenset(pair) for pair in _declared_ties(architecture, model)}
    for group in sorted(map(sorted, shared - declared)):
        yield f"{' and '.join(group)} share their storage, which is not declared"
    for group in sorted(map(sorted, declared - shared)):
        yield f"{' and '.join(group)} do not share their storage, as the declaration says"


def _declared_ties(architecture: Architecture, model: torch.nn.Module) -> Iterator[tuple[str, str]]:
    """Yield the stored names of both ends of every declared tie of which the model has both."""
    names = set(model.state_dict())
    base = f"{architecture.prefix}."
    prefix = base if architecture.prefix and any(name.startswith(base) for name in names) else ""
    for head, table in architecture.ties.items():
        pair = stored_name(architecture, prefix, head), stored_name(architecture, prefix, table)
        if names.issuperset(pair):
            yield pair


def _aliases(architecture: Architecture, model: torch.nn.Module) -> dict[str, str]:
    """Return the declared ties that hold in a model, by stored names."""
    tensors = model.state_dict(keep_vars=True)
    return {a: b for a, b in _declared_ties(architecture, model) if tensors[a] is tensors[b]}


def _build(make_model: MakeModel, config: Config) -> torch.nn.Module:
    with torch.device("meta"):
        return make_model(dict(config))


def _shapes(model: torch.nn.Module) -> dict[str, tuple[tuple[int, ...], str]]:
    return {name: (tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in model.state_dict().items()}


def _check_sizes(architecture: Architecture, config: Config) -> None:
    resolved = architecture.resolve_config(config)
    for axis in architecture.sizes:
        index = architecture.size_index(axis)
        for values in architecture.instances(index, resolved):
            architecture.size(axis, resolved, values)


def _size_fields(architecture: Architecture) -> list[str]:
    """Return every config field that sizes are computed from, those that growth cannot change included."""
    fixed = [name for axis in architecture.fixed for name in names_in(architecture.sizes[axis])]
    named = [*architecture.size_fields(), *fixed]
    return [name for name in dict.fromkeys(named) if name not in architecture.inferred]


def _flags(architecture: Architecture) -> list[str]:
    arrows = architecture.arrows.values()
    named = [a.bias for a in arrows if isinstance(a.bias, str)] + [a.when for a in arrows if a.when]
    if architecture.tie_field:
        named.append(architecture.tie_field)
    return list(dict.fromkeys(named))


# Equivariance


def _equivariance_problems(
    architecture: Architecture,
    config: Config,
    make_model: MakeModel,
    make_inputs: MakeInputs,
    *,
    lookups: Mapping[str, str] | None = None,
    ordered: Collection[str] = (),
    unused: Collection[str] = (),
    seed: int = 0,
) -> Iterator[str]:
    model = make_model(dict(config))
    aliases = _aliases(architecture, model)
    try:
        source = describe(architecture, config, _shapes(model), aliases=aliases)
        tied = {head for head in architecture.ties if any(_is_stored_as(architecture, head, name) for name in aliases)}
        experiments = Experiments(
            architecture, source, tied=tied, lookups={"vocab": "input_ids"} if lookups is None else lookups,
            ordered=ordered, unused=unused, seed=seed,
        )  # fmt: skip
        yield from experiments.contradictions()
        yield from norm_problems(architecture, config, model, source)
        changed = {**config, **{name: 4 * experiments.config[name] for name in _epsilons(architecture)}}
        for problem in norm_problems(architecture, changed, make_model(changed), replace(source, config=changed)):
            yield f"with every epsilon of the config times 4, {problem}"
    except (SourceError, ArchitectureError) as error:
        yield str(error)
        return
    inputs = dict(make_inputs(config))
    weights = _random_weights(architecture, source, seed)
    baseline = _run(model, source, weights, inputs)
    for experiment in experiments:
        found = _problem(experiment, model, source, weights, inputs, baseline)
        if found:
            yield f"{experiment.name}: {found}"


def _epsilons(architecture: Architecture) -> list[str]:
    eps = [arrow.eps for arrow in architecture.arrows.values() if arrow.kind == "norm"]
    return [name for name in dict.fromkeys(eps) if isinstance(name, str)]


def _problem(
    experiment: Experiment,
    model: torch.nn.Module,
    source: SourceInfo,
    weights: Mapping[str, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    baseline: Mapping[str, torch.Tensor],
) -> str | None:
    changed = dict(weights)
    for action in experiment.actions:
        changed[action.tensor] = action.change(changed[action.tensor])
    given = {name: experiment.inputs[name](t) if name in experiment.inputs else t for name, t in inputs.items()}
    if set(experiment.inputs) - set(inputs):
        return f"the model's inputs lack {sorted(set(experiment.inputs) - set(inputs))}"
    if experiment.frequencies is not None and not _frequencies(model):
        return "the model has no buffer inv_freq, so its rotary axes cannot be permuted"
    try:
        outputs = _run(model, source, changed, given, experiment.frequencies)
    except Exception as error:  # frequencies of another size, say
        return f"the model fails: {error}"
    difference = max(_difference(baseline[name], outputs[name], experiment) for name in baseline)
    if experiment.preserves and not difference <= TOLERANCE:
        return f"the outputs must not change, and they do, by {difference:.1e} of the largest"
    if not experiment.preserves and difference <= TOLERANCE:
        return f"the outputs must change, and they do not ({difference:.1e} of the largest)"
    return None


def _difference(before: torch.Tensor, after: torch.Tensor, experiment: Experiment) -> float:
    expected = [before]
    change = experiment.outputs.get(before.shape[-1]) if before.ndim else None
    if change is not None:
        expected.append(change(before))
    return min(float((after - e).abs().max() / e.abs().max()) for e in expected)


def _run(
    model: torch.nn.Module,
    source: SourceInfo,
    weights: Mapping[str, torch.Tensor],
    inputs: Mapping[str, torch.Tensor],
    frequencies: Change | None = None,
) -> dict[str, torch.Tensor]:
    """Return the model's floating-point outputs by name, with other weights; the model itself stays as it is."""
    tensors = {source.tensors[name].stored: tensor for name, tensor in weights.items()}
    for name, buffer in model.named_buffers():
        buffer = buffer.double() if buffer.is_floating_point() else buffer
        if frequencies is not None and name in _frequencies(model):
            buffer = frequencies(buffer)
        tensors.setdefault(name, buffer)
    with torch.no_grad():
        outputs = torch.func.functional_call(model, tensors, (), dict(inputs))
    return dict(_flatten("", outputs))


def _frequencies(model: torch.nn.Module) -> list[str]:
    return [name for name, _ in model.named_buffers() if _FREQUENCIES.fullmatch(name)]


def _flatten(name: str, outputs: Any) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(outputs, torch.Tensor):
        if outputs.is_floating_point():
            yield name, outputs
    elif isinstance(outputs, Mapping):
        for key, value in outputs.items():
            yield from _flatten(f"{name}.{key}", value)
    elif isinstance(outputs, (list, tuple)):
        for key, value in enumerate(outputs):
            yield from _flatten(f"{name}.{key}", value)


def _random_weights(architecture: Architecture, source: SourceInfo, seed: int) -> dict[str, torch.Tensor]:
    """Return random values for every tensor, gains and biases included, of a size that keeps activations moderate."""
    generator = torch.Generator().manual_seed(seed)
    specs = {tensor: architecture.tensors[template] for tensor, template in _templates(architecture, source).items()}
    weights = {}
    for name, info in source.tensors.items():
        values = torch.randn(info.shape, generator=generator, dtype=torch.float64)
        roles = [dim.role for dim in specs[name].dims]
        is_table = architecture.arrows[specs[name].owner].kind == "embedding"
        if "gain" in roles:
            values = 1 - architecture.arrows[specs[name].owner].offset + 0.3 * values
        elif "read" in roles and not is_table:
            values = 1.5 * values / info.shape[roles.index("read")] ** 0.5
        elif not is_table:
            values = 0.5 * values
        weights[name] = values
    return weights


def _templates(architecture: Architecture, source: SourceInfo) -> dict[str, str]:
    resolved = architecture.resolve_config(source.sizes)
    found = {}
    for template in source.templates:
        spec = architecture.tensors[template]
        for index in architecture.instances(spec.index, resolved):
            found[spec.name(index)] = template
    return found


def _is_stored_as(architecture: Architecture, canonical: str, stored: str) -> bool:
    return stored in (canonical, stored_name(architecture, f"{architecture.prefix}.", canonical))


__all__ = ["TOLERANCE", "check_declaration", "check_equivariance", "check_shapes", "iterate_problems"]
