"""
Fine-tunes a foundation vision-language model or an EmoLLM on EmoBench with TRL's SFTTrainer.

# Upgrade a foundation and fine-tune it
accelerate launch train_sft.py --config recipes/demo_emollm.yaml \\
    --model_name_or_path foundations/llava --datasets data/EmoBench-Drawn --output_dir outputs/emollm

# Fine-tune the foundation as it is, on two of the tasks
accelerate launch train_sft.py --config recipes/demo_sft.yaml \\
    --model_name_or_path foundations/llava --datasets data/EmoBench-Drawn:hate_detection,sarcasm_detection \\
    --output_dir outputs/foundation
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import torch
from datasets import Dataset, concatenate_datasets, get_dataset_config_names, load_dataset
from jinja2 import Template
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedConfig, ProcessorMixin
from trl import ModelConfig, SFTConfig, SFTTrainer, TrlParser

from modeling_emollm import EMOTION_TASKS, EmoLLMForConditionalGeneration, attach_emoprompt, compact_processor
from modeling_emollm.emoprompt import process_texts, render_chat, split_answer


CARD = Path(__file__).parent / "model_cards" / "emollm.md.jinja"
COLUMNS = ["id", "task", "images", "rationale", "messages"]


@dataclass
class EmoLLMArguments:
    """What EmoLLM adds to TRL's arguments."""

    datasets: list[str] = field(metadata={"help": "EmoBench folders or Hub ids, each as ID or ID:config,config."})
    upgrade: bool = field(default=False, metadata={"help": "Upgrade the model with MVP before training."})
    mvp_size: int = field(default=256, metadata={"help": "Width of MVP's bottleneck, with --upgrade."})
    visual_tokens_per_image: int | None = field(
        default=None, metadata={"help": "Compact mode: so many visual tokens an image instead of all, with --upgrade."}
    )
    emoprompt_share: float = field(
        default=0.5, metadata={"help": "Share of the rows that are trained with EmoPrompt, from 0 to 1."}
    )
    reason_share: float = field(
        default=0.0,
        metadata={
            "help": "Share of those that learn to reason before they answer, from 0 to 1; rows without a rationale "
            "(see evaluation.rationales) learn to answer all the same."
        },
    )

    def __post_init__(self):
        for name in ("emoprompt_share", "reason_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name}={getattr(self, name)} must be from 0 to 1.")
        if self.reason_share and not self.emoprompt_share:
            raise ValueError(f"reason_share={self.reason_share} is a share of no rows: raise emoprompt_share.")
        if self.visual_tokens_per_image is not None and not self.upgrade:
            raise ValueError(
                f"visual_tokens_per_image={self.visual_tokens_per_image} is chosen at the upgrade: set upgrade to "
                "true, or leave it out and keep what the model has."
            )


def load_rows(datasets: list[str], split: str) -> Dataset:
    """
    One split of all given configs, one after the other.

    Args:
        datasets (`list[str]`): folders or Hub ids, each as `ID` (all its configs) or `ID:config,config`.
        split (`str`): e.g. `"train"`.

    Raises:
        `ValueError`: for a config that a dataset does not have, or one without the columns of EmoBench.
    """
    parts = []
    for dataset in datasets:
        name, _, chosen = dataset.partition(":")
        available = get_dataset_config_names(name)
        configs = chosen.split(",") if chosen else available
        if unknown := sorted(set(configs) - set(available)):
            raise ValueError(f"{name} has no config {', '.join(unknown)}; it has {', '.join(available)}.")
        for config in configs:
            rows = load_dataset(name, config, split=split)
            if missing := sorted(set(COLUMNS) - set(rows.column_names)):
                raise ValueError(f"{name}:{config} has no column {', '.join(missing)}; build it with dataset_scripts.")
            parts.append(rows.select_columns(COLUMNS))
    return concatenate_datasets(parts)


def token_lengths(rows: Dataset, processor: ProcessorMixin) -> list[int]:
    """Tokens of each row, near enough to group rows by: its words, and for each picture what the first one takes."""
    texts, pictures = [], []
    for messages in rows["messages"]:
        items = [item for message in messages for item in message["content"]]
        texts.append("\n".join(item["text"] for item in items if item["type"] == "text"))
        pictures.append(sum(item["type"] == "image" for item in items))
    words = [len(ids) for ids in processor.tokenizer(texts, add_special_tokens=False)["input_ids"]]
    first = next((row for row in rows if row["images"]), None)
    one_picture = 0
    if first:
        ids = process_texts(processor, [render_chat(processor, first["messages"])], [first["images"]], "left")
        plain = processor.tokenizer(render_chat(processor, first["messages"]), add_special_tokens=False)
        one_picture = (ids["input_ids"].shape[1] - len(plain["input_ids"])) // len(first["images"])
    return [number + one_picture * count for number, count in zip(words, pictures, strict=True)]


