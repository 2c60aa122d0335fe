"""CLIP's tokens, quickly: the ids of open_clip's tokenizer, with a memo of words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def fast_tokenizer(tokenizer: Any) -> Callable[[Sequence[str]], Tensor]:
    """A function texts -> ids (N x L, int64), equal to open_clip's `tokenizer`, which is given back if it is another
    than CLIP's own byte-pair one."""
    is_clip = type(tokenizer).__name__ == "SimpleTokenizer" and tokenizer.reduction_fn is None
    if not is_clip or tokenizer.clean_fn.__name__ != "_clean_lower":
        return tokenizer
    return _ClipTokens(tokenizer)


class _ClipTokens:
    def __init__(self, tokenizer: Any):
        self.tokenizer = tokenizer
        self.words: dict[str, list[int]] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        first, last = self.tokenizer.sot_token_id, self.tokenizer.eot_token_id
        length, rows = self.tokenizer.context_length, []
        for text in texts:
            row = [first, *self._ids(text)[: length - 2], last]
            rows.append(row + [0] * (length - len(row)))
        return torch.tensor(rows, dtype=torch.long).reshape(-1, length)

    def _ids(self, text: str) -> list[int]:
        if not (text.isascii() and text.isprintable()) or "&" in text:
            return self.tokenizer.encode(text)  # whose mending of Unicode and HTML is most of its time
        ids: list[int] = []
        for word in self.tokenizer.pat.findall(" ".join(text.split()).lower()):
            known = self.words.get(word)
            if known is None:
                known = self.words[word] = self._encoded(word)
            ids += known
        return ids

    def _encoded(self, word: str) -> list[int]:
        letters = "".join(self.tokenizer.byte_encoder[byte] for byte in word.encode())
        return [self.tokenizer.encoder[part] for part in self.tokenizer.bpe(letters).split(" ")]
