"""What the uploader does with a refused batch: exactly the poison is set aside, and nothing on a receiver's word alone."""

import json
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.scripted_receiver import CANARY, ScriptedReceiver, bodies, drive, uploader
from tests.helpers.scripted_spool import ScriptedSpool

HOUR = 3600.0


def number(body):
    return json.loads(body)["number"]


def refusing(poison, status=400):
    """Return a judge that refuses every request with one of these numbers in it, and no canary."""
    return lambda request: status if not request.is_canary and {number(body) for body in request.bodies} & poison else 204


def check(spool, receiver, count, poison):
    """Exactly the poison is buried; all others were acknowledged and accepted, once and in order."""
    good = [n for n in range(1, count + 1) if n not in poison]
    assert [seq for seq, _ in spool.dead] == sorted(poison)
    assert spool.acked == good
    assert [number(body) for body in receiver.accepted] == good
    assert spool.depth == 0


@pytest.mark.parametrize("status", [400, 415, 422])
@pytest.mark.parametrize(("count", "position"), [(count, at) for count in (1, 2, 3, 5, 8) for at in range(1, count + 1)])
def test_one_poison_event_at_each_place(status, count, position):
    spool, receiver = ScriptedSpool(bodies(count)), ScriptedReceiver(refusing({position}, status))
    delivery = uploader(spool, receiver)
    final = drive(delivery, receiver, spool)
    check(spool, receiver, count, {position})
    assert (final.buried, final.delivered_events) == (1, count - 1)
    assert final.canaries == receiver.canaries == (2 if count == 1 else 3)
    assert spool.buried_why[0].startswith(f"HTTP {status}: ")
    assert receiver.now < 1  # its steps are answers, not failures: nothing was waited for


@settings(deadline=None, max_examples=150)
@given(data=st.data(), count=st.integers(1, 60), batch=st.integers(1, 24),
       way=st.sampled_from([("cloudevents", "gzip"), ("json", "none"), ("ndjson", "gzip")]))
def test_any_poison_any_kill_any_full_disk_any_busy_answer(data, count, batch, way):
    poison = data.draw(st.sets(st.integers(1, count), max_size=6))
    kills = data.draw(st.sets(st.integers(0, 120), max_size=6))
    busy = data.draw(st.sets(st.integers(1, 120), max_size=6))
    full = data.draw(st.sets(st.integers(1, 40), max_size=4))
    judge = refusing(poison)
    spool = ScriptedSpool(bodies(count), format_=way[0], compression=way[1], full=full)
    receiver = ScriptedReceiver(lambda request: 503 if len(receiver.requests) in busy else judge(request))
    delivery = uploader(spool, receiver, batch_events=batch)
    for step in range(5000):
        if not spool.depth:
            break
        if step in kills:
            delivery = uploader(spool, receiver, batch_events=batch)
        receiver.now += delivery._step(0) or 0.001
        assert delivery.status().state != "holding"
    assert [seq for seq, _ in spool.dead] == sorted(poison)
    good = [n for n in range(1, count + 1) if n not in poison]
    assert spool.acked == good
    # What the disk could not note is sent again; without that, every event arrives once.
    delivered = [number(body) for body in receiver.accepted]
    assert (sorted(set(delivered)) if full else delivered) == good


def test_an_event_is_buried_after_two_refusals_each_with_an_accepted_canary():
    spool, receiver = ScriptedSpool(bodies(1)), ScriptedReceiver(refusing({1}))
    drive(uploader(spool, receiver), receiver, spool)
    assert [one.is_canary for one in receiver.requests] == [False, True, False, True]
    assert receiver.requests[0].headers["Idempotency-Key"] == receiver.requests[2].headers["Idempotency-Key"]
    assert receiver.now < 1
    check(spool, receiver, 1, {1})


def test_a_canary_that_is_refused_clears_the_suspect():
    """Refused, canary taken, refused, canary refused: the receiver errs, and all it said counts for nothing."""
    answers = [400, 204, 400, 400, 400, 204]
    spool = ScriptedSpool(bodies(1))
    receiver = ScriptedReceiver(lambda _: answers.pop(0) if answers else 204)
    drive(uploader(spool, receiver), receiver, spool, until=lambda _: False)
    check(spool, receiver, 1, set())