class EmoBenchCollator:
    """
    Rows of EmoBench to a batch in which only the answer is to be learned.

    Args:
        processor (`ProcessorMixin`): the foundation's own, with EmoPrompt in front of its chat template.
        max_length (`int` or `None`): the most tokens that a row may have. A longer one is an error: cut short, it
            would lose its answer.
        emoprompt_share (`float`): the share of rows that EmoPrompt guides; which ones follows from their `id`.
        reason_share (`float`): the share of these that learn their rationale before the answer, if they have one.
        seed (`int`): of both choices.
    """

    def __init__(
        self,
        processor: ProcessorMixin,
        max_length: int | None,
        emoprompt_share: float,
        reason_share: float,
        seed: int,
    ):
        self.processor = processor
        self.max_length = max_length
        self.emoprompt_share = emoprompt_share
        self.reason_share = reason_share
        self.seed = seed

    def _guidance(self, row: dict) -> dict | None:
        """EmoPrompt's arguments for a row, or None."""
        digest = hashlib.sha256(f"{self.seed}/{row['id']}".encode()).digest()
        guided, reasons = (int.from_bytes(digest[i : i + 4], "big") / 2**32 for i in (0, 4))
        if row["task"] not in EMOTION_TASKS or guided >= self.emoprompt_share:  # captions have no guidance
            return None
        mode = "reason" if row["rationale"] and reasons < self.reason_share else "answer"
        return {"emotion_task": row["task"], "emotion_mode": mode}

    def __call__(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """`input_ids`, `attention_mask` and `labels` of shape `(B, T)`, and the pixels; -100 where not to learn."""
        texts, answer_lengths = [], []
        for row in rows:
            if not any(item["text"].strip() for item in row["messages"][-1]["content"]):
                raise ValueError(f"Row {row['id']} has no answer to learn; remove it or give it one.")
            if any(item["type"] == "video" for item in row["messages"][0]["content"]):
                raise ValueError(f"Row {row['id']} is a clip without frames: build it again with --video frames.")
            guidance, messages = self._guidance(row), row["messages"]
            if guidance and guidance["emotion_mode"] == "reason":
                answer = f"{row['rationale']}\nAnswer: {messages[-1]['content'][0]['text']}"
                messages = [*messages[:-1], {"role": "assistant", "content": [{"type": "text", "text": answer}]}]
            full = render_chat(self.processor, messages, guidance)
            prompt = render_chat(self.processor, messages[:-1], guidance, add_generation_prompt=True)
            texts.append(full)
            answer_lengths.append(len(split_answer(self.processor, prompt, full)))
        batch = process_texts(self.processor, texts, [row["images"] for row in rows], padding_side="left")
        lengths = batch["attention_mask"].sum(-1)
        if self.max_length is not None and (lengths > self.max_length).any():
            longest = int(lengths.argmax())
            raise ValueError(
                f"Row {rows[longest]['id']} has {int(lengths[longest])} tokens, more than max_length="
                f"{self.max_length}, and its answer would be cut. Raise max_length or set it to null."
            )
        from_the_end = torch.arange(batch["input_ids"].shape[1], 0, -1)
        learned = from_the_end <= torch.tensor(answer_lengths)[:, None]
        batch["labels"] = batch["input_ids"].masked_fill(~learned, -100)
        return dict(batch)


class EmoLLMTrainer(SFTTrainer):
    """
    SFTTrainer that computes the logits of the answers alone, and writes our model card.

    Args:
        datasets (`list[str]`): what is trained on, for the card; a folder is named without its path.
        args, kwargs: as SFTTrainer's.
    """

    def __init__(self, *args, datasets: list[str], **kwargs):
        super().__init__(*args, **kwargs)
        self.datasets = [Path(name).name if Path(name.partition(":")[0]).is_dir() else name for name in datasets]

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """
        TRL's loss. Its fused head scores every position where there is no Triton; answers are at the end of rows that
        are padded on the left, so that the last few positions are enough.
        """
        if self.aux_loss_enabled:  # of a mixture of experts: TRL's own way
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs.pop("labels")
        length = int((labels != -100).any(0).flip(0).nonzero().max()) + 1
        answers = labels[:, -length:]
        outputs = model(**inputs, use_cache=False, logits_to_keep=length + 1)
        logits = outputs.logits[:, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), answers.flatten(), reduction="sum")
        learned = answers != -100
        correct = (logits.argmax(-1) == answers)[learned].float().mean()
        self._metrics["train" if model.training else "eval"]["mean_token_accuracy"].append(correct.item())
        if num_items_in_batch is None:
            loss = loss / learned.sum()
        else:  # tokens of all processes, over which the gradients are averaged
            loss = loss / num_items_in_batch
            if self.args.average_tokens_across_devices:
                loss = loss * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def create_model_card(self, *args, **kwargs):
        """Writes README.md beside the weights. TRL, which calls this at checkpoints and pushes, passes other facts."""
        folder = Path(self.args.output_dir)
        config = self.model.config
        foundation = getattr(config, "foundation_config", config).name_or_path
        text = Template(CARD.read_text(encoding="utf-8"), trim_blocks=True, keep_trailing_newline=True).render(
            name=self.args.hub_model_id or folder.name,
            is_emollm=config.model_type == "emollm",
            foundation="" if Path(foundation).is_dir() else foundation,
            datasets=self.datasets,
            steps=self.state.global_step,
            batch_size=self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size,
            learning_rate=self.args.learning_rate,
            seed=self.args.seed,
        )
        unfinished = folder / "README.md.tmp"
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(folder / "README.md")


