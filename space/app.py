"""
The demo page: a picture or a clip, a question about it, the answer with each label's probability, and where it looked.

python -m space.app --model outputs/emollm

It runs as a Space of the Hub, where `settings.json` beside this file names the model and its commit. Gradio's settings
are environment variables, such as GRADIO_SERVER_PORT.
"""

import argparse
import json
import logging
import os
import sys
import time
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread


os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")  # before they are imported

import gradio as gr
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedModel, ProcessorMixin

from evaluation.explanation import answer_question, draw_explanation
from modeling_emollm.emoprompt import attach_emoprompt
from space.markup import (
    ABOUT,
    CSS,
    EXAMPLES_SCRIPT,
    NOTICE,
    PAGE_SCRIPT,
    show_examples,
    show_figure,
    show_pictures,
    show_problem,
    show_status,
)
from space.questions import (
    LONGEST,
    MODES,
    NAMES,
    draw_examples,
    name_words,
    split_labels,
    usual_labels,
    usual_question,
    write_question,
)
from space.uploads import CLIPS, LARGEST, MOST, PICTURES, keep_clean, take_files


SETTINGS = Path(__file__).with_name("settings.json")
QUEUE = 16  # visitors who may wait; the next is told to come back later
VISITORS = 32  # whose pictures are in memory; the next takes the place of the one who did nothing for longest
STALE = 600  # seconds after which an upload that nobody took is deleted
# Of the fonts that come with Gradio, the semi-bold ones lack most letters.
THEME = gr.themes.Default(
    primary_hue="blue",
    font=[gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "sans-serif"],
    font_mono=[gr.themes.LocalFont("IBM Plex Mono", weights=(400, 700)), "monospace"],
).set(button_primary_background_fill="*primary_700", button_primary_background_fill_hover="*primary_800")
WORDS = "{}, if there are any"
UNAVAILABLE = "The model can't be loaded, so nothing can be answered. Whoever runs this page finds why in its log."


def load(model: str, revision: str | None) -> tuple[PreTrainedModel, ProcessorMixin]:
    """A foundation or an EmoLLM and its processor, with EmoPrompt. Raises a `ValueError` if it can't be loaded."""
    source = {"revision": revision, "trust_remote_code": True}
    try:
        loaded = AutoModelForImageTextToText.from_pretrained(model, use_safetensors=True, **source)
        processor = attach_emoprompt(AutoProcessor.from_pretrained(model, **source))
    except (OSError, ValueError, ImportError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"--model {model} can't be loaded, revision {revision}: {error}") from error
    return loaded.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def take(files: list[dict] | None) -> tuple:
    """The uploaded pictures into memory: these, how they are shown, and an empty place for the next files."""
    if not files:
        return gr.skip(), gr.skip(), None
    try:
        pictures = take_files([(Path(file["path"]), file["orig_name"] or Path(file["path"]).name) for file in files])
    except ValueError as error:
        return None, show_problem(str(error)), None
    number = len(pictures)
    return pictures, show_pictures(pictures, f"{number} picture{'s' * (number > 1)}, ready to be asked about."), None


def choose_task(task: str) -> tuple:
    """Its usual question, no words, and its usual labels."""
    return usual_question(task), gr.update(label=WORDS.format(name_words(task)), value=""), usual_labels(task)


def show_outcome(message: str, label: str | dict | None = None, text: str | None = None, figure: str | None = None):
    """The message, and of an answer as much as there is."""
    return message, *(gr.update(value=value, visible=value is not None) for value in (label, text, figure))


def name_model(model: str, revision: str | None) -> str:
    """In Markdown: a folder's name, or a Hub id with its commit as a link to its card."""
    if Path(model).is_dir():
        return f"**{Path(model).name}**"
    at = f"/tree/{revision}" if revision else ""
    return f"[**{model}**](https://huggingface.co/{model}{at})"