def test_one_suspect_says_nothing_of_the_next():
    judged = []

    def refuses_each_once(request):
        first = not request.is_canary and request.bodies not in judged
        judged.append(request.bodies)
        return 400 if first else 204

    spool, receiver = ScriptedSpool(bodies(5)), ScriptedReceiver(refuses_each_once)
    drive(uploader(spool, receiver, batch_events=1), receiver, spool)
    check(spool, receiver, 5, set())
    assert receiver.canaries == 5


def test_a_buried_event_that_comes_back_is_no_suspect():
    answers = [400, 204, 400, 204, 400, 204]
    spool = ScriptedSpool(bodies(1))
    receiver = ScriptedReceiver(lambda _: answers.pop(0) if answers else 204)
    delivery = uploader(spool, receiver)
    drive(delivery, receiver, spool)
    spool.unsealed, spool.dead = spool.dead, []  # retry-dead: the same event, the same key
    drive(delivery, receiver, spool)
    check(spool, receiver, 1, set())


@settings(deadline=None, max_examples=150)
@given(errs=st.lists(st.booleans(), max_size=300), count=st.integers(1, 12), batch=st.integers(1, 8))
def test_a_receiver_that_refuses_at_random_costs_no_event_without_two_refusals_and_two_canaries(errs, count, batch):
    statuses, sent = [400 if one else 204 for one in errs], []

    def judge(request):
        status = statuses[len(sent)] if len(sent) < len(statuses) else 204
        sent.append((request.is_canary or request.headers["Idempotency-Key"], status))
        return status

    spool, receiver = ScriptedSpool(bodies(count)), ScriptedReceiver(judge)
    delivery = uploader(spool, receiver, batch_events=batch)
    while spool.depth:
        buried = len(spool.dead)
        receiver.now += delivery._step(0) or 0.001
        if len(spool.dead) > buried:
            key = sent[-2][0]
            assert sent[-4:] == [(key, 400), (True, 204), (key, 400), (True, 204)]
    assert sorted(spool.acked + [seq for seq, _ in spool.dead]) == list(range(1, count + 1))


@pytest.mark.parametrize(("pause_s", "asked_again"), [(55, False), (65, True)])
def test_an_accepted_canary_is_proof_for_a_minute(pause_s, asked_again):
    busy, judge = [(503, {"Retry-After": str(pause_s)})], refusing({1})
    spool = ScriptedSpool(bodies(8))
    receiver = ScriptedReceiver(lambda request: busy.pop() if spool.splits and busy else judge(request))
    drive(uploader(spool, receiver), receiver, spool, until=lambda _: spool.splits == 2)
    assert [len(one.bodies) for one in receiver.requests if not one.is_canary] == [8, 4, 4]
    assert receiver.requests[-1].at >= pause_s
    assert receiver.requests[-1].is_canary is asked_again


def test_the_waits_begin_anew_after_an_acknowledgement():
    answers, waits = [503, 503, 503, 204, 503], []
    spool = ScriptedSpool(bodies(2))
    receiver = ScriptedReceiver(lambda _: answers.pop(0))
    delivery = uploader(spool, receiver, batch_events=1)
    while answers:
        delivery._step(0)
        wait_s = delivery.status().next_try_in_s
        if wait_s is not None:
            waits.append(wait_s)
            receiver.now += wait_s
    assert waits == [1, 2, 4, 1]


@pytest.mark.parametrize("status", [400, 415, 422])
def test_a_receiver_that_refuses_even_the_canary_costs_nothing(status):
    """This is what nginx does when a client certificate has expired: 400 to everything."""
    broken = True
    spool, receiver = ScriptedSpool(bodies(20)), ScriptedReceiver(lambda _: status if broken else 204)
    delivery = uploader(spool, receiver)
    held = drive(delivery, receiver, spool)
    assert held.state == "holding"
    assert held.reason.startswith(f"HTTP {status}: ")
    assert "to a canary too" in held.reason
    assert ("upstream.format and upstream.compression" if status == 415 else "client certificate missing") in held.reason
    assert 59 < held.next_try_in_s <= 60
    drive(delivery, receiver, spool, until=lambda now: now.canaries > 20)
    assert spool.dead == []
    assert spool.splits == 0
    broken = False
    drive(delivery, receiver, spool, until=lambda _: False)
    check(spool, receiver, 20, set())


