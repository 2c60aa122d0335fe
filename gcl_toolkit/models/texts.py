"""Texts to words, for BM25 and the small encoder, and a faster form of CLIP's tokenizer."""

import math
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import regex
import torch
from torch import Tensor

_WORD = regex.compile(r"[\w\p{N}][\w\p{M}\p{N}\u200c\u200d]*")
_UNSPACED = regex.compile(
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー]"
    r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}ー\p{M}\u200c\u200d]*"
)
"""Scripts that are written without spaces between words."""


def words(text: str) -> list[str]:
    """The words of a text: NFC, lower case, letters with their combining marks.

    Runs of a script without spaces (Chinese, Japanese, Thai, Lao, Khmer, Burmese) become overlapping pairs of
    characters as a reader sees them (grapheme clusters), as in Lucene's analyzer for such scripts.
    """
    lower = unicodedata.normalize("NFC", text.lower())
    if lower.isascii():
        return _WORD.findall(lower)
    return [part for word in _WORD.findall(lower) for part in _segmented(word)]


def _segmented(word: str) -> Iterator[str]:
    start = 0
    for run in _UNSPACED.finditer(word):
        if run.start() > start:
            yield word[start : run.start()]
        characters = regex.findall(r"\X", run[0])
        yield from map("".join, pairwise(characters)) if characters[1:] else characters
        start = run.end()
    if start < len(word):
        yield word[start:]


def fast_tokenizer(tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    """A function texts -> ids (N x L, int64) equal to open_clip's `tokenizer`, with a memo of words.

    Other tokenizers than CLIP's own byte-pair one are returned unchanged.
    """
    is_clip = type(tokenizer).__name__ == "SimpleTokenizer" and tokenizer.reduction_fn is None
    if not is_clip or tokenizer.clean_fn.__name__ != "_clean_lower":
        return tokenizer
    ids_of: dict[str, list[int]] = {}

    def encode_word(word: str) -> list[int]:
        if word not in ids_of:
            letters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode())
            ids_of[word] = [tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" ")]
        return ids_of[word]

    def encode(text: str) -> list[int]:
        if not (text.isascii() and text.isprintable()) or "&" in text:
            return tokenizer.encode(text)  # repairs Unicode and HTML, which takes most of its time
        found = tokenizer.pat.findall(" ".join(text.split()).lower())
        return [token for word in found for token in encode_word(word)]

    def tokenize(texts: Sequence[str]) -> Tensor:
        length, rows = tokenizer.context_length, []
        for text in texts:
            row = [tokenizer.sot_token_id, *encode(text)[: length - 2], tokenizer.eot_token_id]
            rows.append(row + [0] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(-1, length)

    return tokenize


def by_length(encode: Callable[[Tensor], Tensor], tokens_NxL: Tensor, padding: int, training: bool) -> Tensor:
    """`encode` without the padding: in training by quarters of the texts, from short to long ones; else all at once and
    up to a multiple of 16 tokens, so that most texts are padded alike in every batch."""
    if torch.compiler.is_compiling():
        return encode(tokens_NxL)
    length_N = (tokens_NxL != padding).sum(1)
    if not training or len(length_N) < 32:
        longest = max(1, int(length_N.max()))
        return encode(tokens_NxL[:, : longest if training else math.ceil(longest / 16) * 16])
    order_N = length_N.argsort(stable=True)
    parts = [encode(tokens_NxL[rows, : max(1, int(length_N[rows[-1]]))]) for rows in order_N.chunk(4)]
    return torch.cat(parts)[order_N.argsort()]
