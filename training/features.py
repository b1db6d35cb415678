"""Features of a frozen vision tower, computed once."""


class FeatureCache:
    pass
