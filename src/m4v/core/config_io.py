"""Frozen dataclass configurations to and from plain JSON types, strictly."""

import dataclasses
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from m4v.core.errors import UserError

Config = TypeVar("Config")


def to_plain(config: Any) -> Any:
    """Turn a (nested) dataclass into dictionaries, lists, strings and numbers; paths become strings."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_plain(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_plain(value) for value in config]
    if config is None or isinstance(config, bool | int | float | str):
        return config
    return str(config)


def from_plain(cls: type[Config], mapping: Mapping[str, Any], where: str = "") -> Config:
    """Build a dataclass from plain types.

    Raises:
        UserError: on an unknown key, a missing key or a value of the wrong kind; the message gives the full key.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in mapping:
        if key not in fields:
            known = ", ".join(sorted(fields))
            raise UserError(f"Unknown setting {where}{key!s}; {cls.__name__} has: {known}.")
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in mapping.items()}
    try:
        return cls(**values)
    except TypeError as error:
        raise UserError(f"Incomplete settings for {where or cls.__name__}: {error}.") from error


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(arguments, value, where)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise UserError(f"{where} is {value!r}; expected a table of {hint.__name__} settings.")
        return from_plain(hint, value, f"{where}.")
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise UserError(f"{where} is {value!r}; expected a list.")
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_convert(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
        if len(arguments) != len(value):
            raise UserError(f"{where} has {len(value)} entries; expected {len(arguments)}.")
        return tuple(_convert(arguments[i], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where} is {value!r}; expected one of {', '.join(map(repr, arguments))}.")
        return value
    if isinstance(hint, type):
        return _convert_scalar(hint, value, where)
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in options:
        return None
    problems = []
    for option in options:
        if option is type(None):
            continue
        try:
            return _convert(option, value, where)
        except UserError as error:
            problems.append(str(error))
    raise UserError(" ".join(problems))


def _convert_scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (bool, int, float, str):
        if type(value) is not hint:
            raise UserError(f"{where} is {value!r}; expected {hint.__name__}.")
        return value
    if isinstance(value, hint):
        return value
    try:
        return hint(value)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where} is {value!r}; expected {hint.__name__}.") from error