def test_credentials_that_end_while_the_poison_is_sought_bury_nothing():
    ended = False
    judge = refusing({3})

    def until_alone(request):
        nonlocal ended
        ended = ended or (not request.is_canary and len(request.bodies) == 1)
        return 400 if ended else judge(request)

    spool, receiver = ScriptedSpool(bodies(8)), ScriptedReceiver(until_alone)
    held = drive(uploader(spool, receiver), receiver, spool)
    assert held.state == "holding"
    assert "to a canary too" in held.reason
    assert spool.dead == []
    assert spool.depth == 8 - len(spool.acked)


def test_a_canary_that_meets_a_busy_receiver_is_asked_again():
    answers = {2: (429, {"Retry-After": "30"}), 4: 503}
    judge = refusing({2})
    spool = ScriptedSpool(bodies(2))
    receiver = ScriptedReceiver(lambda request: answers.get(len(receiver.requests)) or judge(request))
    delivery = uploader(spool, receiver)
    put_off = drive(delivery, receiver, spool, until=lambda now: now.reason)
    assert (put_off.state, put_off.reason) == ("retrying", "HTTP 400: bad request; canary: HTTP 429: too many requests")
    assert 29 < put_off.next_try_in_s <= 30
    drive(delivery, receiver, spool)
    check(spool, receiver, 2, {2})
    assert receiver.requests[3].is_canary


@pytest.mark.parametrize(("status", "words"), [(401, "token or certificate refused"), (404, "upstream.url"), (301, "upstream.url")])
def test_a_canary_whose_answer_holds_holds(status, words):
    spool, receiver = ScriptedSpool(bodies(3)), ScriptedReceiver(lambda request: status if request.is_canary else 400)
    held = drive(uploader(spool, receiver), receiver, spool)
    assert held.state == "holding"
    assert held.reason.startswith(f"HTTP {status}: ")
    assert words in held.reason
    assert spool.depth == 3
    assert spool.splits == 0


def test_full_dead_letters_hold_until_there_is_room():
    spool, receiver = ScriptedSpool(bodies(8), dead_letters=1), ScriptedReceiver(refusing({2, 7}))
    delivery = uploader(spool, receiver)
    held = drive(delivery, receiver, spool)
    assert held.state == "holding"
    assert held.reason == ("HTTP 400: bad request, and the dead letters are full: vedette spool export, then retry-dead or drop-dead")
    assert [seq for seq, _ in spool.dead] == [2]
    assert spool.acked == [1, 3, 4, 5, 6]
    spool._room = 2
    drive(delivery, receiver, spool, until=lambda _: False)
    check(spool, receiver, 8, {2, 7})


def test_the_canary_goes_the_batchs_way_under_a_key_of_its_own():
    spool, receiver = ScriptedSpool(bodies(4), format_="ndjson", compression="none"), ScriptedReceiver(refusing({1}))
    drive(uploader(spool, receiver), receiver, spool)
    batch, canary = receiver.requests[:2]
    assert canary.bodies == [CANARY]
    assert canary.headers["Content-Type"] == batch.headers["Content-Type"] == "application/x-ndjson"
    assert "Content-Encoding" not in canary.headers
    assert canary.headers["Idempotency-Key"] != batch.headers["Idempotency-Key"]
    assert canary.headers["User-Agent"] == batch.headers["User-Agent"]


def test_the_heartbeat_is_beaten_before_each_request(monkeypatch):
    spool, beats = ScriptedSpool(bodies(4)), []
    receiver = ScriptedReceiver(lambda request: beats.append("request") or (204 if request.is_canary else 400))
    delivery = uploader(spool, receiver)
    monkeypatch.setattr(delivery._heartbeat, "beat", lambda: beats.append("beat"))
    delivery._step(0)
    assert beats == ["beat", "request"] * 2


