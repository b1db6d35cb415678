"""The readers, one a source, by name: each has `SOURCE`, `splits(root)` and `read(root, split)`."""

from dataset_scripts.readers import (
    caers,
    cm_memes,
    emoset,
    ferplus,
    harmeme,
    hateful_memes,
    humordb,
    intentonomy,
    meld,
    mintrec,
    mmsd2,
    mustard,
    ur_funny,
)


READERS = {
    reader.SOURCE.name: reader
    for reader in (
        emoset,
        caers,
        ferplus,
        meld,
        intentonomy,
        mintrec,
        hateful_memes,
        harmeme,
        cm_memes,
        ur_funny,
        humordb,
        mmsd2,
        mustard,
    )
}
