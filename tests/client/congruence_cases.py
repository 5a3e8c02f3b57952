"""The requests of the congruence suite: valid ones with every option, and invalid ones with every mistake."""

import math
import random

from google.protobuf.timestamp_pb2 import Timestamp

from ebbtide.v1 import (
    AttributeFilter,
    EmbedRequest,
    Event,
    ExplainRequest,
    ForgetRequest,
    InterestRequest,
    ObserveRequest,
    RankRequest,
    RecommendRequest,
    UnknownItemPolicy,
)

CASES = 300
NOW_S = 1_714_521_600
TEXTS = ["space opera with robots", "a quiet film about a lighthouse", "heist"]
KINDS = (RecommendRequest, RankRequest, ExplainRequest)
STATE_KINDS = (ObserveRequest, InterestRequest, ForgetRequest)
USERS = ["u0", "u1", "u2", "u3"]
"""Users whom the server must know before; `observed` has their events."""
NOBODY = "nobody"


def observed():
    """The events of each user; the last users have more than a state holds one by one."""
    rng = random.Random(7)  # noqa: S311
    events = [[an_event(rng, texts=False) for _ in range(3 * 8**index)] for index in range(len(USERS) - 1)]
    events.append([an_event(rng, texts=False, event_id=f"click {index}") for index in range(40)])
    return {
        user: ObserveRequest(user_id=user, events=of_user, unknown_items=UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE)
        for user, of_user in zip(USERS, events, strict=True)
    }


def an_event(rng, *, texts, **fields):
    kept = {"time": Timestamp(seconds=NOW_S - rng.randint(60, 30_000_000), nanos=rng.randint(0, 999_999_999))}
    if texts and rng.random() < 0.3:
        kept["text"] = rng.choice(TEXTS)
    else:
        kept["item_id"] = str(rng.randint(1, 60))
        if texts and rng.random() < 0.2:
            kept["fallback_text"] = rng.choice(TEXTS)
    if rng.random() < 0.5:
        kept["weight"] = rng.choice([0.0, 1.0, 2.5, 40.0])
    return Event(**{**kept, **fields})


def a_request(rng, kind, *, texts):
    """A valid request with any of the options; some users have no events at all."""
    split = rng.random() < 0.5
    request = kind(
        history=[an_event(rng, texts=texts) for _ in range(rng.randint(0, 40) if split else 0)],
        current=[an_event(rng, texts=texts) for _ in range(rng.randint(0, 4) if split else 0)],
        events=[an_event(rng, texts=texts) for _ in range(0 if split else rng.randint(0, 40))],
        now=Timestamp(seconds=NOW_S),
        exclude_item_ids=[str(number) for number in rng.sample(range(1, 90), rng.randint(0, 6))],
        unknown_items=UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE,
    )
    for field, values in (
        ("alpha", [0.0, 0.3, 1.0]),
        ("decay_scale", [0.0, 0.5, 3.0]),
        ("exclude_seen", [True, False]),
    ):
        if rng.random() < 0.4:
            setattr(request, field, rng.choice(values))
    if rng.random() < 0.3:
        request.user_id = rng.choice([*USERS, NOBODY])
        request.allow_stateless = rng.random() < 0.3
    if kind is not RecommendRequest:
        named = request.candidate_item_ids if kind is RankRequest else request.item_ids
        named.extend(str(number) for number in rng.sample(range(1, 70), rng.randint(1, 20)))
    elif rng.random() < 0.3:
        request.allow.add(column="genres", values=rng.sample(["Comedy", "Drama", "Romance", "Thriller"], 2))
    if kind is not ExplainRequest:
        request.top_n = rng.choice([0, 1, 7, 20])
    return request


def a_group(rng):
    """Requests of several users that one call can ask for, so they set the same options."""
    with_alpha, with_users = rng.random() < 0.5, rng.random() < 0.5
    return [
        RecommendRequest(
            history=[an_event(rng, texts=False) for _ in range(rng.randint(1, 30))],
            now=Timestamp(seconds=NOW_S),
            unknown_items=UnknownItemPolicy.UNKNOWN_ITEM_POLICY_IGNORE,
            top_n=rng.randint(1, 20),
            alpha=rng.random() if with_alpha else None,
            user_id=rng.choice(USERS) if with_users else None,
        )
        for _ in range(rng.randint(2, 8))
    ]


def a_state_request(rng, kind):
    """A valid request about a state that leaves all states as they are: events are observed again."""
    if kind is ForgetRequest:
        return ForgetRequest(user_id=NOBODY)
    user = rng.choice(USERS)
    if kind is ObserveRequest:
        request = observed()[user]
        newest = sorted(request.events, key=lambda event: event.time.ToMilliseconds())[-10:]
        kept = rng.sample(newest, min(5, len(newest)))
        shown = [event.item_id for event in kept[1:]]
        return ObserveRequest(user_id=user, events=kept, unknown_items=request.unknown_items, shown_item_ids=shown)
    request = InterestRequest(user_id=rng.choice([user, user, NOBODY]))
    request.now.FromSeconds(NOW_S + rng.randint(0, 9_000_000))
    if rng.random() < 0.3:
        request.decay_scale = rng.choice([0.0, 0.5, 3.0])
    return request


def too_many(field, count):
    return lambda _, request: getattr(request, field).extend(["1"] * (count - len(getattr(request, field))))


def with_event(**fields):
    return lambda rng, request: (request.events or request.history).append(an_event(rng, texts=False, **fields))


def with_events(count, **fields):
    return lambda rng, request: (request.events or request.history).extend(
        an_event(rng, texts=False, **fields) for _ in range(count)
    )


def setting(field, value):
    return lambda _, request: setattr(request, field, value)