def load_model(script_args: EmoLLMArguments, training_args: SFTConfig, model_args: ModelConfig):
    """The model to train, upgraded if asked for, and its processor with EmoPrompt."""
    name, revision = model_args.model_name_or_path, model_args.model_revision
    if name is None:
        raise ValueError("model_name_or_path is not set: give a folder or a Hub id.")
    used = ModelConfig(model_name_or_path=name, model_revision=revision, dtype=model_args.dtype)
    if unused := [key for key, value in vars(model_args).items() if value != getattr(used, key)]:
        raise ValueError(f"{', '.join(unused)} would have no effect here; leave it out.")
    trust = training_args.trust_remote_code
    processor = attach_emoprompt(AutoProcessor.from_pretrained(name, revision=revision, trust_remote_code=trust))
    dtype = model_args.dtype or "auto"
    if script_args.upgrade:
        if PreTrainedConfig.get_config_dict(name, revision=revision)[0].get("model_type") == "emollm":
            raise ValueError(f"{name} is an EmoLLM already; set upgrade to false to train it further.")
        number = script_args.visual_tokens_per_image
        model = EmoLLMForConditionalGeneration.from_foundation(
            name, revision=revision, dtype=dtype, mvp_size=script_args.mvp_size, visual_tokens_per_image=number
        )
        if number is not None:
            processor = compact_processor(processor, number)
    else:
        model = AutoModelForImageTextToText.from_pretrained(
            name, revision=revision, dtype=dtype, trust_remote_code=trust
        )
    return model, processor


def main(script_args: EmoLLMArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    # TRL would drop the columns that the collator renders.
    training_args.remove_unused_columns = False
    torch.manual_seed(training_args.seed)  # of MVP's weights
    model, processor = load_model(script_args, training_args, model_args)
    evaluate = training_args.eval_strategy != "no"
    train_rows = load_rows(script_args.datasets, "train")
    if script_args.reason_share and not any(train_rows["rationale"]):
        raise ValueError(
            f"reason_share={script_args.reason_share}, but no row of {', '.join(script_args.datasets)} has a "
            "rationale: write them with `python -m evaluation.rationales`, or leave reason_share out."
        )
    if training_args.train_sampling_strategy == "group_by_length":
        train_rows = train_rows.add_column("length", token_lengths(train_rows, processor))
    trainer = EmoLLMTrainer(
        model=model,
        args=training_args,
        data_collator=EmoBenchCollator(
            processor,
            training_args.max_length,
            script_args.emoprompt_share,
            script_args.reason_share,
            training_args.seed,
        ),
        train_dataset=train_rows,
        eval_dataset=load_rows(script_args.datasets, "validation") if evaluate else None,
        processing_class=processor,
        datasets=script_args.datasets,
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model()
    if trainer.is_world_process_zero():
        trainer.create_model_card()
        # A pickle, with paths of this machine in it, that nothing reads.
        Path(training_args.output_dir, "training_args.bin").unlink()
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    trainer.end()


if __name__ == "__main__":
    parser = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig), allow_abbrev=False)
    main(*parser.parse_args_and_config())
