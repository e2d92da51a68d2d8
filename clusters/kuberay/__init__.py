"""A fleet on Kubernetes, by KubeRay's RayService."""
