"""Text to vectors behind one port: offline from a wheel, any OpenAI endpoint, or an executor of ours."""
