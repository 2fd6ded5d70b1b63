"""The node: its registration and lease, one worker per pod, the kubelet API."""
