from collections import Counter

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import CLIPTokenizer, PreTrainedTokenizerFast, Qwen2Tokenizer, T5Tokenizer

from dreambooth.subjects.identifiers import (
    check_identifier,
    random_identifier,
    rare_identifier,
    rare_token_ids,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def clip_style() -> CLIPTokenizer:
    """Byte-level BPE: "</w>" ends a word. "sk" and "oh" are pieces; no merge makes "qzx</w>"."""
    merges = ["s k", "sk s</w>", "o h", "oh w</w>", "x y</w>", "d o", "do g", "do g</w>"]
    merges += ["dog s</w>"]
    joined = ["sk", "sks</w>", "oh", "ohw</w>", "xy</w>", "do", "dog", "dog</w>"]
    joined += ["dogs</w>", "qzx</w>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *(f"{c}</w>" for c in alphabet), *joined]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    vocabulary |= {"<|startoftext|>": len(tokens), "<|endoftext|>": len(tokens) + 1}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in merges])


def clip_style_plain() -> PreTrainedTokenizerFast:
    """The same tokenizer as a plain fast one, whose decoder leaves "</w>" in the text."""
    backend = Tokenizer.from_str(clip_style().backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|startoftext|>", eos_token="<|endoftext|>"
    )


def t5_style() -> T5Tokenizer:
    """Unigram: "▁" begins a word. "hw" and "ks" are pieces; "▁ab" loses against "▁a" + "b"."""
    words = ["▁sks", "▁ohw", "▁xy", "▁dog", "▁dogs", "hw", "ks"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -5.0)]
    pieces += [(c, -6.0) for c in LETTERS] + [("▁a", -1.0), ("b", -1.0), ("▁ab", -9.0)]
    pieces += [(word, -3.0) for word in words]
    unique = list(dict(pieces).items())
    return T5Tokenizer(vocab=unique, extra_ids=0)


def qwen_style() -> Qwen2Tokenizer:
    """Byte-level BPE: "Ġ", a space, begins a word. "sks" is a piece, or begins a text."""
    words = ["sks", "ohw", "xy", "dog", "dogs"]
    merges = ["s k", "sk s", "o h", "oh w", "x y", "d o", "do g", "dog s"]
    merges += [f"Ġ {word}" for word in words]
    tokens = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(m.replace(" ", "") for m in merges)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|endoftext|>"])}
    return Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(m.split()) for m in merges])


def wordpiece() -> PreTrainedTokenizerFast:
    """WordPiece, lower case without accents: no text is read as "ABC" or as "é"."""
    tokens = ["[PAD]", "[BOS]", "[EOS]", "[UNK]", *LETTERS, *(f"##{c}" for c in LETTERS)]
    tokens += ["sks", "ohw", "xy", "dog", "dogs", "##ks", "ABC", "é", ",,", "<3", "☺"]
    backend = Tokenizer(
        models.WordPiece(vocab={t: i for i, t in enumerate(tokens)}, unk_token="[UNK]")
    )
    backend.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        unk_token="[UNK]",
    )


def joining() -> PreTrainedTokenizerFast:
    """Decodes without spaces, so that tokens may be read as others: "a" + "bc" as "abc"."""
    pieces = [("?", -20.0), ("a", -2.0), ("bc", -2.0), ("ab", -9.0), ("c", -2.0), ("abc", -3.0)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="?")


TOKENIZERS = [clip_style, clip_style_plain, t5_style, qwen_style, wordpiece]
every_tokenizer = pytest.mark.parametrize("build", TOKENIZERS)


def words(tokenizer, ids: list[int]) -> set[str]:
    return {tokenizer.decode([i]).replace("</w>", "").strip() for i in ids}


def encode(tokenizer, text: str) -> list[int]:
    """The ids of a word in a prompt."""
    return tokenizer.encode(f" {text.strip()}", add_special_tokens=False)


@every_tokenizer
def test_rare_tokens_are_the_short_words_that_encode_to_their_own_id(build):
    tokenizer = build()
    ids = rare_token_ids(tokenizer, (0, len(tokenizer)))
    found = words(tokenizer, ids)
    assert {w for w in found if len(w) > 1} == {"sks", "ohw", "xy", "dog"}
    assert {w for w in found if w.isascii() and len(w) == 1} <= set(LETTERS)
    for i in ids:
        assert encode(tokenizer, tokenizer.decode([i]).replace("</w>", "")) == [i]


