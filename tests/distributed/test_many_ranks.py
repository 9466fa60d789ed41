"""Many ranks against one process: parameters, queues, errors and what goes over the wire."""

from __future__ import annotations

import math

import pytest
import torch

from pauc import PAUCAtBudgetLoss
from tests.distributed import ranks
from tests.distributed.ranks import (
    CASES,
    COMPANIONS,
    EVEN_CASES,
    GROUP_TIMEOUT,
    MODEL_CASE,
    SHARDED,
    STEPS,
)

pytestmark = pytest.mark.slow

# Two first: it leaves the checkpoint that the others go on from.
WORLDS = (2, 1, 3, 4)
HEADER = 7 * 8  # seven int64
worlds = pytest.mark.parametrize("world", WORLDS)
several = pytest.mark.parametrize("world", [2, 3, 4])


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Return a function from the number of ranks to what the checks returned on each rank."""
    folder, found = tmp_path_factory.mktemp("ranks"), {}

    def of(world):
        for earlier in WORLDS[: WORLDS.index(world) + 1]:
            if earlier not in found:
                found[earlier] = ranks.run_ranks(earlier, ranks.all_checks, folder, folder)
        return found[world]

    return of


@pytest.fixture(scope="module")
def reference():
    """Return a function from options and dtype to the result of one process."""
    found = {}

    def of(options, dtype=torch.float64):
        key = (str(options), dtype)
        if key not in found:
            found[key] = ranks.train(options, dtype)
        return found[key]

    return of


def distance(result, expected):
    """Return how far two runs' parameters are apart, relative to the length of the vector."""
    return ((result - expected).norm() / expected.norm()).item()


def assert_same_run(result, expected, tolerance, first=0):
    assert distance(result["parameters"], expected["parameters"]) <= tolerance
    # One row's score or loss may amplify what is rounding in the parameters.
    near = {"rtol": 10 * tolerance, "atol": 10 * tolerance}
    losses = torch.tensor([result["losses"], expected["losses"][first:]], dtype=torch.float64)
    torch.testing.assert_close(*losses, **near)
    for name, stored in result["queue"].items():
        torch.testing.assert_close(stored, expected["queue"][name], **near)


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@pytest.mark.parametrize("case", CASES)
def test_the_runs_move_the_parameters_far(reference, case):
    start = ranks.make_model(CASES[case].get("num_classes", 1))
    start = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert distance(reference(CASES[case])["parameters"], start) > 0.1


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@worlds
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("case", CASES)
def test_as_one_process(results, reference, case, dtype, world):
    # Sums in another order. In float32, 20 steps of one process are up to 3e-6 from float64.
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    expected = reference(CASES[case], getattr(torch, dtype))
    found = [result[dtype][case] for result in results(world)]
    for result in found:
        assert_same_run(result, expected, tolerance)
        assert result["digests"] == found[0]["digests"]
        assert result["losses"] == found[0]["losses"]


