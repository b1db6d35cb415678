"""
EmoLLM and EmoPrompt over HTTP: `transformers serve` with all its options, which alone can't load an EmoLLM.

python -m modeling_emollm.serve MODEL --port 8000

MODEL is an EmoLLM or any other model of transformers. For guidance its chat template carries EmoPrompt: its processor
was saved by `attach_emoprompt(processor).save_pretrained(folder)`. An EmoLLM runs the code of this package, not that
beside its weights, with or without --trust-remote-code.

It is asked at /v1/chat/completions, with EmoPrompt's arguments as template arguments; without `emotion_task`, it
answers as without EmoPrompt:

    client = openai.OpenAI(base_url="http://localhost:8000/v1", api_key="any")
    picture = "data:image/jpeg;base64," + base64.b64encode(open("picture.jpg", "rb").read()).decode()
    reply = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "How does she feel?"}
        ]}],
        temperature=0,
        extra_body={"chat_template_kwargs": {"emotion_task": "emotion_recognition", "emotion_mode": "reason"}},
    )
    print(reply.choices[0].message.content)

Defaults of the whole server: --chat-template-kwargs '{"emotion_task": "emotion_recognition"}'; a request switches them
off with `"emotion_task": None`. They hold at /v1/responses too, where a request can't give arguments of its own.

Needs fastapi and uvicorn: pip install "emollm[serve]"
"""

from transformers import AutoConfig, AutoModelForMultimodalLM
from transformers.cli.transformers import app
from transformers.models.auto.modeling_auto import MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
from transformers.utils.chat_template_utils import jinja2
from transformers.utils.import_utils import is_serve_available

from .configuration_emollm import EmoLLMConfig
from .emoprompt import ARGUMENTS, PROLOGUE_END
from .modeling_emollm import EmoLLMForConditionalGeneration


if is_serve_available():
    from fastapi import HTTPException
    from fastapi.responses import JSONResponse
    from transformers.cli.serving import chat_completion

    class GuidedChatHandler(chat_completion.ChatCompletionHandler):
        """Tells clients what is wrong with a request, where `transformers serve` shows them a number alone."""

        async def handle_request(self, body: dict, request_id: str):
            try:
                self._check_guidance(body)
                return await super().handle_request(body, request_id)
            except jinja2.TemplateError as error:
                status, message = 400, str(error)
            except HTTPException as error:
                status, message = error.status_code, error.detail
            # As OpenAI writes errors: its client shows no other form.
            return JSONResponse({"error": {"message": message, "type": "invalid_request_error"}}, status_code=status)

        def _check_guidance(self, body: dict) -> None:
            arguments = body.get("chat_template_kwargs", {})
            if not isinstance(arguments, dict):
                raise HTTPException(422, f"chat_template_kwargs must be an object, not {arguments!r}.")
            guidance = {name for name in arguments if name.startswith("emotion_")}
            if unknown := sorted(guidance - set(ARGUMENTS)):
                raise HTTPException(400, f"EmoPrompt has no {', '.join(unknown)}: use {', '.join(ARGUMENTS)}.")
            guided = (self.chat_template_kwargs | arguments).get("emotion_task") is not None
            # a copy, since the name of the model is rewritten in it
            if guided and PROLOGUE_END not in (self._resolve_model(dict(body))[2].chat_template or ""):
                raise HTTPException(
                    400,
                    f"emotion_task would do nothing: the chat template of {body['model']} has no EmoPrompt. Serve a "
                    "folder that attach_emoprompt(processor).save_pretrained(folder) has written to.",
                )


def main() -> None:
    AutoConfig.register(EmoLLMConfig.model_type, EmoLLMConfig)
    AutoModelForMultimodalLM.register(EmoLLMConfig, EmoLLMForConditionalGeneration)
    # `transformers serve` looks for the names of models that it can load, and of those that see pictures, only here.
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES[EmoLLMConfig.model_type] = EmoLLMForConditionalGeneration.__name__
    if is_serve_available():  # if not, the command says what is missing
        chat_completion.ChatCompletionHandler = GuidedChatHandler
    command = app.commands["serve"]
    command.help = "\b\n" + __doc__.strip().replace("\n\n", "\n\n\b\n")  # \b: a paragraph whose lines stay as they are
    command.main(prog_name="python -m modeling_emollm.serve")


if __name__ == "__main__":
    main()
