"""The evaluation command in this process, and batches of rows made by hand."""

import io

from datasets import Dataset, Features, Image, Json, List, Value
from PIL import Image as PILImage

from evaluation import run
from evaluation.predictions import read_predictions
from evaluation.rows import Batch, Question
from evaluation.scoring import Preparation, answer_batch


def evaluate(model, dataset, output, *options):
    """Runs the command; the predictions of the first folder."""
    outputs = output if isinstance(output, list) else [output]
    arguments = ["--model", model, "--dataset", dataset, "--output", *outputs, *options]
    run.main(run.make_parser().parse_args(list(map(str, arguments))))
    return read_predictions(outputs[0])


def png(colour, size=(64, 64)) -> dict:
    file = io.BytesIO()
    PILImage.new("RGB", size, colour).save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def make_row(text, colours, choices, setting="closed", task="hate_detection", source="drawn", **columns):
    content = [{"type": "image"} for _ in colours] + [{"type": "text", "text": text}]
    answer = {"role": "assistant", "content": [{"type": "text", "text": choices[0]}]}
    row = {
        "id": text,
        "source": source,
        "task": task,
        "setting": setting,
        "split": "test",
        "images": [png(colour) for colour in colours],
        "instruction": text,
        "context": "",
        "turns": [],
        "choices": choices,
        "answer": choices[0],
        "answers": choices[:1],
        "label_distribution": [],
        "groups": [],
        "messages": [{"role": "user", "content": content}, answer],
    }
    return row | columns


FEATURES = Features(
    {
        **dict.fromkeys(
            ("id", "source", "task", "setting", "split", "instruction", "context", "answer"), Value("string")
        ),
        "images": List(Image(decode=False)),
        "turns": List({"speaker": Value("string"), "text": Value("string")}),
        "choices": List(Value("string")),
        "answers": List(Value("string")),
        "label_distribution": List(Value("float32")),
        "groups": List(List(Value("string"))),
        "messages": List(Json()),
    }
)


def prepare(processor, rows, modes=(None,), greedy=False, **options):
    """One batch of rows of one setting, each in these modes of EmoPrompt."""
    questions = tuple(Question(rows[0]["setting"], mode, greedy) for mode in modes)
    places = [(place,) * len(modes) for place in range(len(rows))]
    batch = Batch(Dataset.from_list(rows, features=FEATURES), questions, places)
    return Preparation([batch], processor, **options)[0]


def answer_rows(model, processor, rows, emoprompt=None, greedy=False, **options):
    prepared = prepare(processor, rows, (emoprompt,), greedy, **options)
    score = {name: value for name, value in options.items() if name == "label_score"}
    return answer_batch(model, processor, prepared, **score)
