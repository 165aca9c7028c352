"""What happens between the start of a container and its command: a kept verdict, the environment, the handover."""
