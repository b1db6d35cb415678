"""What is to be seen in the pictures of EmoBench-Drawn, in words that name no label, for captions and rationales."""

SEEN = {  # by what was drawn
    "happiness": "has arched eyes, pink cheeks and a wide open mouth",
    "sadness": "has raised brows, blue drops on the cheeks and a mouth bent down",
    "anger": "has low brows, a red face and bared teeth",
    "fear": "has round eyes, a pale face and a small open mouth",
    "eat": "thinks of an apple",
    "sleep": "thinks of a moon",
    "play": "thinks of a ball",
    "travel": "thinks of a car",
    "welcome": "a heart in an open door lets the Zorbs in",
    "exclude": "bars and a red cross keep the Zorbs out",
    "sun": "the sun shines",
    "storm": "rain and lightning",
}
PROMISE, PAYOFF = "a poster promises a {}", "a {} comes out of the hat"
