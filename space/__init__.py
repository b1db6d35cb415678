"""The demo: a page on which visitors ask an EmoLLM about a picture or a clip. `app.py` is the command."""
