"""What the sandbox says when it cannot start."""


class SandboxError(RuntimeError):
    """The sandbox cannot do what was asked; the message says what a person can do about it."""
