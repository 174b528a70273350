"""graceful: leave Kubernetes and Eureka without losing a request."""
