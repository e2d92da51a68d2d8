"""What a program may import from the top of the rooms."""

import subprocess
import sys

import pytest

import deployments
import engines


@pytest.mark.parametrize("room", [engines, deployments])
def test_every_name_that_is_promised_is_there(room: object) -> None:
    for name in room.__all__:
        assert getattr(room, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_it"):
        _ = room.nothing_of_it


def test_rooms_without_ray_do_not_load_it() -> None:
    program = "import sys, engines, deployments.http.ingress, deployments.local_fleet; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
