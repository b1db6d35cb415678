"""What `train_sft.py` is made of: data, collator, trainer, and what of a model is trained."""
