"""The tour that `gatepass demo` gives: kubectl and boto3 from outside, and a check behind every sentence.

It knows nothing of Gatepass but what a user sees, and `gatepass sandbox run -- python -m gatepass.sandbox.demo` is the
same.
"""
