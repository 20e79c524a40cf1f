"""What can be set of the greeter."""

from consilium.kernel.config import Section


class Greeter(Section):
    """The section `greeter` of the configuration."""

    word: str = "Hello"
    max_file_bytes: int = 4 << 30
    max_tenant_bytes: int = 16 << 30
