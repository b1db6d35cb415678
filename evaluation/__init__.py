"""Evaluation of any vision-language model on EmoBench; predictions are files, and scores are recomputed from them."""
