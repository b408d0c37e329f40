"""Every layout in a small folder made from its own palette: pairs are found, masks read back as labels."""

import os
from fnmatch import fnmatchcase

import numpy as np
import pytest
from labelled_folders import COLOURS, PLACES, random_labels, save, write_layout, write_pairs
from PIL import Image

from rs_pipeline.config import configs_folder
from rs_pipeline.dataset_checks import check_apart, check_pairs, check_png
from rs_pipeline.datasets import check_mask, find_pairs, read_truth
from rs_pipeline.errors import CatalogError, ConfigError, RasterError, UsageError
from rs_pipeline.layouts import IGNORE, OTHER, class_set, known_layouts, load_layout


def test_every_layout_has_a_folder_here():
    assert set(known_layouts()) == set(PLACES) == {p.stem for p in (configs_folder() / "datasets").glob("*.yaml")}


@pytest.mark.parametrize("name", PLACES)
def test_masks_read_back_as_labels(tmp_path, name):
    keys, layout = write_layout(tmp_path, name)
    dataset = find_pairs(layout, tmp_path)
    assert [pair.name for pair in dataset.pairs] == [PLACES[name][0]]
    check_pairs(dataset)
    classes = class_set(layout, ())
    assert classes.names == layout.names
    truth = read_truth(dataset.pairs[0].mask, layout, classes)
    value = {IGNORE: 255, OTHER: 0} | {c.name: c.value for c in classes}
    np.testing.assert_array_equal(truth.labels, np.vectorize(lambda key: value[layout.palette[key]])(keys))
    assert truth.unknown_px == 0
    assert set(np.unique(truth.labels)) >= set(range(1, len(classes) + 1))


@pytest.mark.parametrize("name", PLACES)
def test_a_class_not_asked_for_is_background_and_ignored_pixels_stay_ignored(tmp_path, name):
    keys, layout = write_layout(tmp_path, name)
    only = class_set(layout, (layout.names[1],))
    labels = read_truth(find_pairs(layout, tmp_path).pairs[0].mask, layout, only).labels
    meaning = np.vectorize(lambda key: layout.palette[key])(keys)
    np.testing.assert_array_equal(labels == 1, meaning == layout.names[1])
    np.testing.assert_array_equal(labels == 255, meaning == IGNORE)


@pytest.mark.parametrize("name", PLACES)
def test_each_split_is_told_by_the_path_and_the_published_place_is_in_the_last(tmp_path, name):
    _, layout = write_layout(tmp_path, name)
    wanted = {"loveda": "val"}.get(name) or next(reversed(layout.splits), None)
    for split in layout.splits:
        if split in {wanted, "urban"}:
            assert len(find_pairs(layout, tmp_path, split).pairs) == 1
        else:
            with pytest.raises(CatalogError, match="none in"):
                find_pairs(layout, tmp_path, split)


def test_the_published_splits_of_the_isprs_sets_are_whole():
    for name, count in (("potsdam", (24, 14)), ("vaihingen", (16, 17))):
        layout = load_layout(name, configs_folder())
        if name == "potsdam":
            tiles = [(r, c) for r in range(2, 8) for c in range(7, 16)]
            names = [f"/d/top_potsdam_{r}_{c}_RGB.tif" for r, c in tiles]
        else:
            names = [f"/d/top_mosaic_09cm_area{n}.tif" for n in range(1, 40)]
        parts = [{n for n in names if any(fnmatchcase(n, p) for p in layout.splits[s])} for s in ("train", "test")]
        assert tuple(map(len, parts)) == count
        assert not parts[0] & parts[1]


def test_a_palette_image_and_a_colour_image_say_the_same(tmp_path):
    (tmp_path / "palette.yaml").write_text("palette: {'#000000': background, '#ff0000': road, '#808080': water}\n")
    layout = load_layout("pairs", tmp_path)
    classes = class_set(layout, ())
    labels = random_labels(values=2)
    coloured = np.array([[0, 0, 0], [255, 0, 0]], np.uint8)[labels]
    indexed = Image.fromarray(labels, mode="P")
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    indexed.save(tmp_path / "indexed.png")
    for path in (save(tmp_path / "coloured.png", coloured), tmp_path / "indexed.png"):
        np.testing.assert_array_equal(read_truth(path, layout, classes).labels, labels)
        check_mask(path, layout)


