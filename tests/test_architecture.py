"""What may import what."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def imports_of(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def files(folder):
    return sorted((ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("path", files("rs_pipeline"), ids=str)
def test_the_pipeline_knows_neither_torch_nor_prefect_nor_the_model(path):
    used = {name.split(".")[0] for name in imports_of(path)}
    assert used.isdisjoint({"torch", "prefect", "transformers", "timm", "rs_model", "rs_flows"})


COMMANDS = {
    "score": {"vocabulary", "mosaic"},
    "imagery": {"inference", "plan", "raster", "run", "tiles"},
    "ground": {"ablation"},
}
"""Commands of the model package that label as a run does, run the pipeline, or serve ablations."""


@pytest.mark.parametrize("path", files("model/rs_model"), ids=str)
def test_the_model_knows_only_the_border_of_the_pipeline(path):
    allowed = {"errors", "classes", "segmenter", "grid", "config", "options", "radiometry", "metrics", "demo", "reporting"}
    allowed |= {"adaptation", "adapt_settings", "adapters"}
    allowed |= COMMANDS.get(path.stem, set())
    used = {name.split(".")[1] for name in imports_of(path) if name.startswith("rs_pipeline.")}
    assert used <= allowed


def test_rasterio_files_are_opened_in_three_rooms_only():
    openers = {p.relative_to(ROOT / "rs_pipeline").as_posix() for p in files("rs_pipeline") if "rasterio" in set(imports_of(p))}
    assert openers <= {"raster.py", "scene_reader.py", "cog.py"}


def test_no_room_is_called_utils():
    names = {p.stem for folder in ("rs_pipeline", "model/rs_model", "flows") for p in files(folder)}
    assert names.isdisjoint({"utils", "common", "helpers", "misc"})


@pytest.mark.parametrize("package", ["rs_pipeline", "rs_model", "rs_flows"])
def test_every_module_says_what_it_is_for(package):
    module = importlib.import_module(package)
    for info in pkgutil.walk_packages(module.__path__, f"{package}."):
        if not info.name.endswith("__main__"):
            assert importlib.import_module(info.name).__doc__, info.name
