"""TRL's SFTTrainer, with what EmoLLM needs beside it."""

from pathlib import Path

import torch
from jinja2 import Template
from trl import SFTTrainer


CARD = Path(__file__).parents[1] / "model_cards" / "emollm.md.jinja"


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
