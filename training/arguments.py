"""What `train_sft.py` is told beside the arguments of TRL."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass
class EmoLLMArguments:
    """What EmoLLM adds to TRL's arguments."""

    datasets: list[str] = field(
        metadata={
            "help": "EmoBench folders or Hub ids, each as ID or ID:config,config; or any dataset in TRL's format of "
            "messages, or of prompt and completion, with or without images."
        }
    )
    dataset_weights: list[float] | None = field(
        default=None, metadata={"help": "Share of the rows from each of the datasets; by default as many as it has."}
    )
    train: Literal["mvp", "mvp+lora", "mvp+lora+projector", "full"] = field(
        default="mvp+lora",
        metadata={
            "help": "What is trained: MVP; with LoRA on the language model; with the projector of the foundation; or "
            "every weight. For a foundation without MVP the same but for MVP."
        },
    )
    upgrade: bool = field(default=False, metadata={"help": "Upgrade the model with MVP before training."})
    mvp_size: int = field(default=256, metadata={"help": "Width of MVP's bottleneck, with --upgrade."})
    perspectives: list[str] | None = field(
        default=None,
        metadata={
            "help": "MVP's perspectives, with --upgrade, by default all four; `none` makes it a plain bottleneck "
            "adapter, to compare with."
        },
    )
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
    eval_samples: int = field(
        default=200,
        metadata={"help": "Validation samples a task that an evaluation scores, and as many rows for the loss."},
    )
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations without a better mean score, and keep the best model."},
    )
    feature_cache: str | None = field(
        default=None,
        metadata={"help": "Folder for the features of a frozen vision tower, computed once before the first epoch."},
    )
    feature_cache_gb: float = field(default=100.0, metadata={"help": "The most gigabytes that they may take."})
    estimate: bool = field(
        default=False, metadata={"help": "Print parameters, memory and time of this training, and do not train."}
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
        if self.perspectives is not None and not self.upgrade:
            raise ValueError(
                f"perspectives={self.perspectives} are chosen at the upgrade: set upgrade to true, or leave them out "
                "and keep what the model has."
            )

    @property
    def mvp_fields(self) -> dict:
        """What the upgrade is made with."""
        fields = {"mvp_size": self.mvp_size, "visual_tokens_per_image": self.visual_tokens_per_image}
        if self.perspectives is not None:
            fields["perspectives"] = [] if self.perspectives == ["none"] else self.perspectives
        return fields
