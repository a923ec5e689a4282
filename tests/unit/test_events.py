from __future__ import annotations

from appliance.supervisor.events import MAX_WAITING, EventFeed, ModelEvent


def test_a_watcher_gets_what_comes_while_it_watches() -> None:
    feed = EventFeed()
    feed.publish("loading", "a")
    with feed.watch() as queue:
        feed.publish("ready", "a", load_s=1.5)
    feed.publish("draining", "a")
    event = queue.get_nowait()
    assert (event.kind, event.model, event.fields) == ("ready", "a", {"load_s": 1.5})
    assert queue.empty()


def test_each_watcher_gets_everything() -> None:
    feed = EventFeed()
    with feed.watch() as first, feed.watch() as second:
        feed.publish("ready", "a")
    assert first.get_nowait() is second.get_nowait()


def test_a_watcher_that_is_too_slow_misses_the_oldest_and_holds_up_nobody() -> None:
    feed = EventFeed()
    with feed.watch() as queue:
        for number in range(MAX_WAITING + 3):
            feed.publish("progress", "a", number=number)
        numbers = [queue.get_nowait().fields["number"] for _ in range(queue.qsize())]
    assert numbers == list(range(3, MAX_WAITING + 3))


def test_a_listener_is_called_at_once() -> None:
    feed, heard = EventFeed(), list[ModelEvent]()
    feed.listen(heard.append)
    feed.publish("ready", "a")
    assert [event.kind for event in heard] == ["ready"]
