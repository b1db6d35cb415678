"""One of two processes that train MVP in a model that FSDP2 shards, called with MODEL, DATA, BENCHMARK and OUTPUT."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoProcessor

from modeling_emollm import EmoLLMForConditionalGeneration, attach_emoprompt
from training.collator import EmoBenchCollator
from training.data import load_mixture
from training.validation import Validation


STEPS = 3


def make(foundation: str, data: str) -> tuple[EmoLLMForConditionalGeneration, list[list[dict]]]:
    """A model of which MVP is to be trained, and for each step a batch with pictures and one of rows without."""
    torch.manual_seed(0)
    model = EmoLLMForConditionalGeneration.from_foundation(foundation, mvp_size=16).train()
    model.requires_grad_(False)
    model.model.multi_perspective_projection.requires_grad_(True)
    collator = EmoBenchCollator(attach_emoprompt(AutoProcessor.from_pretrained(foundation)), None, 0.5, 0.0, 0)
    rows = load_mixture([data], None, "train", 0)
    pictures, texts = ([row for row in rows if bool(row["images"]) is seen] for seen in (True, False))
    return model, [[collator(part[2 * i : 2 * i + 2]) for part in (pictures, texts)] for i in range(STEPS)]


def learn(model: torch.nn.Module, steps: list[list[dict]], mine: slice, processes: int) -> list[float]:
    """The part of each step's loss that is of the batches in `mine`."""
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    losses = []
    for batches in steps:
        tokens, part = sum((batch["labels"] != -100).sum() for batch in batches), 0.0
        for batch in batches[mine]:
            logits = model(**{name: batch[name] for name in batch if name != "labels"}, use_cache=False).logits
            answers = batch["labels"][:, 1:].flatten()
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), answers, reduction="sum") / tokens
            (loss * processes).backward()  # the gradients are averaged over processes
            part += loss.item()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(part)
    return losses


def validate(model: torch.nn.Module, foundation: str, benchmark: str) -> dict[str, float]:
    processor = AutoProcessor.from_pretrained(foundation)
    arguments = SimpleNamespace(disable_tqdm=True)
    trainer = SimpleNamespace(accelerator=Accelerator(cpu=True), model=model, is_fsdp_enabled=True, args=arguments)
    return Validation([benchmark], processor, None, samples=4, batch_size=4, seed=0)(trainer)


if __name__ == "__main__":
    dist.init_process_group("gloo")
    rank, processes = dist.get_rank(), dist.get_world_size()
    model, steps = make(*sys.argv[1:3])
    whole, mesh = model.num_parameters(), init_device_mesh("cpu", (processes,))
    for layer in model.foundation.get_decoder().layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model.model.multi_perspective_projection, mesh=mesh)
    fully_shard(model, mesh=mesh)
    mine = slice(rank, rank + 1)
    losses = learn(model, steps[:1], mine, processes)
    scores = validate(model, sys.argv[1], sys.argv[3])  # in the midst of a training, which then goes on
    losses = torch.tensor(losses + learn(model, steps[1:], mine, processes))
    dist.all_reduce(losses)
    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    share = sum(weight.to_local().numel() for weight in model.parameters()) / whole
    if rank == 0:
        model.save_pretrained(sys.argv[4], state_dict=weights)
        said = {"processes": processes, "losses": losses.tolist(), "share": share, "scores": scores}
        Path(sys.argv[4], "said.json").write_text(json.dumps(said), encoding="utf-8")
    dist.barrier()
    dist.destroy_process_group()
