"""HTTP: in-flight requests, late requests, closing, probes. No framework is imported here."""
