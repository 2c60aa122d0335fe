"""Words in many scripts; CLIP's tokens against open_clip's."""

import re
import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import ranked

from gcl_toolkit import NDCG, RankedData
from gcl_toolkit.measure.baselines import BM25
from gcl_toolkit.measure.evaluate import measure_ranking
from gcl_toolkit.models.encoders import make_encoder
from gcl_toolkit.models.texts import fast_tokenizer, words


def test_words_of_plain_english_are_runs_of_letters_and_digits():
    for text in ("Red mug's 20% off", "3,5 x 7.5cm_ok", "  a  B-C\tÉcole naïve Größe 20m² ½ ", ""):
        assert words(text) == re.findall(r"\w+", text.lower())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("लाल कुर्सी घड़ी", ["लाल", "कुर्सी", "घड़ी"]),  # Hindi: vowel signs, virama, nukta
        ("சிவப்பு கப்", ["சிவப்பு", "கப்"]),  # Tamil
        ("한국어 머그", ["한국어", "머그"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # Persian, with a joiner inside the word
        ("红色杯子", ["红色", "色杯", "杯子"]),  # no spaces: pairs
        ("แก้วน้ำ", ["แก้", "ก้ว", "วน้ำ"]),  # Thai: a consonant with its marks is one character
        ("mugs红色 3個", ["mugs", "红色", "3", "個"]),
        ("x\u030c红色", ["x\u030c", "红色"]),
    ],
)
def test_words_of_other_scripts_are_not_split_inside_characters(text, expected):
    assert words(text) == [unicodedata.normalize("NFC", word) for word in expected]
    assert words(unicodedata.normalize("NFD", text)) == words(text)


COLOURS = {
    "Hindi": ["लाल", "नीला", "हरा", "पीला", "काला"],
    "Thai": ["สีแดง", "สีน้ำเงิน", "สีเขียว", "สีเหลือง", "สีดำ"],
    "decomposed French": [unicodedata.normalize("NFD", word) for word in ("crème", "bleuté", "irisé", "grège", "doré")],
}
THINGS = {
    "Hindi": ["मग", "थाली", "कुर्सी", "घड़ी"],
    "Thai": ["แก้วมัค", "จาน", "เก้าอี้", "นาฬิกา"],
    "decomposed French": ["tasse", "assiette", "chaise", "pendule"],
}


@pytest.mark.parametrize("language", COLOURS)
def test_bm25_ranks_titles_of_any_script_as_it_ranks_english(language):
    space = "" if language == "Thai" else " "
    kinds = [(c, t) for c in COLOURS[language] for t in THINGS[language]]
    queries = [unicodedata.normalize("NFC", c + space + t) for c, t in kinds]
    titles = [f"{c}{space}{t} p{i}" for i, (c, t) in enumerate(kinds * 3)]
    pairs = [
        (query, f"p{i}", float((c == pc) + (t == pt)))
        for query, (c, t) in zip(queries, kinds, strict=True)
        for i, (pc, pt) in enumerate(kinds * 3)
        if c == pc or t == pt
    ]
    columns = dict(zip(("query_id", "product_id", "score"), map(list, zip(*pairs, strict=True)), strict=True))
    data = RankedData(
        pa.table({"query_id": queries, "query": queries}),
        pa.table({"product_id": [f"p{i}" for i in range(len(titles))], "title": titles}),
        pa.table(columns),
    )
    rows = BM25(titles).top_k(queries, 60)
    assert measure_ranking(rows, data, [NDCG @ 10])["NDCG@10"].mean() == pytest.approx(1, abs=1e-9)


def test_the_small_encoder_reads_composed_and_decomposed_words_alike():
    encoder = make_encoder("small", dimension=16)
    encoder.learn_vocabulary(["crème लाल"])
    assert encoder.vocabulary == ["crème", "लाल"]
    assert encoder.tokens([unicodedata.normalize("NFD", "crème लाल")])[0, :2].tolist() == [1, 2]


def test_bm25_has_the_scores_of_bm25s_for_plain_english():
    import bm25s

    titles = [*ranked(2, 30).corpus["title"].to_pylist(), "a Red mug's lid, 20% off", "", "red red rug x"]
    queries = ["red mug", "title 3", "a x", "20 lids of mug", ""]
    theirs = bm25s.BM25()
    theirs.index(bm25s.tokenize(titles, stopwords=None, show_progress=False), show_progress=False)
    tokens = bm25s.tokenize(queries, stopwords=None, return_ids=False, show_progress=False)
    for known, scores in zip(tokens, BM25(titles)._scores(queries), strict=True):
        known = [word for word in known if word in theirs.vocab_dict]
        assert (scores == (theirs.get_scores(known) if known else 0)).all()


def test_clips_tokens_are_open_clips():
    import open_clip

    tokenizer = open_clip.get_tokenizer("ViT-B-32")
    texts = ["red striped mug", "", "  RED\tmug ", "caf\u00e9 \u2019s", "a &amp; b", "&lt;b&gt;", "it's 20% off!!!"]
    texts += ["x" * 400, "mug " * 100, "<start_of_text> mug", "na\u00efve \u8336\u676f", "a\u0000b", "\x1b[1mbold"]
    texts += ["3,5 x 7.5cm_ok", "I'M THE'RE"]
    rng = np.random.default_rng(0)
    texts += ["".join(map(chr, rng.integers(32, 127, 40))) for _ in range(300)]
    assert torch.equal(fast_tokenizer(tokenizer)(texts), tokenizer(texts))
    assert fast_tokenizer(tokenizer)([]).shape == (0, 77)
    assert fast_tokenizer(len) is len
