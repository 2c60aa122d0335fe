"""The door to language models: a prompt of the package and data in, checked JSON out."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai

from gcl_toolkit.curate.ledger import Answer, Bad, Fault, Ledger
from gcl_toolkit.curate.settings import CurateConfig, is_at

LONGEST = 4096
"""Tokens of an answer, at most."""
TIMEOUT = 120.0


class Prompt(NamedTuple):
    """A file of prompts/. Its first line is its version: another text is another version."""

    name: str
    version: str
    text: str

    @property
    def described(self) -> dict[str, str]:
        return {"version": self.version, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}


def prompt(name: str) -> Prompt:
    version, text = (files("gcl_toolkit.curate") / "prompts" / f"{name}.txt").read_text("utf-8").split("\n", 1)
    return Prompt(name, version, text)


def quoted(data: object) -> str:
    """Data as a model sees it: JSON between <data> and </data>, which nothing in it can close."""
    return f"<data>\n{json.dumps(data, ensure_ascii=False).replace('<', chr(92) + 'u003c')}\n</data>"


class Language:
    """A model behind an OpenAI-compatible server. Retries are the ledger's, so that each one counts."""

    def __init__(self, config: CurateConfig, ledger: Ledger, key: str):
        self._config, self._ledger = config, ledger
        self._host = urlsplit(config.model_url).netloc
        # the one server that refuses the old name, which all others know
        self._limit: dict[str, Any] = {
            "max_completion_tokens" if is_at(config.model_url, "openai.com") else "max_tokens": LONGEST
        }
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=config.model_url,
            max_retries=0,
            timeout=TIMEOUT,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def close(self) -> None:
        self._client.close()

    def ask(self, prompt: Prompt, data: object, read: Callable[[Any], object]) -> Answer:
        """The model's answer to a prompt about data. read: the part of its JSON to keep, or raises Bad."""
        messages = [{"role": "system", "content": prompt.text}, {"role": "user", "content": quoted(data)}]
        longest = sum(len(message["content"].encode()) + 16 for message in messages)  # no token is less than a byte
        most = self._cost(longest, LONGEST)
        return self._ledger.ask(
            prompt.name,
            [self._config.model, messages],
            lambda: self._send(messages, most),
            lambda body: json.dumps(read(_json_of(_text_of(body)))).encode(),
            host=self._host,
            most=most,
        )

    def _send(self, messages: Any, most: float) -> tuple[bytes, float]:
        try:
            raw = self._client.chat.completions.with_raw_response.create(
                model=self._config.model, messages=messages, **self._limit
            )
        except openai.APIConnectionError as error:  # time-outs are among them
            cause = type(error.__cause__ or error).__name__
            raise Fault(f"{self._host} doesn't answer ({cause})", charged=True) from None
        except openai.APIStatusError as error:
            reason = f"{self._host} says {error.status_code}: {' '.join(error.response.text.split())[:300]}"
            passing = error.status_code in (408, 409, 429) or error.status_code >= 500
            raise Fault(reason, "again" if passing else "stop", seconds(error.response.headers)) from None
        body = raw.http_response.content
        try:
            used = json.loads(body)["usage"]
            return body, self._cost(int(used["prompt_tokens"]), int(used["completion_tokens"]))
        except (ValueError, TypeError, KeyError):
            return body, most

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._config.price_input + tokens_out * self._config.price_output) / 1e6


def seconds(headers) -> float:
    """Of a Retry-After header; 0 where there is none, or a date."""
    try:
        return max(0.0, float(headers.get("retry-after", 0)))
    except ValueError:
        return 0.0


def _text_of(body: bytes) -> str:
    try:
        return str(json.loads(body)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        raise Bad("the answer is no whole chat completion") from None


def _json_of(text: str) -> Any:
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except ValueError:
        raise Bad("the answer is no JSON") from None
