"""What is known about a machine: frozen dataclasses with where each fact came from. Facts never judge."""
