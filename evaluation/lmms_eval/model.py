"""Any vision-language model of transformers, foundation or EmoLLM, for EmoBench in lmms-eval."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from lmms_eval.api.instance import Instance
from lmms_eval.api.model import lmms
from lmms_eval.models.registry_v2 import ModelManifest
from tqdm import tqdm
from transformers import AutoModelForImageTextToText, AutoProcessor

from modeling_emollm.emoprompt import answer_token_ids, encode_chats, process_texts, render_chat


MANIFEST = ModelManifest(model_id="emollm", simple_class_path="evaluation.lmms_eval.model.EmoLLM")


class EmoLLM(lmms):
    """
    Each question is one conversation in the model's own chat template: the pictures, then the text.

    Args:
        pretrained (`str`): folder or Hub id; its own code, if it has any, is trusted.
        revision (`str`, *optional*): branch, tag or commit of the Hub id.
        device (`str`, *optional*): a GPU by default, if there is one.
        batch_size (`int`, *optional*, defaults to 1): nothing else is possible, `evaluation.run` is the fast way.
    """

    def __init__(
        self,
        pretrained: str,
        revision: str | None = None,
        device: str | None = None,
        batch_size: int = 1,
    ):
        super().__init__()
        if int(batch_size) != 1:
            raise ValueError(f"--batch_size {batch_size}: this model is asked one question at a time, use 1.")
        self.accelerator = Accelerator()
        source = {"revision": revision, "trust_remote_code": True}
        self.model = AutoModelForImageTextToText.from_pretrained(pretrained, use_safetensors=True, **source)
        self.model.to(device or self.accelerator.device).eval()
        self.processor = AutoProcessor.from_pretrained(pretrained, **source)

    def conversation(self, text: str, images: list) -> list[dict]:
        content = [{"type": "image"} for _ in images] + [{"type": "text", "text": text}]
        return [{"role": "user", "content": content}]

    @torch.inference_mode()
    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """
        For each request the negative log-likelihood of the label, as lmms-eval wants it, and whether it is the greedy
        one: of its first token if all labels of the question differ there, else of all its tokens.
        """
        results = []
        for request in tqdm(requests, disable=self.rank != 0):
            text, label, doc_to_visual, doc_id, task, split = request.args
            doc = self.task_dict[task][split][doc_id]
            images = doc_to_visual(doc)
            messages = self.conversation(text, images)
            answer = {"role": "assistant", "content": [{"type": "text", "text": label}]}
            start = len(render_chat(self.processor, messages, add_generation_prompt=True))
            full = render_chat(self.processor, [*messages, answer])
            full = full[: full.index(label, start) + len(label)]
            inputs = process_texts(self.processor, [full], [images], "left").to(self.model.device, self.model.dtype)
            choices = {choice: answer_token_ids(self.processor, messages, choice) for choice in doc["choices"]}
            n, firsts = len(choices[label]), {tokens[0] for tokens in choices.values()}
            needed = 1 if len(firsts) == len(choices) else n
            logits = self.model(**inputs).logits[0, -n - 1 : -1][:needed].float()
            tokens = inputs["input_ids"][0, -n:][:needed]
            loss = F.cross_entropy(logits, tokens, reduction="sum")
            results.append((loss.item(), bool((logits.argmax(-1) == tokens).all())))
        return results

    @torch.inference_mode()
    def generate_until(self, requests: list[Instance]) -> list[str]:
        results = []
        for request in tqdm(requests, disable=self.rank != 0):
            text, options, doc_to_visual, doc_id, task, split = request.args
            images = doc_to_visual(self.task_dict[task][split][doc_id])
            inputs = encode_chats(self.processor, [self.conversation(text, images)], [images]).to(
                self.model.device, self.model.dtype
            )
            options = dict(options)
            stops = options.pop("until")
            tokens = self.model.generate(**inputs, **options)[0, inputs["input_ids"].shape[1] :]
            answer = self.processor.tokenizer.decode(tokens, skip_special_tokens=True)
            for stop in stops:
                answer = answer.split(stop)[0]
            results.append(answer)
        return results

    def generate_until_multi_round(self, requests: list[Instance]) -> list[str]:
        raise NotImplementedError("EmoBench has no questions of several rounds.")
