"""Writes the doctor's page: the findings in words, with thumbnails and the files' paths."""

import datetime
from pathlib import Path

from squeezenext.cli import plural
from squeezenext.convert import shards
from squeezenext.convert.listing import Listing
from squeezenext.convert.review import KEEP, Row
from squeezenext.doctor.findings import KINDS, Diagnosis, Finding, sentences
from squeezenext.evaluate.report import data_url, template
from squeezenext.files import check_ours, write_text
from squeezenext.images import decoding
from squeezenext.images.jpeg import ImageError

PAGE = "index.html"
_MOST = 48  # findings of one kind on the page
_MOST_MEMBERS = 6  # photographs of one finding
_SIDE = 192  # pixels of a thumbnail


def check_page(folder: Path) -> None:
    """Raises InputError if another program's page is where the doctor's would be."""
    check_ours(folder / PAGE, "<title>The doctor on ")


def write(folder: Path, source: str, diagnosis: Diagnosis) -> Path:
    """Writes `folder`/index.html and returns its path.

    Args:
      folder: the folder, which is there.
      source: name of the photographs' place.
      diagnosis: what is shown.
    """
    rows = {row.file: row for row in diagnosis.rows}
    page = template(Path(__file__).parent, "report.html.j2").render(
        source=source,
        date=datetime.date.today().isoformat(),
        photographs=len(diagnosis.listing.names),
        classes=diagnosis.classes,
        counts=diagnosis.counts,
        sentences=sentences(diagnosis),
        sections=[
            _section(kind, about, diagnosis, rows)
            for kind, about in KINDS.items()
            if any(finding.kind == kind for finding in diagnosis.found)
        ],
        plural=plural,
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def _section(kind: str, about: str, diagnosis: Diagnosis, rows: dict[str, Row]) -> dict:
    found = [finding for finding in diagnosis.found if finding.kind == kind]
    return {
        "title": kind[0].upper() + kind[1:],
        "about": about,
        "count": len(found),
        "more": max(0, len(found) - _MOST),
        "findings": [_shown(finding, diagnosis.listing, rows) for finding in found[:_MOST]],
    }


def _shown(finding: Finding, listing: Listing, rows: dict[str, Row]) -> dict:
    return {
        "text": finding.text,
        "more": max(0, len(finding.members) - _MOST_MEMBERS),
        "photographs": [
            _photograph(listing, member, rows[listing.names[member]])
            for member in finding.members[:_MOST_MEMBERS]
        ],
    }


def _photograph(listing: Listing, number: int, row: Row) -> dict:
    path = listing.files[listing.table["file"][number]]
    whole = path.name == row.file.rpartition("/")[2]  # else it is inside an archive
    return {
        "name": row.file,
        "link": path.resolve().as_uri() if whole else None,
        "image": _thumbnail(listing, number),
        "action": "" if row.action == KEEP else row.action,
    }


def _thumbnail(listing: Listing, number: int) -> str | None:
    """Returns a thumbnail as a URL, None if the file cannot be read."""
    try:
        data = shards.image_bytes(listing, number)
        return data_url(decoding.decode(decoding.open_image(data, (_SIDE, _SIDE), upright=True)))
    except ImageError:
        return None
