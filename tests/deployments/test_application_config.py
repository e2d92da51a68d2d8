import json

from deployments.application_config import application_config
from deployments.fleet_settings import FleetSettings


def test_a_fleet_comes_back_from_a_config_as_it_was() -> None:
    simulated = {
        "name": "a",
        "engine": "simulated",
        "replicas": {"min": 0, "max": 3},
        "pipeline": ["trace", {"migration": {"limit": 5}}],
        "adapters": [{"name": "x", "path": "org/x"}],
        "runtime_env": {"env_vars": {"A": "b"}},
        "attachments": {"urls": {"hosts": []}},
    }
    fleet = FleetSettings.model_validate(
        {
            "models": [
                simulated,
                {"name": "g", "engine": "openai", "options": {"model": "m", "base_url": "http://x"}},
                {"name": "p", "pool": [{"model": "a", "weight": 2}, {"model": "g"}]},
                {"name": "f", "fallback": ["a", "g"]},
            ],
            "router": {"replicas": {"max": 3}},
            "database": {"file": "/var/lib/penstock.sqlite"},
        }
    )
    config = json.loads(json.dumps(application_config(fleet)))
    assert FleetSettings.model_validate(config["args"]) == fleet
    assert config["autoscaling_policy"]["policy_kwargs"]["routers"] == {"min": 1, "max": 3}
