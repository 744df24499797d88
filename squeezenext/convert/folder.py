"""Lists folders of images: one folder a class, in given or newly made splits."""

import collections
import contextlib
import dataclasses
import os
import re
from collections.abc import Iterable
from pathlib import Path

from squeezenext import labels
from squeezenext.cli import counted, plural, printable
from squeezenext.config.zoo import PUBLISHED
from squeezenext.convert import places
from squeezenext.convert.archives import Archive, Entry
from squeezenext.convert.listing import (
    Collection,
    Fault,
    Listing,
    Watch,
    name_fault,
    sorted_splits,
)
from squeezenext.convert.options import ConvertOptions
from squeezenext.convert.places import Place
from squeezenext.errors import InputError
from squeezenext.files import expanded, is_leftover
from squeezenext.images.decoding import ENDINGS, OTHER_ENDINGS
from squeezenext.records.dataset import MANIFEST

_HINT = "make one folder per class, with the images directly in it"
_CONVERTED = "photographs among them must be made JPEG first"
UNREADABLE = "cannot be read: permission denied"
_LINK = "is a symbolic link; give --follow_links"


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """Rules for the names of class folders."""

    pattern: re.Pattern = re.compile("(.+)")  # matches each name; its group is the class
    skip: re.Pattern | None = None
    # Images in a folder of a class are an error. (The published Caltech256 has some, 056.dog/greg.)
    reject_nested: bool = True


@dataclasses.dataclass
class _Walk:
    """The rules of a walk through the folders, and what it reports."""

    follow_links: bool
    names: ClassNames
    faults: list[Fault] = dataclasses.field(default_factory=list)
    warnings: list[str] = dataclasses.field(default_factory=list)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def collect(source: Path | Archive, options: ConvertOptions, names: ClassNames) -> Collection:
    """Lists `source`/CLASS/*.jpg, or `source`/{train,validation,test}/CLASS/*.jpg.

    Folders around these are passed through. Without any class folder, names such as cat_001.jpg
    give the classes, and a warning says so.

    Raises:
      InputError: no folder, no image, a class without one, classes in deeper folders, or a
        split's folder that is a link.
    """
    walk, watch, held = _Walk(options.follow_links, names), Watch(), None
    if isinstance(source, Archive):
        walk.faults, watch, held = [*source.faults], source.watch, source.held
    place = places.innermost(source)
    roots, known = places.split_folders(place), labels_of_model(options)
    images = _listed(place, roots, known, walk)
    if walk.others:
        number = plural(walk.others.total(), "file")
        skipped = f"skipped by ending ({counted(walk.others)}); {_CONVERTED}"
        walk.warnings.append(f"{number} in class folders {skipped}.")
    if "train" in roots:
        folders = _trained(roots, images, known)
    else:
        folders = sorted(set().union(*images.values()))
    classes = _classes(folders, names, place)
    if known:
        folders, classes = _of_model(folders, classes, known), known
    splits = {name: _listing(roots[name], folders, images[name], watch, held) for name in images}
    splits = sorted_splits(splits)
    file = source.path if isinstance(source, Archive) else source
    described = {"file": file.resolve().name, "bytes": sum(s.bytes for s in splits.values())}
    faults, notes = tuple(walk.faults), tuple(walk.warnings)
    return Collection(classes, splits, faults, (described,), watch, notes)


def _listed(
    place: Place, roots: dict[str, Place], known: tuple[labels.Label, ...], walk: _Walk
) -> dict[str, dict[str, list[Place]]]:
    """Returns the images of each class of each split; changes `roots` to those that count."""
    if known and roots == {"train": place}:
        roots["test"] = roots.pop("train")  # class folders alone, to score a model on
    for root in roots.values():
        if root is not place and root.is_symlink() and not walk.follow_links:
            raise InputError(f"{root} {_LINK}.")
    walk.warnings += _beside(place, roots)
    if "test" in roots and not known and not places.has_folders(roots["test"]):
        test = roots.pop("test")
        walk.warnings.append(f"{test} has no class folders: {_skipped(test)}.")
    if roots == {"train": place} and (named := places.by_name(place)):
        walk.warnings.append(places.sentence_by_name(place, named))
        return {"train": {name: _usable(place, files, walk) for name, files in named.items()}}
    roots |= {split: places.innermost(root, split) for split, root in roots.items()}
    return {split: _images(root, walk) for split, root in roots.items()}


