"""Captions say what the labels say, and any text has tokens."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rs_model.clip_captions import (
    CONTEXT,
    END,
    KNOWN_SHARE,
    MOST_CLASSES,
    PAD,
    START,
    TOLD_SHARE,
    UNKNOWN,
    caption,
    class_shares,
    encode,
    meanings,
    told_classes,
    train_tokenizer,
)
from rs_model.clip_dense import OVERHEAD_TEMPLATES
from rs_model.labels import CLASSES, IGNORE, NOT_BUILDING, SEALED
from rs_model.words import SYNONYMS

building, land, road, vegetation, water = range(5)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer()


def told(codes, windows=1):
    order, count = told_classes(class_shares(codes, windows))
    return [row[:n].tolist() for row, n in zip(order, count, strict=True)]


def crop(*shares, side=10):
    """A crop of these (code, share) in turn."""
    codes = np.concatenate([np.full(round(share * side * side), code, np.uint8) for code, share in shares])
    return codes.reshape(1, side, side)


@given(arrays(np.uint8, (2, 8, 8), elements=st.integers(0, IGNORE)), st.sampled_from([1, 2, 4, 8]))
def test_shares_are_counted_pixel_by_pixel(codes, windows):
    got, side = class_shares(codes, windows), 8 // windows
    expected = [
        [(codes[n, r : r + side, c : c + side] == k).mean() for k in range(len(CLASSES))]
        for n in range(2)
        for r in range(0, 8, side)
        for c in range(0, 8, side)
    ]
    np.testing.assert_allclose(got, expected, atol=1e-6)


@given(arrays(np.uint8, (1, 6, 6), elements=st.sampled_from([0, 1, 2, 3, 4, IGNORE])))
def test_named_classes_cover_most_of_what_is_known_and_no_one_of_them_could_be_left_out(codes):
    (named,) = told(codes)
    shares = [float((codes == k).mean()) for k in range(len(CLASSES))]
    known = sum(shares)
    covered = [shares[k] for k in named]
    if named:
        assert known >= KNOWN_SHARE - 1e-6
        assert len(named) <= MOST_CLASSES
        assert covered == sorted(covered, reverse=True)
        assert sum(covered) >= TOLD_SHARE * known - 1e-6
        assert sum(covered[:-1]) < TOLD_SHARE * known + 1e-6
    else:
        assert known < KNOWN_SHARE or sum(sorted(shares)[-MOST_CLASSES:]) < TOLD_SHARE * known


def test_captions_name_the_largest_first_and_leave_small_ones_out():
    assert told(crop((water, 0.9), (road, 0.1))) == [[water]]
    assert told(crop((land, 0.3), (vegetation, 0.6), (road, 0.1))) == [[vegetation, land]]
    assert told(crop((land, 0.3), (vegetation, 0.4), (road, 0.2), (water, 0.1))) == [[vegetation, land, road]]


@pytest.mark.parametrize("code", [NOT_BUILDING, SEALED, IGNORE])
def test_nothing_is_said_where_too_little_is_known(code):
    assert told(crop((building, 0.85), (code, 0.15))) == [[]]
    assert told(crop((building, 0.95), (code, 0.05))) == [[building]]


def test_each_window_has_a_caption_of_its_own():
    codes = np.array([[building, land], [road, water]], np.uint8).repeat(4, 0).repeat(4, 1)[None]
    assert told(codes, 2) == [[building], [land], [road], [water]]
    assert told(codes, 1) == [[]], "four of equal size are too many to name"


def test_a_meaning_is_a_set_so_order_does_not_change_it():
    one, other, pure = (meanings(*told_classes(class_shares(c, 1)))[0] for c in (
        crop((land, 0.6), (water, 0.4)), crop((water, 0.6), (land, 0.4)), crop((water, 1.0)),
    ))  # fmt: skip
    assert one == other == (1 << land | 1 << water)
    assert pure == 1 << water
    assert meanings(*told_classes(class_shares(crop((IGNORE, 1.0)), 1)))[0] == 0


@given(st.lists(st.integers(0, 4), min_size=1, max_size=3, unique=True), st.integers(0, 2**32))
def test_a_caption_names_each_class_once_in_order_through_a_template(classes, seed):
    text = caption(classes, np.random.default_rng(seed))
    (template,) = (t for t in OVERHEAD_TEMPLATES if re.fullmatch(re.escape(t).replace(r"\{\}", ".+"), text))
    begin, end = template.split("{}")
    names = re.split(", | and ", text[len(begin) : len(text) - len(end)])
    assert len(names) == len(classes)
    assert all(name in SYNONYMS[CLASSES[k]] for name, k in zip(names, classes, strict=True))
    assert caption(classes, np.random.default_rng(seed)) == text


def test_every_caption_fits_and_keeps_its_end(tokenizer):
    rng = np.random.default_rng(0)
    longest = [max(words, key=len) for words in SYNONYMS.values()]
    texts = [t.format(f"{longest[0]}, {longest[1]} and {longest[3]}") for t in OVERHEAD_TEMPLATES]
    texts += [caption(rng.permutation(5)[:3].tolist(), rng) for _ in range(200)]
    ids = encode(tokenizer, texts)
    assert ids.shape == (len(texts), CONTEXT)
    assert (ids[:, 0] == START).all()
    assert ((ids == END).sum(1) == 1).all()
    assert (ids[:, -1] == PAD).all(), "room to spare: nothing was cut"
    assert not (ids == UNKNOWN).any()


@given(st.text(max_size=80))
def test_any_text_has_tokens_between_a_start_and_an_end(tokenizer, text):
    ids = encode(tokenizer, [text])[0].tolist()
    end = ids.index(END)
    assert (len(ids), ids[0]) == (CONTEXT, START)
    assert not {START, END, PAD} & set(ids[1:end])
    assert set(ids[end + 1 :]) <= {PAD}


def test_words_never_seen_share_pieces_with_those_that_were(tokenizer):
    pieces = tokenizer.encode("rooftops").tokens[1:]
    assert len(pieces) > 1
    assert "▁rooftop" in pieces
    assert tokenizer.encode("ROAD").ids == tokenizer.encode("road").ids


def test_the_tokenizer_is_the_same_each_time():
    assert train_tokenizer().to_str() == train_tokenizer().to_str()