def make_page(name: str, loaded: tuple[PreTrainedModel, ProcessorMixin] | None) -> gr.Blocks:
    """The page for a model; `None` for one that can't be loaded, of which it then tells."""
    examples = draw_examples()

    def choose_example(event: gr.EventData) -> tuple:
        example = examples[event.number]
        words = gr.update(label=WORDS.format(name_words(example.task)), value=example.words)
        shown = show_pictures(example.pictures, f"From EmoBench-Drawn, where the answer is: {example.label}.")
        return example.pictures, shown, example.task, example.question, words, usual_labels(example.task)

    def ask(pictures: list[Image.Image] | None, task: str, question: str, words: str, labels: str, mode: str) -> tuple:
        """What is told, the answer with the labels' probabilities, what was written, and the figure."""
        start = time.perf_counter()
        question, words, labels = (text or "" for text in (question, words, labels))
        try:
            if loaded is None:
                raise ValueError(UNAVAILABLE)
            if not pictures:
                raise ValueError("There is no picture yet: upload one, or choose an example.")
            if task not in NAMES.values() or mode not in list(MODES):
                raise ValueError("There is no such task or mode of EmoPrompt: choose those that the page offers.")
            choices = split_labels(labels)
            text = write_question(task, question, words, choices)
            record = answer_question(*loaded, pictures, text, choices, task, MODES[mode])
        except ValueError as error:
            return show_outcome(show_problem(str(error)))
        except torch.OutOfMemoryError:
            return show_outcome(show_problem("This takes more memory than there is: give fewer pictures."))
        label = record["prediction"] or "none of the labels" if choices else None
        if record["probabilities"]:
            label = dict(zip(choices, record["probabilities"], strict=True))
        figure = None
        if loaded[0].config.model_type == "emollm":
            try:
                figure = show_figure(draw_explanation(*loaded, pictures, text, record)[0], len(pictures))
            except ValueError as error:
                figure = show_problem(str(error))
        seconds = time.perf_counter() - start
        return show_outcome(show_status(f"Answered in {seconds:.1f} seconds."), label, record["text"], figure)

    with gr.Blocks(title="EmoLLM", analytics_enabled=False) as page:
        gr.Markdown(ABOUT.format(model=name))
        if loaded is None:
            gr.HTML(show_problem(UNAVAILABLE))
        pictures = gr.State()
        with gr.Row():
            with gr.Column(min_width=300):
                files = gr.File(
                    label=f"Up to {MOST} pictures, or one clip",
                    file_count="multiple",
                    file_types=[*PICTURES, *CLIPS],
                    height=150,
                )
                gr.Markdown("**Or an example**, drawn by a program:")
                gallery = gr.HTML(show_examples(examples), js_on_load=EXAMPLES_SCRIPT, apply_default_css=False)
                strip = gr.HTML(apply_default_css=False)
            with gr.Column(min_width=300):
                first = NAMES["Emotion"]
                task = gr.Radio(list(NAMES.items()), value=first, label="Task")
                question = gr.Textbox(usual_question(first), label="Question", max_length=LONGEST)
                words = gr.Textbox(label=WORDS.format(name_words(first)), max_length=LONGEST)
                labels = gr.Textbox(
                    usual_labels(first),
                    label="Labels to choose from, separated by commas; none for an answer in its own words",
                    max_length=LONGEST,
                )
                mode = gr.Radio(list(MODES), value="none", label="EmoPrompt, which guides the model")
                button = gr.Button("Ask", variant="primary")
        status = gr.HTML(apply_default_css=False)
        answer = gr.Label(label="Answer", num_top_classes=8, visible=False)
        written = gr.Textbox(label="What the model wrote", visible=False, interactive=False)
        figure = gr.HTML(visible=False, apply_default_css=False)
        gr.Markdown(NOTICE)

        outcome = [status, answer, written, figure]
        # Gradio's own preprocessing would leave an empty file behind.
        taking = {"preprocess": False, "concurrency_limit": 2, "api_name": "take"}
        asked = [question, words, labels]
        private = {"api_visibility": "private"}
        for change in (
            files.upload(take, files, [pictures, strip, files], **taking),
            gallery.click(choose_example, None, [pictures, strip, task, *asked], **private),
            task.input(choose_task, task, asked, **private),
        ):
            change.then(lambda: show_outcome(""), None, outcome, **private)  # an answer is to what is on the page
        given = [pictures, task, *asked, mode]
        button.click(ask, given, outcome, scroll_to_output=True, concurrency_limit=1, api_name="ask")

        def forget(request: gr.Request) -> None:
            """Of a page that was closed, what Gradio would keep in memory."""
            page.state_holder.session_data.pop(request.session_hash, None)

        page.unload(forget)
    return page.queue(max_size=QUEUE)


def log_kind() -> None:
    """In the place of a traceback, in which Gradio quotes what visitors' programs send."""
    kind, _, trace = sys.exc_info()
    place = traceback.extract_tb(trace)[-1]
    logging.error("A request failed: %s in %s, line %s", kind.__name__, place.filename, place.lineno)


def main(args: argparse.Namespace) -> None:
    traceback.print_exc = log_kind
    try:
        loaded = load(args.model, args.revision)
    except ValueError as error:
        logging.error(error)  # the page says that there is no model, the log why
        loaded = None
    with TemporaryDirectory(prefix="emollm-space-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder  # of uploads
        Thread(target=keep_clean, args=(Path(folder), STALE), daemon=True).start()
        make_page(name_model(args.model, args.revision), loaded).launch(
            theme=THEME,
            css=CSS,
            js=PAGE_SCRIPT,
            max_file_size=LARGEST,
            state_session_capacity=VISITORS,
            run_history=False,
            enable_monitoring=False,
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            share=False,
        )


def make_parser() -> argparse.ArgumentParser:
    settings = json.loads(SETTINGS.read_text(encoding="utf-8")) if SETTINGS.is_file() else {}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model",
        default=settings.get("model"),
        required="model" not in settings,
        help="folder or Hub id of an EmoLLM or a foundation; its own code is trusted",
    )
    parser.add_argument("--revision", default=settings.get("revision"), help="commit of the Hub id")
    return parser


if __name__ == "__main__":
    main(make_parser().parse_args())
