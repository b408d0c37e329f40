"""Small labelled data sets on disk, in the folders and palettes of the layouts."""

import numpy as np
from PIL import Image

from rs_pipeline.layouts import load_layout

PLACES = {
    "dubai": ("Tile 7/images/image_part_001.jpg", "Tile 7/masks/image_part_001.png"),
    "loveda": ("Val/Urban/images_png/7.png", "Val/Urban/masks_png/7.png"),
    "openearthmap": ("tokyo/images/tokyo_1.tif", "tokyo/labels/tokyo_1.tif"),
    "potsdam": ("2_Ortho_RGB/top_potsdam_2_13_RGB.tif", "5_Labels_all/top_potsdam_2_13_label.tif"),
    "vaihingen": ("top/top_mosaic_09cm_area2.tif", "gts_for_participants/top_mosaic_09cm_area2.tif"),
    "isaid": ("val/images/P0003.png", "val/images/P0003_instance_color_RGB.png"),
    "uavid": ("uavid_val/seq16/Images/000000.png", "uavid_val/seq16/Labels/000000.png"),
    "udd5": ("val/src/DJI_0285.JPG", "val/gt/DJI_0285.png"),
    "vdd": ("test/src/DJI_0001.JPG", "test/gt/DJI_0001.png"),
    "pairs": ("images/a.png", "masks/a.png"),
}
"""Layout to the published place of an image and of its mask."""

PAIRS_PALETTE = "palette: {0: background, 1: road, 2: water, 3: building, 9: ignore}\n"
COLOURS = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
"""What the pointwise segmenter takes for background, road, water, building, in this order."""


def random_labels(height=60, width=70, seed=0, values=4):
    """(H, W) uint8 of 5 x 5 px patches."""
    patches = np.random.default_rng(seed).integers(0, values, (-(-height // 5), -(-width // 5)))
    return np.kron(patches, np.ones((5, 5), int))[:height, :width].astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def write_layout(folder, name, seed=0):
    """One pair in the published place, its mask of every entry of the palette; gives (palette keys as in the mask (H, W), layout)."""
    if name == "pairs":
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "palette.yaml").write_text(PAIRS_PALETTE)
    layout = load_layout(name, folder)
    keys = list(layout.palette)
    codes = random_labels(seed=seed, values=len(keys))
    image, mask = PLACES[name]
    save(folder / image, np.random.default_rng(seed).integers(0, 256, (*codes.shape, 3), dtype=np.uint8))
    table = np.array([key if isinstance(key, int) else list(bytes.fromhex(key[1:])) for key in keys], np.uint8)
    save(folder / mask, table[codes])
    return np.array(keys, object)[codes], layout


def write_pairs(folder, predicted, truth):
    """Pairs of which the pointwise segmenter makes `predicted` (labels 0…3) and whose masks hold `truth`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "palette.yaml").write_text(PAIRS_PALETTE)
    for index, (found, real) in enumerate(zip(predicted, truth, strict=True)):
        save(folder / "images" / f"{index:02d}.png", COLOURS[found])
        save(folder / "masks" / f"{index:02d}.png", real)
    return folder
