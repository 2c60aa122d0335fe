"""Language models: a prompt of the package and data in, checked JSON out. Only this module imports openai."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from importlib.resources import files
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai

from gcl_toolkit.curate.ledger import Bad, Fault, Ledger, Request
from gcl_toolkit.curate.settings import ModelConfig, is_at

MOST_TOKENS = 4096
"""Of an answer."""
TIMEOUT = 120.0


class Prompt(NamedTuple):
    """A file of prompts/. Its first line is its version; a changed text needs a new one."""

    name: str
    version: str
    text: str

    @property
    def described(self) -> dict[str, str]:
        return {"version": self.version, "sha256": hashlib.sha256(self.text.encode()).hexdigest()}


def prompt(name: str) -> Prompt:
    version, text = (files("gcl_toolkit.curate") / "prompts" / f"{name}.txt").read_text("utf-8").split("\n", 1)
    return Prompt(name, version, text)


class Language:
    """A model behind an OpenAI-compatible server. The ledger retries, not the client, so that each request counts."""

    def __init__(self, config: ModelConfig, ledger: Ledger, key: str):
        self._config, self._ledger = config, ledger
        self._host = urlsplit(config.model_url).netloc
        self._client = openai.OpenAI(
            api_key=key or "none",
            base_url=config.model_url,
            max_retries=0,
            timeout=TIMEOUT,
            http_client=openai.DefaultHttpxClient(follow_redirects=False),
        )

    def close(self) -> None:
        self._client.close()

    def ask(
        self, name: str, requests: Iterable[tuple[object, Callable[[Any], object]]], tick: Callable[[], object]
    ) -> list[Any]:
        """The model's answers to a prompt; None for one that isn't usable after some attempts.

        requests: (data, read) each; read returns the part of the answer's JSON to use, or raises Bad.
        """
        text = prompt(name).text

        def answer(request: tuple[object, Callable]) -> Any:
            data, read = request
            # the data is JSON between <data> and </data>, and nothing in it can close the tag
            quoted = json.dumps(data, ensure_ascii=False).replace("<", "\\u003c")
            user = f"<data>\n{quoted}\n</data>"
            messages = [{"role": "system", "content": text}, {"role": "user", "content": user}]
            most_read = sum(len(message["content"].encode()) + 16 for message in messages)  # a token has >= 1 byte
            most = self._cost(most_read, MOST_TOKENS)
            body = self._ledger.ask(
                Request(name, [self._config.model, messages], self._host, most),
                lambda: self._send(messages, most),
                lambda body: json.dumps(read(_parsed(body))).encode(),
            ).body
            return json.loads(body) if body else None

        return self._ledger.each(answer, requests, tick)

    def _send(self, messages: Any, most: float) -> tuple[bytes, float]:
        # openai.com refuses the older name, which is the only one that all other servers know
        limit = "max_completion_tokens" if is_at(self._config.model_url, "openai.com") else "max_tokens"
        options: dict[str, Any] = {"model": self._config.model, "messages": messages, limit: MOST_TOKENS}
        try:
            body = self._client.chat.completions.with_raw_response.create(**options).http_response.content
        except openai.APIConnectionError as error:  # time-outs included
            cause = type(error.__cause__ or error).__name__
            raise Fault(f"{self._host} doesn't answer ({cause})", charged=True) from None
        except openai.APIStatusError as error:
            raise Fault.of_status(error.response, self._host) from None
        try:
            usage = json.loads(body)["usage"]
            return body, self._cost(int(usage["prompt_tokens"]), int(usage["completion_tokens"]))
        except (ValueError, TypeError, KeyError):
            return body, most

    def _cost(self, tokens_in: int, tokens_out: int) -> float:
        return (tokens_in * self._config.price_input + tokens_out * self._config.price_output) / 1e6


def _parsed(body: bytes) -> Any:
    """The JSON in a chat completion."""
    try:
        text = str(json.loads(body)["choices"][0]["message"]["content"])
    except (ValueError, LookupError, TypeError):
        raise Bad("the response is not a complete chat completion") from None
    fenced = re.fullmatch(r"\s*```(?:json)?\s*(.*?)\s*```\s*", text, re.DOTALL)
    try:
        return json.loads(fenced[1] if fenced else text)
    except ValueError:
        raise Bad("the answer is not JSON") from None
