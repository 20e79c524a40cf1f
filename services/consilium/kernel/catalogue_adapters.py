"""Rows for adapters: the store that they lie in, and the service that knows them.

Knows what a caller may be told. Does not know files.
"""

from __future__ import annotations

from typing import Final

from consilium.kernel.catalogue_row import Row

ADAPTERS: Final[tuple[Row, ...]] = (
    Row(
        "adapter_store_full",
        "RESOURCE_EXHAUSTED",
        413,
        "invalid_request_error",
        False,
        "The adapter needs {needed}, and of the {limit} that the store may take {free} are left. Remove adapters that nobody needs ('consilium adapters ls' shows sizes), or raise lora_router.store_gib.",
        "The store of adapters is full.",
    ),
    Row(
        "adapter_sums_full",
        "RESOURCE_EXHAUSTED",
        429,
        "rate_limit_error",
        True,
        "The sum needs {needed}, and of the {limit} and {count} places that sums of requests' own weights may take none is free: all are in use. Try again in {retry_after} s, ask for weights that others use, or raise lora_router.adhoc_sums_gib and lora_router.adhoc_sums.",
        "No place is free for another sum of adapters. Try again shortly.",
    ),
    Row(
        "adapter_cache_full",
        "RESOURCE_EXHAUSTED",
        503,
        "server_error",
        True,
        "The adapter needs {needed}, and of the {limit} that fetched adapters may take on a node {used} are in use. Raise {setting}, or let engines see the store.",
        "The node's folder for fetched adapters is full.",
    ),
    Row(
        "disk_silent",
        "UNAVAILABLE",
        503,
        "server_error",
        True,
        "Its files could not be read: their disk or network share has not answered for {seconds} s.",
        "Its files could not be read: their disk or network share does not answer.",
        next_step="'consilium logs' names the folder. Where 'ls' of it hangs too, mount it anew.",
    ),
    Row(
        "adapter_down",
        "UNAVAILABLE",
        503,
        "server_error",
        True,
        "The adapter {name} cannot be asked for now: the service that knows adapters is not answering. Try again in {retry_after} s; without the adapter the model answers.",
        "The service that knows adapters is not answering. Try again shortly; without an adapter the model answers.",
    ),
)
