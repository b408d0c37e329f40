"""Words: any text has tokens, training never meets what is held out, and the text encoder learns what phrases mean."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from rs_model.architecture import Architecture, build_head
from rs_model.phrases import (
    OTHER,
    build_tokenizer,
    class_nouns,
    composed_phrase,
    language,
    other_phrase,
    plural,
    pseudo_word,
    training_phrase,
)
from rs_model.pieces import END, PAD, SEQUENCE_LENGTH, START, UNKNOWN, Tokenizer, normal
from rs_model.recipe import read_recipe
from rs_model.text_training import MEANINGS, draw_phrases, measure_text, new_reader, pretrain_text, read_text, resolved_share, text_loss
from rs_model.words import SYNONYMS

from rs_pipeline.classes import Class, ClassSet
from rs_pipeline.config import configs_folder
from rs_pipeline.errors import SegmenterError
from rs_pipeline.segmenter import ModelInfo
from rs_pipeline.unfamiliar import describe_unfamiliar

SMALL = Architecture(width=16, heads=2, intermediate=32, text_layers=1, encoder_layers=1, decoder_layers=1, queries=4)
KINDS = ("combination", "relative", "unseen")
seeds = st.integers(0, 2**32 - 1)
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def tokenizer():
    return build_tokenizer()


def words_of_training():
    return {word for text in language().texts() for word in normal(text).split()}


def spelled(tokenizer, ids):
    """What a row of ids says, spaces and all."""
    names = {index: piece for piece, index in tokenizer._whole.get_vocab().items()}
    return "".join(names[index] for index in ids.tolist() if index not in {PAD, START, END})


def draws(seed, count=20):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        name = MEANINGS[rng.integers(len(SYNONYMS))]
        yield from (composed_phrase(name, rng), training_phrase(name, rng), other_phrase(rng))


def test_there_is_enough_to_hold_out_and_to_train_on():
    kinds = language().kinds
    for name in SYNONYMS:
        assert tuple(kinds[name].held_out) == KINDS
        assert [len(set(phrases)) for phrases in kinds[name].held_out.values()] == [12, 12, 12]
    assert tuple(kinds[OTHER].held_out) == ("from_above", "anything")
    assert min(len(set(phrases)) for phrases in kinds[OTHER].held_out.values()) >= 30
    assert len(kinds[OTHER].nouns) >= 400


def test_no_phrase_is_of_two_kinds():
    owners = {}
    for name, kind in language().kinds.items():
        for phrase in {normal(p) for p in (*kind.nouns, *(p for held in kind.held_out.values() for p in held))}:
            owners.setdefault(phrase, []).append(name)
    assert {phrase: names for phrase, names in owners.items() if len(names) > 1} == {}


@pytest.mark.parametrize("name", SYNONYMS)
def test_combinations_are_of_words_that_training_has(name):
    known = words_of_training()
    assert [p for p in language().kinds[name].held_out["combination"] if not known.issuperset(normal(p).split())] == []


@pytest.mark.parametrize("name", SYNONYMS)
def test_relatives_have_a_word_of_their_own_that_is_made_of_a_known_one(name):
    known, kind = words_of_training(), language().kinds[name]
    stems = {word[:4] for text in (*kind.nouns, *kind.adjectives) for word in normal(text).split() if len(word) > 2}
    for phrase in kind.held_out["relative"]:
        new = [word for word in normal(phrase).split() if word not in known]
        assert new, phrase
        assert any(stem in word for word in new for stem in stems), phrase


@pytest.mark.parametrize("name", SYNONYMS)
def test_unseen_phrases_have_a_word_that_no_noun_of_their_class_is_in_and_half_of_them_nothing_else(name):
    known, kind = words_of_training(), language().kinds[name]
    nouns = {word for text in kind.nouns for word in normal(text).split() if len(word) > 3}
    alone = 0
    for phrase in kind.held_out["unseen"]:
        words = normal(phrase).split()
        new = [word for word in words if word not in known]
        assert new, phrase
        assert not any(noun in word for word in new for noun in nouns), phrase
        alone += len(new) == len(words)
    assert alone >= 6


@given(seeds)
def test_what_is_held_out_never_comes_up_in_training(seed):
    known, withheld = words_of_training(), [normal(phrase) for phrase in language().withheld()]
    unseen = {word for phrase in withheld for word in phrase.split()} - known
    for phrase in draws(seed):
        text = normal(phrase)
        assert unseen.isdisjoint(text.split())
        assert not any(f" {held} " in f" {text} " for held in withheld), phrase


@given(seeds)
def test_phrases_are_drawn_by_the_generator_alone_and_all_of_them_fit(seed):
    phrases = list(draws(seed, 3))
    assert phrases == list(draws(seed, 3))
    ids, _ = build_tokenizer().encode(phrases, rng=np.random.default_rng(seed))
    assert ids.shape == (9, SEQUENCE_LENGTH)


def test_a_class_goes_by_its_own_name_half_of_the_time_and_by_thousands_of_others():
    rng = np.random.default_rng(1)
    drawn = [training_phrase("water", rng) for _ in range(2000)]
    assert drawn.count("water") / len(drawn) == pytest.approx(0.5, abs=0.07)
    assert sum(phrase in SYNONYMS["water"] for phrase in drawn) / len(drawn) == pytest.approx(0.78, abs=0.07)
    assert len({composed_phrase("water", rng) for _ in range(2000)}) > 1200


def test_pseudo_words_are_words_that_differ():
    rng = np.random.default_rng(2)
    made = {pseudo_word(rng) for _ in range(300)}
    assert len(made) > 250
    assert all(word and " " not in word for word in made)


@pytest.mark.parametrize(
    ("one", "many"),
    [("house", "houses"), ("city hall", "city halls"), ("bush", "bushes"), ("body of water", "bodies of water"), ("alley", "alleys")],
)
def test_plurals_follow_the_rule(one, many):
    assert plural(one) == many


def test_every_noun_of_training_is_familiar_to_a_run_and_no_other_concept_is():
    info = ModelInfo("m", "0", None, None, 64, None, trained_on=tuple(SYNONYMS), trained_words=class_nouns())

    def is_familiar(phrase):
        return not describe_unfamiliar(info, ClassSet((Class(1, "x", (phrase,), (0, 0, 0), 0.5),)))

    kinds = language().kinds
    assert [noun for name in SYNONYMS for noun in kinds[name].nouns if not is_familiar(noun)] == []
    strange = [phrase for phrases in kinds[OTHER].held_out.values() for phrase in phrases]
    assert [phrase for phrase in strange if is_familiar(phrase)] == []


@given(texts)
def test_any_text_with_a_letter_or_digit_has_tokens(text):
    tokenizer = build_tokenizer()
    try:
        ids, mask = tokenizer.encode([text])
    except SegmenterError:
        assert not tokenizer.fits(text)
        assert not normal(text) or len(normal(text)) > 11
        return
    row, count = ids[0], int(mask.sum())
    assert (ids.shape, mask.shape, ids.dtype, mask.dtype) == ((1, 24), (1, 24), np.int64, np.int64)
    assert (row[0], row[count - 1]) == (START, END)
    assert row[count:].tolist() == [PAD] * (SEQUENCE_LENGTH - count)
    assert mask[0].tolist() == [1] * count + [0] * (SEQUENCE_LENGTH - count)
    assert not {PAD, START, END} & set(row[1 : count - 1].tolist())
    assert row.max() < tokenizer.size


@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=6), min_size=1, max_size=2), st.none() | seeds)
def test_pieces_spell_the_prompt_however_they_are_cut(words, seed):
    tokenizer, prompt = build_tokenizer(), " ".join(words)
    ids, _ = tokenizer.encode([prompt], rng=None if seed is None else np.random.default_rng(seed))
    assert spelled(tokenizer, ids[0]) == prompt


@pytest.mark.parametrize("same", ["ROADS", " roads ", "Roads!", "«roads»", "roáds", "ｒｏａｄｓ"])
def test_case_accents_width_and_punctuation_do_no_harm(tokenizer, same):
    np.testing.assert_array_equal(tokenizer.encode([same])[0], tokenizer.encode(["roads"])[0])


def test_hyphens_are_spaces_and_spaces_are_one(tokenizer):
    one, *others = tokenizer.encode(["bare land", "bare-land", "bare \t  land", "bare_land"])[0]
    for other in others:
        np.testing.assert_array_equal(one, other)


def test_a_compound_has_the_pieces_of_its_words(tokenizer):
    assert set(tokenizer.encode(["farm house"])[0][0]) >= set(tokenizer.encode(["farmhouse"])[0][0])


def test_foreign_letters_are_unknown_and_do_not_stop_a_prompt(tokenizer):
    ids, mask = tokenizer.encode(["湖"])
    assert ids[0, : mask.sum()].tolist() == [START, UNKNOWN, END]


def test_every_name_and_synonym_is_told_from_the_others(tokenizer):
    phrases = [phrase for group in SYNONYMS.values() for phrase in group]
    ids, _ = tokenizer.encode(phrases)
    assert len({tuple(row) for row in ids}) == len(phrases)


@pytest.mark.parametrize(
    ("prompt", "said"), [("", "letter or digit"), ("   ", "letter or digit"), ("?!…", "letter or digit"), ("road " * 12, "at most 22")]
)
def test_a_prompt_that_says_nothing_or_too_much_is_refused(tokenizer, prompt, said):
    with pytest.raises(SegmenterError, match=said):
        tokenizer.encode(["water", prompt])
    assert not tokenizer.fits(prompt)


def test_regularisation_splits_some_words_as_its_generator_says(tokenizer):
    prompts = ["large warehouses near a river"] * 200
    whole = tokenizer.encode(prompts[:1])[0][0]
    first, again, other = (tokenizer.encode(prompts, rng=np.random.default_rng(seed))[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    kept = (first == whole).all(1).mean()
    assert 0.1 < kept < 0.9


def test_a_tokenizer_comes_back_from_its_json_and_training_gives_the_same_one(tokenizer):
    back = Tokenizer.from_json(tokenizer.to_json())
    np.testing.assert_array_equal(back.encode(["grassy farmhouse"])[0], tokenizer.encode(["grassy farmhouse"])[0])
    assert back == tokenizer
    assert build_tokenizer.__wrapped__() == tokenizer
    assert 600 <= tokenizer.size <= 1200


@pytest.mark.parametrize("junk", ["", "{}", "[1, 2]", '{"version": "1.0"}'])
def test_what_is_no_tokenizer_is_refused(junk):
    with pytest.raises(SegmenterError, match="tokenizer of a weights folder"):
        Tokenizer.from_json(junk)


def text_encoder(architecture, tokenizer):
    """(encode, parameters) of a fresh text encoder."""
    torch.manual_seed(5)
    head = build_head(architecture, tokenizer.size)

    def encode(ids, mask):
        return head.get_text_features(input_ids=ids, attention_mask=mask, return_dict=True).pooler_output

    return encode, [*head.text_encoder.parameters(), *head.text_projection.parameters()]


def test_phrases_of_a_step_are_of_all_six_meanings():
    phrases, meanings = draw_phrases(400, np.random.default_rng(3))
    assert (len(phrases), meanings.shape, meanings.dtype) == (400, (400,), np.int64)
    shares = np.bincount(meanings, minlength=6) / 400
    assert shares[-1] == pytest.approx(0.35, abs=0.08)
    assert shares[:-1] == pytest.approx(np.full(5, 0.13), abs=0.06)


def test_pretraining_lowers_the_loss_and_the_same_seed_gives_the_same_weights(tokenizer):
    settings = {"seed": 4, "steps": 25, "phrases": 32, "learning_rate": 0.01}
    readers, features = [], []
    for _ in range(2):
        encode, parameters = text_encoder(SMALL, tokenizer)
        with torch.no_grad():
            before = float(text_loss(encode, new_reader(16, 4), tokenizer, 128, np.random.default_rng(9)))
        readers.append(new_reader(16, 4))
        pretrain_text(encode, readers[-1], parameters, tokenizer, **settings)
        with torch.no_grad():
            assert float(text_loss(encode, readers[-1], tokenizer, 128, np.random.default_rng(9))) < before
        features.append(encode(*map(torch.from_numpy, tokenizer.encode(["road"]))))
    assert torch.equal(readers[0].weight, readers[1].weight)
    assert torch.equal(*features)


def test_a_reading_does_not_hang_on_what_else_is_read(tokenizer):
    encode, _ = text_encoder(SMALL, tokenizer)
    reader = new_reader(16, 4)
    phrases = [phrase for phrases in language().kinds["road"].held_out.values() for phrase in phrases]
    together = read_text(encode, reader, tokenizer, phrases)
    assert together == [meaning for phrase in phrases for meaning in read_text(encode, reader, tokenizer, [phrase])]
    shares = measure_text(encode, reader, tokenizer)
    assert list(shares) == list(MEANINGS)
    assert sum(shares["road"][kind] * 12 for kind in KINDS) == pytest.approx(together.count("road"))
    assert resolved_share({"road": {"a": 1.0, "b": 0.5}, OTHER: {"c": 0.25}}) == (0.75, 0.25)


@pytest.mark.slow
def test_four_of_five_held_out_phrases_get_their_meaning_and_so_many_strange_ones_none(tokenizer):
    recipe = read_recipe(configs_folder() / "train" / "rs-tiny.yaml", None)
    encode, parameters = text_encoder(Architecture(), tokenizer)
    reader, text = new_reader(Architecture().width, recipe.seed), recipe.text
    pretrain_text(
        encode,
        reader,
        parameters,
        tokenizer,
        seed=recipe.seed,
        steps=text.steps,
        phrases=text.phrases,
        learning_rate=text.learning_rate,
    )
    named, strange = resolved_share(measure_text(encode, reader, tokenizer))
    assert named >= 0.8
    assert strange >= 0.8