def unknown_item(rng, request):
    request.unknown_items = UnknownItemPolicy.UNKNOWN_ITEM_POLICY_ERROR
    with_event(item_id="no such item")(rng, request)


def without_subject(_, request):
    (request.events or request.history).append(Event(time=Timestamp(seconds=NOW_S - 60)))


def without_time(_, request):
    (request.events or request.history).append(Event(item_id="1"))


def both_ways(rng, request):
    request.events.append(an_event(rng, texts=False))
    request.history.append(an_event(rng, texts=False))


def text_event(text):
    return lambda _, request: (request.events or request.history).append(
        Event(text=text, time=Timestamp(seconds=NOW_S - 60))
    )


def texts_beyond(_, request):
    for _ in range(65):
        text_event("heist")(None, request)


def allowing(*conditions):
    return lambda _, request: request.allow.extend(AttributeFilter(column=c, values=v) for c, v in conditions)


FOR_ALL = {
    **{f"weight {weight}": with_event(weight=weight) for weight in (-1.0, math.nan, math.inf)},
    **{f"alpha {alpha}": setting("alpha", alpha) for alpha in (-0.1, 1.5, math.nan)},
    **{f"decay scale {scale}": setting("decay_scale", scale) for scale in (-1.0, math.nan, math.inf)},
    "event after now": with_event(time=Timestamp(seconds=NOW_S + 60)),
    "unknown item": unknown_item,
    "events beyond the limit": with_events(513),
    "exclusions beyond the limit": too_many("exclude_item_ids", 513),
    "texts beyond the limit": texts_beyond,
    "text beyond the limit": text_event("x" * 5_000),
    "no subject": without_subject,
    "no time": without_time,
    "empty id": with_event(item_id=""),
    "both ways of giving events": both_ways,
    "unknown policy": setting("unknown_items", 7),
    "empty user id": setting("user_id", ""),
    "long user id": setting("user_id", "é" * 129),
    "no such time": lambda _, request: setattr(request.now, "nanos", -1),
}
FOR_KIND = {
    RecommendRequest: {
        "more than exported": setting("top_n", 21),
        "no such value": allowing(("genres", ["no such genre"])),
        "no such column": allowing(("no such column", ["1"])),
        "values beyond the limit": allowing(("genres", ["Drama"] * 65)),
    },
    RankRequest: {
        "candidates beyond the limit": too_many("candidate_item_ids", 1025),
        "no candidates": lambda _, request: request.ClearField("candidate_item_ids"),
        "empty candidate": lambda _, request: request.candidate_item_ids.append(""),
    },
    ExplainRequest: {"items beyond the limit": too_many("item_ids", 1025), "top_n": setting("top_n", 3)},
}
FOR_STATE = {
    ObserveRequest: {
        "no user": lambda _, request: request.ClearField("user_id"),
        "nothing observed": lambda _, request: request.ClearField("events"),
        "text observed": lambda rng, request: request.events.append(an_event(rng, texts=False, fallback_text="heist")),
        "weight observed": lambda rng, request: request.events.append(an_event(rng, texts=False, weight=-1)),
        "events observed beyond the limit": lambda rng, request: request.events.extend(
            an_event(rng, texts=False) for _ in range(513)
        ),
        "unknown item observed": unknown_item,
        "some event ids": lambda rng, request: request.events.extend(
            an_event(rng, texts=False, event_id=event_id) for event_id in ("e", None)
        ),
    },
    InterestRequest: {
        "no user": lambda _, request: request.ClearField("user_id"),
        "scale of a state": setting("decay_scale", -1),
        "no such time": lambda _, request: setattr(request.now, "nanos", -1),
    },
    ForgetRequest: {"no user": lambda _, request: request.ClearField("user_id")},
}
BAD_TEXTS = {"no texts": [], "texts beyond the limit": ["a"] * 65, "text beyond the limit": ["a", "x" * 5_000]}


def make_cases():
    """300 named requests, a third of them invalid; every mistake is among them for some kind of request."""
    rng = random.Random(16)  # noqa: S311
    mistakes = [(kind, name, FOR_ALL[name]) for name in FOR_ALL for kind in (rng.choice(KINDS),)]
    mistakes += [(kind, name, spoil) for kind, named in FOR_KIND.items() for name, spoil in named.items()]
    while len(mistakes) < 97:
        kind = rng.choice(KINDS)
        mistakes.append((kind, *rng.choice(list({**FOR_ALL, **FOR_KIND[kind]}.items()))))
    cases = [(name, EmbedRequest(texts=texts)) for name, texts in BAD_TEXTS.items()]
    for kind, name, spoil in mistakes:
        request = a_request(rng, kind, texts=False)
        spoil(rng, request)
        cases.append((name, request))
    for kind, named in FOR_STATE.items():
        for name, spoil in named.items():
            request = a_state_request(rng, kind)
            spoil(rng, request)
            cases.append((name, request))
    for kind, count in ((ObserveRequest, 12), (InterestRequest, 12), (ForgetRequest, 8)):
        cases += [("", a_state_request(rng, kind)) for _ in range(count)]
    for kind, count in ((RecommendRequest, 75), (RankRequest, 30), (ExplainRequest, 22)):
        cases += [("", a_request(rng, kind, texts=rng.random() < 0.2)) for _ in range(count)]
    cases += [("", [*a_group(rng)]) for _ in range(16)]
    while len(cases) < CASES:
        cases.append(("", EmbedRequest(texts=rng.choices(TEXTS, k=rng.randint(1, 5)))))
    rng.shuffle(cases)
    return cases


MISTAKES = {*FOR_ALL, *BAD_TEXTS, *(name for named in [*FOR_KIND.values(), *FOR_STATE.values()] for name in named)}
