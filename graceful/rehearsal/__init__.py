"""Rehearse a rollout on this machine: an embedded Eureka, callers with stale caches, a kubelet's kill sequence."""
