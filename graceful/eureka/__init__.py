"""Eureka: safe REST calls, own registration and its status. The only package that imports py_eureka_client."""
