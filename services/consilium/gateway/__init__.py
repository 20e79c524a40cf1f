"""The public face: OpenAI HTTP and gRPC, keys, quotas, admission, roles, profiles, receipts."""
