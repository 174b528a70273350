"""What a manifest's schema does not know: whether a pod can leave in order."""
