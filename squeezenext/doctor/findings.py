"""What is wrong with a collection of photographs, and what the doctor advises for each."""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np

from squeezenext.cli import plural, printable
from squeezenext.convert.listing import Collection, Listing, numbers_of_none
from squeezenext.convert.review import KEEP, MOVE, REMOVE, Row, joined
from squeezenext.doctor import suspects
from squeezenext.doctor.features import Features, grouped, neighbours
from squeezenext.doctor.forecast import Forecast, forecast
from squeezenext.doctor.suspects import Shortcut
from squeezenext.labels import class_names
from squeezenext.metrics import wilson

# Least brightness and sharpness in features.PIXELS. The darkest of 3,068 photographs has 31;
# a Gaussian blur of 2 pixels at the network's size brings 95 % of them below 21, where 1 is now.
_DARK, _BLURRED = 30.0, 20.0
_TINY = 112  # pixels of the shorter side: the network's input has 224 to 227
_FAR = 4.0  # robust standard deviations below the median; 2 of 3,068 clothing photographs

# Kinds of findings, the most urgent first, with what the page says of them.
KINDS = {
    "unreadable": "These files cannot be read.",
    "two labels": "The same file is in two classes. Keep it in one.",
    "in two splits": "These photographs are alike, but lie in two splits: the score of the held-out"
    " ones would be too good.",
    "wrong label": "These photographs look like another class than their own.",
    "exact copy": "These files are equal, byte by byte. One of them is enough.",
    "near duplicate": "These photographs are nearly alike: copies, or one thing photographed more"
    " than once. They are kept together, in one split.",
    "outlier": "Nothing else in the collection looks like these photographs.",
    "blurred": "These photographs have no sharp edge at the size that the network sees.",
    "dark": "These photographs are nearly black.",
    "tiny": "These photographs are smaller than half of what the network sees.",
}


