"""The hash list of the code that `trust_remote_code` runs when an EmoLLM is loaded, by which a copy is checked."""

from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from dataset_scripts.manifest import digest_file


ROOT = Path(__file__).parents[1]
CODE_LIST = ROOT / "modeling_emollm.sha256"


def render_code_list() -> str:
    """In the form of `sha256sum`: the file that `auto_map` names, and what it imports of those beside it."""
    model = ROOT / "modeling_emollm" / "modeling_emollm.py"
    files = sorted({model, *map(Path, get_relative_import_files(model))})
    return "".join(f"{digest_file(file)}  {file.name}\n" for file in files)