def test_unknown_colours_are_ignored_and_counted(tmp_path):
    layout = load_layout("dubai", tmp_path)
    mask = np.zeros((4, 5, 3), np.uint8)
    mask[0] = (60, 16, 152)
    mask[1, :3] = (1, 2, 3)
    truth = read_truth(save(tmp_path / "m.png", mask), layout, class_set(layout, ()))
    assert truth.unknown_px == 3
    assert (truth.labels[0] == 1).all()
    assert (truth.labels[1:] == 255).all()


def test_a_colour_mask_where_numbers_are_expected_is_refused(tmp_path):
    layout = load_layout("loveda", tmp_path)
    coloured = save(tmp_path / "m.png", np.random.default_rng(0).integers(0, 255, (4, 4, 3), dtype=np.uint8))
    with pytest.raises(RasterError, match="class numbers"):
        read_truth(coloured, layout, class_set(layout, ()))
    with pytest.raises(RasterError, match="class numbers"):
        check_mask(coloured, layout)
    equal = save(tmp_path / "e.png", np.full((4, 4, 3), 2, np.uint8))
    check_mask(equal, layout)
    assert (read_truth(equal, layout, class_set(layout, ())).labels == 1).all()


def test_a_grey_mask_where_colours_are_expected_is_refused(tmp_path):
    """Black is a colour of most palettes: as three equal bands a mask of class numbers would be read as background."""
    layout = load_layout("isaid", tmp_path)
    grey = save(tmp_path / "m.png", random_labels())
    for look in (check_mask, lambda mask, layout: read_truth(mask, layout, class_set(layout, ()))):
        with pytest.raises(RasterError, match=r"a mask of colours; got 1 band without a colour table, .*m\.png"):
            look(grey, layout)


def test_masks_of_fractions_are_refused_and_whole_ones_read(tmp_path):
    layout = load_layout("loveda", tmp_path)
    values = np.array([[2.0, np.nan], [3.0, 0.0]], np.float32)
    truth = read_truth(save(tmp_path / "m.tif", values), layout, class_set(layout, ()))
    assert (truth.labels.tolist(), truth.unknown_px) == ([[1, 255], [2, 255]], 1)
    values[1, 0] = 2.7
    save(tmp_path / "m.tif", values)
    for look in (check_mask, lambda mask, layout: read_truth(mask, layout, class_set(layout, ()))):
        with pytest.raises(RasterError, match=r"whole numbers; got 2\.7"):
            look(tmp_path / "m.tif", layout)


def test_values_past_255_are_no_colour(tmp_path, make_scene):
    layout = load_layout("dubai", tmp_path)
    colour = np.array([60, 16, 152], np.uint16)[:, None, None]
    mask = make_scene(
        "m.tif", np.concatenate([np.broadcast_to(colour, (3, 1, 2)), np.array([60, 15, 408], np.uint16)[:, None, None]], axis=2)
    )
    truth = read_truth(mask, layout, class_set(layout, ()))
    assert (truth.labels.tolist(), truth.unknown_px) == ([[1, 1, 255]], 1)


def test_dubai_needs_no_threshold_for_all_its_classes_and_one_for_some(tmp_path):
    layout = load_layout("dubai", tmp_path)
    assert [c.threshold for c in class_set(layout, ())] == [0] * 5
    assert [c.threshold for c in class_set(layout, ("road", " Building "))] == [0.5, 0.5]
    assert [c.threshold for c in class_set(load_layout("loveda", tmp_path), ())] == [0.5] * 6


def test_a_vocabulary_of_the_users_has_its_own_words(tmp_path):
    (tmp_path / "mine.yaml").write_text("road: {prompts: [street], colour: '#010203', threshold: 0.4}\n")
    road = next(iter(class_set(load_layout("loveda", tmp_path), ("road",), str(tmp_path / "mine.yaml"))))
    assert (road.prompts, road.colour, road.threshold) == (("street",), (1, 2, 3), 0.4)


