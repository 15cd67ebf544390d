"""Which interface gloo is told to use; workers that find each other by it: test_several_nodes."""

import os

import pytest
import ray.util

from ray_jobs.training.network import use_node_network

VARIABLE = "GLOO_SOCKET_IFNAME"


@pytest.fixture(autouse=True)
def _restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "")
    monkeypatch.delenv(VARIABLE)


@pytest.mark.parametrize(("address", "name"), [("127.0.0.1", "lo"), ("203.0.113.9", None)])
def test_it_is_the_one_with_the_address_of_the_node(
    address: str, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: address)
    use_node_network()
    assert os.environ.get(VARIABLE) == name


def test_the_users_choice_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "eth7")
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    use_node_network()
    assert os.environ[VARIABLE] == "eth7"
