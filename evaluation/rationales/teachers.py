"""Teachers: models that answer a request, behind an OpenAI-compatible endpoint or in this process."""

import asyncio
import base64
import io
import os
from collections import Counter
from pathlib import Path
from urllib.parse import unquote, urlsplit

import openai
import torch
from aiolimiter import AsyncLimiter
from transformers import AutoModelForImageTextToText, AutoProcessor

from dataset_scripts.media import open_picture
from modeling_emollm.emoprompt import encode_chats

from ..predictions import digest
from .checks import Request


RETRIES = 5  # with waits that double from half a second, or as long as the endpoint asks for
REFUSALS = (400, 403, 413, 422)  # of this request, by what it holds, or of all
TRANSIENT = (408, 409, 429)  # and all from 500
SHORTEST_KEY = 8  # characters; what is shorter, such as EMPTY, is no secret, and may be a word of an answer


class TeacherError(Exception):
    """The teacher can't be asked at all."""


class Unanswered(Exception):
    """A request was not answered although it was repeated, but may be another time."""


def read_reply(text: str | None, finish_reason: str | None, input_tokens: int, output_tokens: int) -> dict:
    """The reply as it is stored; what a model thought before it began to answer is left out."""
    answer = (text or "").rpartition("</think>")[2]
    return {
        "text": answer.encode(errors="replace").decode(),  # JSON can hold half of a character, Parquet can't
        "finish_reason": finish_reason,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
    }


def data_url(image: bytes) -> str:
    """The picture's bytes as they are. Cameras' MPO files are JPEGs with a second picture behind the first."""
    with open_picture(io.BytesIO(image)) as opened:
        kind = opened.get_format_mimetype().replace("image/mpo", "image/jpeg")
    return f"data:{kind};base64,{base64.b64encode(image).decode()}"


async def refuse_malformed(response) -> None:
    """A success without a reply in it is a fault of the endpoint, and is repeated like its others."""
    if response.is_success:
        await response.aread()
        try:
            content = response.json()["choices"][0]["message"].get("content")
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            content = ()
        if not isinstance(content, str | None):
            response.status_code = 502


def read_key() -> str:
    return os.environ.get("OPENAI_API_KEY", "").strip()


def check_address(url: str) -> None:
    """Raises a `ValueError` if an endpoint's address may hold a key: addresses are recorded, shown and published."""
    key = read_key().lower()
    if len(key) >= SHORTEST_KEY and key in unquote(url).lower():
        raise ValueError("The address of the endpoint holds the key: leave it out, OPENAI_API_KEY is sent anyway.")
    parts = urlsplit(url)
    if parts.username or parts.password or parts.query or parts.fragment or ";" in url:
        raise ValueError(
            f"The address of the endpoint at {parts.hostname} has more to it than host and path: give its key in "
            "OPENAI_API_KEY."
        )


class Endpoint:
    """
    A model behind an endpoint; the key is in the environment, as `OPENAI_API_KEY`, if one is needed. It is taken out
    of whatever the endpoint says, before that is written or shown.

    Args:
        url (`str`): up to and with `/v1`.
        model (`str`, *optional*): its name there; by default, the only one there is.
        max_tokens (`int`): of a reply.
        concurrency (`int`): requests at a time.
        requests_per_minute (`float`, *optional*): evenly spaced, repeated ones included.
        timeout (`float`): seconds without a byte after which a request is repeated.

    Raises:
        `TeacherError`: if the endpoint does not list its models.
        `ValueError`: if it has several, and `model` does not say which, or the key can't be one or is in the address.
    """

    def __init__(
        self,
        url: str,
        model: str | None,
        max_tokens: int,
        concurrency: int,
        requests_per_minute: float | None,
        timeout: float,
    ):
        self.key = read_key()
        if not (self.key.isascii() and self.key.isprintable()):
            raise ValueError("OPENAI_API_KEY has characters that no key has: copy it again.")
        check_address(url)
        self.options = {"base_url": url, "api_key": self.key or "none", "timeout": timeout, "max_retries": RETRIES}
        self.url, self.workers, self.requests_per_minute = url, concurrency, requests_per_minute
        self.name = model or self.find_model()
        if self.without_key(self.name) != self.name:  # it is recorded, too
            raise ValueError(f"{url} calls its model by the key: give another name by --model.")
        self.max_tokens, self.parameters = max_tokens, {"max_tokens": max_tokens, "temperature": 0}
        self.identity = {"model": self.name, "temperature": 0}

    def find_model(self) -> str:
        try:
            with openai.OpenAI(**self.options) as client:
                names = [model.id for model in client.models.list().data]
        except openai.APIStatusError as error:
            raise self.give_up(error) from error
        except (openai.APIError, ValueError, AttributeError, TypeError) as error:
            raise TeacherError(f"{self.url} lists no models ({self.describe(error)}); name one by --model.") from error
        if len(names) != 1:
            listed = self.without_key(", ".join(names))
            raise ValueError(f"{self.url} has {len(names)} models ({listed}); name one by --model.")
        return names[0]

    def without_key(self, text: str) -> str:
        return text.replace(self.key, "[the key]") if len(self.key) >= SHORTEST_KEY else text

    async def __aenter__(self) -> "Endpoint":
        hooks = {"response": [refuse_malformed]}
        if self.requests_per_minute:
            limiter = AsyncLimiter(1, 60 / self.requests_per_minute)
            hooks["request"] = [lambda request: limiter.acquire()]
        self.client = openai.AsyncOpenAI(**self.options, http_client=openai.DefaultAsyncHttpxClient(event_hooks=hooks))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.client.close()

    def describe(self, error: Exception) -> str:
        """In a line, and without the key, whatever the endpoint repeats."""
        return self.without_key(" ".join(str(error).split()))[:300]

    def give_up(self, error: openai.APIStatusError) -> TeacherError:
        remedies = {
            401: "set OPENAI_API_KEY to a key of this endpoint",
            402: "it wants to be paid",
            403: "this key may not use it",
            404: "it has no such model, or another address, which most often ends in /v1",
        }
        remedy = remedies.get(error.status_code, "it does not say why")
        return TeacherError(f"{self.url} refuses: {remedy} ({self.describe(error)}).")

    async def ask(self, request: Request) -> dict:
        """
        The reply to a request, as it is stored; with `refused` alone if the endpoint will never answer it.

        Raises:
            `TeacherError`: if the endpoint won't answer any request, for want of a key or of the model.
            `Unanswered`: if it can't be reached, or repeats that it can't answer now.
        """
        images = [{"type": "image_url", "image_url": {"url": data_url(image)}} for image in request.images]
        content, parameters = [*images, {"type": "text", "text": request.text}], self.parameters
        try:
            completion = await self.client.chat.completions.create(
                model=self.name, messages=[{"role": "user", "content": content}], **parameters
            )
        except openai.APIConnectionError as error:  # or it timed out; the cause says more, but may be missing
            raise Unanswered(self.describe(error.__cause__ or error) or type(error.__cause__).__name__) from error
        except openai.APIStatusError as error:
            # OpenAI's models that reason want another name for the one, and not the other
            if error.status_code == 400 and error.param in {"max_tokens", "temperature"} & parameters.keys():
                renamed = {"max_completion_tokens": self.max_tokens} if error.param == "max_tokens" else {}
                kept = {name: value for name, value in self.parameters.items() if name != error.param}
                self.parameters = kept | renamed
                return await self.ask(request)
            if error.status_code in REFUSALS:
                return {"refused": self.describe(error)}
            if error.status_code in TRANSIENT or error.status_code >= 500:
                raise Unanswered(self.describe(error)) from error
            raise self.give_up(error) from error
        choice, usage = completion.choices[0], completion.usage
        reported = (getattr(usage, name, 0) for name in ("prompt_tokens", "completion_tokens"))
        tokens = [number if isinstance(number, int) else 0 for number in reported]
        reason = choice.finish_reason and self.without_key(str(choice.finish_reason))
        return read_reply(self.without_key(choice.message.content or ""), reason, *tokens)


