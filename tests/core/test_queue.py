"""The queue against a deque, by a state machine, and its behaviour in the module."""

from __future__ import annotations

import math
from collections import deque

import hypothesis.strategies as st
import pytest
import torch
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pauc import PAUCAtBudgetLoss, enqueue, init_queue, queue_rows, resize_queue

IGNORE = -100


def rows_of(queue):
    """The queue's rows, oldest first, as plain Python values."""
    slots = queue_rows(queue)[: int(queue.fill)].tolist()
    return [
        (
            queue.scores[:, slot].tolist(),
            int(queue.targets[slot]),
            bool(queue.iid[slot]),
            float(queue.weight[slot]),
        )
        for slot in slots
    ]


class QueueMachine(RuleBasedStateMachine):
    @initialize(size=st.integers(0, 9), num_classes=st.integers(1, 3))
    def start(self, size, num_classes):
        self.loss = PAUCAtBudgetLoss(num_classes, queue_size=size, tau_scale="unit")
        self.model = deque(maxlen=size)
        self.seen = 0

    def batch(self, data, count):
        classes = self.loss.num_classes
        targets = data.draw(
            st.lists(
                st.sampled_from([*range(max(classes, 2)), IGNORE]), min_size=count, max_size=count
            )
        )
        broken = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        iid = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
        weight = data.draw(
            st.lists(st.sampled_from([0.0, 0.5, 2.0]), min_size=count, max_size=count)
        )
        # Every score is new, so that a row in the wrong place cannot hide.
        scores = torch.arange(self.seen, self.seen + count * classes).float().view(count, classes)
        self.seen += count * classes
        for row, bad in enumerate(broken):
            if bad:
                scores[row, -1] = data.draw(st.sampled_from([math.nan, math.inf, -math.inf]))
        return scores, torch.tensor(targets, dtype=torch.int64), iid, weight, broken

    @rule(data=st.data(), count=st.integers(0, 25), training=st.booleans())
    def step(self, data, count, training):
        scores, targets, iid, weight, broken = self.batch(data, count)
        self.loss.train(training)
        loss = self.loss(
            scores,
            targets,
            torch.tensor(iid, dtype=torch.bool),
            sample_weight=torch.tensor(weight, dtype=torch.float32),
        )
        broken_present = any(b and t != IGNORE for b, t in zip(broken, targets, strict=True))
        assert math.isfinite(loss.item()) is not broken_present
        if not training:
            return
        for row in range(count):
            if targets[row] != IGNORE and not broken[row]:
                self.model.append((scores[row].tolist(), int(targets[row]), iid[row], weight[row]))

    @rule(size=st.integers(0, 9))
    def load_into_another_size(self, size):
        other = PAUCAtBudgetLoss(self.loss.num_classes, queue_size=size, tau_scale="unit")
        other.load_state_dict(self.loss.state_dict())
        self.loss, self.model = other, deque(self.model, maxlen=size)

    @rule()
    def reset(self):
        self.loss.reset_queue()
        self.model.clear()

    @invariant()
    def same_rows(self):
        if hasattr(self, "loss"):
            assert rows_of(self.loss.queue) == list(self.model)


TestQueueMachine = pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")(QueueMachine.TestCase)


def test_enqueue_leaves_its_argument_alone():
    before = init_queue(4, 2)
    kept = [tensor.clone() for tensor in before]
    after = enqueue(before, torch.randn(3, 2), torch.tensor([0, 1, 0]))
    assert all(torch.equal(a, b) for a, b in zip(before, kept, strict=True))
    assert int(after.fill) == 3
    assert int(after.step) == 1


def test_queue_holds_no_graph():
    logits = torch.randn(5, 1, requires_grad=True)
    queue = enqueue(init_queue(4, 1), logits, torch.zeros(5, dtype=torch.int64))
    assert not any(tensor.requires_grad for tensor in queue)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_queue_dtype(dtype, expected):
    queue = enqueue(init_queue(4, 1), torch.randn(2, 1, dtype=dtype), torch.tensor([0, 1]))
    assert queue.scores.dtype == queue.weight.dtype == expected


def test_resize_keeps_the_newest_in_order():
    queue = init_queue(5, 1)
    for start in (0, 4):  # wraps
        queue = enqueue(
            queue, torch.arange(start, start + 4.0).unsqueeze(1), torch.zeros(4, dtype=torch.int64)
        )
    assert [row[0] for row in rows_of(queue)] == [[3.0], [4.0], [5.0], [6.0], [7.0]]
    assert [row[0] for row in rows_of(resize_queue(queue, 2))] == [[6.0], [7.0]]
    larger = resize_queue(queue, 8)
    assert [row[0] for row in rows_of(larger)] == [[3.0], [4.0], [5.0], [6.0], [7.0]]
    larger = enqueue(larger, torch.tensor([[8.0]]), torch.tensor([0]))
    assert [row[0] for row in rows_of(larger)][-1] == [8.0]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-1, 1), ValueError, "queue_size"),
        ((1.5, 1), TypeError, "queue_size"),
        ((True, 1), TypeError, "queue_size"),
        ((4, 0), ValueError, "num_classes"),
    ],
)
def test_init_queue_rejects(arguments, error, message):
    with pytest.raises(error, match=message):
        init_queue(*arguments)


def test_init_queue_rejects_dtype():
    with pytest.raises(ValueError, match="dtype"):
        init_queue(4, 1, dtype=torch.float16)


@pytest.mark.parametrize(
    ("logits", "targets", "keywords", "message"),
    [
        (torch.zeros(2, 1), torch.zeros(2), {}, "columns"),
        (torch.zeros(2, 3), torch.tensor([0, 7]), {}, "7 in row 1"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.5]), {}, "1.5 in row 1"),
        (torch.zeros(2, 3), torch.zeros(3), {}, "targets"),
        (torch.zeros(2, 3), torch.zeros(2), {"iid_mask": torch.ones(9).bool()}, "iid_mask"),
        (torch.zeros(2, 3), torch.zeros(2), {"sample_weight": -torch.ones(2)}, "sample_weight"),
    ],
)
def test_enqueue_rejects(logits, targets, keywords, message):
    with pytest.raises(ValueError, match=message):
        enqueue(init_queue(4, 3), logits, targets, **keywords)