def _trained(
    roots: dict[str, Place],
    images: dict[str, dict[str, list[Place]]],
    known: tuple[labels.Label, ...],
) -> list[str]:
    """Returns the class folders of the training split, which no other split may exceed."""
    if known:
        raise InputError(f"--labels_of is for data without training images, not {roots['train']}.")
    folders = sorted(images["train"])
    for split in images:
        for other in sorted(set(images[split]) - set(folders)):
            raise InputError(
                f"{roots[split] / other} is a class that {roots['train']} lacks; rename it, or "
                f"make {roots['train'] / other}."
            )
    if len(folders) < 2:
        raise InputError(
            f"{roots['train']} has 1 class folder with images, {printable(folders[0])}, but a "
            f"classifier needs two at least; {_HINT}."
        )
    return folders


def labels_of_model(options: ConvertOptions) -> tuple[labels.Label, ...]:
    """Returns the classes that --labels_of names, () without it."""
    if not options.labels_of:
        return ()
    path = expanded(options.labels_of)
    if options.labels_of in PUBLISHED and not path.exists():
        return labels.imagenet()
    return labels.read(path / "labels.json" if path.is_dir() else path)


def _of_model(
    folders: list[str], found: tuple[labels.Label, ...], known: tuple[labels.Label, ...]
) -> list[str]:
    """Returns the folder of each class of a model, which may be absent.

    Raises:
      InputError: a folder is none of its classes.
    """
    folder_of = {label.synset: folder for folder, label in zip(folders, found, strict=True)}
    if others := sorted(folder_of.keys() - {label.synset for label in known}):
        raise InputError(
            f"{printable(', '.join(others))}: no class of --labels_of, whose classes are "
            f"{printable(', '.join(label.synset for label in known[:10]))}; rename the folders."
        )
    return [folder_of.get(label.synset, label.synset) for label in known]


def _classes(folders: list[str], names: ClassNames, source: Place) -> tuple[labels.Label, ...]:
    """Returns each folder's class: its name, or the words of an ImageNet synset."""
    classes: dict[str, labels.Label] = {}
    for folder in folders:
        match = names.pattern.fullmatch(folder)
        if not match:
            raise InputError(
                f"{source / folder} does not fit the pattern of class names, "
                f"{names.pattern.pattern!r}; rename it or give another --class_pattern."
            )
        if match[1] in classes:
            raise InputError(
                f"Two folders in {source} both are the class {match[1]!r}; give another "
                "--class_pattern."
            )
        classes[match[1]] = labels.Label(match[1], match[1])
    classes |= {label.synset: label for label in labels.imagenet() if label.synset in classes}
    return tuple(classes.values())


def _beside(source: Place, roots: dict[str, Place]) -> list[str]:
    """Returns warnings about images, and folders with images, beside the folders of the splits."""
    if list(roots.values()) == [source]:
        return []
    names = ", ".join(root.name for root in roots.values())
    others = [path for path in places.entries(source) if path not in roots.values()]
    loose = _photographs(path.name for path in others if not path.is_dir()).total()
    warnings = [f"{plural(loose, 'image')} beside {names} skipped."] if loose else []
    folders = [path for path in others if path.is_dir() and _below(path)]
    return warnings + [f"{path} lies beside {names}: {_skipped(path)}." for path in folders]


def _photographs(names: Iterable[str]) -> collections.Counter[str]:
    """Returns the number of photographs of each ending, those that must be made JPEG first, too."""
    endings = (Path(name).suffix.lower() for name in names if not is_leftover(name))
    return collections.Counter(e for e in endings if e in ENDINGS | OTHER_ENDINGS)


def _below(folder: Place) -> collections.Counter[str]:
    """Returns the `_photographs` in a folder and all folders below it."""
    found: collections.Counter[str] = collections.Counter()
    below = [folder]
    while below:
        with contextlib.suppress(InputError):  # one may not be read
            inside = places.entries(below.pop())
            below += [path for path in inside if path.is_dir() and not path.is_symlink()]
            found += _photographs(path.name for path in inside)
    return found


def _skipped(folder: Place) -> str:
    return f"its {plural(_below(folder).total(), 'image is', 'images are')} skipped"


