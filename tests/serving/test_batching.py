"""`tsn/serving/batching.py`: who comes next, and that nobody is forgotten."""

import threading

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tsn.serving.batching import BATCH_TEXTS, Failure, Queue, QueueFull, Request

PARAMETERS = {"max_words": 50, "overlap_words": 0}
DOCUMENT = "A sentence of some words stands here. " * 200


def queue(limit=1000, max_wait=0.0, workers=1):
    ended = []
    made = Queue(limit, max_wait, workers, ended.extend)
    made.ended = ended
    return made


def request(*texts):
    return Request(list(texts), PARAMETERS)


def kinds(batch):
    return [task.kind for task in batch]


def reply(made, batch):
    made.finish(batch, [task.content for task in batch])


def test_the_oldest_texts_go_first_in_batches():
    made = queue()
    requests = [request("x" * (7 * i % 50 + 1)) for i in range(3 * BATCH_TEXTS)]
    for one in requests:
        made.put(one)
    made.cancel(requests[1])
    batches = [made.take() for _ in range(3)]
    assert [task.request for batch in batches for task in batch] == requests[:1] + requests[2:]
    for batch in batches:
        reply(made, batch)
    answered = set(requests) - {requests[1]}
    assert set(made.ended) == answered and all(one.answers == one.texts for one in answered) and made.texts == 0


def test_a_batch_of_long_texts_has_fewer():
    made = queue()
    made.put(request(*["x" * 1000] * 5))
    assert [len(made.take()) for _ in range(3)] == [2, 2, 1]
    gone = request("x" * 1000)
    for one in (request("a"), gone, request("x" * 1000), request("x" * 1000)):
        made.put(one)
    made.cancel(gone)
    assert len(made.take()) == 3  # a cancelled text takes no room


def test_few_texts_are_divided_among_the_workers():
    made = queue(workers=4)
    made.put(request(*"abcdefgh"))
    assert [len(made.take()) for _ in range(6)] == [2, 2, 1, 1, 1, 1]  # the last two for whoever is done first


def test_a_text_waits_for_others_only_so_long():
    made = queue(max_wait=30.0)
    made.put(request("x"))
    taken = []
    thread = threading.Thread(target=lambda: taken.append(made.take(60)))
    thread.start()
    thread.join(0.2)
    assert not taken
    made.put(request(*"y" * (BATCH_TEXTS - 1)))  # a full batch waits no longer
    thread.join()
    assert len(taken[0]) == BATCH_TEXTS
    soon = queue(max_wait=0.01)
    soon.put(request("x"))
    assert len(soon.take(60)) == 1


def test_a_short_text_waits_for_one_piece_of_a_document_at_most():
    made = queue()
    made.put(request(DOCUMENT))
    running = made.take()
    assert kinds(running) == ["piece"] and len(running[0].content) < 320
    made.put(request("short"))
    assert kinds(made.take()) == ["text"]  # a piece is running, which it may have waited for
    made.put(request("short"))
    reply(made, running)
    assert kinds(made.take()) == ["text"]  # it was there while the piece ran
    made.put(request("older"))
    made.put(request("younger"))
    piece = made.take()
    assert kinds(piece) == ["piece"]  # these two have not waited for one yet: the document is not forgotten either
    reply(made, piece)
    assert kinds(made.take()) == ["text"] * 2
    assert kinds(made.take()) == ["piece"]


def test_documents_take_turns_and_are_joined_at_the_end():
    made = queue()
    long, longer = request(DOCUMENT), request(DOCUMENT * 2)
    made.put(longer)
    made.put(long)
    turns = []
    while not long.ended or not longer.ended:
        batch = made.take()
        turns.append(batch[0].request)
        if batch[0].kind == "join":
            assert "".join(batch[0].content).replace(" ", "") == batch[0].request.texts[0].replace(" ", "")
        reply(made, batch)
    assert turns[:6] == [longer, long] * 3 and turns.count(longer) > 40
    assert made.ended == [long, longer] and made.texts == made.characters == 0


