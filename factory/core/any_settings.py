"""A field that takes the settings of any kind, of which only those named are imported."""

import json
from contextlib import suppress
from functools import cached_property
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError, ValidationInfo
from pydantic_core.core_schema import CoreSchema, with_info_plain_validator_function

from factory.core.errors import FactoryError
from factory.core.registry import Registry
from factory.core.yaml.fields import LateUnion


def annotate_settings(registry: Registry[Any]) -> Any:
    """Returns the type of a field that takes the `Settings` of any kind of a registry.

    It stands for `registry.build_union()`, in the schema and in errors too; but to build that, all
    kinds are imported, which takes longer than all else that reading a recipe does.
    """
    return Annotated[Any, _AnySettings(registry)]


class _AnySettings(LateUnion):
    """Validates by the kind that a value names, and by the union of all where that takes it not.

    So what is wrong is told with the union's words and places.
    """

    def __init__(self, registry: Registry[Any]) -> None:
        self._registry = registry

    @cached_property
    def union(self) -> Any:
        """The union of all kinds' settings, which imports all."""
        return self._registry.build_union()

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.union)

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> CoreSchema:
        return with_info_plain_validator_function(self._validate)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: Any) -> Any:
        return handler(self._adapter.core_schema)

    def _validate(self, value: Any, info: ValidationInfo) -> Any:
        name = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
        if isinstance(name, str):
            with suppress(FactoryError, ValidationError):
                return _check(TypeAdapter(self._registry.get(name).Settings), value, info)
        return _check(self._adapter, value, info)


def _check(adapter: TypeAdapter[Any], value: Any, info: ValidationInfo) -> Any:
    """Validates as a field is: what came as JSON strictly, as JSON, where a list is a tuple too."""
    if info.mode == "json":
        return adapter.validate_json(json.dumps(value), strict=True, context=info.context)
    return adapter.validate_python(value, context=info.context)