def _images(root: Place, walk: _Walk) -> dict[str, list[Place]]:
    """Returns the image files of each class folder in `root`."""
    images: dict[str, list[Place]] = {}
    beside: collections.Counter[str] = collections.Counter()
    outside, before = False, len(walk.faults)
    for path in places.entries(root):
        if walk.names.skip and walk.names.skip.fullmatch(path.name):
            continue
        if path.is_dir() and (fault := name_fault(path.name)):
            raise InputError(f"The class folder {printable(str(path))} {fault}.")
        if path.is_dir() and path.is_symlink() and not walk.follow_links:
            walk.faults.append(Fault(path.name, _LINK))
        elif path.is_dir() and places.entries(path):
            images[path.name] = _class_images(root, path, walk)
        elif path.is_dir():
            walk.warnings.append(f"{printable(path.name)} is an empty folder: skipped.")
        elif places.is_image(path):
            outside = True
            walk.faults.append(Fault(path.name, "lies beside the class folders: it has no class"))
        else:
            beside += _photographs([path.name])
    if beside:
        files = plural(beside.total(), "file")
        walk.warnings.append(
            f"{files} beside class folders skipped by ending ({counted(beside)}); {_CONVERTED}."
        )
    empty = [name for name, files in images.items() if not files]
    for name in empty:
        inside = (f for f in walk.faults[before:] if f.file.startswith(f"{name}/"))
        if one := next(inside, None):
            raise InputError(f"No image in {root / name} can be used: {one.file} {one.reason}.")
    if len(empty) == len(images):
        raise InputError(f"{root} {_no_images(root, walk, outside)}.")
    if empty:
        others = counted(collections.Counter(map(_ending, places.entries(root / empty[0]))))
        raise InputError(
            f"{root / empty[0]} has no image but {others}; {_CONVERTED}, or remove the folder."
        )
    return images


def _no_images(root: Place, walk: _Walk, outside: bool) -> str:
    """Returns what a folder is that has no image in a class folder, and what to do."""
    if (root / MANIFEST).is_file():
        return "holds records, which were made of photographs; give the folder of the photographs"
    if outside:
        return f"has images only outside class folders; {_HINT}"
    if walk.others:
        return f"has no image in its class folders but {counted(walk.others)}; {_CONVERTED}"
    there = collections.Counter(map(_ending, places.entries(root)))
    if there and "folder" not in there:
        return f"has no class folder but {counted(there)}; {_HINT}"
    return f"has no image in a class folder; {_HINT}"


def _ending(path: Place) -> str:
    if path.is_dir():
        return "folder"
    return printable(path.suffix.lower()) or "no ending"


def _class_images(root: Place, folder: Place, walk: _Walk) -> list[Place]:
    found = []
    for path in places.entries(folder):
        if path.is_dir():
            below = _below(path)
            count = sum(number for ending, number in below.items() if ending in ENDINGS)
            if count and walk.names.reject_nested:
                raise InputError(
                    f"{path} holds {plural(count, 'image')} one folder too deep; {_HINT}."
                )
            if count:
                name = printable(f"{folder.name}/{path.name}")
                walk.warnings.append(f"{name} is a folder in a class: left out.")
            else:
                walk.others += below
        elif not places.is_image(path):
            walk.others[_ending(path)] += 1
        else:
            found.append(path)
    return _usable(root, found, walk)


def _usable(root: Place, images: list[Place], walk: _Walk) -> list[Place]:
    """Returns the images that can be used; the others become faults."""
    usable = []
    for path in images:
        if fault := file_fault(path, walk.follow_links):
            walk.faults.append(Fault(places.name_in(path, root), fault))
        else:
            usable.append(path)
    return usable


def file_fault(path: Place, follow_links: bool) -> str:
    """Returns why a file of an image's name cannot be used, or ""."""
    if fault := name_fault(path.name):
        return fault
    if isinstance(path, Entry):
        return path.part.fault
    if path.is_symlink() and not follow_links:
        return _LINK
    if not path.is_file():
        return "is no file, or a link to nothing"
    return "" if os.access(path, os.R_OK) else UNREADABLE


def _listing(
    root: Place,
    folders: list[str],
    images: dict[str, list[Place]],
    watch: Watch,
    held: Path | None,
) -> Listing:
    """Returns the listing of a split, whose images lie in the archive's file `held`, if given."""
    found = [
        (path, number) for number, name in enumerate(folders, 1) for path in images.get(name, [])
    ]
    names = [places.name_in(path, root) for path, _ in found]
    return places.listing_of(found, names, watch, held)
