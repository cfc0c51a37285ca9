"""Reading a recipe: YAML, overrides, errors that name the key and what is allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, get_args

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from hre_torch.app.recipes.schema import DirichletSplit, Recipe
from hre_torch.errors import RecipeError
from hre_torch.registry import nearest

__all__ = ["load_recipe", "parse_overrides"]

_MAPPING: Final = DirichletSplit.__name__


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file, apply `key=value` overrides and check the result.

    Args:
        path: YAML file, or the bare name of a shipped recipe, such as `"digits_mlp"`.
        overrides: such as `"train.lr=0.05"`; later ones win.

    Raises:
        RecipeError: the file is missing or no YAML, or a key or value is not allowed.
    """
    file = Path(path)
    if not file.is_file():
        shipped = _shipped()
        if str(path) not in shipped:
            raise RecipeError(
                f"there is no recipe {file}; give the path of a YAML file, or one of "
                f"the names {', '.join(sorted(shipped))}"
            )
        file = shipped[str(path)]
    changes = parse_overrides(overrides)
    try:
        base = OmegaConf.load(file)
        if not isinstance(base, DictConfig):
            raise RecipeError(f"{file} must hold keys and values, not a list")
        merged = OmegaConf.to_container(OmegaConf.merge(base, changes), resolve=True)
    except (OmegaConfBaseException, YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{file} is not a recipe in YAML: {error}") from None
    return _validated(merged, str(file))


def parse_overrides(overrides: Sequence[str]) -> dict[str, Any]:
    """Return what `key=value` texts mean, with values as YAML reads them.

    Args:
        overrides: such as `"train.lr=0.05"`; later ones win.

    Raises:
        RecipeError: a text has another form.

    >>> parse_overrides(["clip=0.5", "train.epochs=2"])
    {'clip': 0.5, 'train': {'epochs': 2}}
    """
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise RecipeError(
                f"override {override!r} is not of the form key=value, such as "
                "train.lr=0.05"
            )
    try:
        changes = OmegaConf.from_dotlist(list(overrides))
    except (OmegaConfBaseException, YAMLError) as error:
        raise RecipeError(f"the overrides are not YAML: {error}") from None
    content: Any = OmegaConf.to_container(changes)
    return dict(content)


def _shipped() -> dict[str, Path]:
    """Return the recipes that are shipped, by name.

    They lie beside this file in a wheel, and at the top of a checkout.
    """
    here = Path(__file__).parent
    packed = here / "shipped"
    folder = packed if packed.is_dir() else here.parents[2] / "recipes"
    return {file.stem: file for file in folder.glob("*.yaml")}


def _validated(content: Any, source: str) -> Recipe:
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explained(d) for d in error.errors() if not _of_other_branch(d)]
        raise RecipeError(f"{source}: " + "\n".join(dict.fromkeys(lines))) from None


def _of_other_branch(detail: ErrorDetails) -> bool:
    """Whether an error only says that a union's other branch did not fit either."""
    wants_mapping = detail["type"] == "model_type" and detail["loc"][-1] == _MAPPING
    wants_word = detail["type"] == "literal_error" and isinstance(detail["input"], dict)
    return wants_mapping or wants_word


def _explained(detail: ErrorDetails) -> str:
    place = [str(part) for part in detail["loc"] if _is_key(str(part))]
    key = ".".join(place)
    if detail["type"] == "extra_forbidden":
        choices = _keys_of(place[:-1])
        return f"unknown key {key!r}: {nearest(place[-1], choices)}"
    if detail["type"] == "missing":
        return f"missing key {key!r}: {_description(place)}"
    if detail["type"] == "value_error":
        return detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "model_type":
        return f"{key} is {detail['input']!r}, but must hold keys: {_keys_of(place)}"
    seen = detail["input"]
    message = detail["msg"].removeprefix("Input should be ")
    hint = ""
    if detail["type"] == "literal_error" and isinstance(seen, str):
        choices = [str(choice) for choice in _choices(place)]
        if choices:
            return f"{key} is {seen!r}: {nearest(seen, choices)}"
        hint = f" ({_description(place)})"
    return f"{key} is {seen!r}, but must be {message}{hint}"


def _is_key(part: str) -> bool:
    # Branches of a union show up in the location beside the keys.
    return not part.startswith(("literal[", _MAPPING, "constrained-"))


def _section(place: Sequence[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = Recipe
    for key in place:
        fields: Mapping[str, Any] = section.model_fields
        annotation = fields[key].annotation if key in fields else None
        found = [
            kind
            for kind in (annotation, *get_args(annotation))
            if isinstance(kind, type) and issubclass(kind, BaseModel)
        ]
        if not found:
            return None
        section = found[0]
    return section


def _keys_of(place: Sequence[str]) -> list[str]:
    section = _section(place)
    return sorted(section.model_fields) if section is not None else []


def _description(place: Sequence[str]) -> str:
    section = _section(place[:-1])
    if section is None or place[-1] not in section.model_fields:
        return "see the recipes that are shipped"
    return section.model_fields[place[-1]].description or "a section of its own"


def _choices(place: Sequence[str]) -> list[Any]:
    section = _section(place[:-1])
    if section is None or place[-1] not in section.model_fields:
        return []
    annotation = section.model_fields[place[-1]].annotation
    flat = [get_args(part) or (part,) for part in (annotation, *get_args(annotation))]
    return sorted({c for group in flat for c in group if isinstance(c, str)})