@every_tokenizer
def test_longer_words_come_in_when_more_characters_are_allowed(build):
    tokenizer = build()
    ids = rare_token_ids(tokenizer, (0, len(tokenizer)), max_characters=4)
    assert "dogs" in words(tokenizer, ids)
    ids = rare_token_ids(tokenizer, (0, len(tokenizer)), max_characters=2)
    assert {w for w in words(tokenizer, ids) if len(w) > 1} == {"xy"}


@pytest.mark.parametrize(
    ("build", "token"),
    [
        (clip_style, "sk"),  # a piece: alone it is read as "s" + "k</w>"
        (clip_style, "qzx</w>"),
        (t5_style, "ks"),
        (t5_style, "▁ab"),
        (qwen_style, "sks"),  # where it begins a text
        (wordpiece, "ABC"),
        (wordpiece, "é"),
    ],
)
def test_a_token_that_does_not_come_back_is_no_rare_token(build, token):
    tokenizer = build()
    i = tokenizer.convert_tokens_to_ids(token)
    assert tokenizer.convert_ids_to_tokens(i) == token
    assert encode(tokenizer, tokenizer.decode([i])) != [i]
    assert rare_token_ids(tokenizer, (i, i + 1)) == []


@pytest.mark.parametrize("token", [",,", "<3", "☺", "##k"])
def test_punctuation_emoji_and_marked_pieces_are_no_rare_tokens_though_they_come_back(token):
    tokenizer = wordpiece()
    i = tokenizer.convert_tokens_to_ids(token)
    assert encode(tokenizer, tokenizer.decode([i])) == [i]
    assert rare_token_ids(tokenizer, (i, i + 1)) == []


def test_special_tokens_are_no_rare_tokens():
    tokenizer = wordpiece()
    tokenizer.add_special_tokens({"additional_special_tokens": ["xxx"]})
    i = tokenizer.convert_tokens_to_ids("xxx")
    assert encode(tokenizer, "xxx") == [i]
    assert rare_token_ids(tokenizer, (i, i + 1)) == []


def test_the_id_range_holds_its_first_id_and_not_its_last():
    tokenizer = wordpiece()
    i = tokenizer.convert_tokens_to_ids("sks")
    assert rare_token_ids(tokenizer, (i, i + 1)) == [i]
    assert rare_token_ids(tokenizer, (i, i + 3)) == [i, i + 1, i + 2]


@pytest.mark.parametrize("id_range", [(0, 10_000), (-1, 5), (5, 5), (9, 3)])
def test_a_range_outside_the_vocabulary_says_how_large_it_is(id_range):
    tokenizer = wordpiece()
    with pytest.raises(ValueError, match=rf"within 0\.\.{len(tokenizer)}"):
        rare_token_ids(tokenizer, id_range)


@every_tokenizer
@pytest.mark.parametrize("num_tokens", [1, 2, 3])
def test_an_identifier_encodes_to_as_many_different_rare_tokens(build, num_tokens):
    tokenizer = build()
    pool = rare_token_ids(tokenizer, (0, len(tokenizer)))
    for seed in range(10):
        text = rare_identifier(tokenizer, (0, len(tokenizer)), num_tokens, seed)
        ids = encode(tokenizer, text)
        assert len(ids) == len(set(ids)) == num_tokens
        assert set(ids) <= set(pool)


@every_tokenizer
def test_an_identifier_of_one_token_passes_the_check_of_a_users_own(build):
    tokenizer = build()
    for seed in range(10):
        check_identifier(tokenizer, rare_identifier(tokenizer, (0, len(tokenizer)), 1, seed))


def test_a_sequence_that_is_read_as_other_tokens_is_drawn_again():
    tokenizer = joining()
    pool = rare_token_ids(tokenizer, (0, len(tokenizer)))
    assert words(tokenizer, pool) == {"a", "bc", "ab", "c", "abc"}
    a, bc = tokenizer.convert_tokens_to_ids(["a", "bc"])
    assert encode(tokenizer, tokenizer.decode([a, bc])) != [a, bc]
    drawn = {rare_identifier(tokenizer, (0, len(tokenizer)), 2, seed) for seed in range(60)}
    assert all(len(encode(tokenizer, text)) == 2 for text in drawn)
    assert "abc" not in drawn
    assert "bca" in drawn


