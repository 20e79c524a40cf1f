"""Where Redis is: the section `redis`, which every room that keeps something there reads.

Knows addresses and secrets. Does not know the library; opening is kernel/redis.py's.
"""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from pydantic import Field, SecretStr

from consilium.kernel.config import Section


class RedisSettings(Section):
    """Where Redis is. Without a URL the cluster starts its own."""

    url: SecretStr | None = Field(
        None,
        description="redis://user:password@host:port/db, rediss:// for TLS; empty = our own server.",
    )
    username: str = Field("", description="ACL user, where it does not stand in the URL.")
    password: SecretStr | None = Field(
        None, description="Password, where it does not stand in the URL."
    )
    ca_file: str = Field(
        "", description="Certificates that sign the server's (PEM), for rediss:// with one's own."
    )
    timeout_s: float = Field(1.0, gt=0, description="Longest wait for one command.")
    prefix: str = Field("csl", pattern=r"^[a-z0-9_-]{1,16}$", description="Beginning of every key.")

    def address(self) -> str | None:
        """Return the URL with user, password and certificates in it, or None without one. What stands in the URL itself wins."""
        if self.url is None:
            return None
        text = self.url.get_secret_value()
        if not (self.username or self.password is not None or self.ca_file):
            return text
        parts = urlsplit(text)
        place, query = parts.netloc, parts.query
        if "@" not in place and (self.username or self.password is not None):
            word = self.password.get_secret_value() if self.password is not None else ""
            place = f"{quote(self.username, safe='')}:{quote(word, safe='')}@{place}"
        if self.ca_file and parts.scheme == "rediss" and "ssl_ca_certs=" not in query:
            query = "&".join(filter(None, (query, urlencode({"ssl_ca_certs": self.ca_file}))))
        return urlunsplit(parts._replace(netloc=place, query=query))
