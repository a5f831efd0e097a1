"""Settings of a job: declared beside their owner, read from YAML and the command line, checked all at once.

A config is a tree of frozen pydantic sections. What a user gets wrong is reported together, each fault with its
dotted path, because a cluster job that fails on its third bad field has cost three queue waits.
"""

import difflib
import hashlib
import inspect
import json
import types
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from cslm import storage
from cslm.errors import ConfigError

ConfigT = TypeVar("ConfigT", bound="Section")

REQUIRED: Any = ...


class Section(BaseModel):
    """A group of settings: unknown keys are faults, and nothing changes after loading."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), validate_default=True)


def setting(default: Any, meaning: str, *, unit: str | None = None, **constraints: Any) -> Any:
    """Declare one field: its default (`REQUIRED` for none), one line of meaning, and the unit of its value.

    `constraints` are pydantic's (`ge`, `gt`, `le`, `min_length` ...).
    """
    extra: dict[str, Any] | None = {"unit": unit} if unit else None
    return Field(default, description=meaning, json_schema_extra=extra, **constraints)


def group(section: type[Section], meaning: str) -> Any:
    """Declare a nested section that starts from its own defaults."""
    return Field(default_factory=section, description=meaning)


def parse(cls: type[ConfigT], argv: Sequence[str], *, prog: str, description: str) -> ConfigT:
    """Build a config from `--config FILE.yaml` and `--section.field value` arguments; the command line wins.

    `--help` and `--print-config` print and raise SystemExit(0). Raises ConfigError with every fault found.
    """
    if "--help" in argv or "-h" in argv:
        print(render_help(cls, prog=prog, description=description))
        raise SystemExit(0)
    config_file, print_config, overrides, faults = _split_arguments(cls, argv)
    values: dict[str, Any] = {}
    if config_file is not None:
        try:
            loaded = storage.read_yaml(config_file)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise ConfigError(f"--config: must be a readable YAML file, found {config_file}: {error}") from error
        if loaded is not None and not isinstance(loaded, dict):
            raise ConfigError(f"--config: {config_file} must hold a mapping of sections, found {type(loaded).__name__}")
        values = loaded or {}
    for path, value in overrides:
        _assign(values, path, value, faults)
    config = _validate(cls, values, faults)
    if print_config:
        print(to_yaml(config), end="")
        raise SystemExit(0)
    return config


def to_yaml(config: Section) -> str:
    """The whole config as YAML that `--config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def flatten(config: BaseModel) -> dict[str, Any]:
    """Every setting by its dotted path, in order of declaration."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict) and value:
            for key, inner in value.items():
                walk(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = value

    walk("", config.model_dump(mode="json"))
    return flat


def fingerprint(value: Any) -> str:
    """16 hex digits of the SHA-256 of a section or of any JSON value; equal content gives equal digits."""
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    text = json.dumps(plain, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def fields_of(cls: type[Section], prefix: str = "") -> Iterator[tuple[str, FieldInfo, type[Section] | None]]:
    """Walk the declared fields as (dotted path, field, section class when it is a group)."""
    for name, field in cls.model_fields.items():
        path = f"{prefix}{name}"
        inner = _section_class(field.annotation)
        yield path, field, inner
        if inner is not None:
            yield from fields_of(inner, f"{path}.")


def render_help(cls: type[Section], *, prog: str, description: str) -> str:
    """The text of `--help`: every field with type, default, unit and meaning."""
    lines = [
        f"usage: {prog} [--config FILE.yaml] [--section.field value ...] [--print-config] [--help]",
        "",
        inspect.cleandoc(description),
        "",
        "  --config FILE.yaml    read settings from a file; the command line wins over it",
        "  --print-config        print the settings as YAML and stop",
        "  --help                this text",
    ]
    for path, field, inner in fields_of(cls):
        if inner is not None:
            lines += ["", f"{path}: {field.description or ''}".rstrip(": ")]
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        unit = f" [{extra['unit']}]" if "unit" in extra else ""
        default = "required" if field.is_required() else f"default {json.dumps(field.default, default=str)}"
        lines.append(f"  --{path} {_type_name(field.annotation)}{unit}  ({default})")
        lines.append(f"        {field.description or ''}")
    return "\n".join(lines)


def _split_arguments(
    cls: type[Section], argv: Sequence[str]
) -> tuple[str | None, bool, list[tuple[str, Any]], list[str]]:
    fields = {path: field for path, field, inner in fields_of(cls) if inner is None}
    config_file, print_config, overrides, faults = None, False, [], []
    pending = list(argv)
    while pending:
        argument = pending.pop(0)
        if not argument.startswith("--"):
            faults.append(f"{argument}: settings are given as --section.field value")
            continue
        path, has_value, text = argument[2:].partition("=")
        if path == "print-config":
            print_config = True
            continue
        if not has_value:
            if pending and not pending[0].startswith("--"):
                text = pending.pop(0)
            elif path in fields and fields[path].annotation is bool:
                text = "true"
            else:
                faults.append(f"{path}: needs a value, as in --{path} VALUE")
                continue
        if path == "config":
            config_file = text
        else:
            overrides.append((path, _parse_value(fields.get(path), text)))
    return config_file, print_config, overrides, faults


def _parse_value(field: FieldInfo | None, text: str) -> Any:
    if field is not None and _takes_text_only(field.annotation):
        return None if text == "null" and type(None) in get_args(field.annotation) else text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _takes_text_only(annotation: Any) -> bool:
    kinds = [kind for kind in (get_args(annotation) or (annotation,)) if kind is not type(None)]
    return all(kind is str for kind in kinds)


def _assign(values: dict[str, Any], path: str, value: Any, faults: list[str]) -> None:
    *parents, leaf = path.split(".")
    node = values
    for parent in parents:
        child = node.setdefault(parent, {})
        if not isinstance(child, dict):
            faults.append(f"{path}: {parent} holds a value, not a section")
            return
        node = child
    node[leaf] = value


def _assign_default(values: dict[str, Any], path: str) -> None:
    *parents, leaf = path.split(".")
    node = values
    for parent in parents:
        node = node[parent] if isinstance(node.get(parent), dict) else {}
    node.setdefault(leaf, {})


def _validate(cls: type[ConfigT], values: dict[str, Any], faults: list[str]) -> ConfigT:
    # An absent section stands as an empty one, so that its required fields are missed under their full path.
    for path, _, inner in fields_of(cls):
        if inner is not None:
            _assign_default(values, path)
    try:
        config = cls.model_validate(values)
    except ValidationError as error:
        known = [path for path, _, _ in fields_of(cls)]
        for item in error.errors():
            faults.append(_describe(item, known))
    if faults:
        raise ConfigError(faults)
    return config


def _describe(item: Any, known: Sequence[str]) -> str:
    path = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        meant = _nearest(path, known)
        return f"{path}: unknown setting" + (f"; did you mean {meant}?" if meant else "; --help lists all")
    if item["type"] == "missing":
        return f"{path}: required, not given"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] in ("value_error", "assertion_error"):
        return f"{path}: {message}" if path else message
    return f"{path}: {message[:1].lower()}{message[1:]}, found {item['input']!r}"


def _nearest(path: str, known: Sequence[str]) -> str | None:
    """The setting of the same section that is spelt most like `path`, else one of the same name elsewhere."""
    section, _, leaf = path.rpartition(".")
    places = [one.rpartition(".") for one in known]
    siblings = {name: one for one, (parent, _, name) in zip(known, places, strict=True) if parent == section}
    if close := difflib.get_close_matches(leaf, siblings, n=1):
        return siblings[close[0]]
    return next((one for one, (_, _, name) in zip(known, places, strict=True) if name == leaf), None)


def _section_class(annotation: Any) -> type[Section] | None:
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def _type_name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_type_name(kind) for kind in get_args(annotation) if kind is not type(None))
    if origin is not None:
        return str(annotation).replace("typing.", "")
    return getattr(annotation, "__name__", str(annotation))
