"""
EmoBench as tasks of lmms-eval, and a model for it that asks through any chat template.

pip install --no-deps -r evaluation/lmms_eval/requirements.txt
EMOBENCH=data/EmoBench python -m lmms_eval --model emollm --model_args pretrained=models/EmoLLM \
    --include_path evaluation/lmms_eval --tasks emobench --log_samples --output_path results/lmms-eval

EMOBENCH is a folder of `dataset_scripts.build_emobench` or a Hub id. `emobench` is all six sub-tasks, and its macro F1
their mean; each has its own name too, as emobench_hate. `--limit N` takes the samples that `evaluation.run --limit N`
draws. Sources with several labels a picture (Intentonomy) are left out: the threshold for them is chosen on the
validation split, and lmms-eval reads one split.

`--model emollm` is any vision-language model of transformers, foundation or EmoLLM, and predicts as `evaluation.run`
does without EmoPrompt: labels that all differ in their first token are told apart there, others by all their tokens.
Another model of lmms-eval always scores all tokens, and so may choose differently where labels of several tokens
differ in the first. Each label of each question is a forward of its own, which is slow.

lmms-eval's own models don't do. None loads an EmoLLM; with transformers 5.23, llava_hf fails on closed questions and
huggingface on all; and llava_hf puts a line break between picture and question whatever the chat template.
"""
