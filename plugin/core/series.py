"""Which notices become Events, and when: one Event for each cause, and few a minute.

A notice that cannot be sent yet waits. A newer one of the same topic about the same object takes
its place, so that what is sent last is how things stand; what was left out on the way is counted
in the message of the next. Times are seconds of a clock that never steps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from msgspec import Struct, field
from msgspec.structs import replace

from plugin.core.cluster import NODE_NAMESPACE
from plugin.core.notices import MOST_BYTES, Notice, Pod
from plugin.core.quote import shorten_bytes

#: So many at once, and then one in so many seconds: a GPU with seven pods is told at once.
BURST = 10
SECONDS_PER_EVENT = 15.0
#: A cause that was silent for so long makes an Event of its own, as client-go has it.
SERIES_SECONDS = 360.0
#: How often the count of an Event is brought up to date.
UPDATE_SECONDS = 60.0

#: A token, but for what adding up fractions loses.
_ONE = 1 - 1e-6

#: The pod (``None`` for the node) and the cause.
Key = tuple[Pod | None, str]


class Series(Struct, frozen=True):
    """Notices of one cause. ``count`` are all, ``sent`` the number that the API server has been
    told, at ``sent_at``. ``left_out`` are others whose place these took.
    """

    notice: Notice
    first: float
    last: float
    count: int = 1
    sent: int = 0
    sent_at: float | None = None
    left_out: int = 0

    @property
    def waits(self) -> bool:
        return self.count > self.sent

    def due(self) -> float:
        """When it may be sent."""
        return self.last if self.sent_at is None else self.sent_at + UPDATE_SECONDS


class Outbox(Struct, frozen=True):
    """``tokens`` are Events that may be sent at once, as of ``at``."""

    series: Mapping[Key, Series] = field(default_factory=lambda: MappingProxyType({}))
    tokens: float = BURST
    at: float | None = None


class Post(Struct, frozen=True):
    """An Event to create, or to update when ``is_new`` is false. ``before`` is its series before
    it was sent.
    """

    notice: Notice
    first: float
    last: float
    count: int
    before: Series

    @property
    def is_new(self) -> bool:
        return not self.before.sent

    @property
    def key(self) -> Key:
        return self.notice.pod, self.notice.cause

    @property
    def namespace(self) -> str:
        """That of the Event."""
        return _namespace(self.notice.pod)


class Taken(Struct, frozen=True):
    """What to send now, and when to ask again (``None``: with the next notices)."""

    outbox: Outbox
    posts: tuple[Post, ...]
    look_again: float | None


def noted(outbox: Outbox, notices: Iterable[Notice], now: float) -> Outbox:
    """With these notices in it."""
    series = dict(outbox.series)
    for notice in notices:
        key = notice.pod, notice.cause
        left_out = _displaced(series, notice, now)
        known = series.get(key)
        if known is None or (not known.waits and now - known.last > SERIES_SECONDS):
            left_out += known.left_out if known is not None else 0
            series[key] = Series(notice, now, now, left_out=left_out)
            continue
        series[key] = replace(
            known,
            notice=notice,
            last=now,
            count=known.count + 1,
            left_out=known.left_out + left_out,
        )
    return replace(outbox, series=MappingProxyType(series))


def taken(outbox: Outbox, now: float, busy: Collection[str] = ()) -> Taken:
    """Send what may be sent: about the node first, then in the order in which it happened. What
    belongs into one of the namespaces that are `busy` waits, for whoever asks again.
    """
    waited = 0.0 if outbox.at is None else max(0.0, now - outbox.at)
    tokens = min(float(BURST), outbox.tokens + waited / SECONDS_PER_EVENT)
    series = {
        key: each
        for key, each in outbox.series.items()
        if each.waits
        or each.left_out
        or now - each.last <= SERIES_SECONDS
        or _namespace(each.notice.pod) in busy  # on its way, it may yet come back
    }
    posts: list[Post] = []
    later: list[float] = []
    waiting = [
        (key, each)
        for key, each in series.items()
        if each.waits and _namespace(each.notice.pod) not in busy
    ]
    for key, each in sorted(waiting, key=_order):
        if each.due() > now:
            later.append(each.due())
        elif tokens < _ONE:
            later.append(now + (1 - tokens) * SECONDS_PER_EVENT)
        else:
            tokens -= 1
            posts.append(Post(_summed_up(each), each.first, each.last, each.count, each))
            series[key] = replace(each, sent=each.count, sent_at=now, left_out=0)
    left = Outbox(MappingProxyType(series), tokens, now)
    return Taken(left, tuple(posts), min(later, default=None))


def failed(outbox: Outbox, post: Post) -> Outbox:
    """A post could not be delivered: it waits again, unless something newer tells how things
    stand.
    """
    outbox = spared(outbox)
    known = outbox.series.get(post.key)
    if known is None:
        return outbox
    series = dict(outbox.series)
    newer = next(
        (
            key
            for key, each in series.items()
            if _same(each.notice, post.notice) and each.last > known.last
        ),
        None,
    )
    if newer is None:
        series[post.key] = replace(
            known,
            sent=post.before.sent,
            sent_at=post.before.sent_at,
            left_out=known.left_out + post.before.left_out,
        )
    else:
        lost = known.count - post.before.sent + post.before.left_out + known.left_out
        series[newer] = replace(series[newer], left_out=series[newer].left_out + lost)
        if post.before.sent:
            series[post.key] = replace(
                known, count=post.before.sent, sent=post.before.sent, left_out=0
            )
        else:
            del series[post.key]
    return replace(outbox, series=MappingProxyType(series))


def spared(outbox: Outbox) -> Outbox:
    """With the token of a post that became no Event."""
    return replace(outbox, tokens=min(float(BURST), outbox.tokens + 1))


def _namespace(pod: Pod | None) -> str:
    return pod.namespace if pod is not None else NODE_NAMESPACE


def _same(one: Notice, other: Notice) -> bool:
    """Whether both tell how the same thing stands."""
    return (one.pod, one.topic) == (other.pod, other.topic)


def _displaced(series: dict[Key, Series], notice: Notice, now: float) -> int:
    """Take out what waits on the same topic about the same object; returns how many that were."""
    count = 0
    for key, each in list(series.items()):
        if not _same(each.notice, notice) or each.notice.cause == notice.cause:
            continue
        if not each.waits or each.last == now:  # what happens together is told together
            continue
        count += each.count - each.sent + each.left_out
        if each.sent:
            series[key] = replace(each, count=each.sent, left_out=0)
        else:
            del series[key]
    return count


def _order(item: tuple[Key, Series]) -> tuple[bool, float]:
    (pod, _), each = item
    return pod is not None, each.last


def _summed_up(series: Series) -> Notice:
    if not series.left_out:
        return series.notice
    end = f" ({series.left_out} earlier changes were not reported)"
    message = shorten_bytes(series.notice.message, MOST_BYTES - len(end)) + end
    return replace(series.notice, message=message)
