"""One policy out of layers: built-in, grid, group, desktop, owner.

Rules:
- The grid may set anything over what is built in. Each layer after it may only tighten, setting by setting; what would
  loosen is ignored, and said to be.
- What is tighter is in each setting's row (`model/policy.py`). Lists of an `ADDED` setting grow from layer to layer.
- A tighter layer never allows more: whatever is known, what the whole policy allows would be allowed without it too.
- A value that is not there changes nothing; a value equal to the present one neither.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from deskgrid.model.policy import ROWS, Policy, SettingRow, Tighter

LAYERS = ("built-in", "grid", "group", "desktop", "owner")
BUILT_IN, GRID = LAYERS[0], LAYERS[1]


class Layer(msgspec.Struct, frozen=True):
    """One layer: its name (of LAYERS), where it comes from (for people), and what it sets (checked values)."""

    name: str
    source: str
    values: Mapping[str, Any]


class EffectiveSetting(msgspec.Struct, frozen=True):
    """What holds. layers: which layer set it; several for a list to which several have added."""

    name: str
    value: Any
    layers: tuple[str, ...]


class Ignored(msgspec.Struct, frozen=True):
    """What a layer asked for and does not get, and why."""

    name: str
    value: Any
    layer: str
    source: str
    sentence: str


class Effective(msgspec.Struct, frozen=True):
    """The policy that holds, and how it came about. settings: in the order of ROWS.

    sources: layer and source, of the layers that are there. faults: what is wrong with their files, for people.
    """

    policy: Policy
    settings: tuple[EffectiveSetting, ...]
    ignored: tuple[Ignored, ...] = ()
    sources: tuple[tuple[str, str], ...] = ()
    faults: tuple[str, ...] = ()


def combine(layers: Sequence[Layer]) -> Effective:
    """Put layers together.

    Args:
        layers: without the built-in one; in any order, at most one of each name.

    Raises:
        ValueError: a layer or a setting that does not exist, or a layer that comes twice.
    """
    names = [layer.name for layer in layers]
    if len(set(names)) < len(names) or not set(names) <= set(LAYERS[1:]):
        raise ValueError(f"layers: got {', '.join(names)}, expected at most one each of {', '.join(LAYERS[1:])}")
    known = {row.name for row in ROWS}
    for layer in layers:
        if unknown := sorted(set(layer.values) - known):
            raise ValueError(f"layer {layer.name}: got {', '.join(unknown)}, expected settings of the policy")
    ordered = sorted(layers, key=lambda layer: LAYERS.index(layer.name))
    settings, ignored = [], []
    for row in ROWS:
        setting, not_obeyed = _settle(row, ordered)
        settings.append(setting)
        ignored += not_obeyed
    policy = Policy(**{setting.name: setting.value for setting in settings})
    sources = tuple((layer.name, layer.source) for layer in ordered)
    return Effective(policy, tuple(settings), tuple(ignored), sources)


def tightens(row: SettingRow, before: Any, after: Any) -> bool:
    """Whether `after` allows at most as much as `before`, for a setting that is not ADDED."""
    match row.tighter:
        case Tighter.LESS:
            return bool(after <= before)
        case Tighter.MORE:
            return bool(after >= before)
        case Tighter.NO:
            return bool(before or not after)
        case Tighter.YES:
            return bool(after or not before)
        case _:
            return bool(after == before)


def _settle(row: SettingRow, layers: Sequence[Layer]) -> tuple[EffectiveSetting, list[Ignored]]:
    value, by = getattr(Policy(), row.name), (BUILT_IN,)
    ignored = []
    for layer in layers:
        if row.name not in layer.values:
            continue
        asked = layer.values[row.name]
        if layer.name == GRID:
            value, by = asked, (GRID,)
        elif row.tighter is Tighter.ADDED:
            further = tuple(item for item in dict.fromkeys(asked) if item not in value)
            if further:
                value, by = (*value, *further), (*(by if value else ()), layer.name)
        elif asked == value:
            continue
        elif tightens(row, value, asked):
            value, by = asked, (layer.name,)
        else:
            ignored.append(Ignored(row.name, asked, layer.name, layer.source, _sentence(row, layer, by)))
    return EffectiveSetting(row.name, value, by), ignored


def _sentence(row: SettingRow, layer: Layer, by: Sequence[str]) -> str:
    if row.tighter is Tighter.FIXED:
        return f"Only the grid may set {row.name}, so what the {layer.name}'s layer says is ignored."
    return (
        f"The {layer.name}'s layer may only tighten {row.name}, and this would loosen what the layer {by[-1]} says, "
        "so it is ignored."
    )
