"""The REST API: creates, patches and reads custom resources, and decides nothing that they do not."""
