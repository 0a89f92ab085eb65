"""Two processes that kept the same ledger: what each of them changed holds."""

from __future__ import annotations

from types import MappingProxyType

from msgspec.structs import replace

from plugin.core.health.ledger import Entry, Ledger, of


def merged(base: Ledger, ours: Ledger, theirs: Ledger) -> Ledger:
    """Our ledger with what they changed since both had `base`.

    A reason that either added stays, and one that either ended is gone. Our own entry tells what
    happened in this process; a history of flapping is the longer of both.
    """
    entries: dict[str, Entry] = {}
    for uuid in (*ours, *(uuid for uuid in theirs if uuid not in ours)):
        mine, other = ours.get(uuid), theirs.get(uuid)
        ended = (_codes(base, uuid) - _codes(ours, uuid)) | (
            _codes(base, uuid) - _codes(theirs, uuid)
        )
        known = _codes(ours, uuid)
        reasons = tuple(
            reason
            for reason in (*of(ours, uuid), *(r for r in of(theirs, uuid) if r.code not in known))
            if reason.code not in ended
        )
        entry = mine or other
        if entry is None:
            continue
        flaps = max(each.flaps for each in (mine, other) if each is not None)
        entries[uuid] = replace(entry, reasons=reasons, flaps=flaps)
    return MappingProxyType(entries)


def _codes(ledger: Ledger, uuid: str) -> set[str]:
    return {str(reason.code) for reason in of(ledger, uuid)}