class LocalModel:
    """
    A model in this process, which answers greedily; requests that wait at the same time are answered in batches.

    Args:
        name (`str`): folder or Hub id; its own code, if it has any, is trusted.
        revision (`str`, *optional*): of the Hub id.
        max_tokens (`int`): of a reply.
        batch_size (`int`): requests at a time.
    """

    def __init__(self, name: str, revision: str | None, max_tokens: int, batch_size: int):
        self.path, self.revision, self.max_tokens, self.batch_size = name, revision, max_tokens, batch_size
        self.workers = 2 * batch_size  # of requests with and without images, the more are a whole batch
        self.name = Path(name).name if Path(name).is_dir() else name
        files = digest(Path(name).glob("*"))
        self.identity = {"model": name, "revision": revision, "files": files}
        self.waiting: list[tuple[Request, asyncio.Future]] = []

    async def __aenter__(self) -> "LocalModel":
        source = {"revision": self.revision, "trust_remote_code": True}
        device = "cuda" if torch.cuda.is_available() else "cpu"
        model = AutoModelForImageTextToText.from_pretrained(self.path, use_safetensors=True, **source)
        self.model = model.to(device).eval()
        self.processor = AutoProcessor.from_pretrained(self.path, **source)
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def ask(self, request: Request) -> dict:
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((request, future))
        await asyncio.sleep(0)  # all others put theirs in the queue
        while any(waiting is future for _, waiting in self.waiting):
            # as many images each: processors do not take conversations with and without
            ((number, _),) = Counter(len(item[0].images) for item in self.waiting).most_common(1)
            alike = [item for item in self.waiting if len(item[0].images) == number][: self.batch_size]
            self.waiting = [item for item in self.waiting if item not in alike]
            for (_, waiting), reply in zip(alike, self.answer([item[0] for item in alike]), strict=True):
                waiting.set_result(reply)
            await asyncio.sleep(0)  # those go on, and fill the queue again
        return await future

    @torch.inference_mode()
    def answer(self, requests: list[Request]) -> list[dict]:
        turns = [
            [{"type": "image"}] * len(request.images) + [{"type": "text", "text": request.text}]
            for request in requests
        ]
        inputs = encode_chats(
            self.processor,
            [[{"role": "user", "content": turn}] for turn in turns],
            [[open_picture(io.BytesIO(image)) for image in request.images] for request in requests],
        ).to(self.model.device, self.model.dtype)
        tokens = self.model.generate(**inputs, max_new_tokens=self.max_tokens, do_sample=False, num_beams=1)
        ends = self.model.generation_config.eos_token_id
        ends = torch.tensor(ends if isinstance(ends, list) else [ends], device=tokens.device)
        replies = []
        for prompt, new in zip(inputs["attention_mask"], tokens[:, inputs["input_ids"].shape[1] :], strict=True):
            places = torch.isin(new, ends).nonzero().flatten().tolist()
            length = places[0] + 1 if places else len(new)
            text = self.processor.tokenizer.decode(new[:length], skip_special_tokens=True)
            replies.append(read_reply(text, "stop" if places else "length", int(prompt.sum()), length))
        return replies
