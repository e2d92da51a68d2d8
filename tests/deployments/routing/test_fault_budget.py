import pytest

from deployments.routing.fault_budget import MEMORY_S, SAME_CAUSE_S, FaultBudget, TrialSink
from engines.call_requests import EmbedRequest
from engines.errors import EngineFault, InstanceLost, Quarantined
from engines.events import Finished, Started, TextDelta, Usage
from engines.requests import GenerateRequest, Resume, Sampling, Session, TenantShare
from tests.clock import Clock

POISON = GenerateRequest(model="m", prompt="poison")


def bystander(number: int) -> GenerateRequest:
    return GenerateRequest(model="m", prompt=f"bystander {number}")


class Budget(FaultBudget):
    """A budget on a clock that the test sets, in a fleet whose nodes live unless they are said to be dead."""

    def __init__(self) -> None:
        self.time = Clock()
        self.dead: set[str] = set()
        self.convicted: list[str] = []
        super().__init__(lambda node, _: node not in self.dead, clock=self.time)

    def _convict(self, fingerprint: str) -> None:
        super()._convict(fingerprint)
        self.convicted.append(fingerprint)

    def must_be_tried_alone(self, request: GenerateRequest) -> bool:
        return self.is_suspect(self.fingerprint(request))


class Silent:
    """A sink."""

    def emit(self, event: object) -> None:
        """Takes the next event."""

    def fail(self, error: object) -> None:
        """Takes the error that ends the stream."""


def test_a_fingerprint_says_what_was_asked_and_not_where_or_when() -> None:
    budget = Budget()
    same = POISON.model_copy(
        update={"session": Session(id="s"), "instance": "a", "priority": 3, "resume": Resume(choices=[[1]])}
    )
    assert budget.fingerprint(same) == budget.fingerprint(POISON)
    other = POISON.model_copy(update={"sampling": Sampling(seed=1)})
    assert budget.fingerprint(other) != budget.fingerprint(POISON)
    # What one tenant has asked says nothing to another.
    tenants = POISON.model_copy(update={"tenant": TenantShare(name="t")})
    assert budget.fingerprint(tenants) != budget.fingerprint(POISON)
    # Nobody without the key can try out what was asked.
    assert Budget().fingerprint(POISON) != budget.fingerprint(POISON)
    embedding = EmbedRequest(model="m", inputs=["poison"])
    assert budget.fingerprint(embedding) != budget.fingerprint(POISON)


def test_the_third_death_convicts_who_was_there_alone() -> None:
    budget = Budget()
    budget.lost("a", "node", [POISON, bystander(1)], is_dead=True)
    assert not budget.is_watching
    budget.lost("b", "node", [POISON, bystander(2)], is_dead=True)
    assert budget.is_watching
    assert budget.must_be_tried_alone(POISON)
    assert not budget.must_be_tried_alone(bystander(1))
    fingerprint = budget.fingerprint(POISON)
    budget.check(fingerprint, goes_on=False)
    budget.try_alone(fingerprint, "c")
    assert budget.has_trial("c") and budget.is_on_trial(fingerprint)
    budget.lost("c", "node", [POISON, bystander(3)], is_dead=True)
    assert budget.convicted == [fingerprint]
    with pytest.raises(EngineFault):
        budget.check(fingerprint, goes_on=True)
    with pytest.raises(Quarantined) as refused:
        budget.check(fingerprint, goes_on=False)
    assert refused.value.retry_after_s == MEMORY_S


def test_one_that_falls_silent_counts_at_once() -> None:
    budget = Budget()
    budget.lost("a", "node", [POISON, bystander(1)], is_dead=False)
    budget.lost("b", "node", [POISON, bystander(2)], is_dead=True)
    assert budget.must_be_tried_alone(POISON) and not budget.must_be_tried_alone(bystander(1))


