"""The audit: does everything that was accepted add up? Safe beside a running task manager, and able to fail.

What it looks at changes while it looks. So nothing is held against a task until it was seen twice: a picture that is
missing counts if its row still names it afterwards, a picture without a row if it is still not released a while later.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgesched.domain.device import DeviceId
from edgesched.domain.outbox import Inventory
from edgesched.domain.task import ImageRef
from edgesched.errors import StorageFailed
from edgesched.images.records import Place, place_of
from edgesched.images.segment_files import owner_of
from edgesched.images.survey import is_stored, look_for, unknown_pictures
from edgesched.ledger.audit import REPLACE_FILE, Facts, LedgerFile, NamedPicture
from edgesched.ledger.checks import GIVE_UP
from edgesched.ledger.finding import Finding
from edgesched.ledger.held import HeldReport

ORPHAN_AGE_S = 60.0
"""A picture is stored before its row. After this time it must have one."""
RELEASE_WITHIN_S = 5.0
"""The task manager lets a picture go right after the commit that retired it."""
LOOK_AGAIN_S = 0.25
MAX_LISTED = 100
"""Findings per check that are kept one by one; the others are only counted."""

Progress = Callable[[str, int, int], None]
"""What is being looked at, how many of them are done, how many there are."""


@dataclass(slots=True)
class Report:
    """What was looked at, and what does not add up.

    omitted: findings per check beyond MAX_LISTED. boards: those that have told what they hold.
    not_audited: boards with open attempts that have not, and how many: what they hold is known to them alone.
    """

    facts: Facts | None = None  # None: the file cannot be read
    pictures: int = 0
    boards: dict[DeviceId, HeldReport] = field(default_factory=dict)
    is_whole: bool = True
    findings: list[Finding] = field(default_factory=list)
    omitted: Counter[str] = field(default_factory=Counter)

    @property
    def is_clean(self) -> bool:
        return not self.findings

    @property
    def not_audited(self) -> Mapping[DeviceId, int]:
        open_attempts = self.facts.open_attempts if self.facts else {}
        return {device_id: count for device_id, count in open_attempts.items() if device_id not in self.boards}

    def add(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if sum(listed.check == finding.check for listed in self.findings) < MAX_LISTED:
                self.findings.append(finding)
            else:
                self.omitted[finding.check] += 1


def audit(
    ledger_path: Path,
    upload_path: Path,
    *,
    whole: bool,
    inventories: Sequence[Inventory] = (),
    progress: Progress = lambda *_: None,
    release_within_s: float = RELEASE_WITHIN_S,
) -> Report:
    """Look at everything once.

    whole: also read every picture and every label; otherwise only what the rows and headers say.
    inventories: what boards hold, asked for before this call.
    release_within_s: how long a running task manager may take to release what it has retired.
    Raises: StartupError if there is no ledger, or it is of another version; OSError if the pictures cannot be listed.
    """
    report = Report(is_whole=whole)
    try:
        with LedgerFile.opened(ledger_path) as ledger:
            report.add(ledger.damage())
            with ledger.snapshot():
                report.facts = facts = ledger.facts()
                report.add(ledger.broken_counts(facts))
                report.add(ledger.broken_rows())
                named = {picture.ref: picture for picture in ledger.pictures()}
            for inventory in inventories:
                held = report.boards.setdefault(inventory.device_id, HeldReport())
                report.add(ledger.broken_outcomes(inventory, facts.ledger_id, held))
            report.pictures = len(named)
            report.add(_foreign(upload_path, facts.ledger_id))
            report.add(_broken_pictures(ledger, upload_path, named, whole, progress))
            report.add(_orphans(ledger, upload_path, named, release_within_s))
            if whole:
                report.add(_broken_labels(ledger, facts.labels, progress))
    except StorageFailed as error:
        report.add([Finding(check="file", what=str(error), advice=REPLACE_FILE)])
    return report


def _foreign(directory: Path, ledger_id: str) -> Iterator[Finding]:
    owner = owner_of(directory)
    if owner not in (None, ledger_id):
        yield Finding(
            check="picture.owner",
            what=f"the pictures in {directory} belong to ledger {owner}, this is ledger {ledger_id}",
            advice="give the --ledger and the --upload_path that belong together",
        )


def _broken_pictures(
    ledger: LedgerFile, directory: Path, named: Mapping[ImageRef, NamedPicture], whole: bool, progress: Progress
) -> Iterator[Finding]:
    suspects: dict[ImageRef, str] = {}
    for count, seen in enumerate(look_for(directory, named, whole=whole), start=1):
        progress("pictures", count, len(named))
        if seen.problem is not None:
            suspects[seen.ref] = seen.problem
        elif whole and seen.digest != named[seen.ref].digest:
            suspects[seen.ref] = "it is not the picture that was submitted: its digest is another one"
    for picture in ledger.still_named([named[ref] for ref in suspects]):
        yield Finding(
            check="picture",
            what=f"it is {picture.state}, and of its picture {picture.ref}: {suspects[picture.ref]}",
            advice=GIVE_UP,
            task_id=picture.task_id,
        )


def _orphans(
    ledger: LedgerFile, directory: Path, named: Collection[ImageRef], release_within_s: float
) -> Iterator[Finding]:
    known: defaultdict[int, list[Place]] = defaultdict(list)
    for ref in named:
        try:
            place = place_of(ref)
        except StorageFailed:
            continue  # _broken_pictures has said so
        known[place.segment].append(place)
    stored_before_ms = int((time.time() - ORPHAN_AGE_S) * 1000)
    suspects = list(unknown_pictures(directory, known, stored_before_ms=stored_before_ms))
    for ref in _not_released(directory, suspects, release_within_s):
        if not ledger.is_named(ref):
            yield Finding(
                check="picture.orphan",
                what=f"picture {ref} is stored for more than {ORPHAN_AGE_S:g} s and no task names it",
                advice="nothing is lost; the task manager removes it at its next start",
            )


def _not_released(directory: Path, refs: Sequence[ImageRef], release_within_s: float) -> Sequence[ImageRef]:
    """Those that are still there when the task manager has had its time to release them."""
    deadline = time.monotonic() + release_within_s
    while True:
        refs = [ref for ref in refs if is_stored(directory, ref)]
        if not refs or time.monotonic() >= deadline:
            return refs
        time.sleep(min(LOOK_AGAIN_S, release_within_s))


def _broken_labels(ledger: LedgerFile, total: int, progress: Progress) -> Iterator[Finding]:
    for count, finding in enumerate(ledger.damaged_labels(), start=1):
        progress("labels", count, max(count, total))
        if finding is not None:
            yield finding
