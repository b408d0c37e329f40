"""What the classes of the small models are called most often."""

from __future__ import annotations

SYNONYMS: dict[str, tuple[str, ...]] = {
    "building": ("building", "buildings", "house", "houses", "roof", "roofs", "rooftop", "warehouse", "built structure"),
    "land": ("land", "bare land", "bare ground", "ground", "bare soil", "soil", "sand", "desert", "earth", "barren land"),
    "road": ("road", "roads", "street", "streets", "highway", "highways", "paved road", "asphalt", "motorway", "track", "path"),
    "vegetation": ("vegetation", "tree", "trees", "grass", "forest", "plants", "bushes", "green area", "park", "woodland", "bush", "shrub"),
    "water": ("water", "river", "rivers", "lake", "lakes", "pond", "ponds", "sea", "canal", "water body"),
}
"""By class; `phrases` has thousands more. The order of the classes is the order of `labels.CLASSES`."""