@pytest.mark.filterwarnings("ignore:(RecallAtQuantileLoss|SmoothAPLoss)")
@worlds
@pytest.mark.parametrize("case", COMPANIONS)
def test_the_companions_as_one_process(results, reference, case, world):
    expected = reference(COMPANIONS[case])
    start = ranks.make_model(COMPANIONS[case].get("num_classes", 1))
    start = torch.cat([p.detach().flatten() for p in start.parameters()])
    assert distance(expected["parameters"], start) > 0.1
    found = [result["companions"][case] for result in results(world)]
    for result in found:
        assert_same_run(result, expected, 1e-10)
        assert result["digests"] == found[0]["digests"]


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@worlds
@pytest.mark.parametrize("kind", ["inside", "sharded", "sharded around"])
def test_as_one_process_however_the_model_is_wrapped(results, reference, kind, world):
    for result in results(world):
        assert_same_run(result["models"][kind], reference(MODEL_CASE), 1e-10)


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
def test_in_a_compiled_model(results, reference):
    for result in results(2):
        assert_same_run(result["models"]["compiled"], reference(MODEL_CASE), 1e-10)


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@pytest.mark.parametrize("world", [1, 3, 4])
def test_resume_at_another_number_of_ranks(results, reference, world):
    for result in results(world):
        assert_same_run(result["resumed"], reference(MODEL_CASE), 1e-10, first=STEPS // 2)


@worlds
def test_two_collectives_and_their_bytes(results, world):
    expected = {
        "binary": 12 * (4 + 4),
        "half": 12 * (4 + 4),
        "weighted": 12 * (4 * 4 + 4 + 4),
        "double": 12 * (4 * 8 + 8 + 4),
        "multilabel": 12 * (3 * 4 + 4 + 4),  # 3 labels and the iid bit in one word
        "multilabel, more": 12 * (4 * 8 + 8),
    }
    for result in results(world):
        for name, payload in expected.items():
            assert [sent for _, sent in result["traffic"][name]] == [HEADER, payload], name


@several
def test_ddp_broadcasts_one_number_and_not_the_queue(results, world):
    for result in results(world):
        sent = [sent for name, sent in result["traffic"]["inside"] if "broadcast" in name]
        assert sent == [4]


@several
@pytest.mark.parametrize(
    ("what", "named"),
    [
        ("option", "beta: 0.3 on rank {0}, 0.31 on rank {1}"),
        ("quantile", "quantile: 0.3 on rank {0}, 0.31 on rank {1}"),
        ("multilabel", "multilabel: False on rank {0}, True on rank {1}"),
        ("queue_size", "queue_size: 64 on rank {0}, 32 on rank {1}"),
        ("num_classes", "num_classes: 3 on rank {0}, 4 on rank {1}"),
        ("weights", "sample_weight is given: False on rank {0}, True on rank {1}"),
        ("queue", "queue step: 0 on rank {0}, 5 on rank {1}"),
        ("mode", "training: True on rank {0}, False on rank {1}"),
    ],
)
def test_ranks_that_disagree_are_named(results, what, named, world):
    agreeing = ", ".join(str(rank) for rank in range(world - 1))
    for result in results(world):
        assert result["errors"][what].startswith("ValueError: all ranks must have the same")
        assert named.format(agreeing, world - 1) in result["errors"][what]


@several
@pytest.mark.parametrize(
    ("what", "own"),
    [
        ("targets", "ValueError: targets must be whole numbers in 0..2"),
        ("bad weight", "ValueError: sample_weight must be finite and non-negative, got -1.0"),
        ("shape", "ValueError: targets must be [5] or [5, 1]"),
        ("type", "TypeError: targets must be a torch.Tensor, got NoneType"),
        ("shards", "ValueError: targets must be whole numbers in 0..2"),
    ],
)
def test_a_refused_rank_is_an_error_everywhere(results, what, own, world):
    *others, last = results(world)
    assert last["errors"][what].startswith(own)
    for result in others:
        assert result["errors"][what].startswith("RuntimeError: no step was taken")
        assert f"rank {world - 1} ({own}" in result["errors"][what]


@worlds
def test_after_an_error_nothing_has_entered_and_a_mask_may_be_partial(results, world):
    for result in results(world):
        if world > 1:
            assert result["errors"]["nothing has entered"] == (0, 0)
        assert result["errors"]["then"] is None


@worlds
def test_rows_that_do_not_count(results, world):
    for result in results(world):
        odd = result["odd"]
        assert odd["empty"] == odd["ignored"] == odd["negatives"] == (0.0, 0.0)
        gradient, fill = odd["nan"]
        assert math.isnan(gradient)  # as in one process: a gradient scaler on any rank sees it
        assert fill == world - 1


@worlds
def test_precisions(results, world):
    found = [result["half"] for result in results(world)]
    for name in found[0]:
        wide = torch.float64 if name == "float32 and float64" and world > 1 else torch.float32
        for result in found:
            dtype, gradient_has_own_dtype, digest, loss = result[name]
            assert dtype == wide
            assert gradient_has_own_dtype
            assert (digest, loss) == found[0][name][2:]


@worlds
@pytest.mark.parametrize("kind", ["diagnostics", "multilabel diagnostics"])
def test_diagnostics_are_of_all_rows_but_for_the_positives_of_this_rank(results, world, kind):
    found = [result[kind] for result in results(world)]
    for result in found:
        stats = dict(result["stats"])
        assert stats["realised_fpr"].isfinite().all()
        own = stats.pop("grad_pos_count")
        assert own.tolist() == [
            n if v else 0 for n, v in zip(result["own"], result["valid"], strict=True)
        ]
        for name, value in stats.items():
            torch.testing.assert_close(value, result["whole"][name], equal_nan=True)
    total = sum(result["stats"]["grad_pos_count"] for result in found)
    assert torch.equal(total, found[0]["whole"]["grad_pos_count"])


@worlds
def test_only_the_ranks_of_the_group(results, world):
    members = results(world)[: max(1, world - 1)]
    for result in members:
        group = result["group"]
        assert group["loss"] == pytest.approx(group["of one process"], rel=1e-12)
        assert group["copied"]  # deepcopy, over the same group
        assert group["unpickled"]  # without a group


@pytest.mark.parametrize(
    ("dtype", "world"),
    [("float64", 1), ("float64", 2), ("float64", 3), ("float64", 4), ("float32", 2)],
)
@pytest.mark.parametrize("case", SHARDED)
def test_a_sharded_queue_gives_the_loss_of_all_its_rows(results, case, dtype, world):
    near = 1e-12 if dtype == "float64" else 2e-6
    queue_size = SHARDED[case].get("queue_size", 64)
    for result in results(world):
        run = result["shards"][dtype][case]
        assert run["rows"] == math.ceil(queue_size / world)
        for step in run["steps"]:
            *found, gradient = step["result"]
            *expected, of_all = step["expected"]
            # A gradient is small beside the sums of which it is the difference.
            atol = near * (1 + of_all.abs().max().item() if of_all.numel() else 1)
            torch.testing.assert_close(gradient, of_all, rtol=near, atol=atol)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=near, atol=near, equal_nan=True)


