"""An invented place, seen by an invented satellite: scenes with exact truth, for the demo, for tests and for training.

style, palette          what a scene looks like: climate, colours, sun, sensor
plan, layout            the plan of a place in metres, and who fills it in:
terrain, streets,       districts and water, roads and blocks,
blocks, buildings, trees    lots and what stands on them
burn, canvas            the plan drawn to rasters
light, render           the rasters lit and photographed
truth, write            on disk, and back
"""

from .render import DemoScene, render_scene
from .style import DEMO_CLASSES
from .truth import TRUTH_LAYERS, truth_labels
from .write import DemoFiles, write_demo

__all__ = ["DEMO_CLASSES", "TRUTH_LAYERS", "DemoFiles", "DemoScene", "render_scene", "truth_labels", "write_demo"]
