"""What a model that has read a prompt expects behind it: whole answers, and labels no further than needed."""

import copy
import inspect

import torch
from peft import PeftModel
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import ModelOutput


PER_TOKEN = ("attention_mask", "position_ids", "token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")
PAIRS = 16  # of prompts and labels that are followed at a time, if there are not more prompts


def unwrap(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The model without LoRA's wrapper; its layers stay in use."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def foundation_of(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The foundation in an EmoLLM, the model itself else."""
    model = unwrap(model)
    return getattr(model, "foundation", model)


def see(model: PreTrainedModel | PeftModel, inputs: dict, seen: dict) -> dict:
    """
    Inputs of the foundation with pictures encoded, and in an EmoLLM refined, as its `mm_encoder_outputs`. A foundation
    that takes nothing but pixels gets these as they are.

    Args:
        model (`PreTrainedModel` or `PeftModel`): a foundation or an EmoLLM.
        inputs (`dict`): what the processor gives for prompts.
        seen (`dict`): is filled with what the pictures are encoded to, and is all that is looked at when it comes
            again with other prompts about the same pictures.
    """
    model, foundation = unwrap(model), foundation_of(model)
    encoder = getattr(foundation.base_model, "get_image_features", None)
    takes_features = "mm_encoder_outputs" in inspect.signature(foundation.forward).parameters
    if encoder is None or not takes_features or "pixel_values" in inspect.signature(foundation.generate).parameters:
        return inputs
    names = [name for name in inspect.signature(encoder).parameters if inputs.get(name) is not None]
    if not names:
        return inputs
    given = {name: value for name, value in inputs.items() if name not in names[:1]}  # the pixels come first
    if not seen and model is not foundation:
        others = {name: value for name, value in inputs.items() if name != "input_ids"}
        seen |= model.model.encode(inputs["input_ids"], others)[0]["mm_encoder_outputs"]
    elif not seen:
        seen["image"] = encoder(**{name: inputs[name] for name in names}, return_dict=True)
    return {**given, "mm_encoder_outputs": seen}


def greedy(model: PreTrainedModel | PeftModel, **options) -> GenerationConfig:
    config = copy.deepcopy(unwrap(model).generation_config)
    # Of caches, one that grows: labels are put behind it.
    config.update(do_sample=False, num_beams=1, cache_implementation="dynamic", **options)
    return config


def check_numbers(logits: torch.Tensor) -> None:
    if logits.isnan().any():
        raise ValueError("The model gives NaN instead of logits: it overflows. Load it in bfloat16 or float32.")


@torch.no_grad()
def generate(model: PreTrainedModel | PeftModel, inputs: dict, max_new_tokens: int) -> torch.Tensor:
    """
    Greedily generated tokens `(B, T)` behind prompts, from inputs as [`see`] gives them. Raises a `ValueError` for a
    model that gives NaN.
    """
    options = {"max_new_tokens": max_new_tokens, "output_logits": True, "return_dict_in_generate": True}
    outputs = foundation_of(model).generate(**inputs, generation_config=greedy(model, **options))
    check_numbers(outputs.logits[0])
    return outputs.sequences[:, inputs["input_ids"].shape[1] :]


class Prompt:
    """
    Prompts that a model has read, once.

    Args:
        model (`PreTrainedModel` or `PeftModel`): any vision-language model.
        inputs (`dict`): of B prompts, padded on the left, as [`see`] gives them.

    Attributes:
        next (`torch.Tensor` of shape `(B, V)`): log-probabilities of the token behind each prompt.
    """

    def __init__(self, model: PreTrainedModel | PeftModel, inputs: dict):
        self.foundation = foundation_of(model)
        inputs = dict(inputs)
        self.input_ids = input_ids = inputs.pop("input_ids")
        if "position_ids" in inspect.signature(self.foundation.forward).parameters:
            # As `generate` does it, which knows each family's positions under padding.
            inputs["position_ids"] = self.foundation._prepare_position_ids_for_generation(input_ids, inputs)
        outputs = self.foundation.generate(
            input_ids=input_ids,
            **inputs,
            generation_config=greedy(
                model, max_new_tokens=1, use_cache=True, output_logits=True, return_dict_in_generate=True
            ),
        )
        check_numbers(outputs.logits[0])
        self.next = outputs.logits[0].float().log_softmax(-1)
        self.cache = outputs.past_key_values
        self.inputs = {name: inputs[name] for name in PER_TOKEN if inputs.get(name) is not None}

    def follow(self, rows: list[int], tokens: list[list[int]]) -> torch.Tensor:
        """
        Log-probabilities behind each of some tokens, from one pass over these alone.

        Args:
            rows (`list[int]`): P prompts, by their place in the batch; one may come several times.
            tokens (`list[list[int]]`): what follows each of them.

        Returns:
            `torch.Tensor` of shape `(P, K, V)` for the longest of K tokens; what is behind the end of others means
            nothing.
        """
        length, device = max(map(len, tokens)), self.input_ids.device
        padded = torch.tensor([row + [row[-1]] * (length - len(row)) for row in tokens], device=device)
        index = torch.tensor(rows, device=device)
        inputs = {name: value.index_select(value.ndim - 2, index) for name, value in self.inputs.items()}
        inputs = self.foundation._update_model_kwargs_for_generation(ModelOutput(), inputs, num_new_tokens=length)
        cache = copy.copy(self.cache)
        cache.layers = [copy.copy(layer) for layer in self.cache.layers]
        for layer in cache.layers:  # convolutions have their states in dicts
            vars(layer).update({name: dict(value) for name, value in vars(layer).items() if isinstance(value, dict)})
        cache.reorder_cache(index)  # replaces the tensors, so that those of the prompts stay as they are
        if self.foundation._supports_logits_to_keep():
            inputs["logits_to_keep"] = length
        inputs = self.foundation.prepare_inputs_for_generation(
            torch.cat([self.input_ids[index], padded], dim=1),
            next_sequence_length=length,
            past_key_values=cache,
            use_cache=True,
            is_first_iteration=False,
            **inputs,
        )
        return self.foundation(**inputs, return_dict=True).logits[:, -length:].float().log_softmax(-1)


def answer_log_probabilities(prompt: Prompt, answers: list[list[int]]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Of each prompt's own answer the tokens' log-probabilities `(T,)`, and whether each is the likeliest there."""
    scores = []
    for row, answer in enumerate(answers):  # one at a time, as each has logits of the whole vocabulary
        steps = prompt.next[row : row + 1]
        if len(answer) > 1:
            steps = torch.cat([steps, prompt.follow([row], [answer[:-1]])[0]])
        tokens = torch.tensor(answer, device=steps.device)
        scores.append((steps.gather(1, tokens[:, None])[:, 0].cpu(), (steps.argmax(-1) == tokens).cpu()))
    return scores


def label_scores(
    prompt: Prompt, labels: list[list[int]], *, per_token: bool = False, every: bool = False
) -> torch.Tensor:
    """
    Log-likelihood of each label as the answer.

    Labels that differ in their first token are told apart there: no other pass is needed. Otherwise a label's
    likelihood is that of all its tokens. What is known of a label bounds it from above, as no token adds to it; so of
    each prompt the label with the highest bound is followed to its end, then twice as many in each round, until none
    that is left can win.

    Args:
        prompt (`Prompt`): B prompts.
        labels (`list[list[int]]`): tokens of the L labels.
        per_token (`bool`, *optional*, defaults to `False`): the mean over all tokens of a label, not their sum (Brown
            et al. 2020, "Language Models are Few-Shot Learners", section 2.4).
        every (`bool`, *optional*, defaults to `False`): follows all labels to their end.

    Returns:
        `torch.Tensor` of shape `(B, L)`, on the CPU. That of a label which can't be the likeliest is its bound.
    """
    used = sorted({token for label in labels for token in label})
    first = prompt.next[:, used].cpu()
    columns = [tuple(used.index(token) for token in label) for label in labels]
    if len({label[0] for label in labels}) == len(labels) and not per_token:
        return first[:, [label[0] for label in columns]]
    known = {(row,): values for row, values in enumerate(first.tolist())}  # behind a row's prompt and some columns

    def bound(row: int, label: tuple[int, ...]) -> float:
        sums = 0.0
        for place, column in enumerate(label):
            if (behind := known.get((row, *label[:place]))) is None:
                break
            sums += behind[column]
        return sums / len(label) if per_token else sums

    rows, width = range(len(first)), 1
    while True:
        bounds = torch.tensor([[bound(row, label) for label in columns] for row in rows])
        done = torch.tensor([[(row, *label[:-1]) in known for label in columns] for row in rows])
        todo = ~done
        if not every:
            todo &= bounds >= bounds.masked_fill(~done, -torch.inf).amax(1, keepdim=True)  # can still win
            best = bounds.masked_fill(~todo, -torch.inf).argsort(dim=1, descending=True, stable=True)[:, :width]
            todo &= torch.zeros_like(todo).scatter(1, best, True)
        # Labels that differ in their last token alone are followed once.
        pairs = list({(row, columns[number][:-1]): (row, number) for row, number in todo.nonzero().tolist()}.values())
        if not pairs:
            return bounds
        width *= 2  # of an untrained model many labels are as likely
        size = max(len(first), PAIRS)
        for part in (pairs[start : start + size] for start in range(0, len(pairs), size)):
            behind = prompt.follow([row for row, _ in part], [labels[number][:-1] for _, number in part])
            for (row, number), values in zip(part, behind[..., used].tolist(), strict=True):
                label = columns[number]
                known |= {(row, *label[:place]): values[place - 1] for place in range(1, len(label))}
