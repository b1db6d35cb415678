"""
Recipes of real foundations, and accelerate's configs. What a recipe's comment says that a training takes is computed
anew from tests/training/foundation_configs; after a change: ACCEPT_GOLDEN=1 python -m pytest
tests/training/test_recipes.py -k states
"""

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.fsdp_utils import fsdp2_prepare_auto_wrap_policy
from accelerate.utils.launch import prepare_multi_gpu_env
from sft_run import ROOT
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import ModelConfig, SFTConfig, TrlParser

from modeling_emollm import EmoLLMForConditionalGeneration
from train_sft import EmoLLMArguments
from training.estimate import estimate
from training.validation import early_stopping


CONFIGS = Path(__file__).parent / "foundation_configs"
RECIPES = sorted(ROOT / "recipes" / f"{path.stem}.yaml" for path in CONFIGS.glob("*.json"))
LAUNCHERS = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))
COMMAND = "# python train_sft.py --estimate --use_cpu --config recipes/{} --datasets data/EmoBench"


def name(path: Path) -> str:
    return path.stem


def parse(recipe: Path, *arguments: str):
    parser = TrlParser((EmoLLMArguments, SFTConfig, ModelConfig), allow_abbrev=False)
    return parser.parse_args_and_config(["--config", str(recipe), "--datasets", "data", "--use_cpu", *arguments])


# --- Recipes


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.yaml")), ids=name)
def test_a_recipe_says_nothing_that_the_command_does_not_know(recipe):
    script_args, training_args, _ = parse(recipe)
    written = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    assert script_args.train == written["train"]
    assert training_args.per_device_train_batch_size == written["per_device_train_batch_size"]


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_of_a_real_foundation_is_complete(recipe):
    script_args, training_args, model_args = parse(recipe)
    text = recipe.read_text(encoding="utf-8")
    assert "/" in model_args.model_name_or_path and "model_revision: main  # put the commit's hash here" in text
    assert model_args.dtype == "bfloat16" and training_args.bf16 and script_args.upgrade
    assert training_args.train_sampling_strategy == "group_by_length"
    assert training_args.dataloader_num_workers and training_args.dataloader_prefetch_factor
    early_stopping(script_args.early_stopping_patience, training_args, SimpleNamespace(batches=[0]))  # refuses none
    assert training_args.load_best_model_at_end
    assert training_args.activation_checkpointing == yaml.safe_load(text)["activation_checkpointing"]


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_a_recipe_states_what_its_training_takes(recipe, tmp_path):
    shutil.copy(CONFIGS / f"{recipe.stem}.json", tmp_path / "config.json")
    computed = estimate(*parse(recipe, "--model_name_or_path", str(tmp_path), "--model_revision", "main"))
    about, settings = recipe.read_text(encoding="utf-8").split("\n#\n", 1)
    settings = settings[settings.index("\nmodel_name_or_path") :]
    comment = [about, "#", COMMAND.format(recipe.name), *(f"# {line}".rstrip() for line in computed.split("\n"))]
    expected = "\n".join(comment) + "\n" + settings
    if os.environ.get("ACCEPT_GOLDEN") == "1":
        recipe.write_text(expected, encoding="utf-8")
    assert recipe.read_text(encoding="utf-8") == expected, "if that is wanted: ACCEPT_GOLDEN=1"
    fits = next(line for line in computed.split("\n") if line.startswith("fits "))
    assert "none" not in fits, fits  # on one GPU at least, and so on eight


# --- accelerate's configs


def launch(config: Path, *arguments: str):
    """What `accelerate launch` makes of a config."""
    args = launch_command_parser().parse_args(["--config_file", str(config), *arguments, "train_sft.py"])
    return _validate_launch_command(args)[0]


@pytest.mark.parametrize("config", LAUNCHERS, ids=name)
def test_accelerate_knows_all_that_a_config_says(config):
    ClusterConfig.from_yaml_file(str(config))  # which refuses unknown keys
    written, args = yaml.safe_load(config.read_text(encoding="utf-8")), launch(config)
    options = {key for key in vars(launch_command_parser().parse_args(["train_sft.py"]))}
    for group in ("fsdp_config", "deepspeed_config"):
        assert set(written.get(group, {})) <= options
        assert all(getattr(args, key) == value for key, value in written.get(group, {}).items())
    assert written["mixed_precision"] == args.mixed_precision == "no"  # the recipe decides


@pytest.mark.parametrize(
    ("stem", "machines", "processes", "way"),
    [
        ("single_gpu", 1, 1, None),
        ("ddp_8gpu", 1, 8, "multi_gpu"),
        ("fsdp2", 1, 8, "use_fsdp"),
        ("deepspeed_zero3", 1, 8, "use_deepspeed"),
        ("two_nodes", 2, 16, "multi_gpu"),
        ("two_cpu_processes", 1, 2, "multi_gpu"),
    ],
)
def test_accelerate_starts_as_many_processes_in_the_way_that_the_name_says(stem, machines, processes, way):
    args = launch(ROOT / "recipes" / "accelerate" / f"{stem}.yaml")
    assert (args.num_machines, args.num_processes) == (machines, processes)
    assert [kind for kind in ("multi_gpu", "use_fsdp", "use_deepspeed") if getattr(args, kind)] == [way] * bool(way)
    assert not stem.startswith("deepspeed") or args.zero_stage == 3


def test_every_launcher_is_tested():
    assert len(LAUNCHERS) == 6


def test_what_accelerate_decides_does_not_contradict_a_recipe(monkeypatch):
    """FSDP checkpoints activations by itself or the trainer does, not both, and bf16 is the recipe's."""
    args = launch(ROOT / "recipes" / "accelerate" / "fsdp2.yaml")
    for key, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(key, value)
    assert os.environ["ACCELERATE_USE_FSDP"] == "true" and os.environ["FSDP_VERSION"] == "2"
    assert os.environ["FSDP_ACTIVATION_CHECKPOINTING"] == "false"
    _, training_args, _ = parse(RECIPES[0])
    assert training_args.mixed_precision == "bf16"


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_fsdp2_wraps_the_decoder_layers_and_mvp(recipe, monkeypatch):
    config = AutoConfig.from_pretrained(CONFIGS / recipe.with_suffix(".json").name)
    with torch.device("meta"):
        foundation = AutoModelForImageTextToText.from_config(config)
    model = EmoLLMForConditionalGeneration.from_foundation(foundation, mvp_size=64)
    layer = next(m for m in foundation.get_decoder().modules() if type(m).__name__.endswith("DecoderLayer"))
    file = ROOT / "recipes" / "accelerate" / "fsdp2.yaml"
    assert f"# {type(layer).__name__} (" in file.read_text() or f", {type(layer).__name__} (" in file.read_text()
    wrapped = f"{type(layer).__name__},MultiPerspectiveVisualProjection"
    args = launch(file, "--fsdp_transformer_layer_cls_to_wrap", wrapped)
    for key, value in prepare_multi_gpu_env(args).items():
        monkeypatch.setenv(key, value)
    policy = fsdp2_prepare_auto_wrap_policy(FullyShardedDataParallelPlugin(), model)
    units = [module for module in model.modules() if policy(module)]
    assert len(units) == config.get_text_config().num_hidden_layers + 1
    assert {type(unit).__name__ for unit in units} == set(wrapped.split(","))
