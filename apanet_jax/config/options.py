"""Options: settings of a config set by name, as behind `--config=FILE:` or in a variant."""

import ast
import difflib
from collections.abc import Iterable, Iterator
from typing import Any

from ml_collections import ConfigDict

from apanet_jax.runtime.errors import UserError


def flat_fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every field of `config`."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat_fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def set_options(config: ConfigDict, options: str) -> list[str]:
    """Sets options such as "fold=2,model.num_clusters=5" in `config`; returns the names set.

    Values are Python literals; anything else is a string. A tuple is written with plus signs:
    `evaluation.shots=1+5`.

    Raises:
      UserError: for an option that is not `key=value`, a key that does not exist, or a value of
        another type than the setting's.
    """
    names = []
    for option in filter(None, options.split(",")):
        key, equals, text = option.partition("=")
        if not equals:
            raise UserError(f"option {option!r} behind the config: expected key=value")
        names.append(set_field(config, key.strip(), text.strip()))
    return names


def set_field(config: ConfigDict, key: str, text: str) -> str:
    """Sets the field `key` of `config` to what `text` says; returns the field's dotted name.

    `key` is a dotted name, or the last part of one where only one field has it, or a section for
    the `name` in it (`backbone=resnet101`).
    """
    flat = dict(flat_fields(config))
    named = [p for p in flat if p == key] or [
        p for p in flat if p.endswith(f".{key}") or p == f"{key}.name"
    ]
    if len(named) > 1:
        raise UserError(f"{key!r} could mean {' or '.join(sorted(named))}: write which")
    if not named:
        raise UserError(no_field(key, flat))
    name = named[0]
    old = flat[name]
    value = _literal(text)
    if isinstance(old, tuple):
        value = tuple(_literal(part) for part in text.split("+")) if text else ()
    elif isinstance(old, str):
        value = text
    elif isinstance(old, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not type(old):
        raise UserError(
            f"config field {name!r} was given {text!r}, expected {type(old).__name__} (now {old!r})"
        )
    with config.unlocked():
        config.update_from_flattened_dict({name: value})
    return name


def no_field(key: str, names: Iterable[str]) -> str:
    """Returns what to say of a field that is none of `names`, with the one that is near it."""
    short = {p.rpartition(".")[2]: p for p in names} | {p: p for p in names}
    near = difflib.get_close_matches(key, short, n=1)
    hint = f"; did you mean {short[near[0]]!r}?" if near else ""
    return f"the config has no field {key!r}{hint}"


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