def test_a_receiver_that_takes_nothing_but_canaries_is_not_hammered(caplog):
    caplog.set_level(logging.WARNING)
    spool = ScriptedSpool(bodies(1000), dead_letters=200)
    receiver = ScriptedReceiver(lambda request: 204 if request.is_canary else 422)
    held = drive(uploader(spool, receiver, batch_events=100), receiver, spool, most=20_000)
    assert "dead letters are full" in held.reason
    assert len(spool.dead) == 200
    refused = [one.at for one in receiver.requests if not one.is_canary]
    assert len(refused) > 400
    for at in refused:
        assert sum(at <= other < at + 60 for other in refused) <= 60 + 62  # the first sixty at once, then one a second
    assert sum(other >= 120 for other in refused) <= receiver.now - 120 + 2
    assert len(receiver.requests) <= 2 * len(refused)


def too_large(limit):
    return lambda request: 413 if sum(map(len, request.bodies)) > limit else 204


def test_batches_that_are_too_large_are_halved_and_new_ones_are_smaller_for_an_hour():
    spool, receiver = ScriptedSpool(bodies(32)), ScriptedReceiver(lambda request: 413 if len(request.bodies) > 3 else 204)
    delivery = uploader(spool, receiver, batch_events=16)
    drive(delivery, receiver, spool)
    check(spool, receiver, 32, set())
    assert receiver.canaries == 0
    # 16, 8, 4 refused; the rest of that batch is halved as it comes; then new batches have 2.
    assert [len(one.bodies) for one in receiver.requests][:6] == [16, 8, 4, 2, 2, 4]
    assert [len(one.bodies) for one in receiver.requests][-8:] == [2] * 8
    receiver.now += HOUR
    spool.unsealed = list(enumerate(bodies(48), 1))[32:]
    delivery._step(0)
    assert len(receiver.requests[-1].bodies) == 16


def test_one_event_that_is_too_large_is_buried_and_the_others_keep_their_batches():
    texts = bodies(24)
    texts[4] = texts[4][:-1] + b',"padding":"' + b"x" * 2000 + b'"}'
    spool, receiver = ScriptedSpool(texts), ScriptedReceiver(too_large(1000))
    drive(uploader(spool, receiver), receiver, spool)
    check(spool, receiver, 24, {5})
    assert receiver.canaries == 2
    assert spool.buried_why == ["HTTP 413: too large for the receiver"]
    assert len(receiver.requests[-1].bodies) == 8


def test_a_receiver_too_small_for_a_canary_buries_nothing():
    spool, receiver = ScriptedSpool(bodies(4)), ScriptedReceiver(too_large(1))
    held = drive(uploader(spool, receiver), receiver, spool)
    assert held.state == "holding"
    assert "raise its limit" in held.reason
    assert spool.dead == []


def test_the_bandwidth_is_kept_on_average_and_waiting_shows_as_sending():
    spool, receiver = ScriptedSpool(bodies(64), compression="none"), ScriptedReceiver(lambda _: 204)
    delivery = uploader(spool, receiver, bandwidth=10.0)
    waiting = drive(delivery, receiver, spool, until=lambda now: now.next_try_in_s)
    assert waiting.state == "sending"
    assert waiting.reason == ""
    drive(delivery, receiver, spool)
    check(spool, receiver, 64, set())
    for i, first in enumerate(receiver.requests):
        for j, last in enumerate(receiver.requests[i + 1:], i + 1):
            sent = sum(one.size for one in receiver.requests[i:j])  # what the last one costs is paid after it
            assert sent <= 10 * (last.at - first.at + 5) + max(one.size for one in receiver.requests)
    assert receiver.now > sum(one.size for one in receiver.requests[:-1]) / 10 - 6


def test_without_a_cap_nothing_waits():
    spool, receiver = ScriptedSpool(bodies(64)), ScriptedReceiver(lambda _: 204)
    drive(uploader(spool, receiver), receiver, spool)
    assert receiver.now < 1


def test_drain_does_not_wait_for_bandwidth_past_its_time():
    spool, receiver = ScriptedSpool(bodies(64)), ScriptedReceiver(lambda _: 204)
    delivery = uploader(spool, receiver, bandwidth=1.0)
    assert not delivery.drain(30)
    assert len(receiver.requests) == 1
    assert receiver.now == 0


@pytest.mark.parametrize("trust", ["synchronised", "unsynchronised", "implausible", "unknown"])
def test_the_clocks_trust_is_shown(trust):
    spool, receiver = ScriptedSpool(), ScriptedReceiver(lambda _: 204)
    assert uploader(spool, receiver, trust=trust).status().clock == trust