def test_a_full_queue_takes_nothing_and_room_comes_back():
    made = queue(limit=3)
    first = request("a", "b")
    made.put(first)
    refused = request("c", "d")
    with pytest.raises(QueueFull):
        made.put(refused)
    made.cancel(refused)
    assert made.texts == 2
    made.cancel(first)
    made.cancel(first)
    assert made.texts == 0
    made.put(request("c", "d", "e"))
    assert [task.content for task in made.take()] == ["c", "d", "e"] and made.ended == []


def test_a_batch_of_a_dead_worker_is_tried_once_more_text_by_text():
    made = queue()
    deadly, innocent = request("deadly"), request("innocent")
    made.put(deadly)
    made.put(innocent)
    made.give_back(made.take())
    for _ in range(2):
        batch = made.take()
        assert len(batch) == 1
        if batch[0].content == "deadly":
            made.give_back(batch)
        else:
            reply(made, batch)
    assert deadly.failure.status == 503 and innocent.answers == ["innocent"] and set(made.ended) == {deadly, innocent}


def test_closing_fails_what_waits():
    made = queue()
    waiting = [request("a"), request(DOCUMENT)]
    for one in waiting:
        made.put(one)
    made.close()
    assert made.take() is None and set(made.ended) == set(waiting)
    assert all(one.failure.status == 503 for one in waiting)
    with pytest.raises(QueueFull):
        made.put(request("b"))


class Callers(RuleBasedStateMachine):
    """Whatever callers, workers and kills do: each request ends once, with its own answers or a failure."""

    def __init__(self):
        super().__init__()
        self.queue, self.requests, self.running, self.cancelled = queue(limit=30), [], [], set()

    @rule(texts=st.lists(st.sampled_from(["", "a", "bb", DOCUMENT[:1500], "x" * 1300]), min_size=1, max_size=4))
    def put(self, texts):
        made = request(*(f"{len(self.requests)} {text}" for text in texts))
        try:
            self.queue.put(made)
            self.requests.append(made)
        except QueueFull:
            self.queue.cancel(made)
            assert self.queue.texts + len(texts) > 30

    @rule()
    def take(self):
        batch = self.queue._next()  # `take` would wait where nothing is left
        if batch:
            self.running.append(batch)

    @rule(data=st.data(), outcome=st.sampled_from(["answered", "answered", "killed", "failed"]))
    def end_batch(self, data, outcome):
        if self.running:
            batch = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            if outcome == "answered":
                reply(self.queue, batch)
            elif outcome == "killed":
                self.queue.give_back(batch)
            else:
                self.queue.finish(batch, [Failure(422, "so it goes")] * len(batch))

    @rule(data=st.data())
    def cancel(self, data):
        if self.requests:
            made = data.draw(st.sampled_from(self.requests))
            if not made.ended:
                self.cancelled.add(made)
            self.queue.cancel(made)

    @invariant()
    def nothing_is_lost_or_mixed_up(self):
        live = [made for made in self.requests if not made.ended]
        assert self.queue.texts == sum(len(made.texts) for made in live)
        assert self.queue.characters == sum(made.characters for made in live)
        assert len(self.queue.ended) == len(set(self.queue.ended)) and not self.cancelled & set(self.queue.ended)
        assert {made for made in self.requests if made.ended} == set(self.queue.ended) | self.cancelled
        for made in self.queue.ended:
            for text, answer in zip(made.texts, made.answers if made.failure is None else ()):
                joined = answer if isinstance(answer, str) else "".join(answer)
                assert joined.replace(" ", "") == text.replace(" ", "")

    def teardown(self):
        while batch := self.running.pop() if self.running else self.queue._next():
            reply(self.queue, batch)
        assert all(made.ended for made in self.requests) and self.queue.texts == 0


TestCallers = Callers.TestCase