@pytest.mark.parametrize("dies", [False, True])
def test_who_was_tried_on_one_that_falls_silent_waits_until_one_knows(dies: bool) -> None:
    budget = Budget()
    for instance in ("a", "b"):
        budget.lost(instance, "node", [POISON], is_dead=True)
    fingerprint = budget.fingerprint(POISON)
    with pytest.raises(InstanceLost), budget.try_alone(fingerprint, "c"):
        budget.lost("c", "node", [POISON, bystander(1)], is_dead=False)
        raise InstanceLost("moved")
    assert budget.is_on_trial(fingerprint) and not budget.convicted
    if dies:
        budget.found_dead("c")
    else:
        budget.found_alive("c")
    assert not budget.is_on_trial(fingerprint)
    assert budget.convicted == [fingerprint] * dies
    assert budget.must_be_tried_alone(POISON) != dies


@pytest.mark.parametrize("dies", [False, True])
def test_nobody_was_the_end_of_one_that_is_heard_of_again(dies: bool) -> None:
    budget = Budget()
    for instance in ("a", "b"):
        budget.lost(instance, "node", [POISON], is_dead=False)
    assert budget.must_be_tried_alone(POISON)
    if dies:
        budget.found_dead("a")
    budget.found_alive("a")
    assert budget.must_be_tried_alone(POISON) == dies
    budget.found_alive("b")
    assert not budget.is_watching
    budget.lost("c", "node", [POISON], is_dead=True)
    assert budget.must_be_tried_alone(POISON) == dies


def test_a_suspect_that_gets_a_token_is_free() -> None:
    budget = Budget()
    for instance in ("a", "b"):
        budget.lost(instance, "node", [POISON], is_dead=True)
    sink = TrialSink(Silent(), budget.try_alone(budget.fingerprint(POISON), "c"))
    sink.emit(Started("c", "m"))
    assert budget.has_trial("c") and budget.must_be_tried_alone(POISON)
    sink.emit(TextDelta("word"))
    assert not budget.has_trial("c") and not budget.is_watching
    budget.lost("c", "node", [], is_dead=True)
    assert budget.convicted == []


@pytest.mark.parametrize("end", [Finished(("cancelled",), Usage(), "c"), InstanceLost("moved")])
def test_a_trial_that_ends_without_a_token_says_nothing(end: Finished | InstanceLost) -> None:
    budget = Budget()
    for instance in ("a", "b"):
        budget.lost(instance, "node", [POISON], is_dead=True)
    sink = TrialSink(Silent(), budget.try_alone(budget.fingerprint(POISON), "c"))
    if isinstance(end, Finished):
        sink.emit(end)
    else:
        sink.fail(end)
    assert not budget.has_trial("c") and budget.must_be_tried_alone(POISON)


def test_what_dies_with_its_node_dies_of_that() -> None:
    budget = Budget()
    budget.dead.add("node")
    for instance in ("a", "b", "c"):
        budget.lost(instance, "node", [POISON], is_dead=True)
        budget.time.now_s += 1.0
    assert not budget.must_be_tried_alone(POISON)
    # Another node, or the same one much later, is another cause.
    budget.time.now_s += SAME_CAUSE_S
    budget.lost("d", "node", [POISON], is_dead=True)
    assert budget.must_be_tried_alone(POISON)


def test_a_node_that_turns_out_to_live_was_not_the_cause() -> None:
    budget = Budget()
    budget.dead.add("node")
    for instance in ("a", "b"):
        budget.lost(instance, "node", [POISON], is_dead=True)
    assert not budget.must_be_tried_alone(POISON)
    budget.dead.clear()
    assert budget.must_be_tried_alone(POISON)


def test_deaths_and_convictions_are_forgotten() -> None:
    budget = Budget()
    fingerprint = budget.fingerprint(POISON)
    budget.lost("a", "node", [POISON], is_dead=True)
    budget.time.now_s += MEMORY_S + 1
    budget.lost("b", "node", [POISON], is_dead=True)
    assert not budget.must_be_tried_alone(POISON)
    budget.learn({fingerprint: 10.0})
    with pytest.raises(Quarantined):
        budget.check(fingerprint, goes_on=False)
    budget.time.now_s += 11
    budget.check(fingerprint, goes_on=False)
    assert not budget.is_watching
