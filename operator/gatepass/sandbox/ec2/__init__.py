"""The strict EC2 emulator of the sandbox."""
