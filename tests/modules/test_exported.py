"""A model that carries its loss, in the hands of TorchScript, torch.export and torch.compile."""

from __future__ import annotations

import copy
import inspect
import io
import sys

import pytest
import torch
from torch import nn

from pauc import PAUCAtBudgetLoss
from tests.modules.test_held_queue import batch, same, trained

pytestmark = [
    pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]
by_script = pytest.mark.skipif(
    sys.version_info >= (3, 14), reason="TorchScript has no support for Python 3.14"
)


class Scriptable(nn.Module):
    """Calls its loss in training alone, in code that TorchScript can compile."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 1)
        self.pauc_loss = PAUCAtBudgetLoss(1, beta=0.2, queue_size=64)

    def forward(self, features: torch.Tensor, targets: torch.Tensor):
        logits = self.net(features)
        if self.training:
            return self.pauc_loss(logits, targets)
        return logits


class Silent(Scriptable):
    """Carries the loss without a call of it."""

    def forward(self, features: torch.Tensor, targets: torch.Tensor):
        return self.net(features) + 0 * targets.sum()


def test_the_signature_is_that_of_the_call():
    parameters = inspect.signature(PAUCAtBudgetLoss(1).forward).parameters
    assert parameters["sample_weight"].kind is inspect.Parameter.KEYWORD_ONLY
    assert list(parameters)[:3] == ["logits", "targets", "iid_mask"]


def reloaded(scripted):
    stream = io.BytesIO()
    torch.jit.save(scripted, stream)
    stream.seek(0)
    return torch.jit.load(stream)


@by_script
@pytest.mark.parametrize("kind", [Scriptable, Silent])
def test_a_scripted_model_predicts_and_refuses_to_train(kind):
    model = kind()
    model(*batch(0))
    scripted = torch.jit.script(model)
    for one in (scripted, reloaded(scripted)):
        assert torch.equal(one.eval()(*batch(1)), model.eval()(*batch(1)))
        # TorchScript knows of no buffer that is left out of a state_dict.
        assert set(one.state_dict()) == {"net.weight", "net.bias", "pauc_loss.queue_mark"}
    model.train()(*batch(1))
    if kind is Scriptable:
        assert int(model.pauc_loss.queue_fill) == 60
        with pytest.raises(torch.jit.Error, match=r"went through torch\.jit\.script"):
            scripted.train()(*batch(1))


@by_script
def test_a_traced_model_predicts_and_a_trace_of_training_is_refused():
    model = trained()
    with pytest.raises(RuntimeError, match=r"eval\(\) for torch\.jit\.trace"):
        torch.jit.trace(model, batch(1))
    assert int(model.pauc_loss.queue_step) == 5
    traced = torch.jit.trace(model.eval(), batch(1)[0])
    assert torch.equal(traced(batch(2)[0]), model(batch(2)[0]))


@pytest.mark.slow
@pytest.mark.parametrize("strict", [True, False])
def test_an_exported_model_predicts(strict):
    model = trained().eval()
    exported = torch.export.export(model, batch(1)[:1], strict=strict)
    assert set(exported.state_dict) == {"net.weight", "net.bias"}
    assert torch.equal(exported.module()(batch(2)[0]), model(batch(2)[0]))


@pytest.mark.slow
def test_an_exported_step_goes_on_as_the_model():
    model = trained()
    twin = copy.deepcopy(model)
    exported = torch.export.export(model, batch(1)).module()
    for seed in range(2, 6):
        torch.testing.assert_close(exported(*batch(seed)), twin(*batch(seed)), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_compiled_copy_trains_on_its_own():
    torch._dynamo.reset()
    model = trained(validate_args=False)
    copies = copy.deepcopy(model), copy.deepcopy(model)
    compiled = torch.compile(copies[0].pauc_loss, fullgraph=True, backend="aot_eager")
    for seed in range(3):
        logits, targets = torch.randn(30, 1), batch(seed)[1]
        torch.testing.assert_close(
            compiled(logits, targets), copies[1].pauc_loss(logits, targets), rtol=0, atol=1e-6
        )
    assert same(copies[0].pauc_loss.queue, copies[1].pauc_loss.queue)
