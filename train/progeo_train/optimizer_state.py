"""An optimiser's state as flat named tensors, so that it can live in a checkpoint without a pickle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor
from torch.optim import Optimizer

from progeo_edge.errors import ModelError


def optimizer_tensors(optimizer: Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    """Take the state per parameter out of an optimiser. Settings such as the learning rate are not part of it.

    Args:
        optimizer: Any whose state is tensors (Adam: `exp_avg`, `exp_avg_sq`, `step`).
        names: A name per parameter, in the order of the optimiser's groups.

    Returns:
        Tensors named "<parameter>/<entry>" ("trunk.conv1.weight/exp_avg"), as they are in the optimiser. A parameter
        that has never been stepped has none.

    Raises:
        ModelError: another number of names than parameters, a name twice, or state that is no tensor.
    """
    tensors: dict[str, Tensor] = {}
    for name, parameter in _by_name(optimizer, names).items():
        for entry, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor):
                raise ModelError(f"optimiser state {entry} of {name} is a {type(value).__name__}; expected a tensor")
            tensors[f"{name}/{entry}"] = value
    return tensors


def restore_optimizer(optimizer: Optimizer, names: Sequence[str], tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser the state that `optimizer_tensors` took; its next step is then the same.

    Args:
        optimizer: Over the same parameters; state that it has is replaced.
        names: As in `optimizer_tensors`.
        tensors: As returned by it; copied to the device of each parameter.

    Raises:
        ModelError: as `optimizer_tensors`, or unknown names, incomplete state, other shapes; the optimiser is not
            changed then.
    """
    parameters = _by_name(optimizer, names)
    states = _checked_states(parameters, tensors)
    in_group = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    for name, parameter in parameters.items():
        optimizer.state.pop(parameter, None)
        group = in_group[parameter]
        # Adam keeps its step count on the CPU unless it is fused or capturable.
        step_device = parameter.device if group.get("fused") or group.get("capturable") else "cpu"
        if name in states:
            optimizer.state[parameter] = {
                entry: value.to(step_device if entry == "step" else parameter.device, copy=True)
                for entry, value in states[name].items()
            }


def _by_name(optimizer: Optimizer, names: Sequence[str]) -> dict[str, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if len(parameters) != len(names) or len(set(names)) != len(names):
        raise ModelError(f"the optimiser has {len(parameters)} parameters; got {len(set(names))} different names")
    return dict(zip(names, parameters, strict=True))


def _checked_states(parameters: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    states: dict[str, dict[str, Tensor]] = {}
    for full_name, value in tensors.items():
        name, _, entry = full_name.rpartition("/")
        if name not in parameters:
            raise ModelError(
                f"the checkpoint has optimiser state of {name or full_name}, which this run does not train; "
                "resume with the settings of the run that wrote it"
            )
        if value.ndim and value.shape != parameters[name].shape:
            expected = tuple(parameters[name].shape)
            raise ModelError(f"optimiser state {full_name} has shape {tuple(value.shape)}, expected {expected}")
        states.setdefault(name, {})[entry] = value
    entries = {entry for state in states.values() for entry in state}
    for name, state in states.items():
        if state.keys() != entries:
            raise ModelError(
                f"the checkpoint's optimiser state of {name} misses {', '.join(sorted(entries - state.keys()))}"
            )
    return states
