"""Takes a validation split out of what has none."""

import numpy as np

from squeezenext.errors import InputError

from .listing import Listing, shuffled


def cut(full: Listing, fraction: float, seed: int) -> dict[str, Listing]:
    """Splits each class by the same fraction; one image at least stays on either side.

    A class of a single image keeps it for training.
    """
    # Another seed than the shards' order: otherwise validation would be its beginning.
    order = shuffled(full.names, seed ^ 0x5EED)
    labels_in_order = full.table["label"][order]
    chosen = np.zeros(len(order), bool)
    for label in np.unique(labels_in_order):
        places = order[labels_in_order == label]
        count = max(1, round(fraction * len(places)))
        chosen[places[: min(count, len(places) - 1)]] = True
    if not chosen.any():
        raise InputError("Every class has a single image: none is left for validation; add some.")
    return {
        "train": full.take(np.flatnonzero(~chosen)),
        "validation": full.take(np.flatnonzero(chosen)),
    }
