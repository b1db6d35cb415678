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

from dataclasses import dataclass, field
from pathlib import Path

import torch
from trl import ModelConfig, SFTConfig, TrlParser

from training.collator import EmoBenchCollator, token_lengths
from training.data import load_rows
from training.model import load_model
from training.trainer import EmoLLMTrainer


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


def main(script_args: EmoLLMArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    # TRL would drop the columns that the collator renders.
    training_args.remove_unused_columns = False
    torch.manual_seed(training_args.seed)  # of MVP's weights
    model, processor = load_model(
        model_args,
        upgrade=script_args.upgrade,
        mvp_size=script_args.mvp_size,
        visual_tokens_per_image=script_args.visual_tokens_per_image,
        trust_remote_code=training_args.trust_remote_code,
    )
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
