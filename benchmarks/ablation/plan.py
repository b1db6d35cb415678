"""What an ablation is to do: its foundations, arms and seeds, read from a YAML file, and the commands of each cell."""

import shlex
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch
import yaml
from transformers import AutoConfig, AutoModelForImageTextToText
from trl import ModelConfig, SFTConfig, TrlParser

from modeling_emollm import PERSPECTIVES, EmoLLMConfig
from modeling_emollm.mvp import MultiPerspectiveVisualProjection
from training.arguments import EmoLLMArguments
from training.model import choose_trainable


AS_IT_IS, PROMPTED, SFT, ADAPTER, MVP, EMOLLM = ARMS = (
    "as it is", "+ EmoPrompt", "SFT", "SFT + adapter", "SFT + MVP", "SFT + MVP + EmoPrompt"
)  # fmt: skip
UNTRAINED = (AS_IT_IS, PROMPTED)
WITHOUT = "SFT + MVP without {}"
PLAN = {
    "pretrain", "foundations", "datasets", "tests", "train", "mvp_size", "emoprompt", "mode", "seeds", "launch",
    "batch_size", "leave_out", "test_rows",
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """
    One model to evaluate.

    Args:
        foundation (`str`): its name in the plan.
        arm (`str`): one of `ARMS`, or `WITHOUT` a perspective.
        seed (`int`): of the training; 0 for the foundation as it is.
    """

    foundation: str
    arm: str
    seed: int

    @property
    def folder(self) -> str:
        arm = self.arm.replace("SFT + ", "").replace(" + ", "-").replace("+ ", "").replace(" ", "-").lower()
        return f"{self.foundation}/{arm}-{self.seed}"


@dataclass(frozen=True)
class Plan:
    """
    An experiment, as `recipes/ablation/*.yaml` have it.

    Args:
        path (`Path`): of the YAML file, after which the experiment is called.
        values (`dict`): what it says.
        output (`Path`): folder for models and predictions.
    """

    path: Path
    values: dict
    output: Path

    @classmethod
    def read(cls, path: Path, output: Path) -> "Plan":
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = set(values) if isinstance(values, dict) else set()
        if names != PLAN:
            raise ValueError(
                f"{path} is no plan: it lacks {sorted(PLAN - names)} and has unknown {sorted(names - PLAN)}; see "
                "recipes/ablation/drawn.yaml."
            )
        if unknown := set(values["leave_out"]) - set(values["foundations"]):
            raise ValueError(f"leave_out of {path} names {sorted(unknown)}, which are no foundations of it.")
        return cls(path, values, output / path.stem)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def cells(self) -> list[Cell]:
        """All cells, a seed of every foundation and arm before the next seed."""
        found = [Cell(name, arm, 0) for name, arm in product(self.values["foundations"], UNTRAINED)]
        for seed in self.values["seeds"]:
            found += [Cell(name, arm, seed) for name, arm in product(self.values["foundations"], ARMS[2:])]
            without = [WITHOUT.format(perspective) for perspective in PERSPECTIVES]
            found += [Cell(name, arm, seed) for name, arm in product(self.values["leave_out"], without)]
        return found

    def folder(self, cell: Cell) -> Path:
        return self.output / cell.folder

    def pretraining(self, foundation: str) -> list[list[str]]:
        """The commands that make a foundation; of one from the Hub none."""
        return [shlex.split(line.format(name=foundation, output=self.output)) for line in self.values["pretrain"]]

    def foundation(self, name: str) -> dict:
        """Arguments of `train_sft.py` for one foundation: those of its recipe, if it names one, and its own."""
        own = dict(self.values["foundations"][name])
        recipe = yaml.safe_load(Path(own.pop("recipe")).read_text(encoding="utf-8")) if "recipe" in own else {}
        own = {
            key: value.format(output=self.output) if isinstance(value, str) else value for key, value in own.items()
        }
        return recipe | self.values["train"] | own

    def budget(self, name: str) -> "Budget":
        arguments = self.foundation(name)
        fixed = ("model_name_or_path", "model_revision", "train", "lora_r", "lora_alpha")
        return measure_budget(*map(arguments.get, fixed), self.values["mvp_size"])

    def training(self, cell: Cell) -> dict:
        """The arguments of `train_sft.py`, as its config file."""
        arguments = self.foundation(cell.foundation)
        budget = self.budget(cell.foundation)
        mvp = {"upgrade": True, "mvp_size": self.values["mvp_size"]}
        without = [name for name in PERSPECTIVES if cell.arm == WITHOUT.format(name)]
        if cell.arm == SFT:
            own = {"upgrade": False} | budget.lora
        elif cell.arm == ADAPTER:
            own = mvp | {"mvp_size": budget.adapter_size, "perspectives": ["none"]}
        elif without:
            own = mvp | {"perspectives": [name for name in PERSPECTIVES if name not in without]}
        else:
            own = mvp
        own |= self.values["emoprompt"] if cell.arm == EMOLLM else {"emoprompt_share": 0.0, "reason_share": 0.0}
        return arguments | own | {"seed": cell.seed, "datasets": self.values["datasets"]}

    def arguments(self, cell: Cell) -> tuple[EmoLLMArguments, SFTConfig, ModelConfig]:
        """
        As `train_sft.py` reads them.

        Raises:
            `ValueError`: for an argument that it does not know, or a wrong value.
        """
        values = self.training(cell) | {"output_dir": str(self.folder(cell) / "model")}
        return TrlParser((EmoLLMArguments, SFTConfig, ModelConfig)).parse_dict(values)

    def model(self, cell: Cell) -> tuple[str, str | None]:
        """What is evaluated, and its revision."""
        if cell.arm in UNTRAINED:
            foundation = self.foundation(cell.foundation)
            return foundation["model_name_or_path"], foundation.get("model_revision")
        return str(self.folder(cell) / "model"), None

    def evaluated(self, cell: Cell) -> list[Path]:
        """The folders of its predictions, one for each split that is tested."""
        return [self.folder(cell) / split for split in self.values["tests"]]

    def evaluations(self, cell: Cell) -> list[list[str]]:
        """The commands that evaluate a cell: one for each split that is tested."""
        model, revision = self.model(cell)
        mode = self.values["mode"] if cell.arm in (PROMPTED, EMOLLM) else "none"
        found = []
        for split, tasks in self.values["tests"].items():
            command = [*shlex.split(self.values["launch"]), "-m", "evaluation.run", "--model", model]
            command += ["--revision", revision] if revision else []
            command += ["--dataset", self.values["datasets"][0], "--split", split, "--tasks", *tasks]
            command += ["--emoprompt", mode, "--batch-size", str(self.values["batch_size"]), "--agreement", "0"]
            found.append([*command, "--output", str(self.folder(cell) / split)])
        return found


@dataclass(frozen=True)
class Budget:
    """
    Arms with as many trained parameters as MVP brings, as nearly as their sizes allow.

    Args:
        mvp (`int`): parameters of MVP.
        adapter (`int`): of the plain adapter, MVP without perspectives.
        adapter_size (`int`): its width, a multiple of 8.
        lora (`dict`): `lora_r` and `lora_alpha` of plain SFT; empty where every weight is trained.
        extra (`int`): what the higher rank brings, in parameters.
    """

    mvp: int
    adapter: int
    adapter_size: int
    lora: dict
    extra: int


@cache
def measure_budget(
    model: str, revision: str | None, train: str, lora_r: int | None, lora_alpha: int | None, mvp_size: int
) -> Budget:
    """
    Args:
        model, revision, train, lora_r, lora_alpha: arguments of `train_sft.py`; of the model only the config is read.
        mvp_size (`int`): width of MVP.
    """
    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)

    def count(**fields) -> int:
        with torch.device("meta"):
            module = MultiPerspectiveVisualProjection(EmoLLMConfig(foundation_config=config, **fields))
        return sum(parameter.numel() for parameter in module.parameters())

    mvp = count(mvp_size=mvp_size)
    least, more = (count(mvp_size=size, perspectives=[]) for size in (8, 16))
    size = 8 * max(1, 1 + round((mvp - least) / (more - least)))  # an adapter grows by the same with each channel
    lora, extra = {}, 0
    if train != "full":
        with torch.device("meta"):
            foundation = AutoModelForImageTextToText.from_config(config)
            rank_one = choose_trainable(foundation, "mvp+lora", ModelConfig(lora_r=1)).parameter_counts["trained"]
        wider = lora_r + max(1, round(mvp / rank_one))
        # alpha / r, by which peft scales what it adds, stays as it is.
        lora = {"lora_r": wider, "lora_alpha": round(lora_alpha / lora_r * wider)}
        extra = (wider - lora_r) * rank_one
    return Budget(mvp, count(mvp_size=size, perspectives=[]), size, lora, extra)