@dataclasses.dataclass(frozen=True)
class Finding:
    """A finding about one photograph, or about several that belong together.

    Attributes:
      kind: a key of `KINDS`.
      members: indices into the listing.
      text: what was found, in words; "" if the kind says it all.
    """

    kind: str
    members: tuple[int, ...]
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All findings about a collection.

    Attributes:
      listing: all photographs, with the names of doctor.csv.
      classes: the classes' names.
      found: the findings, in the order of `KINDS`.
      rows: the rows of doctor.csv.
      counts: photographs of each class by split.
      shortcuts: what gives the class away.
      accuracy: cross-validated accuracy of a linear classifier, groups kept together, over the
        classes of several groups but `none`; None without two classes, or such a class.
      judged: number of groups, single photographs among them, that `accuracy` is of.
      overstated: by how much a random split would have overstated it; 0 without groups.
      forecast: what more photographs would bring; None without `accuracy`, or of very many.
      of_none: number of photographs of `none`.
    """

    listing: Listing
    classes: list[str]
    found: list[Finding]
    rows: list[Row]
    counts: dict[str, list[int]]
    shortcuts: list[Shortcut]
    accuracy: float | None
    judged: int
    overstated: float
    forecast: Forecast | None
    of_none: int


@dataclasses.dataclass(frozen=True)
class _Case:
    """What the findings are made of; all arrays are in the order of the features."""

    collection: Collection
    listing: Listing
    features: Features
    labels: np.ndarray  # [n] int64, from 0
    splits: np.ndarray  # [n] of str
    groups: np.ndarray  # [n] int64, equal for photographs that belong together
    near: np.ndarray  # [n] float32, mean similarity of the nearest photographs


def diagnose(collection: Collection, features: Features) -> Diagnosis:
    """Returns the findings about a collection.

    Args:
      collection: the photographs as they were found, without a split of ours.
      features: those of `review.joined(collection.splits)`.
    """
    case = _case(collection, features)
    probabilities = together = apart = None
    if len(np.unique(case.labels)) > 1:
        number = len(collection.classes)
        probabilities = suspects.out_of_fold(features.values, case.labels, case.groups, number)
        counted = suspects.group_counts(case.labels, case.groups)[case.labels] > 1
        counted &= ~_of_none(case)
        together = apart = suspects.share_right(case.labels, probabilities, counted)
        probabilities = suspects.judged_again(
            features.values, case.labels, case.groups, probabilities
        )
    if together is not None and len(np.unique(case.groups)) < len(case.groups):
        single = np.arange(len(case.labels))
        random = suspects.out_of_fold(features.values, case.labels, single, number)
        apart = suspects.share_right(case.labels, random, counted)
    found, names = _found(case, probabilities), class_names(collection.classes)
    more = None
    if together is not None:
        more = forecast(features.values[counted], case.labels[counted], case.groups[counted], names)
    return Diagnosis(
        case.listing,
        names,
        found,
        _rows(case, found, probabilities),
        {name: _counts(split, collection) for name, split in collection.splits.items()},
        suspects.shortcuts(features.pixels, case.labels, case.groups) if together else [],
        together,
        len(np.unique(case.groups[counted])) if together is not None else 0,
        (apart or 0.0) - (together or 0.0),
        more,
        int(_of_none(case).sum()),
    )


def _counts(split: Listing, collection: Collection) -> list[int]:
    return np.bincount(split.table["label"] - 1, minlength=len(collection.classes)).tolist()


def _case(collection: Collection, features: Features) -> _Case:
    listing = joined(collection.splits)
    names = [name for name, split in collection.splits.items() for _ in split.names]
    keys, similar = neighbours(features.values)
    groups = grouped(keys, similar, features.pixels["sha256"])
    others = groups[keys] != groups[:, np.newaxis]  # a group larger than k has none, nor outliers
    near = np.where(others, similar, 0).sum(1) / others.sum(1).clip(1)
    near[~others.any(1)] = 1
    labels = listing.table["label"][features.rows].astype(np.int64) - 1
    splits = np.array(names)[features.rows]
    return _Case(collection, listing, features, labels, splits, groups, near)


def _found(case: _Case, probabilities: np.ndarray | None) -> list[Finding]:
    found = [*_unreadable(case), *_alike(case), *_pixels(case), *_outliers(case)]
    if probabilities is not None:
        found += _wrong(case, probabilities)
    order = list(KINDS)
    return sorted(found, key=lambda finding: order.index(finding.kind))


def _unreadable(case: _Case) -> list[Finding]:
    place = {printable(name): number for number, name in enumerate(case.listing.names)}
    return [
        Finding("unreadable", (place[fault.file],), fault.reason)
        for fault in case.features.faults
        if fault.file in place
    ]


def _members(numbers: np.ndarray) -> list[np.ndarray]:
    """Returns the indices of each number that occurs more than once."""
    order = np.argsort(numbers, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(numbers[order])) + 1)
    return [part for part in parts if len(part) > 1]


def _alike(case: _Case) -> list[Finding]:
    """Returns the copies and near duplicates, each group with its most urgent kind."""
    found, rows = [], case.features.rows
    _, digests = np.unique(case.features.pixels["sha256"], return_inverse=True)
    for part in _members(digests):
        kind = "two labels" if len(set(case.labels[part])) > 1 else "exact copy"
        found.append(Finding(kind, tuple(rows[part].tolist())))
    for part in _members(case.groups):
        several = len(set(case.splits[part])) > 1
        if several or len(set(digests[part])) > 1:
            kind = "in two splits" if several else "near duplicate"
            found.append(Finding(kind, tuple(rows[part].tolist())))
    return found


def _pixels(case: _Case) -> list[Finding]:
    pixels = case.features.pixels
    shorter = np.minimum(pixels["width"], pixels["height"])
    sizes = [f"{row['width']} x {row['height']} pixels" for row in pixels]
    light = [f"brightness {value:.0f} of 255" for value in pixels["brightness"]]
    return [
        *_single(case, "dark", pixels["brightness"] < _DARK, light),
        *_single(case, "blurred", pixels["sharpness"] < _BLURRED),
        *_single(case, "tiny", shorter < _TINY, sizes),
    ]


def _single(
    case: _Case, kind: str, chosen: np.ndarray, texts: Sequence[str] | None = None
) -> Iterable[Finding]:
    for number in np.flatnonzero(chosen).tolist():
        text = texts[number] if texts else ""
        yield Finding(kind, (int(case.features.rows[number]),), text)


def _outliers(case: _Case) -> Iterable[Finding]:
    """Returns photographs whose nearest ones are far, by the median absolute deviation."""
    middle = np.median(case.near)
    deviation = 1.4826 * np.median(np.abs(case.near - middle))
    return _single(case, "outlier", case.near < middle - _FAR * max(deviation, 1e-3))


def _of_none(case: _Case) -> np.ndarray:
    """Returns which photographs are of no class, [n] bool: they may look like anything."""
    return np.isin(case.labels + 1, numbers_of_none(case.collection.classes))


def _wrong(case: _Case, probabilities: np.ndarray) -> Iterable[Finding]:
    names = class_names(case.collection.classes)
    found = suspects.wrong_labels(case.labels, probabilities, case.groups)
    for number in found[~_of_none(case)[found]].tolist():
        best = int(probabilities[number].argmax())
        own, other = probabilities[number, [case.labels[number], best]]
        text = f"rather {names[best]} ({other:.0%}) than {names[case.labels[number]]} ({own:.0%})"
        yield Finding("wrong label", (int(case.features.rows[number]),), text)


def _rows(case: _Case, found: list[Finding], probabilities: np.ndarray | None) -> list[Row]:
    """Returns the rows of doctor.csv: photographs with a finding, or in a group."""
    texts: dict[int, list[str]] = {}
    for finding in found:
        words = f"{finding.kind}: {finding.text}" if finding.text else finding.kind
        for member in finding.members:
            texts.setdefault(member, []).append(words)
    suggested, actions = _advice(case, found, probabilities)
    numbers = _group_numbers(case)
    keys = [label.synset for label in case.collection.classes]
    return [
        Row(
            case.listing.names[member],
            keys[case.listing.table["label"][member] - 1],
            "; ".join(texts[member]),
            numbers.get(member, ""),
            suggested.get(member, ""),
            actions.get(member, KEEP),
            str(case.listing.table["size"][member]),
        )
        for member in sorted(texts)
    ]


def _group_numbers(case: _Case) -> dict[int, str]:
    rows = case.features.rows
    return {
        int(rows[index]): str(number)
        for number, part in enumerate(_members(case.groups), 1)
        for index in part
    }


def _advice(
    case: _Case, found: list[Finding], probabilities: np.ndarray | None
) -> tuple[dict[int, str], dict[int, str]]:
    """Returns the suggested class and the action of photographs; what has none is kept.

    Only training photographs are moved, or removed for their label: what a test says of a model
    must not depend on another model.
    """
    suggested, actions = dict[int, str](), dict[int, str]()
    place = {int(row): index for index, row in enumerate(case.features.rows)}
    keys = [label.synset for label in case.collection.classes]
    for finding in found:
        if finding.kind == "unreadable":
            actions[finding.members[0]] = REMOVE
    if probabilities is not None:
        wrong = [finding.members[0] for finding in found if finding.kind == "wrong label"]
        named = np.array([place[member] for member in wrong], np.int64)
        advised = suspects.mended(case.labels, probabilities, named)
        for member, index in zip(wrong, named.tolist(), strict=True):
            suggested[member] = keys[probabilities[index].argmax()]
            if advised[index] != case.labels[index] and case.splits[index] == "train":
                removed = advised[index] == suspects.REMOVED
                actions[member] = REMOVE if removed else f"{MOVE}{keys[advised[index]]}"
    for finding in found:
        if finding.kind in ("exact copy", "in two splits"):
            splits = {member: case.splits[place[member]] for member in finding.members}
            actions |= dict.fromkeys(_superfluous(finding.kind, splits), REMOVE)
    return suggested, actions


def _superfluous(kind: str, splits: dict[int, str]) -> list[int]:
    """Returns the members of a group that can go, from the splits that matter less.

    Of exact copies one stays; of photographs in two splits, those of the split that is used last.
    """
    rank = {"test": 0, "validation": 1, "train": 2}
    ordered = sorted(splits, key=lambda member: (rank[splits[member]], member))
    if kind == "exact copy":
        return ordered[1:]
    return [member for member in ordered if splits[member] != splits[ordered[0]]]


def sentences(diagnosis: Diagnosis) -> list[str]:
    """Returns what the console and the page say first."""
    counts = {kind: sum(f.kind == kind for f in diagnosis.found) for kind in KINDS}
    named = [f"{kind} {number}" for kind, number in counts.items() if number]
    lines = [f"Findings: {', '.join(named)}." if named else "The doctor found nothing wrong."]
    if diagnosis.accuracy is not None:
        right = diagnosis.accuracy * diagnosis.judged
        low, high = wilson(right, diagnosis.judged)
        lines.append(
            f"Cross-validated, a linear classifier on the features names {diagnosis.accuracy:.1%} "
            f"({low:.1%} to {high:.1%}) of the photographs right; groups were kept together."
        )
    if diagnosis.of_none:
        lines.append(
            f"Photographs of none of the classes, {diagnosis.of_none:,} here, are compared with "
            "the others, but do not count in the accuracy, the forecast and the wrong labels."
        )
    if diagnosis.forecast and diagnosis.forecast.doubled > (diagnosis.accuracy or 0) + 0.005:
        most = " and ".join(diagnosis.forecast.gained)
        lines.append(
            f"Twice as many photographs would give about {diagnosis.forecast.doubled:.0%}"
            + (f"; most was gained so far in {most}." if most else ".")
        )
    if diagnosis.overstated > 0.001:
        lines.append(
            f"A random split would have overstated this by {100 * diagnosis.overstated:.1f} points,"
            " since near duplicates would lie on both sides."
        )
    lines += [
        f"Beware of a shortcut: {one.what} alone names the class of {one.accuracy:.0%} of the "
        f"photographs; the largest class has {one.majority:.0%}."
        for one in diagnosis.shortcuts
    ]
    actions = [row.action for row in diagnosis.rows if row.action != KEEP]
    moved = sum(action.startswith(MOVE) for action in actions)
    if actions:
        removed = plural(len(actions) - moved, "photograph")
        lines.append(f"doctor.csv advises to remove {removed} and to move {moved}.")
    return lines
