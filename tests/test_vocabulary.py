"""Names of classes: one class, however it is spelled and by whatever name it is asked for."""

import pyogrio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import CRS
from test_cli import rs_seg

from rs_pipeline.config import load_settings
from rs_pipeline.errors import ConfigError, UsageError
from rs_pipeline.plan import plan_run
from rs_pipeline.vocabulary import Vocabulary, load_vocabulary, normal_name, resolve_vectors

MINE = """
Road: {prompts: [street], aliases: [Roads, HIGH  WAY], threshold: 0.9, colour: "#010203"}
quay wall: {prompts: [quay], threshold: 0.7, colour: "#040506"}
"""


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "mine.yaml"
    path.write_text(MINE)
    return load_vocabulary(str(path))


def spellings(name):
    """A name with other capitals and more spaces."""
    cased = st.tuples(*(st.sampled_from([c, c.upper()]) for c in name)).map("".join)
    return st.tuples(cased, st.sampled_from(["", " ", "  "])).map(lambda pair: pair[1] + pair[0].replace(" ", " " + pair[1]) + pair[1])


@given(st.data())
def test_an_entry_is_found_however_its_name_is_spelled(mine, data):
    for name, (threshold, prompts) in {"road": (0.9, ("street",)), "roads": (0.9, ("roads",)), "quay wall": (0.7, ("quay",))}.items():
        (found,) = mine.class_set([data.draw(spellings(name))])
        assert (found.name, found.threshold, found.prompts) == (name, threshold, prompts)
    (alias,) = mine.class_set(["High Way"])
    assert (alias.name, alias.colour) == ("high way", (1, 2, 3))


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("Road: {", "road: {", "road"),
        ("a b: {", "A  B: {", "a b"),
        ("a: {aliases: [B], ", "b: {", "b"),
        ("a: {aliases: [x], ", "b: {aliases: [X], ", "x"),
    ],
)
def test_a_name_of_two_entries_is_refused(tmp_path, one, other, name):
    rest = 'prompts: [p], colour: "#000000"}\n'
    (tmp_path / "v.yaml").write_text(one + rest + other + rest)
    with pytest.raises(ConfigError, match=rf"'{name}' of '.*' and of '.*' in .*v\.yaml"):
        load_vocabulary(str(tmp_path / "v.yaml"))


def test_an_entry_may_repeat_its_own_name(tmp_path):
    (tmp_path / "v.yaml").write_text('road: {prompts: [street], aliases: [Road, way, Way], colour: "#000000"}\n')
    (road,) = load_vocabulary(str(tmp_path / "v.yaml")).class_set(["ROAD"])
    assert road.prompts == ("street",)


def test_a_class_is_found_by_any_of_its_names_whatever_it_was_asked_for_as():
    vocabulary = load_vocabulary("default")

    def chosen(names, classes):
        return [item.name for item in vocabulary.find(names, vocabulary.class_set(classes), "vectors.lines")]

    for asked in ("building", "buildings", "house", "Houses"):
        for named in ("building", "Buildings", " house ", "houses"):
            assert chosen([named], [asked, "water"]) == [normal_name(asked)]
    assert chosen(["house"], ["building", "house"]) == ["house"], "the class so called before those that are alike"
    assert chosen(["buildings"], ["house", "water", "roof"]) == ["house", "roof"]
    assert chosen(["quay  Wall"], ["Quay wall"]) == ["quay wall"], "of no entry"
    assert chosen(["house", "building"], ["building", "road"]) == ["building"]
    for names in (["castle"], ["building", "castle"]):
        with pytest.raises(UsageError, match=r"castle beside buildings, water"):
            chosen(names, ["buildings", "water"])


def test_without_a_vocabulary_a_class_has_the_name_it_was_asked_for_as():
    nothing = Vocabulary({})
    classes = nothing.class_set(["Road", "water"])
    assert [item.name for item in nothing.find(["ROAD"], classes, "vectors.lines")] == ["road"]
    with pytest.raises(UsageError, match=r"vectors\.lines: .*street beside road, water"):
        nothing.find(["street"], classes, "vectors.lines")


def decisive(**vectors):
    settings = load_settings(None, {f"vectors.{name}": value for name, value in vectors.items()})
    vocabulary = load_vocabulary("default")
    return resolve_vectors(settings.vectors, vocabulary.class_set(["road", "Buildings"]), vocabulary).decisive()


def test_the_same_wish_spelled_otherwise_is_the_same_for_the_key_of_a_run():
    assert decisive(square=["building"]) == decisive(square=["buildings"]) == decisive(square=["House", "building"])
    assert decisive(square=["building"])["square"] == ["buildings"]
    assert decisive(lines=["Street"]) == decisive(lines=["road"]) != decisive(lines=["building"])
    assert decisive(lines=["building", "road"])["lines"] == ["buildings", "road"]
    assert decisive() == load_settings().vectors.decisive(), "runs that ask for nothing of it keep their keys"
    with pytest.raises(UsageError, match=r"vectors\.lines"):
        decisive(lines=["castle"])


def test_a_crs_has_one_form_whatever_its_spelling():
    spelled = ["EPSG:4326", "epsg:4326", " EPSG:4326", "urn:ogc:def:crs:EPSG::4326", CRS.from_epsg(4326).to_wkt()]
    assert {decisive(crs=text)["crs"] for text in spelled} == {"EPSG:4326"}
    own = "+proj=laea +lat_0=47.3 +lon_0=11.2 +ellps=GRS80 +units=m"
    assert CRS(decisive(crs=own)["crs"]) == CRS(own)
    assert decisive(crs=own) == decisive(crs=CRS(own).to_wkt()) != decisive(crs=own.replace("47.3", "47.4"))


def test_a_wish_spelled_otherwise_is_the_same_run(make_scene, settings_for):
    scene = make_scene()

    def key(**vectors):
        flags = {f"vectors.{name}": value for name, value in vectors.items()}
        return plan_run(settings_for(scene, classes=("Roads", "building"), **flags)).run_key

    assert key(square=("building",)) == key(square=("buildings",)) == key(square=("Building",)) != key()
    assert key(lines=("road",)) == key(lines=("Roads",)) != key(lines=("building",))
    assert key(crs="epsg:4326") == key(crs="EPSG:4326") != key(crs="EPSG:3857")


@pytest.mark.parametrize(
    ("classes", "flags", "file", "layer"),
    [
        ("roads", ["--roads-as-lines"], "lines.gpkg", "roads_lines"),
        ("buildings", ["--square", "building"], "squares.gpkg", "buildings_squares"),
        ("Road", ["--set", "vectors.lines=[Road]"], "lines.gpkg", "road_lines"),
    ],
)
def test_the_command_takes_any_name(make_scene, capsys, tmp_path, classes, flags, file, layer):
    common = ["--model", "fake_segmenter:pointwise", "--cluster", "in-process", "--out", tmp_path / "o" / "run"]
    code, _, err = rs_seg(capsys, "run", "--source", make_scene(), "--classes", classes, *common, *flags)
    assert code == 0, err
    assert layer in [name for name, _ in pyogrio.list_layers(tmp_path / "o" / "run" / file)]
