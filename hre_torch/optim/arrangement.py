"""Which tensor of a script stands where in a task's vector.

A task lists the names of its tensors in the order of the model that it was made from.
Whoever has names puts tensors there by name: the order of parameter groups, and that of
a module, may differ from site to site. Wrappers change names (`DistributedDataParallel`
prepends `module.`, `torch.compile` prepends `_orig_mod.`, a Lightning module its own
attribute), so these parts, and a prefix that all names share, are not compared.

A plain list of tensors has no names. One group of them is taken in the order in which
it is passed, as `model.parameters()` gives it. Several groups are in an order of the
script's own; where tensors could be exchanged without a change of shapes, nothing but
names can tell, and they are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor, nn

from hre_torch.errors import LayoutError
from hre_torch.optim.flatten import (
    FlatView,
    Layout,
    released_names,
    trainable_parameters,
)
from hre_torch.optim.guards import tensors_of
from hre_torch.protocol.task import TaskConfig
from hre_torch.protocol.task_options import Buffers

__all__ = ["arranged", "frozen_digest", "plain_names", "require_frozen"]

_WRAPPERS: Final = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module"})
_SHOWN: Final = 3

Groups = Iterable[Mapping[str, Any]]


def plain_names(module: nn.Module, buffers: Buffers) -> tuple[str, ...]:
    """Return the names of a module's values, in the order of the flat vector."""
    return tuple(_named(module, buffers))


def arranged(
    groups: Groups,
    config: TaskConfig,
    *,
    module: nn.Module | None,
    founder: nn.Module | None,
    buffers: Buffers,
) -> list[Tensor]:
    """Return the tensors of a task in its order, parameters first.

    Args:
        groups: parameter groups of the optimizer.
        config: the task.
        module: the model, if the script has named it.
        founder: the model that the task was made from, if it is in this process; it
            counts where its tensors are the very same as those of the groups.
        buffers: `"mean"` takes the module's floating-point buffers in.

    Raises:
        LayoutError: they are not those of the task, or their order cannot be told.
        UnsupportedError: a parameter is complex, or has no values yet.
    """
    groups = list(groups)
    if module is None and founder is not None and _are_those_of(groups, founder):
        module = founder
    if module is not None:
        return _checked(_ordered(_named(module, buffers), config), config)
    names = _group_names(groups)
    tensors = trainable_parameters(tensors_of(groups))
    if names is not None and buffers == "local":
        named = {name: t for name, t in names.items() if t.requires_grad}
        return _checked(_ordered(named, config), config)
    layout = Layout.of(tensors, buffers)
    layout.require(config)
    if len(groups) > 1:
        _require_own_order(groups)
    return tensors


def frozen_digest(module: nn.Module) -> bytes:
    """Return SHA-256 of a module's frozen parameters, in order; empty without any."""
    digest, found = hashlib.sha256(), False
    for tensor in module.parameters():
        if not tensor.requires_grad:
            found = True
            values = tensor.detach().cpu().contiguous()
            digest.update(f"{tuple(values.shape)} {values.dtype}\n".encode())
            digest.update(values.view(-1).view(torch.uint8).numpy().data)
    return digest.digest() if found else b""


def require_frozen(module: nn.Module, config: TaskConfig) -> None:
    """Check that what is not trained is what the task was made with.

    Raises:
        LayoutError: it is not.
    """
    if config.frozen_digest and frozen_digest(module) != config.frozen_digest:
        raise LayoutError(
            "The frozen parameters are not those of the model that the task was made "
            "with, so that updates of the others would be learned on another base; "
            "load the same pretrained weights, or make the task with frozen='any'."
        )


def _named(module: nn.Module, buffers: Buffers) -> dict[str, Tensor]:
    """Return trainable parameters, then averaged buffers, by their plain names."""
    names = _plain(released_names(module, buffers))
    return dict(zip(names, FlatView.of(module, buffers).tensors, strict=True))


def _plain(names: Sequence[str]) -> list[str]:
    """Return names without what wrappers put in, unless two would be the same then."""
    plain = [
        ".".join(part for part in name.split(".") if part not in _WRAPPERS)
        for name in names
    ]
    return plain if len(set(plain)) == len(plain) else list(names)


def _group_names(groups: Sequence[Mapping[str, Any]]) -> dict[str, Tensor] | None:
    """Return the tensors of groups by name, if torch was given names."""
    tensors = tensors_of(groups)
    names = [name for group in groups for name in group.get("param_names", ())]
    if len(names) != len(tensors):
        return None
    return dict(zip(_plain(names), tensors, strict=True))


def _ordered(named: Mapping[str, Tensor], config: TaskConfig) -> list[Tensor]:
    """Return named tensors in the order of the task.

    Raises:
        LayoutError: the task has other names.
    """
    if not config.names:
        return list(named.values())
    here, there = _without_prefix(list(named)), _without_prefix(config.names)
    if set(here) != set(there):
        # What differs in number or shape is told in other words.
        _checked(list(named.values()), config)
        raise LayoutError(
            f"The task was made for tensors with other names{_difference(here, there)}."
            " Make the task and the optimizer with the same model, with the same "
            "parameters frozen and the same buffers."
        )
    by_name = dict(zip(here, named.values(), strict=True))
    return [by_name[name] for name in there]


def _without_prefix(names: Sequence[str]) -> list[str]:
    """Return names without the leading parts that all of them share."""
    parts = [name.split(".") for name in names]
    shared = 0
    while all(len(each) > shared + 1 for each in parts) and (
        len({each[shared] for each in parts}) == 1
    ):
        shared += 1
    return [".".join(each[shared:]) for each in parts]


def _difference(here: Sequence[str], there: Sequence[str]) -> str:
    lacking = [name for name in there if name not in set(here)][:_SHOWN]
    unknown = [name for name in here if name not in set(there)][:_SHOWN]
    told = [
        *([f"it has {', '.join(lacking)}"] if lacking else []),
        *([f"here are {', '.join(unknown)}"] if unknown else []),
    ]
    return f": {'; '.join(told)}" if told else ""


def _checked(tensors: list[Tensor], config: TaskConfig) -> list[Tensor]:
    """Return the tensors, once their shapes are known to be the task's.

    Raises:
        LayoutError: they are not.
    """
    parameters = [tensor for tensor in tensors if tensor.requires_grad]
    Layout.of_tensors(parameters, tensors[len(parameters) :]).require(config)
    return tensors


def _are_those_of(groups: Groups, module: nn.Module) -> bool:
    """Whether the groups train the very parameters that this module trains."""
    here = {id(tensor) for tensor in trainable_parameters(tensors_of(groups))}
    return here == {id(tensor) for tensor in trainable_parameters(module)}


def _require_own_order(groups: Sequence[Mapping[str, Any]]) -> None:
    """Refuse groups whose tensors could be exchanged and nobody would notice.

    Raises:
        LayoutError: tensors of two groups have one shape and dtype.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for number, group in enumerate(groups):
        for tensor in trainable_parameters(tensors_of([group])):
            shape = tuple(tensor.shape)
            first = seen.setdefault((shape, tensor.dtype), number)
            if first != number:
                raise LayoutError(
                    f"Parameter groups {first} and {number} both hold a tensor of "
                    f"shape {shape}, and their order need not be that of the task: "
                    "layers could be exchanged without a word. Pass the model, "
                    "HREOptimizer(..., module=model) or join(module=model), or make "
                    "the optimizer with model.named_parameters()."
                )
