"""What Kubernetes checks of a custom resource, from KubeRay's own definitions of them.

JSON Schema is the library's. On top are the four things by which a Kubernetes schema differs from
one: unknown fields are refused, numbers have a width, lists may be maps, and rules are written in
CEL. Defaults are filled in first, as the API server does.
"""

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import cel
import yaml
from jsonschema import Draft202012Validator, FormatChecker, ValidationError, validators

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("RAYTRANSFER_CRDS", ROOT.parent / "shared/data/kuberay-crds"))
FILES = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}

formats = FormatChecker(formats=())


@formats.checks("int32")
def fits_32_bits(value: object) -> bool:
    return not isinstance(value, int) or -(2**31) <= value < 2**31


def _unknown(validator: Any, properties: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    """The keyword `properties`, which in Kubernetes also says that there are no others."""
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, value, schema)
    open_to_all = schema.keys() & {"additionalProperties", "x-kubernetes-preserve-unknown-fields"}
    if isinstance(value, dict) and not open_to_all:
        for name in value.keys() - properties.keys():
            yield ValidationError(f"{name} is no field that there is")


def _rules(validator: Any, rules: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    for rule in rules:
        # Rules about changes are not asked when a resource is made.
        if "oldSelf" not in rule["rule"] and not cel.evaluate(rule["rule"], {"self": value}):
            yield ValidationError(rule["message"])


def _map_keys(validator: Any, keys: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
    found = [tuple(each.get(key) for key in keys) for each in value]
    for key in {key for key in found if found.count(key) > 1}:
        yield ValidationError(f"{key} is there twice")


Structural = validators.extend(
    Draft202012Validator,
    {
        "properties": _unknown,
        "x-kubernetes-validations": _rules,
        "x-kubernetes-list-map-keys": _map_keys,
    },
)


@cache
def schema_of(kind: str) -> dict[str, Any]:
    definition = yaml.load((FOLDER / FILES[kind]).read_text(), Loader=yaml.CSafeLoader)
    (version,) = (each for each in definition["spec"]["versions"] if each["name"] == "v1")
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]
    return schema


def with_defaults(schema: dict[str, Any], value: Any) -> Any:
    if isinstance(value, list):
        return [with_defaults(schema.get("items", {}), each) for each in value]
    if not isinstance(value, dict):
        return value
    fields = schema.get("properties", {})
    missing = {name: of["default"] for name, of in fields.items() if "default" in of}
    return {
        name: with_defaults(fields.get(name, schema.get("additionalProperties") or {}), each)
        for name, each in (missing | value).items()
    }


def errors(document: dict[str, Any]) -> list[str]:
    """What the API server would say of a RayJob or RayCluster; nothing where it takes it."""
    schema = schema_of(document["kind"])
    found = Structural(schema, format_checker=formats).iter_errors(with_defaults(schema, document))
    return [f"{error.json_path}: {error.message}" for error in found]
