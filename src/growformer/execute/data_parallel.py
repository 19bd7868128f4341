"""DistributedDataParallel around a model: taken off before growth, put on again afterwards as it was."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from growformer.errors import RequestError

_KEPT = ("device_ids", "output_device", "process_group", "find_unused_parameters", "gradient_as_bucket_view")
_DEFAULTS: dict[str, Any] = {
    "mixed_precision": None,
    "skip_all_reduce_unused_params": False,
    "batched_grad_copy": False,
    "_comm_hooks": [],
    "_delay_all_reduce_params": [],
}
"""What cannot be taken over, as it is where nobody asked for it."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model inside DistributedDataParallel, or the model itself.

    Raises:
        RequestError: it is wrapped by the older FullyShardedDataParallel, whose parameters are flattened.
    """
    if isinstance(model, DistributedDataParallel):
        inner: nn.Module = model.module
        return inner
    if any(kind.__name__ == "FullyShardedDataParallel" for kind in type(model).__mro__):
        raise RequestError(
            "the model is wrapped by FullyShardedDataParallel (FSDP1), which flattens parameters so that their shapes "
            "are lost; shard it with torch.distributed.fsdp.fully_shard (FSDP2) instead"
        )
    return model


def check_wrapper(model: nn.Module) -> None:
    """Refuse a DistributedDataParallel whose settings could not be taken over.

    Raises:
        RequestError: it has such settings; all are named.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    found = [name for name, default in _DEFAULTS.items() if getattr(model, name, default) != default]
    if found:
        raise RequestError(
            f"DistributedDataParallel with {', '.join(name.removeprefix('_') for name in found)} cannot be wrapped "
            "around the grown model as it is: grow model.module, and wrap the result yourself"
        )


def rewrapped(wrapper: nn.Module, grown: nn.Module) -> nn.Module:
    """Return a grown model in a wrapper like its source's; a collective operation where that is one of several ranks'.

    Args:
        wrapper: the source as it was given.
        grown: what its inner model became.
    """
    if not isinstance(wrapper, DistributedDataParallel):
        return grown
    options = {name: getattr(wrapper, name) for name in _KEPT}
    if not wrapper.bucket_bytes_cap_default:
        options["bucket_cap_mb"] = wrapper.bucket_bytes_cap // (1024 * 1024)
    for name in ("forward_sync_buffers", "broadcast_buffers"):  # as newer and older versions of torch call it
        if hasattr(wrapper, name):
            options |= {} if getattr(wrapper, name) else {name: False}
            break
    return DistributedDataParallel(grown, static_graph=wrapper.static_graph, **options)


__all__ = ["check_wrapper", "rewrapped", "unwrapped"]
