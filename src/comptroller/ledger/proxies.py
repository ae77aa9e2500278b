"""Proxies that the environment names, for all that goes out over HTTP."""

import urllib.request
from contextlib import suppress

import httpx


def proxy_for(address: httpx.URL) -> httpx.Proxy | None:
    """Return the one that the environment names, as curl reads it: `host:port` is one of HTTP.

    Raises:
        ValueError: it is no proxy of HTTP. A password in it is not repeated.
    """
    proxies = urllib.request.getproxies()
    named = (proxies.get(address.scheme) or proxies.get("all") or "").strip()
    if not named or urllib.request.proxy_bypass(address.host):
        return None
    with suppress(httpx.InvalidURL):
        url = httpx.URL(named if "://" in named else f"http://{named}")
        if url.scheme in ("http", "https") and url.host:
            return httpx.Proxy(url)
    raise ValueError(
        f"the environment's proxy for {address} is none of HTTP: set {address.scheme}_proxy like"
        f" http://proxy.example.com:3128, or name {address.host} in no_proxy"
    )