def test_pairs_take_classes_from_the_palette_file_or_the_vocabulary(tmp_path):
    more = "classes:\n  Car: {prompts: [car, van], colour: '#0a0b0c', threshold: 0.25}\ngsd_m: 0.1\n"
    (tmp_path / "mine.yaml").write_text("palette: {1: road, 2: Car}\n" + more)
    layout = load_layout("pairs", tmp_path, tmp_path / "mine.yaml")
    road, car = class_set(layout, ())
    assert (road.name, road.threshold, car.name, car.prompts, car.colour) == ("road", 0.5, "car", ("car", "van"), (10, 11, 12))
    assert layout.gsd_m == 0.1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: {}\n", "a palette"),
        ("palette: {}\n", "a palette"),
        ("palette: {1: road}\nimage: [x]\n", "'image'"),
        ("palette: {1: road, '#ff0000': water}\n", "of numbers or of colours"),
        ("palette: {1: road, '#ff0000': water}\n", "^expected palette: of"),
        ("palette: {1: road, 1: water}\n", "'1' 2 times"),
        ("palette: {1: road}\npalette: {2: road}\n", "'palette' 2 times"),
        ("palette: {'#ff0000': road, '#FF0000': water}\n", "each colour once"),
        ("palette: {256: road}\n", "256"),
        ("palette: {'red': road}\n", "red"),
        (
            "palette: {1: road}\nclasses: {car: {prompts: [car], colour: '#000000', threshold: 0.5}}\n",
            "^expected classes: those of the palette, not car",
        ),
        ("palette: {1: road}\nclasses: {road: {prompts: [], colour: '#000000', threshold: 0.5}}\n", "prompts"),
    ],
)
def test_a_palette_file_with_a_mistake_is_one_line(tmp_path, text, message):
    (tmp_path / "palette.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_layout("pairs", tmp_path)
    assert "\n" not in str(caught.value)


def test_folders_that_hold_nothing_and_names_nobody_knows(tmp_path):
    layout = load_layout("loveda", tmp_path)
    with pytest.raises(CatalogError, match="images_png"):
        find_pairs(layout, tmp_path)
    save(tmp_path / "Val" / "Urban" / "images_png" / "1.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(CatalogError, match="masks_png"):
        find_pairs(layout, tmp_path)
    save(tmp_path / "Val" / "Urban" / "masks_png" / "1.png", np.zeros((4, 5), np.uint8))
    save(tmp_path / "Test" / "Urban" / "images_png" / "2.png", np.zeros((4, 4, 3), np.uint8))
    dataset = find_pairs(layout, tmp_path)
    assert (len(dataset.pairs), dataset.without_mask) == (1, 1)
    with pytest.raises(RasterError, match="a mask of 4 x 4 px"):
        check_pairs(dataset)
    with pytest.raises(UsageError, match="train, val, urban, rural"):
        find_pairs(layout, tmp_path, "dev")
    with pytest.raises(UsageError, match="building, road"):
        class_set(layout, ("castle",))
    with pytest.raises(UsageError, match="dubai"):
        load_layout("cityscapes", tmp_path)
    with pytest.raises(UsageError, match="--palette"):
        load_layout("dubai", tmp_path, tmp_path / "palette.yaml")


def test_a_damaged_png_is_refused(tmp_path):
    """GDAL reads something from both without a word."""
    path = save(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    check_png(path)
    for broken, message in ((content[:-5], "cut short"), (content[: len(content) // 2], "cut short"), (content[:], "checksum")):
        if message == "checksum":
            broken[len(broken) // 2] ^= 1
        path.write_bytes(broken)
        with pytest.raises(RasterError, match=message):
            check_png(path)


def test_a_part_of_the_folder_and_links_to_folders_are_found_too(tmp_path):
    _, layout = write_layout(tmp_path / "whole", "dubai")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "Tile 7").symlink_to(tmp_path / "whole" / "Tile 7")
    # Two loops: followed blindly, they are 2^40 paths.
    for name in ("loop", "again"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "links")
    (tmp_path / "links" / "itself").symlink_to("itself")
    (tmp_path / "links" / ".hidden").symlink_to(tmp_path / "whole")
    assert [p.name for p in find_pairs(layout, tmp_path / "links").pairs] == ["Tile 7/images/image_part_001.jpg"]
    assert len(find_pairs(layout, tmp_path / "whole" / "Tile 7").pairs) == 1
    assert len(find_pairs(layout, tmp_path / "links", "held-out").pairs) == 1


def test_a_limit_takes_images_from_everywhere(tmp_path):
    empty = [np.zeros((2, 2), np.uint8)] * 9
    folder = write_pairs(tmp_path, empty, empty)
    layout = load_layout("pairs", folder)
    assert [p.image.stem for p in find_pairs(layout, folder, limit=3).pairs] == ["00", "03", "06"]
    assert len(find_pairs(layout, folder, limit=99).pairs) == 9


def test_tuning_on_what_is_scored_is_refused(tmp_path):
    labels = [random_labels(seed=seed) for seed in range(4)]
    one, other = write_pairs(tmp_path / "a", labels[:2], labels[:2]), write_pairs(tmp_path / "b", labels[2:], labels[2:])
    layout = load_layout("pairs", one)
    data = find_pairs(layout, one)
    check_apart(find_pairs(layout, other), data)
    (tmp_path / "link").symlink_to(one)
    for folder in (one, tmp_path, tmp_path / "link"):
        with pytest.raises(UsageError, match="apart from --data"):
            check_apart(find_pairs(layout, folder), data)
    (other / "images" / "00.png").write_bytes((one / "images" / "01.png").read_bytes())
    with pytest.raises(UsageError, match=r"b/images/00\.png, the same pixels as .*a/images/01\.png"):
        check_apart(find_pairs(layout, other), data)


def test_tuning_on_the_same_pixels_in_another_file_is_refused(tmp_path):
    labels = [random_labels(seed=seed) for seed in range(2)]
    one, other = write_pairs(tmp_path / "a", labels[:1], labels[:1]), write_pairs(tmp_path / "b", labels[1:], labels[1:])
    layout = load_layout("pairs", one)
    twin = Image.open(one / "images" / "00.png")
    (other / "images" / "00.png").unlink()
    for name, options in (("00.png", {"compress_level": 0}), ("00.tif", {}), ("00.tif", {"compression": "tiff_lzw"})):
        twin.save(other / "images" / name, **options)
        with pytest.raises(UsageError, match="the same pixels as"):
            check_apart(find_pairs(layout, other), find_pairs(layout, one))
        (other / "images" / name).unlink()
    pixels = np.array(twin)
    pixels[0, 0] ^= 1
    save(other / "images" / "00.png", pixels)
    check_apart(find_pairs(layout, other), find_pairs(layout, one))


def test_two_images_with_one_mask_are_refused(tmp_path):
    folder = write_pairs(tmp_path, [random_labels()], [random_labels()])
    save(folder / "images" / "00.tif", np.zeros((60, 70, 3), np.uint8))
    with pytest.raises(CatalogError, match=r"00\.png for both images/00\.png and images/00\.tif"):
        find_pairs(load_layout("pairs", folder), folder)


def test_an_image_with_two_masks_is_two_pairs_and_a_linked_pair_is_one(tmp_path):
    folder = write_pairs(tmp_path / "a", [random_labels()], [random_labels()])
    other = write_pairs(tmp_path / "b", [], [])
    save(other / "masks" / "00.png", random_labels(seed=1))
    (other / "images").symlink_to(folder / "images")
    (tmp_path / "same").symlink_to(folder)
    found = find_pairs(load_layout("pairs", folder), tmp_path).pairs
    assert [(p.name, p.mask) for p in found] == [(f"{n}/images/00.png", tmp_path / n / "masks" / "00.png") for n in ("a", "b")]


def test_suffixes_in_capitals_are_the_same(tmp_path):
    for layout, image, mask in (("potsdam", "top_potsdam_2_13_RGB.TIF", "top_potsdam_2_13_label.TIF"), ("udd5", "A.JPG", "A.PNG")):
        home, masks = {"potsdam": ("2_Ortho_RGB", "5_Labels_all"), "udd5": ("val/src", "val/gt")}[layout]
        save(tmp_path / layout / home / image, np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / layout / masks / mask, np.zeros((4, 4, 3), np.uint8))
        known = load_layout(layout, tmp_path)
        split = next(reversed(known.splits))
        assert [p.mask.name for p in find_pairs(known, tmp_path / layout, split).pairs] == [mask]
    save(tmp_path / "udd5" / "val" / "src" / "a.JPG", np.zeros((4, 4, 3), np.uint8))
    assert find_pairs(known, tmp_path / "udd5").without_mask == 1, "only the suffix has no case"


def test_a_folder_above_the_data_set_tells_no_split(tmp_path):
    for name, folder, asked in (("udd5", "train", "train"), ("loveda", "Train", "train"), ("uavid", "uavid_train", "train")):
        data = tmp_path / name / folder / "data"
        _, layout = write_layout(data, name)
        with pytest.raises(CatalogError, match="in split train"):
            find_pairs(layout, data, asked)
        assert len(find_pairs(layout, data, "val").pairs) == 1
        assert len(find_pairs(layout, next(data.iterdir()), "val").pairs) == 1, "the folder named may be the split's own"
        if name == "loveda":
            assert len(find_pairs(layout, data / "Val" / "Urban", "val").pairs) == 1


def test_the_path_below_the_folder_tells_the_split_first(tmp_path):
    layout = load_layout("udd5", tmp_path).model_copy(update={"splits": {"train": ("*/train/*",)}})
    for name in ("train", "val"):
        save(tmp_path / "train" / "data" / name / "src" / f"{name}.jpg", np.zeros((4, 4, 3), np.uint8))
        save(tmp_path / "train" / "data" / name / "gt" / f"{name}.png", np.zeros((4, 4), np.uint8))
    assert [p.image.stem for p in find_pairs(layout, tmp_path / "train" / "data", "train").pairs] == ["train"]


def test_a_path_that_is_not_utf8_is_refused(tmp_path):
    folder = write_pairs(tmp_path / "a", [random_labels()], [random_labels()])
    layout = load_layout("pairs", folder)
    for part, name in (("images", b"x\xff.png"), ("masks", b"x\xff.png")):
        (folder / part / os.fsdecode(name)).write_bytes((folder / part / "00.png").read_bytes())
    with pytest.raises(CatalogError, match=r"x\\xff\.png"):
        find_pairs(layout, folder)
    broken = folder.rename(tmp_path / os.fsdecode(b"b\xff"))
    with pytest.raises(CatalogError, match=r"b\\xff'\. Rename it"):
        find_pairs(layout, broken)


def test_the_last_pair_is_looked_at_too(tmp_path, make_scene):
    folder = write_pairs(tmp_path, [random_labels()] * 3, [random_labels()] * 3)
    layout = load_layout("pairs", folder)
    check_pairs(find_pairs(layout, folder))
    with pytest.raises(RasterError, match=r"bands 1…3 in .*images/00\.png"):
        check_pairs(find_pairs(layout, folder), (1, 2, 4))
    make_scene("images/02.png.tif", np.zeros((1, 60, 70), np.uint8)).rename(folder / "images" / "02.png")
    with pytest.raises(RasterError, match=r"red, green and blue bands; got 1 band in .*images/02\.png"):
        check_pairs(find_pairs(layout, folder))
    save(folder / "images" / "02.png", random_labels())
    with pytest.raises(RasterError, match=r"got 1 band in .*images/02\.png"):
        check_pairs(find_pairs(layout, folder))
    check_pairs(find_pairs(layout, folder), (1, 1, 1))
    save(folder / "images" / "02.png", np.zeros((60, 70, 3), np.uint8))
    save(folder / "masks" / "02.png", COLOURS[random_labels()])
    with pytest.raises(RasterError, match=r"a colour image, .*masks/02\.png"):
        check_pairs(find_pairs(layout, folder))
