"""The Kubernetes side, written from the same numbers as the app's own plan."""
