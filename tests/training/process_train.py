"""
One of several processes that train together: runs `train_sft.py` for each list of arguments in a file, and writes
beside the file what it learned from. `python process_train.py FILE [SIGNAL STEP]` sends itself a signal in a step.
"""

import json
import os
import signal
import sys
from pathlib import Path
from unittest.mock import patch

from trl import ModelConfig, SFTConfig, TrlParser

from train_sft import EmoLLMArguments, main
from training.trainer import EmoLLMTrainer


def train(arguments: list[str], record: Path, stop: tuple[int, int] | None = None) -> None:
    """Runs main and notes each batch: its processes, its learned rows as tokens and labels, and its pictures."""
    compute_loss = EmoLLMTrainer.compute_loss

    def noted(self, model, inputs, *args, **kwargs):
        if stop is not None and self.state.global_step == stop[1]:
            os.kill(os.getpid(), stop[0])
        parts = zip(*(inputs[name].tolist() for name in ("input_ids", "attention_mask", "labels")), strict=True)
        rows = [
            [[token for token, kept in zip(ids, mask, strict=True) if kept], [label for label in labels if label >= 0]]
            for ids, mask, labels in parts
        ]
        image_token, rows = self.model.config.image_token_id, [row for row in rows if row[1]]  # but for an added one
        batch = {"processes": self.args.world_size, "step": self.state.global_step, "rows": rows}
        batch["rows_with_pictures"] = sum(image_token in tokens for tokens, _ in rows)
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps(batch) + "\n")
        return compute_loss(self, model, inputs, *args, **kwargs)

    with patch.object(EmoLLMTrainer, "compute_loss", noted):
        main(*TrlParser((EmoLLMArguments, SFTConfig, ModelConfig)).parse_args_and_config(arguments))


if __name__ == "__main__":
    runs = Path(sys.argv[1])
    stop = (signal.Signals[sys.argv[2]], int(sys.argv[3])) if len(sys.argv) > 2 else None
    with patch.object(EmoLLMTrainer, "end", lambda self: None):  # the processes go on to the next training
        for i, arguments in enumerate(json.loads(runs.read_text(encoding="utf-8"))):
            train(arguments, runs.with_name(f"rows-{i}-{os.environ['RANK']}.jsonl"), stop)