def test_where_no_sequence_comes_back_the_range_is_named():
    tokenizer = joining()
    pieces = [("?", -20.0), ("a", -2.0), ("b", -2.0), ("ab", -1.0), ("ba", -1.0)]
    tokenizer.backend_tokenizer.model = models.Unigram(pieces, unk_id=0)
    with pytest.raises(ValueError, match=r"ids 1\.\.3 hold 2 rare tokens, too few .* of 2"):
        rare_identifier(tokenizer, (1, 3), 2)


def test_identifiers_are_drawn_uniformly_and_fixed_by_their_seed():
    tokenizer = wordpiece()
    first = tokenizer.convert_tokens_to_ids("sks")
    drawn = [rare_identifier(tokenizer, (first, first + 4), 1, seed) for seed in range(400)]
    assert drawn[:20] == [
        rare_identifier(tokenizer, (first, first + 4), 1, seed) for seed in range(20)
    ]
    counts = Counter(drawn)
    assert set(counts) == {"sks", "ohw", "xy", "dog"}
    assert all(abs(n - 100) < 5 * (400 * 0.25 * 0.75) ** 0.5 for n in counts.values())
    assert drawn[:6] == ["dog", "ohw", "xy", "xy", "dog", "sks"]


@pytest.mark.parametrize("num_tokens", [0, 4, -1])
def test_an_identifier_has_one_to_three_tokens(num_tokens):
    with pytest.raises(ValueError, match=f"1, 2 or 3 rare tokens, not {num_tokens}"):
        rare_identifier(wordpiece(), (0, 10), num_tokens)


def test_a_range_with_too_few_rare_tokens_is_named():
    tokenizer = wordpiece()
    first = tokenizer.convert_tokens_to_ids("sks")
    with pytest.raises(
        ValueError, match=r"hold 1 rare tokens, .* of 2: give identifier\.text=WORD"
    ):
        rare_identifier(tokenizer, (first, first + 1), 2)
    with pytest.raises(ValueError, match="hold 0 rare tokens"):
        rare_identifier(tokenizer, (0, 4))


def test_random_identifiers_are_letters_and_digits_fixed_by_their_seed():
    texts = [random_identifier(seed) for seed in range(200)]
    assert len(set(texts)) == 200
    assert all(len(text) == 9 for text in texts)
    assert set("".join(texts)) == set(LETTERS)
    assert len(random_identifier(0, length=4)) == 4
    assert random_identifier(0) == "imuvxr921"


@every_tokenizer
def test_random_identifiers_pass_the_check(build):
    tokenizer = build()
    for seed in range(10):
        check_identifier(tokenizer, random_identifier(seed))


@every_tokenizer
@pytest.mark.parametrize("text", ["sks", "dog", "xxy5syt00", "dogsks"])
def test_words_of_known_characters_pass_the_check(build, text):
    check_identifier(build(), text)


@pytest.mark.parametrize("build", [clip_style, wordpiece])
def test_capitals_do_not_matter_where_the_tokenizer_ignores_them(build):
    check_identifier(build(), "SKS")


@every_tokenizer
def test_an_empty_identifier_is_refused(build):
    with pytest.raises(ValueError, match="the identifier '' is empty"):
        check_identifier(build(), "")


@pytest.mark.parametrize("text", [" ", "a b", "sks ", "\tsks", "s\u00a0ks"])
def test_an_identifier_with_whitespace_is_refused(text):
    with pytest.raises(ValueError, match="is not one word"):
        check_identifier(wordpiece(), text)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (t5_style, "犬"),  # unknown
        (t5_style, "SKS"),
        (wordpiece, "犬"),
        (wordpiece, "sk_s"),
        (wordpiece, "naïve"),  # read as "naive", another word
        (wordpiece, "[UNK]"),
        (t5_style, "</s>"),
        (clip_style, "<|endoftext|>"),
        (clip_style, "<|startoftext|>sks"),
    ],
)
def test_an_identifier_that_does_not_come_back_is_refused(build, text):
    with pytest.raises(ValueError, match="does not keep the identifier"):
        check_identifier(build(), text)


def test_the_refusal_says_what_the_identifier_would_be_read_as():
    with pytest.raises(ValueError, match="'naïve': it comes back as 'naive'"):
        check_identifier(wordpiece(), "naïve")
