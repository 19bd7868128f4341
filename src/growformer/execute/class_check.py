"""Asks a model's own class, on the meta device, whether a target config is one that it takes and builds as planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from types import TracebackType
from typing import Any

from growformer.architecture.source import describe
from growformer.errors import ArchitectureError, RequestError, SourceError
from growformer.execute.class_shapes import Built, build
from growformer.planning.plan import Plan

# Not -m, which would import from the working folder, and that may be a checkpoint's.
_RUN = "import sys; sys.path = [p for p in sys.path if p]; from growformer.execute.class_shapes import main; main()"


def check_with_class(plan: Plan, config: dict[str, Any]) -> None:
    """Ask the model's own class whether it takes the target config and builds the planned tensors from it.

    Architectures that transformers does not know are left to their owner.

    Raises:
        RequestError: the class refuses, or builds other tensors.
    """
    judge(plan, config, build(config))


def judge(plan: Plan, config: dict[str, Any], built: Built, planned: dict[str, tuple[int, ...]] | None = None) -> None:
    """Compare what a class built with what is planned (by default, the plan's target shapes); see above."""
    model_type = config.get("model_type")
    if built.refusal is not None:
        raise RequestError(f"the class of {model_type} refuses the target config: {built.refusal}; ask for other sizes")
    if built.shapes is None:
        return
    # The class may name the head as the owner; a checkpoint has the table.
    turned = {
        (owner if any(owner.endswith(head) for head in plan.architecture.ties) else name): (
            name if any(owner.endswith(head) for head in plan.architecture.ties) else owner
        )
        for name, owner in built.aliases.items()
    }
    try:
        found = describe(plan.architecture, {**config, **plan.source.inferred}, built.shapes, aliases=turned)
    except (SourceError, ArchitectureError) as error:
        raise RequestError(
            f"the class of {model_type} builds other tensors from the target config than planned; this config cannot "
            f"express the requested sizes: {error}"
        ) from None
    for name, shape in (dict(plan.target_shapes()) if planned is None else planned).items():
        if name in found.tensors and found.tensors[name].shape != shape:
            raise RequestError(
                f"the class of {model_type} builds {found.tensors[name].stored} with shape "
                f"{list(found.tensors[name].shape)} from the target config, the plan has {list(shape)}; this config "
                "cannot express the requested sizes"
            )


class ClassCheck:
    """The check of a target config beside other work; leave the context to end it.

    Where transformers is imported already, or there is no interpreter to start, it runs at ``submit``; else in a
    process that imports transformers from now on.

    Args:
        model_type: of the config to come.
    """

    def __init__(self, model_type: str) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._thread: threading.Thread | None = None
        self._outcome: list[Exception | None] = []
        if "transformers" not in sys.modules and sys.executable:
            self._process = subprocess.Popen(
                [sys.executable, "-c", _RUN, model_type],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for this process, which ends the other
                env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
            )

    def submit(self, plan: Plan, config: dict[str, Any]) -> None:
        """Begin to check a config against a plan.

        Raises:
            RequestError: as ``check_with_class``, where the check runs here.
        """
        if self._process is None:
            check_with_class(plan, config)
            self._outcome.append(None)
            return
        self._thread = threading.Thread(target=self._ask, args=(plan, config), daemon=True)
        self._thread.start()

    def refusal(self) -> Exception | None:
        """Return the error of a check that has ended with one; None while it runs, or if all is well."""
        return self._outcome[0] if self._outcome else None

    def wait(self) -> None:
        """Wait for the outcome.

        Raises:
            RequestError: as ``check_with_class``.
        """
        if self._thread is not None:
            self._thread.join()
        refusal = self.refusal()
        if refusal is not None:
            raise refusal

    def _ask(self, plan: Plan, config: dict[str, Any]) -> None:
        assert self._process is not None
        try:
            assert self._process.stdin is not None
            with suppress(BrokenPipeError):  # its end says why
                self._process.stdin.write(json.dumps(config).encode())
                self._process.stdin.close()
            self._process.stdin = None
            planned = dict(plan.target_shapes())  # while the class is built
            answer, trouble = self._process.communicate()
            if self._process.returncode:
                lines = trouble.decode(errors="replace").strip().splitlines() or ["no message"]
                raise RequestError(f"the model's class could not be asked about the target config: {lines[-1]}")
            found = json.loads(answer)
            shapes = found["shapes"]
            if shapes is not None:
                shapes = {name: (tuple(shape), dtype) for name, (shape, dtype) in shapes.items()}
            judge(plan, config, Built(shapes, found["aliases"], found["refusal"]), planned)
        except Exception as error:
            self._outcome.append(error)
        else:
            self._outcome.append(None)

    def __enter__(self) -> ClassCheck:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            if self._thread is not None:
                self._thread.join()
            else:
                self._process.communicate()


__all__ = ["ClassCheck", "check_with_class", "judge"]
