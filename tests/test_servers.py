"""Every server leaves in the same order, for real, under traffic: the matrix."""

import pytest

from tests.servers.configurations import CONFIGURATIONS
from tests.servers.rows import play

# Not "slow" for its waiting alone: each row is a process that serves, leaves and exits, and all of them are many.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("trigger", ["signal", "hook"])
@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=lambda configuration: configuration.name)
def test_a_server_leaves_without_losing_a_request(configuration, trigger):
    """Nothing is refused or left unanswered in the lame duck, all that was begun ends well, and the exit code is 0."""
    row = play(configuration, trigger)
    assert not row.faults(configuration.ends), row.text
    assert "after install()" not in row.text  # a server takes its signals at its start: nothing to warn of