@worlds
@pytest.mark.parametrize("case", SHARDED)
def test_the_diagnostics_of_a_sharded_queue(results, case, world):
    for result in results(world):
        for step in result["shards"]["float64"][case]["steps"]:
            stats, expected = step["stats"]
            assert stats.keys() == expected.keys()
            assert stats["pauc"].isnan().all()
            assert stats["realised_fpr"].isnan().all()
            for name in stats.keys() - {"pauc", "realised_fpr"}:
                torch.testing.assert_close(stats[name], expected[name], equal_nan=True, msg=name)


@pytest.mark.filterwarnings("ignore:PAUCAtBudgetLoss")
@worlds
@pytest.mark.parametrize("case", EVEN_CASES)
def test_training_with_a_sharded_queue_is_that_of_one_process(results, reference, case, world):
    expected = reference(EVEN_CASES[case])
    for result in results(world):
        assert distance(result["even"][case]["parameters"], expected["parameters"]) <= 1e-10
        assert result["even"][case]["losses"] == pytest.approx(expected["losses"], rel=1e-10)


@worlds
def test_what_a_sharded_queue_exchanges(results, world):
    header, totals, digits = 5 * 8, 6 * 8, 256 * 4
    for result in results(world):
        # Two edges and two quartiles; nothing depends on the number of rows.
        sent = [sent for _, sent in result["traffic"]["sharded"]]
        assert sent == [header, totals, *[4 * digits] * 4, 4 * 8]
        # The two edges; of 5 W negatives, those in the band: counts, scores and gradients.
        sent = [sent for _, sent in result["traffic"]["sharded pairwise"]]
        *fixed, counts, scores, sums = sent
        assert fixed == [header, totals, *[2 * digits] * 4]
        assert counts == 2 * 8
        assert scores == 4 * 2  # FPR 0 to 0.3 reaches the highest two values, on each rank
        assert sums == 8 * (4 + 2 * world)


@worlds
def test_a_non_finite_row_of_a_sharded_queue(results, world):
    for rank, result in enumerate(results(world)):
        value, gradient_is_finite, fill = result["odd"]["nan in a shard"]
        assert math.isnan(value)
        assert gradient_is_finite == (rank > 0)  # after the average over ranks none is
        assert fill == (rank > 0)


def test_a_queue_that_cannot_be_sharded():
    with pytest.raises(RuntimeError, match=r"shard_queue=True needs .*init_process_group"):
        PAUCAtBudgetLoss(1, shard_queue=True)
    with pytest.raises(ValueError, match="gather_distributed=False"):
        PAUCAtBudgetLoss(1, shard_queue=True, gather_distributed=False)
    with pytest.raises(ValueError, match="max_pool_size=100"):
        PAUCAtBudgetLoss(1, shard_queue=True, max_pool_size=100)
    basis = {"budget_basis": "precision", "precision": 0.5, "base_rate": 0.1}
    with pytest.raises(ValueError, match=r"a sharded queue takes .*, got budget_basis='precision'"):
        PAUCAtBudgetLoss(1, shard_queue=True, **basis)
    with pytest.raises(TypeError, match="shard_queue must be a bool"):
        PAUCAtBudgetLoss(1, shard_queue=1)


@pytest.mark.parametrize("world", [2, 3])
def test_a_rank_that_dies_is_an_error_on_the_others(world, tmp_path):
    *others, dead = ranks.run_ranks(world, ranks.outlive, tmp_path)
    assert dead is None
    for seconds, message, step in others:
        assert seconds < GROUP_TIMEOUT.total_seconds() + 5
        assert message
        assert step == 1


def test_no_group_no_gathering():
    logits, targets = torch.randn(9, 1), torch.arange(9) % 2
    PAUCAtBudgetLoss(1)(logits, targets)
    with pytest.raises(RuntimeError, match="gather_distributed=True needs"):
        PAUCAtBudgetLoss(1, gather_distributed=True)(logits, targets)


@pytest.mark.parametrize("keywords", [{"gather_distributed": 1}, {"process_group": -100}])
def test_constructor_rejects(keywords):
    (name,) = keywords
    with pytest.raises(TypeError, match=rf"{name} must be .*None, got"):
        PAUCAtBudgetLoss(1, **keywords)
