"""Recipes: what is trained, on what, by whom and under which suite, as a YAML file."""

from hre_torch.app.recipes.load import load_recipe
from hre_torch.app.recipes.schema import DataSection, ModelSection, Recipe, TrainSection

__all__ = ["DataSection", "ModelSection", "Recipe", "TrainSection", "load_recipe"]
