"""The section on verification: verdicts, tables and plots of the three checks; what was not checked says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from markupsafe import Markup

from growformer.reporting.charts import Line, Pair, gauge, lines, pairs
from growformer.reporting.findings import Activity, Findings, FoundComparison, Reached, activity, reached
from growformer.reporting.numbers import num_bytes, scientific, whole
from growformer.reporting.verified import Verified

MOST_ROWS = 24
MOST_VIOLATIONS = 50


@dataclass(frozen=True, slots=True)
class Table:
    """What stands behind a picture."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of a plot's legend: which series, and its name."""

    series: int
    name: str


@dataclass(frozen=True, slots=True)
class Plot:
    """One picture with its words and numbers."""

    title: str
    words: str
    svg: Markup
    keys: tuple[Key, ...]
    table: Table
    is_small: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        name: in words.
        question: what it asks.
        state: ``passed``, ``failed`` or ``not checked``.
        verdict: one line.
        facts: figures in words: name, value.
        tables: of what is wrong, with titles.
        plots: pictures.
        notes: what else to know.
        hint: how to run it, where it was not, or where that is a claim.
        claimed: who says so, where it was not found for this page.
    """

    name: str
    question: str
    state: str
    verdict: str
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()
    hint: str = ""
    claimed: str = ""


def checks(verified: Verified, command: str) -> tuple[Check, ...]:
    """Return the three checks.

    Args:
        verified: what was found, and what is claimed.
        command: how to verify.
    """
    made = {"constraints": _constraints, "outputs": _outputs, "trainability": _trainability}
    shown = []
    for name, make in made.items():
        check, who = make(verified.found, command), verified.claimed.get(name, "")
        shown.append(replace(check, claimed=who, hint=f"{command} --checks {name}") if who else check)
    return tuple(shown)


def _state(ok: bool) -> str:
    return "passed" if ok else "failed"


def _constraints(found: Findings | None, command: str) -> Check:
    name, question = "Constraints", "Is every block of every tensor what it must be for the function to be the same?"
    report = found.constraints if found is not None else None
    if report is None:
        return Check(name, question, "not checked", "No weights were compared.", hint=f"{command} --checks constraints")
    facts = [("tensors compared", whole(report.tensors)), ("values that must be as they are", whole(report.checked))]
    facts += [(f"of these: {kind}", whole(n)) for kind, n in report.values.items() if n and kind not in _FREE]
    if report.regenerated:
        facts.append(("free values made again from the seed, and equal", whole(report.regenerated)))
    if report.free:
        facts.append(("free values, which may be anything", whole(report.free)))
    if report.record:
        inferred = report.record == "inferred"
        facts.append(("known from", "the two checkpoints alone" if inferred else report.record))
    if report.strict:
        facts.append(("strict", "bit for bit where the mathematics gives it"))
    if report.roundings:
        facts.append(("rounded once", ", ".join(report.roundings)))
    if report.num_bytes is not None and report.seconds is not None:
        facts.append(("read", f"{num_bytes(report.num_bytes)} in {report.seconds:.3g} s"))
    tables = []
    if report.violations:
        shown = report.violations[:MOST_VIOLATIONS]
        more = len(report.violations) - len(shown)
        rows = tuple((v.kind, f"{v.where}{v.region}", v.expected, v.found, scientific(v.deviation)) for v in shown)
        title = f"What does not hold{f' (the first {len(shown)} of {len(shown) + more})' if more else ''}"
        tables.append((title, Table(("kind", "where", "expected", "found", "off by"), rows)))
    return Check(name, question, _state(report.ok), report.verdict, tuple(facts), tuple(tables), notes=report.notes)


_FREE = ("regenerated", "unchecked")


def _outputs(found: Findings | None, command: str) -> Check:
    name, question = "Outputs", "Do both models say the same, up to the rounding that the source has anyway?"
    report = found.outputs if found is not None else None
    if report is None:
        return Check(name, question, "not checked", "No model was run.", hint=f"{command} --checks outputs")
    facts = [
        (f"inputs, {c.dtype}", f"{c.inputs}, {c.length} tokens") for c in report.comparisons if c.length is not None
    ]
    for c in report.comparisons:
        if c.worst is not None:
            token = f", {c.worst.text!r}" if c.worst.text else ""
            facts.append(
                (f"worst token, {c.name}", f"position {c.worst.position}{token}: {scientific(c.worst.grown_error)}")
            )
    if report.cache is not None:
        same = "the same" if report.cache.same else "DIFFERENT"
        ratio = f", logits at ratio {report.cache.ratio:.2f}" if report.cache.ratio is not None else ""
        facts.append(("greedy tokens with a cache", f"{same} {report.cache.tokens}{ratio}"))
    plots = [_ratio(c) for c in report.comparisons]
    plots += [_by_position(c) for c in report.comparisons if c.by_position]
    plots += [_by_layer(c) for c in report.comparisons if c.by_layer]
    worst = max(report.comparisons, key=lambda c: c.ratio, default=None)
    words = "No comparison is recorded."
    if worst is not None:
        words = (
            f"Largest error against the source's own: {worst.ratio:.2f} times ({worst.name}; limit {worst.limit:g})."
        )
    missing = [] if any(c.by_position for c in report.comparisons) else ["Errors by position were not recorded."]
    if not any(c.by_layer for c in report.comparisons):
        missing.append("Errors by layer were not recorded.")
    return Check(name, question, _state(report.ok), words, tuple(facts), (), tuple(plots), (*report.notes, *missing))


def _ratio(c: FoundComparison) -> Plot:
    label = f"ratio {c.ratio:.2f} of the grown model's error to the source's own, limit {c.limit:g}"
    rows = (
        ("error of the grown model", scientific(c.grown_error)),
        ("the source's own", scientific(c.source_error)),
        ("ratio", f"{c.ratio:.3f}"),
        ("limit", f"{c.limit:g}"),
        ("largest difference of an output", scientific(c.largest)),
        ("positions whose best token is the same", "–" if c.greedy_equal is None else f"{c.greedy_equal:.2%}"),
    )
    return Plot(
        f"Error against rounding: {c.name}",
        f"Against the source in float64, the grown model is off by {scientific(c.grown_error)}, the source itself by "
        f"{scientific(c.source_error)}: a ratio of {c.ratio:.2f}. At 1, growth added nothing.",
        gauge(c.ratio, c.limit, label),
        (),
        Table(("figure", "value"), rows),
        is_small=True,
    )


_TWO = (Key(0, "the source's own rounding"), Key(1, "the grown model"))


def _by_position(c: FoundComparison) -> Plot:
    series = [
        Line(
            name,
            tuple((b.start, getattr(b, field)) for b in c.by_position),
            tuple(f"positions {b.start}–{b.stop - 1}, {scientific(getattr(b, field))}" for b in c.by_position),
        )
        for name, field in (("source", "source_error"), ("grown", "grown_error"))
    ]
    rows = tuple(
        (f"{b.start}–{b.stop - 1}", scientific(b.source_error), scientific(b.grown_error)) for b in c.by_position
    )
    return Plot(
        f"Error by position: {c.name}",
        "Rotary frequencies and long sums would show here: a line of the grown model that leaves the source's.",
        lines(series, label=f"errors of both models by position, {c.name}", x_name="position in the sequence"),
        _TWO,
        Table(("positions", "source", "grown"), rows),
    )


def _by_layer(c: FoundComparison) -> Plot:
    series = [
        Line(
            name,
            tuple((b.layer, getattr(b, field)) for b in c.by_layer),
            tuple(
                f"after layer {b.layer} of the source, {b.grown_layer} when grown: {scientific(getattr(b, field))}"
                for b in c.by_layer
            ),
        )
        for name, field in (("source", "source_error"), ("grown", "grown_error"))
    ]
    rows = tuple(
        (str(b.layer), str(b.grown_layer), scientific(b.source_error), scientific(b.grown_error)) for b in c.by_layer
    )
    return Plot(
        f"Error by layer: {c.name}",
        "Hidden states after every layer of the source. A step in the grown model's line names the layer that is off.",
        lines(series, label=f"errors of hidden states by layer, {c.name}", x_name="layer of the source", steps=True),
        _TWO,
        Table(("source layer", "grown layer", "source", "grown"), rows),
    )


def _trainability(found: Findings | None, command: str) -> Check:
    name, question = "Trainability", "Will everything that is new learn?"
    report = found.trainability if found is not None else None
    if report is None:
        hint = f"{command} --checks trainability"
        return Check(name, question, "not checked", "No training step was made.", hint=hint)
    facts = [("new regions", whole(report.regions)), ("training steps", whole(report.steps))]
    facts += [(f"first gradient at step {step}", whole(n)) for step, n in sorted(report.by_first_step.items())]
    tables = []
    if report.dead:
        rows = tuple((d.tensor, str(d.region)) for d in report.dead[:MOST_VIOLATIONS])
        tables.append(("New regions that never learn", Table(("tensor", "region"), rows)))
    if report.locked:
        locked = tuple((d.tensor, str(d.region), str(len(d.units))) for d in report.locked[:MOST_VIOLATIONS])
        columns = ("tensor", "region", "groups of equal units")
        tables.append(("New units that stay equal to others", Table(columns, locked)))
    if report.out_of_scale:
        far = tuple((r.tensor, str(r.region), scientific(r.ratio)) for r in report.out_of_scale[:MOST_VIOLATIONS])
        columns = ("tensor", "region", "times its neighbours' gradient")
        tables.append(("New regions whose gradients are out of scale", Table(columns, far)))
    plots = []
    groups = reached(report.reach)
    if groups:
        plots.append(_gradients(groups))
    active = activity(report.activations)
    if active:
        plots.append(_activations(active))
    words = "Every new region learns." if not report.dead else f"{len(report.dead)} new regions never learn."
    if report.locked:
        words += f" {len(report.locked)} regions have units that are locked in symmetry."
    if report.out_of_scale:
        words += f" {len(report.out_of_scale)} regions have gradients far above their neighbours'."
    return Check(name, question, _state(report.ok), words, tuple(facts), tuple(tables), tuple(plots), report.notes)


def _gradients(found: Sequence[Reached]) -> Plot:
    steps = max((len(g.gradient) for g in found), default=0)
    shown = min(steps, 2)
    names = [f"new, step {n + 1}" for n in range(shown)] + ["the source's part, last step"]
    series = (*(1, 2)[:shown], 0)
    rows, table = [], []
    for g in found:
        values = [g.gradient[n] if n < len(g.gradient) else None for n in range(shown)]
        old = g.source_gradient[-1] if g.source_gradient else None
        says = [f"{scientific(v)}, from {scientific(lo)} to {scientific(hi)} over {g.regions} regions"
                for v, lo, hi in zip(values, g.low, g.high, strict=False)]  # fmt: skip
        says += [""] * (shown - len(says)) + [scientific(old)]
        rows.append(Pair(g.name, (*values, old), tuple(says)))
        first = "never" if g.first_step is None else str(g.first_step)
        table.append((g.name, whole(g.regions), first, *(scientific(v) for v in g.gradient), scientific(old)))
    columns = ("tensor", "regions", "first step", *(f"step {n + 1}" for n in range(steps)), "source")
    table = [(*row[:-1], *["–"] * (len(columns) - len(row)), row[-1]) for row in table]
    more = f" The first {MOST_ROWS} of {len(rows)} kinds." if len(rows) > MOST_ROWS else ""
    return Plot(
        "Reach of the gradient",
        "Root mean square of gradients, the median of all layers. What writes to the stream is zero and learns at the "
        "first step; what only it reads gets its gradient at the second, and stands at 0 before." + more,
        pairs(
            rows[:MOST_ROWS],
            names,
            series,
            label="gradients of new regions at the first steps",
            axis="gradient, root mean square",
        ),
        tuple(map(Key, series, names)),
        Table(columns, tuple(table)),
    )


def _activations(found: Sequence[Activity]) -> Plot:
    names = ["source coordinates", "new coordinates"]
    rows = [Pair(a.name, (a.source_rms, a.new_rms), (scientific(a.source_rms), scientific(a.new_rms))) for a in found]
    table = tuple(
        (a.name, whole(a.modules), str(a.step), scientific(a.source_rms), scientific(a.new_rms)) for a in found
    )
    return Plot(
        "Activations, old and new",
        f"Root mean square of what modules give, after step {max(a.step for a in found)}: new coordinates far below "
        "the source's learn slowly, far above it they disturb.",
        pairs(
            rows[:MOST_ROWS],
            names,
            (0, 1),
            label="activations of source and new coordinates",
            axis="activation, root mean square",
        ),
        tuple(Key(i, n) for i, n in enumerate(names)),
        Table(("module", "modules", "step", "source", "new"), table),
    )


__all__ = ["Check", "Key", "Plot", "Table", "checks"]
