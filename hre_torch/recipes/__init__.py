"""Recipes: what is trained, on what, by whom and under which suite, as a YAML file."""

from hre_torch.recipes.load import load_recipe
from hre_torch.recipes.schema import DataSection, ModelSection, Recipe, TrainSection

__all__ = ["DataSection", "ModelSection", "Recipe", "TrainSection", "load_recipe"]
