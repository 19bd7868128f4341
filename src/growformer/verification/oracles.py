"""Two oracles that test a declaration against the model's own class. They use no growth code.

``shapes`` builds the class without storage at sizes that differ in one config field: the arrows must predict every
shape, and which tensors exist, share storage, change and stay. ``equivariance`` runs the class with random weights and
changes coordinates (see ``symmetries``), because shapes can see neither memory order nor which of two spaces of one
size a weight reads.

What neither can see, as no weight carries it: the scale of the attention scores, the value of an epsilon that is a
constant of the class, and facts that concern training alone (``std``). Outputs of grown models show the first two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import torch

from growformer.architecture.declaration import Architecture, Config
from growformer.errors import ArchitectureError, SourceError
from growformer.verification.declared import Declared
from growformer.verification.flow import Flow
from growformer.verification.live import Live, MakeModel, Weights, with_fields
from growformer.verification.norms import norm_problems
from growformer.verification.places import Experiment
from growformer.verification.shape_oracle import named, shape_problems
from growformer.verification.symmetries import experiments

MakeInputs = Callable[[Config], Mapping[str, torch.Tensor]]
"""Config -> keyword arguments of the model's forward."""

TOLERANCE = 1e-4
"""Largest change, relative to the largest output, that still counts as none.

The model runs in float64, but norms, softmax and rotary angles are computed in float32 by most classes; summing in
another order moves them by 1e-7 to 1e-6. What a wrong declaration changes is of the order of the output.
"""


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
    for problem in shape_problems(architecture, config, make_model, variants or {}, silent):
        wrong_shapes = True
        yield problem
    if wrong_shapes:
        return
    no_change: Config = {}
    for changed in (no_change, *silent):
        where = f" with {named(changed)}" if changed else ""
        other = with_fields(architecture, config, changed)
        for problem in iterate_equivariance(architecture, other, make_model, make_inputs, **options):
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
    return list(shape_problems(architecture, config, make_model, variants or {}, []))


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
    found = iterate_equivariance(
        architecture, config, make_model, make_inputs, lookups=lookups, ordered=ordered,
        unused=unused, seed=seed,
    )  # fmt: skip
    return [f"equivariance: {problem}" for problem in found]


def iterate_equivariance(
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
    """Yield what ``check_equivariance`` returns, as it is found."""
    try:
        live = Live(architecture, config, make_model(dict(config)))
        declared = Declared(live.architecture, live.source, tied=live.tied, unused=unused, seed=seed)
        yield from declared.contradictions()
        yield from norm_problems(live)
        larger = {name: 4 * declared.config[name] for name in _epsilons(declared)}
        changed = with_fields(architecture, config, larger)
        for problem in norm_problems(Live(architecture, changed, make_model(changed))):
            yield f"with every epsilon of the config times 4, {problem}"
    except (SourceError, ArchitectureError) as error:
        yield str(error)
        return
    inputs = dict(make_inputs(config))
    weights = _random_weights(live, seed)
    baseline = live.run(weights, inputs)
    rows = {"vocab": "input_ids"} if lookups is None else lookups
    for experiment in experiments(declared, lookups=rows, ordered=ordered):
        found = _problem(experiment, live, weights, inputs, baseline)
        if found:
            yield f"{experiment.name}: {found}"
    yield from Flow(declared, live).problems(weights, inputs)


def _epsilons(declared: Declared) -> list[str]:
    """Return the fields of a config that norms take, and those that by their names a norm of the class may take."""
    named = [arrow.eps for arrow in declared.architecture.arrows.values() if arrow.kind == "norm"]
    named += [name for name, value in declared.config.items() if "eps" in name and isinstance(value, float)]
    return [name for name in dict.fromkeys(named) if isinstance(name, str)]


def _problem(experiment: Experiment, live: Live, weights: Weights, inputs: Weights, baseline: Weights) -> str | None:
    changed = dict(weights)
    for action in experiment.actions:
        changed[action.tensor] = action.change(changed[action.tensor])
    given = {name: experiment.inputs[name](t) if name in experiment.inputs else t for name, t in inputs.items()}
    if set(experiment.inputs) - set(inputs):
        return f"the model's inputs lack {sorted(set(experiment.inputs) - set(inputs))}"
    if experiment.frequencies is not None and not live.rotary_buffers:
        return "the model has no buffer inv_freq or embed_positions, so its rotary axes cannot be permuted"
    try:
        outputs = live.run(changed, given, experiment.frequencies)
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


def _random_weights(live: Live, seed: int) -> dict[str, torch.Tensor]:
    """Return random values for every tensor, gains and biases included, of a size that keeps activations moderate.

    A tensor that is carried keeps its integers; of its numbers nothing is known but its name and shape.
    """
    generator = torch.Generator().manual_seed(seed)
    architecture, source = live.architecture, live.source
    resolved = architecture.resolve_config(source.sizes)
    weights = {}
    for spec in architecture.tensors.values():
        arrow = architecture.arrows[spec.owner]
        roles = [dim.role for dim in spec.dims]
        for index in architecture.instances_of(spec, resolved) if spec.template in source.templates else ():
            name = spec.name(index)
            shape = source.tensors[name].shape
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            if arrow.kind == "carried":
                own = live.tensors[source.tensors[name].stored]
                values = _of_carried(name, values) if own.is_floating_point() else own
            elif "gain" in roles:
                values = 1 - arrow.offset + 0.3 * values
            elif "read" in roles and arrow.kind != "embedding":
                read = math.prod(n for n, role in zip(shape, roles, strict=True) if role in ("read", "kernel"))
                values = 1.5 * values / read**0.5
            elif arrow.kind != "embedding":
                values = 0.5 * values
            weights[name] = values
    return weights


def _of_carried(name: str, values: torch.Tensor) -> torch.Tensor:
    if values.ndim > 1:
        return torch.div(values, math.prod(values.shape[1:]) ** 0.5)
    return 1 + 0.3 * values if name.endswith("weight") else 0.5 * values


__all__ = [
    "TOLERANCE",
    "MakeInputs",
    "MakeModel",
    "check_declaration",
    "check_equivariance",
    "check_shapes",
    "iterate_equivariance",
    "iterate_problems",
]
