import ray

from deployments.cluster_nodes import Node, living_nodes


def test_the_cluster_says_which_nodes_live_and_what_they_have(ray_cluster: None) -> None:
    nodes = living_nodes()
    context = ray.get_runtime_context()
    assert nodes == [Node(context.get_node_id(), ray.util.get_node_ip_address(), nodes[0].resources)]
    assert nodes[0].resources["CPU"] >= 1
