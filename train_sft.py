"""
Fine-tunes a foundation vision-language model or an EmoLLM on EmoBench with TRL's SFTTrainer.

# Upgrade a foundation and fine-tune it
python train_sft.py --config recipes/demo_emollm.yaml \\
    --model_name_or_path foundations/llava --datasets data/EmoBench-Drawn --output_dir outputs/emollm

# Fine-tune the foundation as it is, on two of the tasks
python train_sft.py --config recipes/demo_sft.yaml \\
    --model_name_or_path foundations/llava --datasets data/EmoBench-Drawn:hate_detection,sarcasm_detection \\
    --output_dir outputs/foundation

Ctrl-C and SIGTERM stop it with a checkpoint. `accelerate launch` is for several processes (recipes/accelerate): to a
single one it passes no signal on, and leaves it behind.
"""

import os

import torch
from trl import ModelConfig, SFTConfig, TrlParser

from training.arguments import EmoLLMArguments
from training.card import describe_run
from training.checkpoints import resume_point
from training.collator import EmoBenchCollator, token_lengths
from training.data import load_mixture
from training.estimate import estimate
from training.features import FeatureCache
from training.model import choose_trainable, load_model, save_trained
from training.trainer import EmoLLMTrainer
from training.validation import Validation, early_stopping


def check_processes(world_size: int) -> None:
    """
    Raises:
        `ValueError`: if a launcher was asked for several processes that do not train together, which accelerate on the
            CPU leaves unsaid.
    """
    asked = os.environ.get("WORLD_SIZE")
    if asked is None and "MASTER_PORT" in os.environ and world_size == 1:  # accelerate sets it for several
        raise ValueError(
            "The launcher started one process for several: give `accelerate launch` a config file with "
            "distributed_type: MULTI_GPU, also on the CPU (recipes/accelerate/two_cpu_processes.yaml)."
        )
    if asked is not None and int(asked) != world_size:
        raise ValueError(
            f"WORLD_SIZE={asked}, but {world_size} process trains, each for itself: on the CPU give --use_cpu."
        )


def main(script_args: EmoLLMArguments, training_args: SFTConfig, model_args: ModelConfig) -> None:
    if script_args.estimate:
        print(estimate(script_args, training_args, model_args))
        return
    # TRL would drop the columns that the collator renders.
    training_args.remove_unused_columns = False
    check_processes(training_args.world_size)
    rows = load_mixture(script_args.datasets, script_args.dataset_weights, "train", training_args.seed)
    checkpoint = resume_point(script_args, training_args, model_args, rows)
    torch.manual_seed(training_args.seed)  # of MVP's weights, and of LoRA's
    model, processor = load_model(
        model_args,
        mvp_fields=script_args.mvp_fields if script_args.upgrade else None,
        trust_remote_code=training_args.trust_remote_code,
    )
    model = choose_trainable(model, script_args.train, model_args)
    if script_args.reason_share and not any(rows["rationale"]):
        raise ValueError(
            f"reason_share={script_args.reason_share}, but no row of {', '.join(script_args.datasets)} has a "
            "rationale: write them with `python -m evaluation.rationales`, or leave reason_share out."
        )
    validation_rows = validation = features = None
    if training_args.eval_strategy != "no":
        validation_rows = load_mixture(script_args.datasets, None, "validation", training_args.seed)
        number = min(len(validation_rows), script_args.eval_samples * len(set(validation_rows["task"])))
        validation_rows = validation_rows.shuffle(training_args.seed).select(range(number))
        validation = Validation(
            script_args.datasets,
            processor,
            "answer" if script_args.emoprompt_share else None,
            script_args.eval_samples,
            training_args.per_device_eval_batch_size,
            training_args.seed,
        )
    if script_args.feature_cache:
        features = FeatureCache(script_args.feature_cache, model, processor, script_args.feature_cache_gb)
        features.fill(rows, model, training_args.device)
        if validation_rows is not None:
            features.fill(validation_rows, model, training_args.device)
    collator = EmoBenchCollator(
        processor,
        training_args.max_length,
        script_args.emoprompt_share,
        script_args.reason_share,
        training_args.seed,
        features,
    )
    grouped = training_args.train_sampling_strategy == "group_by_length"
    patience = script_args.early_stopping_patience
    trainer = EmoLLMTrainer(
        model=model,
        args=training_args,
        data_collator=collator,
        train_dataset=rows,
        eval_dataset=validation_rows,
        processing_class=processor,
        callbacks=[early_stopping(patience, training_args, validation)] if patience is not None else None,
        facts=describe_run(script_args, model_args, model, rows),
        lengths=token_lengths(rows, collator) if grouped else None,
        validation=validation,
    )
    trainer.train(resume_from_checkpoint=checkpoint)
    save_trained(trainer)
    trainer.accelerator.print(f"Model saved to {training_args.output_dir}.")
    trainer.end()


if __name__ == "__main__":
    parser = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig), allow_abbrev=False)
    parser.set_defaults(gradient_checkpointing=None)  # on by TRL's default, which spends time to save memory
    main(*parser.parse_args_and_config())
