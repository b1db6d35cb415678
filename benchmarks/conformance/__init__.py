"""Which families of foundation models EmoLLM upgrades, shown on a tiny model of each."""
