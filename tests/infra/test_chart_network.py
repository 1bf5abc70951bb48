"""Network policies allow the arrows of the README, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.chart import FILES, SERVICES, TRAINERS, VLLM, of_kind, pods, render, the, values_of

COMPONENT = "app.kubernetes.io/component"
ARROWS = {
    ("gateway", "decision", 8101),
    ("gateway", "generator", 8102),
    ("gateway", "shield", 8103),
    ("generator", "shield", 8103),
    ("preflight", "decision", 8101),
    ("preflight", "generator", 8102),
    ("preflight", "shield", 8103),
    ("kill-switch", "gateway", 8080),
    ("test", "gateway", 8080),
}
FOLLOWERS = {*SERVICES, "vllm", "preflight", "trainers"}  # of the registry, or of models, in Cloud Storage


def chosen(selector: dict[str, Any]) -> set[str | None]:
    """The components that a policy is for; {None} is the whole release."""
    for each in selector.get("matchExpressions", []):
        return set(each["values"])
    return {selector["matchLabels"].get(COMPONENT)}


def arrows(objects: list[dict[str, Any]], way: str, side: str) -> set[tuple[str, str, int]]:
    """(from, to, port) between components, as the policies of one direction say."""
    found = set()
    for policy in of_kind(objects, "NetworkPolicy"):
        for owner in chosen(policy["spec"]["podSelector"]):
            for rule in policy["spec"].get(way, []):
                for peer in rule[side]:
                    other = peer.get("podSelector", {}).get("matchLabels", {}).get(COMPONENT)
                    if owner and other:
                        ends = (other, owner) if way == "ingress" else (owner, other)
                        found |= {(*ends, port["port"]) for port in rule["ports"]}
    return found


@pytest.mark.parametrize("installation", FILES)
def test_both_ends_allow_exactly_the_arrows(installation: str) -> None:
    """Who may call whom is the same list at the caller's end and at the called."""
    objects = render(values_of(installation))
    assert arrows(objects, "ingress", "from") == ARROWS
    assert arrows(objects, "egress", "to") == ARROWS


def test_only_the_generator_reaches_vllm() -> None:
    """Whoever reaches its port can load adapters: one more arrow, at both ends, and no collector of metrics either."""
    objects = render(values_of("production", VLLM))
    more = {("generator", "vllm", 8000)}
    assert arrows(objects, "ingress", "from") == ARROWS | more
    assert arrows(objects, "egress", "to") == ARROWS | more
    assert len(the(objects, "NetworkPolicy", "churn-saver-vllm")["spec"]["ingress"]) == 1


def test_all_else_is_denied() -> None:
    """One policy takes everything from every pod of the release, in both directions; rules never say `anyone`."""
    objects = render(values_of("production", TRAINERS))
    deny = the(objects, "NetworkPolicy", "churn-saver-deny")["spec"]
    assert deny["policyTypes"] == ["Ingress", "Egress"]
    assert not {"ingress", "egress"} & deny.keys()
    for name, pod in pods(objects):
        assert deny["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items(), name
    for policy in of_kind(objects, "NetworkPolicy"):
        for way, side in (("ingress", "from"), ("egress", "to")):
            assert all(rule[side] and rule["ports"] for rule in policy["spec"].get(way, []))


def test_every_port_of_every_service_is_named() -> None:
    """What a Service offers, some policy lets somebody reach: callers its port, Prometheus its metrics."""
    objects = render(values_of("production"))
    for service in of_kind(objects, "Service"):
        component = service["spec"]["selector"][COMPONENT]
        rules = the(objects, "NetworkPolicy", f"churn-saver-{component}")["spec"]["ingress"]
        assert {port["port"] for rule in rules for port in rule["ports"]} == {
            port["port"] for port in service["spec"]["ports"]
        }
        (scrapes,) = (rule for rule in rules if "namespaceSelector" in rule["from"][0])
        assert scrapes["ports"][0]["port"] == service["spec"]["ports"][-1]["port"]
        spaces = {peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"] for peer in scrapes["from"]}
        assert spaces == {"gke-gmp-system", "gmp-system"}  # Autopilot's, and that of other clusters


def test_the_way_out() -> None:
    """DNS for all, Google's APIs for those who follow the registry, Redis for the gateway and the generator."""
    objects = render(values_of("production", TRAINERS))
    dns = the(objects, "NetworkPolicy", "churn-saver-dns")["spec"]
    assert chosen(dns["podSelector"]) == {None}
    assert {(port["port"], port["protocol"]) for port in dns["egress"][0]["ports"]} == {(53, "UDP"), (53, "TCP")}
    servers = {peer["ipBlock"]["cidr"] for peer in dns["egress"][0]["to"] if "ipBlock" in peer}
    assert servers == {"169.254.20.10/32", "169.254.169.254/32"}  # NodeLocal DNSCache, Cloud DNS
    google = the(objects, "NetworkPolicy", "churn-saver-google")["spec"]
    assert chosen(google["podSelector"]) == FOLLOWERS
    assert [port["port"] for port in google["egress"][0]["ports"]] == [443]
    assert "10.0.0.0/8" in google["egress"][0]["to"][0]["ipBlock"]["except"]
    redis = {
        component
        for policy in of_kind(objects, "NetworkPolicy")
        for rule in policy["spec"].get("egress", [])
        for component in chosen(policy["spec"]["podSelector"])
        if {"ipBlock": {"cidr": "10.0.0.3/32"}} in rule["to"]
    }
    assert redis == {"gateway", "generator"}


def test_callers_and_load_balancers_reach_the_gateway_alone() -> None:
    """The ranges of the load balancer stand in one rule."""
    objects = render(values_of("production"))
    for service in SERVICES:
        rules = the(objects, "NetworkPolicy", f"churn-saver-{service}")["spec"]["ingress"]
        ranges = [peer["ipBlock"]["cidr"] for rule in rules for peer in rule["from"] if "ipBlock" in peer]
        assert ("35.191.0.0/16" in ranges) == (service == "gateway")
